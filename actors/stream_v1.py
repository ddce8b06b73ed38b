"""Consumers with credit and leases: one for each socket that speaks `headgate.stream.v1`.

A consumer is a *puller* (what is on its way to the agent) and a *desk* (what is in its hands); the task here looks
after leases and lost pulls, and the edge's tasks move frames.

Rules of the file:
- Frames for the agent are put into a bounded outbox without waiting, so that words of the agent are followed at once
  even while a batch is stuck in its socket. An agent with a full outbox is listened to when it has read some of it.
- When its agent is gone, what it held goes back to the log at once.

Back-pressure: waits for credit; cuts who does not read.

What must change with it: `engine/stream_v1.py` has the frames; the old wire's agents are `actors/stream.py`.
"""

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple

import trio

from actors.desk import Desk, NakDelay
from actors.leased import Burier, BuryAsync, LeasedConsumer, Outbox, look_after_consumer
from actors.puller import Puller
from actors.tree import Actor, Mailbox
from engine.credit import CREDIT_LIMIT, Amount
from engine.errors import Refused, Unavailable
from engine.jetstream import JetStream
from engine.leases import LeaseTerms
from engine.log import ConsumerPlan, StoredMessage
from engine.log_control import LogControl
from engine.names import check_subject_name, check_token, is_covered
from engine.settle_book import SettleBook
from engine.spans import TellDelivery
from engine.stream_v1 import Facts, Gap, Options, Ready

EPHEMERAL_S: Final = 900.0
"""A gateway that dies leaves its ephemeral consumers behind; the log deletes them after this."""

LAG_WITHIN_S: Final = 1.0

GaveBack = Callable[[str, list[int]], None]
"""Told which sequences an agent held when it left, with the consumer's name."""
FindGaps = Callable[[str, list[Ready]], Awaitable[list[Gap]]]
"""Says what is missing before these messages; asked before each batch is sent, with the consumer's name."""


class Lag(NamedTuple):
    """How far behind a consumer is."""

    messages: int
    seconds: float


