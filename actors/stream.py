"""Consumers: one for each attached agent, pulling from the log for a durable.

Rules of the file:
- At most one batch in the agent's hands and, while it keeps up, one more behind it: an agent that stops answering
  stops receiving, and what it does not hold is free for others of the same durable.
- When its agent is gone, what it held goes back to the log at once.

Back-pressure: waits; the gateway buffers two batches of at most `BATCH_BYTES` for each agent.
"""

import time
from collections import deque
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
from engine.settle_book import SettleBook
from engine.spans import TellDelivery, TracedBatches
from engine.stream import BATCH_BYTES, MOST_BATCH, PATIENCE_S, BatchWindow

WAIT_S: Final = 30.0
"""How long the log keeps a waiting pull; renewed without a gap."""
GRACE_S: Final = 5.0
"""The log ends a pull by itself; when it has not said so by then, the pull is lost."""
NOTHING_THERE: Final = 404
NO_CONSUMER: Final = 503


class Consumer:
    """One agent's end of a durable consumer; opened by `Streams.attach`.

    While the agent keeps up, one pull stays open, so that a message is here when the agent is ready for it. Once it
    falls behind, the pull is withdrawn and what came with it goes back; from then on the log is asked only when the
    agent's hands are empty, until it answers quickly again.
    """

    def __init__(self, log: JetStream, stream: str, durable: str, count: int, lease_s: float, book: SettleBook) -> None:
        self._book = book
        self._lease_s = lease_s
        self.window = BatchWindow()
        self.handed = trio.Event()
        self.settled = trio.Event()
        self._log = log
        self._stream = stream
        self.durable = durable
        self._count = count
        self._arrived: deque[Delivery] = deque()
        self._left = 0
        self._ended: PullStatus | None = None
        self._news = trio.Event()
        self._owed: list[Delivery] = []
        self.traced: TracedBatches | None = None
        self._inbox = log.connection.subscribe(self._take)

    async def next_batch(self) -> list[Delivery]:
        """Wait for the next messages: what is there, or the first that comes.

        Raises:
            Unavailable: the durable consumer is gone from the log.

        Cancellation: what has arrived is given back by `close`.
        """
        while not self._arrived:
            await self._log.connection.wait_up()
            if self._owed and self._log.settle_nowait(self._owed, Verdict.ACK):
                self._owed = []
            if self.window.reads_ahead:
                await self._pull(PullRequest(self._count, BATCH_BYTES, WAIT_S))
            else:
                await self._pull(PullRequest(self._count, BATCH_BYTES))
                if not self._arrived and self._ended is not None and self._ended.status == NOTHING_THERE:
                    await self._pull(PullRequest(1, expires_s=WAIT_S))
            if not self._arrived and self._ended is not None:
                await self._understand(self._ended)
        return self._next()

    def hand_over(self, batch_id: str, deliveries: list[Delivery], now: float) -> None:
        """Note that a batch goes to the agent."""
        self.window.hand_over(batch_id, deliveries, now)
        self._book.note_age("old", deliveries[0].reply, time.time_ns())
        if self.traced is not None:
            self.traced.hand_over(batch_id, [one.traces for one in deliveries], time.time_ns())
        self.settled = trio.Event()
        self.handed.set()

    def settle(self, verdict: Verdict, now: float) -> None:
        """Answer the log for the whole batch in the agent's hands."""
        held = self.window.release(now)
        self._end_traced("settled" if verdict is Verdict.ACK else "given back")
        if held and not self._log.settle_nowait(held, verdict) and verdict is Verdict.ACK:
            self._owed = held  # said again once the log is back; until then it may deliver them again
        self.handed = trio.Event()
        self.settled.set()

    def extend(self, now: float, max_lease_s: float) -> None:
        """Ask the log for more time for what the agent holds."""
        leased = self.window.leased(now, max_lease_s)
        if leased:
            self._log.settle_nowait(leased, Verdict.PROGRESS)

    def withdraw(self) -> None:
        """Stop reading ahead: end the open pull and give back what came with it."""
        self.window.falls_behind()
        if self._left or self._arrived:
            self._inbox.close()  # first, or the log would deliver again to this very inbox
            self._inbox = self._log.connection.subscribe(self._take)
            self._left = 0
            self._give_back(self._arrived)

    def close(self, now: float) -> None:
        """Stop pulling and give back at once whatever is held."""
        self._end_traced("given back")
        self._inbox.close()
        self._give_back(deque(self.window.release(now)))
        self._give_back(self._arrived)
        self.settled.set()

    def forget(self, now: float) -> None:
        """Take everything from the agent and give it back, because its durable was moved; it is served on."""
        self._end_traced("given back")
        self._inbox.close()  # first, or the log would deliver again to this very inbox
        self._inbox = self._log.connection.subscribe(self._take)
        self._left = 0
        self._owed = []
        self._give_back(deque(self.window.release(now)))
        self._give_back(self._arrived)
        self.handed = trio.Event()
        self.settled.set()
        self._news.set()

    def nudge(self) -> None:
        """Look again: the connection to the log went up or down, and an open pull went with it."""
        self._left = 0
        self._news.set()

    # ------------------------------------------------------------------ inside

    def _next(self) -> list[Delivery]:
        arrived = self._arrived
        batch = [arrived.popleft()]
        size = len(batch[0].payload)
        while arrived and len(batch) < self._count:
            size += len(arrived[0].payload)
            if size > BATCH_BYTES:
                break
            batch.append(arrived.popleft())
        return batch

    def _end_traced(self, outcome: str) -> None:
        if self.traced is not None:
            self.traced.end_all(outcome, time.time_ns())

    def _give_back(self, deliveries: deque[Delivery]) -> None:
        if deliveries:
            self._log.settle_nowait(list(deliveries), Verdict.NAK)
            deliveries.clear()

    def _take(self, message: Message) -> None:
        try:
            item = read_delivery(message)
        except WireError:
            return  # somebody else published to our inbox: it is not the log's, nothing is owed for it
        if isinstance(item, Delivery):
            self._left -= 1
            if self._book.was_confirmed(self.durable, item, trio.current_time(), None):
                self._log.settle_nowait([item], Verdict.ACK)
            else:
                self._log.hold(item.reply, self._lease_s)
                self._arrived.append(item)
        elif item is not None:
            self._ended = item
            self._left = 0
        else:
            return
        self._news.set()

    async def _pull(self, request: PullRequest) -> None:
        """Open a pull where none is open, and wait until something came of it: messages, or its end.

        A pull without waiting time is waited for to its end, because all that is there comes at once.
        """
        if self._left <= 0:
            self._ended = None
            if not self._log.pull_nowait(self._stream, self.durable, self._inbox.subject, request):
                return
            self._left = request.count
        with trio.move_on_after(request.expires_s + GRACE_S) as patience:
            while self._left > 0 and not (self._arrived and request.expires_s):
                self._news = trio.Event()
                await self._news.wait()
        if patience.cancelled_caught:
            self._left = 0  # the log forgot the pull; ask again

    async def _understand(self, ended: PullStatus) -> None:
        """Go on after a pull that brought nothing.

        Raises:
            Unavailable: the durable consumer is gone from the log.
        """
        if ended.status == NO_CONSUMER or "Deleted" in ended.description:
            raise Unavailable("log.refused", f"the durable consumer is gone from the log: {ended.description}")
        if "MaxBytes" in ended.description:  # the next message alone is larger than a batch: take it alone
            await self._pull(PullRequest(1, expires_s=WAIT_S))


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
        book: knows what was confirmed already.
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
        book: SettleBook | None = None,
    ) -> None:
        self._book = book or SettleBook()
        self._log = log
        self._control = control
        self._stream = stream
        self._subjects = subjects
        self._ack_wait_s = ack_wait_s
        self._max_lease_s = max_lease_s
        self._actor = actor
        self._consumers: set[Consumer] = set()
        self.tell_delivery: TellDelivery | None = None
        """Takes traced batches that are out of an agent's hands; None where nobody wants to know."""
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
        consumer = Consumer(self._log, self._stream, durable, count, self._ack_wait_s, self._book)
        if self.tell_delivery is not None:
            consumer.traced = TracedBatches(durable, self.tell_delivery)
        with self._actor.child(durable, lambda: Mailbox(len(consumer.window), count)):
            self._consumers.add(consumer)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._look_after, consumer)
                    yield consumer
                    nursery.cancel_scope.cancel()
            finally:
                self._consumers.discard(consumer)
                consumer.close(trio.current_time())

    def attached(self, durable: str) -> int:
        """Say how many sockets of this gateway a durable has."""
        return sum(one.durable == durable for one in self._consumers)

    def forget(self, durable: str) -> None:
        """Take from a durable's agents what they hold: it was moved, and what they say of it counts no more."""
        for consumer in self._consumers:
            if consumer.durable == durable:
                consumer.forget(trio.current_time())

    async def _look_after(self, consumer: Consumer) -> None:
        """While an agent works: lose patience with reading ahead, and extend the lease as long as its socket lives."""
        while True:
            await consumer.handed.wait()
            settled = consumer.settled
            with trio.move_on_after(PATIENCE_S):
                await settled.wait()
                continue
            consumer.withdraw()
            while not settled.is_set():
                with trio.move_on_after(self._ack_wait_s / 3 - PATIENCE_S):
                    await settled.wait()
                if not settled.is_set():
                    consumer.extend(trio.current_time(), self._max_lease_s)

    def _nudge(self) -> None:
        for consumer in self._consumers:
            consumer.nudge()
