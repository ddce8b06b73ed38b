"""A puller: asks the log for what an agent's credit covers, and keeps what came until it is sent.

No task of its own: it is pumped by whoever changes something.

Rules of the file:
- Never asked for: more than the credit covers, or more than `PREFETCH` beside the batch that is being sent.
- A delivery's lease is counted from when its own pull was sent; so every pull has an inbox of its own (a delivery
  names the subject it was published on, not the inbox, so one inbox with many addresses would not tell).
- What came and will not be sent goes back at once.

Back-pressure: waits; see `engine/credit.py`.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from math import inf
from typing import Final

import trio

from actors.desk import Burial, Bury, burial_verdict
from engine.credit import Amount, Credit, Reserve, next_pull, portion
from engine.errors import Unavailable
from engine.event_filter import EventFilter
from engine.jetstream import JetStream
from engine.leases import Held, LeaseTerms
from engine.log import Delivery, PullRequest, PullStatus, Verdict, pending_after, read_delivery
from engine.nats import Subscription
from engine.nats_wire import Message, WireError
from engine.settle_book import SettleBook
from engine.stream_v1 import Ready, data_of

GRACE_S: Final = 5.0
"""The log ends a pull by itself; when it has not said so by then, the pull is lost."""
PAUSE_S: Final = 0.25
"""After a refused pull."""
MISSES_MOST: Final = 8
"""Pulls in a row that no consumer heard: then it is gone. A server that has just started may need a moment."""
NO_CONSUMER: Final = 503
FILL_S: Final = 0.003
"""How long a batch that is not full waits for messages that the log says are there; one that arrives alone never waits
(`bench/scenarios/stream.py`, the backlog)."""


class _Pull:
    """One open pull."""

    __slots__ = ("asked", "brought", "inbox", "lost_at", "request", "sent_at")

    def __init__(self, request: PullRequest, sent_at: float) -> None:
        self.inbox: Subscription | None = None
        self.request = request
        self.asked = Amount(request.count, request.most_bytes)
        self.sent_at = sent_at
        self.lost_at = sent_at + request.expires_s + GRACE_S
        self.brought = 0


class Puller:
    """One agent's end of a consumer.

    Args:
        log: the log's data plane.
        stream: the stream's name.
        consumer: the consumer's name.
        terms: of its leases.
        batch: the most messages in one batch.
        wanted: thins frames; those with nothing wanted are acknowledged here.
        in_flight: says what the agent holds.
        book: counts, and knows what was confirmed already.
        max_deliver: a message that was delivered more often goes to the dead letters; None for no bound.
        bury: takes it there.
    """

    def __init__(
        self,
        log: JetStream,
        stream: str,
        consumer: str,
        terms: LeaseTerms,
        batch: int,
        wanted: EventFilter,
        in_flight: Callable[[], Amount],
        book: SettleBook,
        *,
        max_deliver: int | None = None,
        bury: Bury | None = None,
    ) -> None:
        self.credit = Credit()
        self.too_large_for = 0
        self.waiting_bytes = 0
        self._log = log
        self._stream = stream
        self._consumer = consumer
        self._terms = terms
        self._batch = batch
        self._wanted = wanted
        self._in_flight = in_flight
        self._book = book
        self._max_deliver = max_deliver if bury is not None else None
        self._bury = bury
        self._arrived: deque[Ready] = deque()
        self._pulls: list[_Pull] = []
        self._misses = 0
        self._gone: str | None = None
        self._pause_until = 0.0
        self._is_paused = False
        self._is_closed = False
        self._server = log.connection.info.fields.get("server_id")
        self._arrived_at = -inf
        self._news = trio.Event()

    @property
    def waiting(self) -> Amount:
        """What has arrived and is not sent."""
        return Amount(len(self._arrived), self.waiting_bytes)

    def arrived(self) -> list[int]:
        """Give the sequences of what has arrived and is not sent."""
        return [one.delivery.sequence for one in self._arrived]

    async def wait_news(self) -> None:
        """Wait until something may have changed."""
        with trio.move_on_after(FILL_S if self.is_filling else inf):
            await self._news.wait()

    def wake(self) -> None:
        """Have whoever waits look again."""
        news, self._news = self._news, trio.Event()
        news.set()

    def take_batch(self, *, has_room: bool) -> list[Ready]:
        """Give the next batch, empty when there is none or the credit covers none; it counts as sent.

        Raises:
            Unavailable: the consumer is gone from the log.
        """
        in_flight = self._in_flight()
        room = self.credit.room(in_flight)
        count = portion((len(one.data) for one in self._arrived), room, in_flight, self._batch) if has_room else 0
        if count == len(self._arrived) and self.is_filling:
            return []
        if not count:
            if self._gone is not None and not self._arrived:
                raise Unavailable("log.refused", f"the durable consumer is gone from the log: {self._gone}")
            return []
        batch = list(islice(self._arrived, count))
        for _ in batch:
            self._arrived.popleft()
        size = sum(len(one.data) for one in batch)
        self.waiting_bytes -= size
        self.credit.spend(Amount(count, size))
        return batch

    @property
    def is_filling(self) -> bool:
        """More messages are on their way for the next batch: the log said so, and a moment ago some came."""
        if not 0 < len(self._arrived) < self._batch or trio.current_time() - self._arrived_at > FILL_S:
            return False
        if not any(one.asked.messages for one in self._pulls):
            return False
        return pending_after(self._arrived[-1].delivery.reply) > 0

    def pump(self) -> None:
        """Ask the log for what the credit covers and nobody has asked for yet."""
        now = trio.current_time()
        while self._gone is None and not self._is_paused and now >= self._pause_until:
            in_flight = self._in_flight()
            asked = Amount(sum(one.asked.messages for one in self._pulls), sum(one.asked.bytes for one in self._pulls))
            reserve = Reserve(self.waiting, asked, len(self._pulls), self.too_large_for)
            request = next_pull(self.credit.room(in_flight), in_flight, reserve, self._batch, self._terms.pull_s)
            if request is None:
                return
            pull = _Pull(request, now)
            pull.inbox = self._log.connection.subscribe(partial(self._take, pull))
            self._pulls.append(pull)
            if not self._log.pull_nowait(self._stream, self._consumer, pull.inbox.subject, request):
                self._end(pull)
                return

    def look_after(self, now: float) -> None:
        """Forget pulls that the log forgot, and try again after a pause."""
        for pull in [one for one in self._pulls if now >= one.lost_at]:
            self._end(pull)
        self.pump()

    def nudge(self) -> None:
        """Look at the connection to the log again: open pulls went with it; another server forgot its deliveries."""
        self._end_all()
        server = self._log.connection.info.fields.get("server_id")
        if self._log.connection.is_up and server != self._server:
            self._server = server
            self._arrived.clear()  # in doubt: it comes again from the log, to whoever is given it
            self.waiting_bytes = 0
        self.pump()
        self.wake()

    def withdraw(self, *, for_good: bool = False) -> None:
        """Give back what waits here and end the open pulls, so that others of the durable get it.

        Args:
            for_good: nothing is pulled any more; otherwise `resume` goes on.
        """
        self._is_paused = True
        self._is_closed = self._is_closed or for_good
        self._end_all()  # first, or the log would deliver again to these very inboxes
        self._give_back()

    def forget(self) -> None:
        """Give back what waits here and pull anew, because the consumer was moved."""
        self.too_large_for = 0
        if not self._is_paused:
            self.withdraw()
            self.resume()

    def resume(self) -> None:
        """Pull again after `withdraw`."""
        if self._is_paused and not self._is_closed:
            self._is_paused = False
            self.pump()

    def close(self) -> None:
        """Stop pulling and give back at once what waits here."""
        self.withdraw(for_good=True)

    # ------------------------------------------------------------------ inside

    def _give_back(self) -> None:
        if self._arrived:
            now = trio.current_time()
            certain = [one.held.reply for one in self._arrived if one.held.is_certain(now)]
            self._log.say_nowait([(reply, Verdict.NAK.value) for reply in certain])
            self._arrived.clear()
            self.waiting_bytes = 0

    def _end_all(self) -> None:
        for pull in list(self._pulls):
            self._end(pull)

    def _end(self, pull: _Pull) -> None:
        """Close a pull's inbox; what still comes for it goes back (`engine/jetstream.py`)."""
        self._pulls.remove(pull)
        if pull.inbox is not None:
            pull.inbox.close()

    def _take(self, pull: _Pull, message: Message) -> None:
        try:
            item = read_delivery(message)
        except WireError:
            return  # somebody else published to our inbox: it is not the log's, nothing is owed for it
        if item is None:
            return
        if isinstance(item, PullStatus):
            self._end(pull)
            self._understand(item, pull)
            self.pump()
            return
        self._misses = 0
        pull.brought += 1
        left = pull.asked.less(Amount(1, len(item.payload) if pull.request.most_bytes else 0))
        pull.asked = Amount(left.messages, max(0, left.bytes))
        self._keep(item, pull.sent_at + self._terms.ack_wait_s)
        if left.messages <= 0:
            self._end(pull)
            self.pump()

    def _keep(self, delivery: Delivery, until: float) -> None:
        self.too_large_for = 0
        held = Held(delivery.reply, delivery.sequence, delivery.delivered, 0, until)
        if self._book.was_confirmed(self._consumer, delivery, trio.current_time(), held):
            self._log.say_nowait([(delivery.reply, Verdict.ACK.value)])
            return
        if self._max_deliver is not None and self._bury is not None and delivery.delivered > self._max_deliver:
            reason = f"delivered {delivery.delivered - 1} times without being settled; the most is {self._max_deliver}"

            def buried(is_there: bool) -> None:
                self._log.say_nowait([(delivery.reply, burial_verdict(reason, is_there=is_there))])

            self._bury(Burial(self._consumer, delivery.sequence, delivery.delivered - 1, reason), buried)
            return
        data: bytes | None = data_of(delivery)
        if self._wanted and data is not None:
            data = self._wanted.thin(data)
        if data is None:
            self._log.say_nowait([(delivery.reply, Verdict.ACK.value)])
            self._book.verdicts["filtered"] += 1
            return
        held.size_bytes = len(data)
        self._log.hold(delivery.reply, until - trio.current_time())
        self._arrived.append(Ready(delivery._replace(payload=b""), data, held))
        self.waiting_bytes += len(data)
        self._arrived_at = trio.current_time()
        self.wake()

    def _understand(self, ended: PullStatus, pull: _Pull) -> None:
        """Go on after a pull that the log ended."""
        if "Deleted" in ended.description:
            self._gone = ended.description
        elif ended.status == NO_CONSUMER:
            self._misses += 1
            self._pause_until = trio.current_time() + PAUSE_S
            if self._misses >= MISSES_MOST:
                self._gone = ended.description or "no consumer answers"
        elif "MaxBytes" in ended.description:
            if not pull.brought:
                self.too_large_for = max(self.too_large_for, pull.request.most_bytes)
        elif ended.status == 409:
            self._pause_until = trio.current_time() + PAUSE_S
        if self._gone is not None:
            self.wake()