class LeasedStreams:
    """What the edge holds of these consumers.

    Args:
        log: the log's data plane.
        control: makes consumers.
        stream: the stream's name.
        subjects: what the stream takes.
        ack_wait_s: lease of a delivery, for consumers that are made here.
        max_lease_s: longest time an agent may hold a batch.
        actor: under which the attached agents stand in the tree.
        others: says how many sockets of the old wire hold a consumer.
        book: counts, and remembers what was confirmed; the old wire shares it.
        max_deliver: how often a message is delivered before it goes to the dead letters; None for no bound.
        bury: takes it there, and what agents terminate.
        nak_delay_ms: for verdicts that name none.
        find_gaps: says what retention or deletion removed before a consumer saw it.
    """

    def __init__(
        self,
        log: JetStream,
        control: LogControl,
        stream: str,
        subjects: list[str],
        ack_wait_s: float,
        max_lease_s: float,
        actor: Actor,
        *,
        others: Callable[[str], int] = lambda _: 0,
        book: SettleBook | None = None,
        max_deliver: int | None = None,
        bury: BuryAsync | None = None,
        nak_delay_ms: NakDelay = lambda _: 0,
        find_gaps: FindGaps | None = None,
    ) -> None:
        self.book = book or SettleBook()
        self.departures = trio.CapacityLimiter(1)
        """Sessions whose agents died end one after the other: what they held has gone back before, and a hundred that
        end at once would hold up whoever is to get it."""
        self.max_deliver = max_deliver
        self.bury = bury
        self.nak_delay_ms = nak_delay_ms
        self.find_gaps = find_gaps
        self.gave_back: GaveBack = lambda _, __: None
        self.gaps = 0
        self.tell_delivery: TellDelivery | None = None
        """Takes traced batches that are out of an agent's hands; None where nobody wants to know."""
        self.log = log
        self.stream = stream
        self.control = control
        self.max_lease_s = max_lease_s
        self._subjects = subjects
        self._ack_wait_s = ack_wait_s
        self._actor = actor
        self._consumers: set[LeasedConsumer] = set()
        self._attached: Counter[str] = Counter()
        self._exclusive: set[str] = set()
        self._others = others
        self._server = log.connection.info.fields.get("server_id")
        log.connection.watchers.append(self._nudge)

    @property
    def in_flight(self) -> Amount:
        """What all agents hold."""
        held = [one.in_flight for one in self._consumers]
        return Amount(sum(one.messages for one in held), sum(one.bytes for one in held))

    def check(self, options: Options) -> None:
        """Check the names that an agent gave.

        Raises:
            Refused: one of them is wrong; the text says which and what was expected.
        """
        names = [("subject", options.subject, check_subject_name)]
        if options.durable is not None:
            names.append(("durable", options.durable, check_token))
        for name, value, check in names:
            try:
                check(value)
            except ValueError as problem:
                raise Refused("request.bad-parameter", f"{name}: {problem} (it is {value!r})") from None
        if not is_covered(options.subject, self._subjects):
            raise Refused(
                "request.bad-parameter",
                f"subject: expected one of {', '.join(self._subjects)} (it is {options.subject!r})",
            )

    async def ensure(self, options: Options) -> tuple[str, bool]:
        """Make the consumer where there is none.

        Returns:
            Its name, and whether it was made now.

        Raises:
            Unavailable: the log does not answer.
            Refused: it exists for another subject or filter, or somebody else holds it.
        """
        if not self.log.connection.is_up:
            raise Unavailable("log.down", "the log is not reachable")
        name = options.durable or f"ephemeral-{secrets.token_hex(8)}"
        self.check_free(name, is_exclusive=options.is_exclusive)
        plan = ConsumerPlan(
            name,
            options.subject,
            self._ack_wait_s,
            options.start,
            options.filter.text,
            None if options.durable else EPHEMERAL_S,
        )
        return name, await self.control.make_consumer(self.stream, plan)

    async def describe(self, name: str) -> Facts:
        """Ask the log about the stream and a consumer.

        Raises:
            Unavailable: the log does not answer, or the consumer is gone.
        """
        stream = await self.log.ask_api(f"STREAM.INFO.{self.stream}")
        consumer = await self.log.ask_api(f"CONSUMER.INFO.{self.stream}.{name}")
        state, config = stream["state"], consumer["config"]
        waits = [*config.get("backoff", []), config.get("ack_wait", 30_000_000_000)]
        return Facts(
            self.stream,
            str(stream["created"]),
            state["first_seq"],
            state["last_seq"],
            consumer["num_pending"],
            min(waits) / 1e9,
        )

    def terms(self, facts: Facts, max_lease_s: float | None) -> LeaseTerms:
        """Say what holds about leases for one agent."""
        most = self.max_lease_s if max_lease_s is None else min(max_lease_s, self.max_lease_s)
        return LeaseTerms(facts.ack_wait_s, most)

    @asynccontextmanager
    async def attach(self, name: str, options: Options, terms: LeaseTerms) -> AsyncIterator[LeasedConsumer]:
        """Attach an agent to a consumer that `ensure` has made.

        Raises:
            Refused: somebody holds it alone, or this agent wants it alone and somebody holds it.

        Closes: the consumer, on leaving; what it held goes back at once.
        """
        self.check_free(name, is_exclusive=options.is_exclusive)
        outbox = Outbox()
        burier = Burier(self.bury) if self.bury is not None else None
        bury = burier.bury_nowait if burier is not None else None
        desk = Desk(
            self.log,
            name,
            terms,
            outbox.put,
            self.book,
            bury=bury,
            nak_delay_ms=self.nak_delay_ms,
            tell_delivery=self.tell_delivery,
        )
        puller = Puller(
            self.log,
            self.stream,
            name,
            terms,
            options.batch,
            options.filter,
            lambda: Amount(desk.table.messages, desk.table.bytes),
            self.book,
            max_deliver=self.max_deliver,
            bury=bury,
        )
        outbox.wake = puller.wake
        consumer = LeasedConsumer(name, puller, desk, outbox, self.log)
        with self._actor.child(name, lambda: Mailbox(desk.table.messages, CREDIT_LIMIT.messages)):
            self._consumers.add(consumer)
            self._attached[name] += 1
            if options.is_exclusive:
                self._exclusive.add(name)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(look_after_consumer, consumer)
                    if burier is not None:
                        nursery.start_soon(burier.run)
                    yield consumer
                    nursery.cancel_scope.cancel()
            finally:
                self._consumers.discard(consumer)
                self._attached[name] -= 1
                if not self._attached[name]:
                    del self._attached[name]
                    self._exclusive.discard(name)
                self.gave_back(name, consumer.puller.arrived() + [one.sequence for one in consumer.desk.table.held()])
                consumer.close()

    def attached(self, name: str) -> int:
        """Say how many sockets hold a consumer."""
        return self._attached[name]

    def arrived(self, name: str) -> list[int]:
        """Give the sequences that are here for a consumer's agents and were not sent yet."""
        return [sequence for one in self._consumers if one.name == name for sequence in one.puller.arrived()]

    def forget(self, name: str, reason: str) -> None:
        """Take back what the agents of a consumer hold, because the log has forgotten it (a reset)."""
        self.book.forget(name)
        for consumer in [one for one in self._consumers if one.name == name]:
            consumer.desk.forget(reason)
            consumer.puller.forget()

    async def delete(self, name: str) -> None:
        """Delete an ephemeral consumer whose agent is gone; the log does it later when it cannot be done now."""
        try:
            await self.control.delete_consumer(self.stream, name)
        except Unavailable:
            return

    async def lag(self, name: str, subject: str, now_s: float) -> Lag:
        """Say how far behind a consumer is.

        Args:
            name: the consumer.
            subject: what it hears.
            now_s: the time of day, seconds since 1970.

        Raises:
            Unavailable: the log does not answer.
        """
        info = await self.log.ask_api(f"CONSUMER.INFO.{self.stream}.{name}")
        pending: int = info["num_pending"]
        if not pending:
            return Lag(0, 0.0)
        query = {"seq": info["delivered"]["stream_seq"] + 1, "next_by_subj": subject}
        oldest = await self.log.read_message(self.stream, query, LAG_WITHIN_S)
        if not isinstance(oldest, StoredMessage):
            return Lag(pending, 0.0)
        return Lag(pending, max(0.0, now_s - datetime.fromisoformat(oldest.time).timestamp()))

    def check_free(self, name: str, *, is_exclusive: bool = False) -> None:
        """See that a consumer is to be had; on this gateway, others know nothing of it.

        Raises:
            Refused: somebody holds it alone, or this agent wants it alone and somebody holds it.
        """
        if name in self._exclusive:
            raise Refused("request.conflict", f"durable: another socket holds {name!r} alone")
        count = self._attached[name] + self._others(name)
        if is_exclusive and count:
            raise Refused("request.conflict", f"durable: {count} other sockets hold {name!r}")

    def _nudge(self) -> None:
        connection, now = self.log.connection, trio.current_time()
        if connection.is_up:
            server = connection.info.fields.get("server_id")
            self.book.came_up(now, is_same_server=server == self._server)
            self._server = server
        else:
            self.book.went_down(now)
        for consumer in list(self._consumers):
            consumer.nudge()
