"""Consumers: one for each attached agent, pulling from the log for a durable.

Rules of the file:
- A consumer asks the log for no more than its agent can take now: an agent that stops answering stops receiving,
  and what it does not hold stays free for others of the same durable.
- It sweeps up what is there; when there is nothing it waits for one message, which the log sends at once.
- When its agent is gone, what it held goes back to the log at once.

Back-pressure: waits; the gateway buffers one batch of at most `BATCH_BYTES` for each agent.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from actors.tree import Actor, Mailbox
from engine.errors import Refused, Unavailable
from engine.jetstream import JetStream
from engine.log import Delivery, PullRequest, PullStatus, Verdict, read_delivery
from engine.log_control import LogControl
from engine.names import check_subject_name, check_token, is_covered
from engine.nats_wire import Message, WireError
from engine.stream import BATCH_BYTES, MOST_BATCH, BatchWindow

WAIT_S: Final = 30.0
"""How long the log keeps a waiting pull; renewed without a gap."""
SWEEP_WITHIN_S: Final = 5.0
RETRY_PAUSE_S: Final = 0.2


class Consumer:
    """One agent's end of a durable consumer; opened by `Streams.attach`."""

    def __init__(self, log: JetStream, stream: str, durable: str, count: int) -> None:
        self.window = BatchWindow()
        self._log = log
        self._stream = stream
        self._durable = durable
        self._count = count
        self._arrived: list[Delivery] = []
        self._ended: PullStatus | None = None
        self._news = trio.Event()
        self._owed: list[Delivery] = []
        self._inbox = log.connection.subscribe(self._take)

    async def next_batch(self) -> list[Delivery]:
        """Wait for the next messages: what is there, or the first that comes.

        Raises:
            Unavailable: the durable consumer is gone from the log.

        Cancellation: what has arrived is given back by `close`.
        """
        most_bytes = BATCH_BYTES
        while True:
            await self._log.connection.wait_up()
            if self._owed and self._log.settle_nowait(self._owed, Verdict.ACK):
                self._owed = []
            ended = await self._pull(PullRequest(self._count if most_bytes else 1, most_bytes), SWEEP_WITHIN_S)
            if self._arrived:
                return self._empty()
            if ended is not None and ended.status == 409 and "MaxBytes" in ended.description:
                most_bytes = 0  # the next message alone is larger than a batch
                continue
            most_bytes = BATCH_BYTES
            self._check_alive(ended)
            ended = await self._pull(PullRequest(1, expires_s=WAIT_S), WAIT_S + SWEEP_WITHIN_S)
            if self._arrived:
                return self._empty()
            self._check_alive(ended)

    def settle(self, verdict: Verdict) -> None:
        """Answer the log for the whole batch in the agent's hands."""
        held = self.window.release()
        if held and not self._log.settle_nowait(held, verdict) and verdict is Verdict.ACK:
            self._owed = held  # said again once the log is back; until then it may deliver them again

    def extend(self, now: float, max_lease_s: float) -> None:
        """Ask the log for more time for what the agent holds."""
        leased = self.window.leased(now, max_lease_s)
        if leased:
            self._log.settle_nowait(leased, Verdict.PROGRESS)

    def close(self) -> None:
        """Stop pulling and give back at once whatever is held."""
        self._inbox.close()  # first, or the log would deliver again to this very inbox
        back = self.window.release() + self._empty()
        if back:
            self._log.settle_nowait(back, Verdict.NAK)

    # ------------------------------------------------------------------ inside

    def _empty(self) -> list[Delivery]:
        arrived, self._arrived = self._arrived, []
        return arrived

    def _take(self, message: Message) -> None:
        try:
            item = read_delivery(message)
        except WireError:
            return  # somebody else published to our inbox: it is not the log's, nothing is owed for it
        if isinstance(item, Delivery):
            self._arrived.append(item)
        elif item is not None:
            self._ended = item
        else:
            return
        self._news.set()

    async def _pull(self, request: PullRequest, within_s: float) -> PullStatus | None:
        """Ask once and wait until the log has said all; None when it stopped saying anything."""
        self._ended = None
        connects = self._log.connection.statistics().connects
        if not self._log.pull_nowait(self._stream, self._durable, self._inbox.subject, request):
            return None
        with trio.move_on_after(within_s):
            while len(self._arrived) < request.count and self._ended is None:
                self._news = trio.Event()
                await self._news.wait()
                if self._log.connection.statistics().connects != connects:
                    break
        return self._ended

    def nudge(self) -> None:
        """Look again: the connection to the log went up or down."""
        self._news.set()

    def _check_alive(self, ended: PullStatus | None) -> None:
        if ended is not None and (ended.status == 503 or "Deleted" in ended.description):
            raise Unavailable("log.refused", f"the durable consumer is gone from the log: {ended.description}")


class Streams:
    """What the edge holds of the consumers.

    Args:
        log: the log's data plane.
        control: makes durable consumers.
        stream: the stream's name.
        subjects: what the stream takes.
        ack_wait_s: lease of a delivery.
        max_lease_s: longest time an agent may hold a batch.
        actor: under which the attached agents stand in the tree.
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
    ) -> None:
        self._log = log
        self._control = control
        self._stream = stream
        self._subjects = subjects
        self._ack_wait_s = ack_wait_s
        self._max_lease_s = max_lease_s
        self._actor = actor
        self._consumers: set[Consumer] = set()
        log.connection.watchers.append(self._nudge)

    def check(self, subject: str, durable: str, count: int) -> None:
        """Check an agent's parameters.

        Raises:
            Refused: one of them is wrong; the text says which and what was expected.
        """
        for name, value, check in (("subject", subject, check_subject_name), ("durable", durable, check_token)):
            try:
                check(value)
            except ValueError as problem:
                raise Refused("request.bad-parameter", f"{name}: {problem} (it is {value!r})") from None
        if not is_covered(subject, self._subjects):
            raise Refused(
                "request.bad-parameter", f"subject: expected one of {', '.join(self._subjects)} (it is {subject!r})"
            )
        if not 1 <= count <= MOST_BATCH:
            raise Refused("request.bad-parameter", f"batch: expected 1 to {MOST_BATCH} (it is {count})")

    async def ensure(self, subject: str, durable: str) -> None:
        """Make the durable consumer where there is none.

        Raises:
            Unavailable: the log does not answer.
            Refused: the durable exists for another subject.
        """
        if not self._log.connection.is_up:
            raise Unavailable("log.down", "the log is not reachable")
        await self._control.ensure_consumer(self._stream, durable, subject, self._ack_wait_s)

    @asynccontextmanager
    async def attach(self, durable: str, count: int) -> AsyncIterator[Consumer]:
        """Attach an agent to a durable that `ensure` has made.

        Closes: the consumer, on leaving; what it held goes back at once.
        """
        consumer = Consumer(self._log, self._stream, durable, count)
        with self._actor.child(durable, lambda: Mailbox(len(consumer.window), count)):
            self._consumers.add(consumer)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_leases, consumer)
                    yield consumer
                    nursery.cancel_scope.cancel()
            finally:
                self._consumers.discard(consumer)
                consumer.close()

    async def _keep_leases(self, consumer: Consumer) -> None:
        """While the agent's connection lives and its batch is unsettled, the lease is extended."""
        while True:
            await trio.sleep(self._ack_wait_s / 3)
            consumer.extend(trio.current_time(), self._max_lease_s)

    def _nudge(self) -> None:
        for consumer in self._consumers:
            consumer.nudge()
