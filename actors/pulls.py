"""Agents over plain HTTP: the same durables and the same desk, for curl and cron jobs.

Each pull has a puller of its own for as long as it waits; the HTTP agents of a durable share one desk, where their
batches lie until they are settled or their leases end. Leases are extended by `progress` alone.

Rules of the file:
- A pull that is broken off gives back at once what it had, and what is still on its way to it.
- Confirmed is said only by the desk. A batch that is not on a desk of this gateway (of another one, or from before a
  restart, or over) is late, never confirmed.
- Bounded: pulls that wait, and messages that are unsettled.

Back-pressure: sheds pulls.
"""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol

import orjson
import trio

from actors.desk import Desk, NakDelay
from actors.leased import Burier
from actors.puller import Puller
from actors.tree import Actor, Mailbox
from engine.credit import Amount
from engine.errors import Refused, Unavailable
from engine.jetstream import JetStream
from engine.leases import LeaseTerms
from engine.log import pending_after
from engine.settle_book import SettleBook
from engine.settle_words import BadFrame, Settle, Span
from engine.spans import TellDelivery
from engine.stream_v1 import Facts, Gap, Options, Ready

MOST_PULLS: Final = 256
"""Pulls that wait at once."""
MOST_MESSAGES: Final = 50_000
"""Unsettled messages of all HTTP agents."""
LEAST_WAIT_S: Final = 0.25
"""What is there already needs a moment to come, on a busy machine too; a pull that is not to wait ends after this."""
GATHER_S: Final = 0.005
"""After the first message: what was asked for together arrives together."""
LOOK_EVERY_S: Final = 0.5
SETTLE_MOST_S: Final = 30.0
"""A confirmation that takes longer is unknown."""


class Pulled(NamedTuple):
    """What a pull brought.

    Args:
        batch: its name, None when nothing came.
        lease_s: how long it certainly stays with who pulled it.
        gaps: what is missing before it.
        messages: what came.
        pending: messages that were not delivered then.
    """

    batch: str | None
    lease_s: float
    gaps: list[Gap]
    messages: list[Ready]
    pending: int


class Terms(Protocol):
    """What holds for every agent of the gateway's durables, on sockets or not (`actors/stream_v1.py`)."""

    log: JetStream
    stream: str
    book: SettleBook
    max_deliver: int | None
    nak_delay_ms: NakDelay
    bury: Callable[[str, int, int, str], Awaitable[bool]] | None
    find_gaps: Callable[[str, list[Ready]], Awaitable[list[Gap]]] | None
    tell_delivery: TellDelivery | None

    def terms(self, facts: Facts, max_lease_s: float | None) -> LeaseTerms:
        """Say what holds about leases for one agent."""


class _Counter:
    """The HTTP agents of one durable: their desk, and who waits for its answers."""

    def __init__(self) -> None:
        self.desk: Desk | None = None
        self.waiting: dict[str, _Answer] = {}

    def tell(self, frame: str) -> None:
        """Take what the desk says: answers to settle frames; what it took back is late when it is settled."""
        words: dict[str, Any] = orjson.loads(frame)
        answer = self.waiting.get(words.get("batch", ""))
        if answer is not None and words["type"] == "settled":
            answer.words = words
            answer.done.set()


class _Answer:
    """One settle frame's wait."""

    def __init__(self) -> None:
        self.words: dict[str, Any] | None = None
        self.done = trio.Event()


class Pulls:
    """What the edge holds of the HTTP agents.

    Args:
        streams: makes and describes consumers; its rules about settling hold here too.
        has_ended: says that no more is handed out, because the gateway drains.
    """

    def __init__(self, streams: Terms, has_ended: Callable[[], bool]) -> None:
        self.waiting = 0
        self._streams = streams
        self._has_ended = has_ended
        self._counters: dict[str, _Counter] = {}
        self._burier = Burier(streams.bury) if streams.bury is not None else None
        self._prefix = secrets.token_hex(8)
        self._batches = 0
        streams.log.connection.watchers.append(self._nudge)

    def mailbox(self) -> Mailbox:
        """How many messages are unsettled, and how many may be."""
        return Mailbox(self._unsettled(), MOST_MESSAGES)

    async def pull(self, options: Options, facts: Facts, most_bytes: int, wait_s: float, gaps: list[Gap]) -> Pulled:
        """Wait for messages and hand them over.

        Args:
            options: what is pulled; `durable` is named, and its consumer is there.
            facts: what the log says of it.
            most_bytes: at most so much; a larger message comes alone.
            wait_s: how long to wait for the first message.
            gaps: what is known to be missing.

        Raises:
            Unavailable: too many wait, too much is unsettled, or the consumer is gone.

        Cancellation: what had come goes back to the log at once.
        """
        name = options.durable or ""
        if self.waiting >= MOST_PULLS:
            raise Unavailable("stream.too-many-pulls", f"{self.waiting} pulls are waiting; the limit is {MOST_PULLS}")
        if self._unsettled() + options.batch > MOST_MESSAGES:
            raise Unavailable(
                "stream.too-many-pulls",
                f"{self._unsettled()} messages of HTTP agents are unsettled; the limit is {MOST_MESSAGES}",
            )
        streams = self._streams
        terms = streams.terms(facts, options.max_lease_s)
        bury = self._burier.bury_nowait if self._burier is not None else None
        puller = Puller(
            streams.log,
            streams.stream,
            name,
            terms,
            options.batch,
            options.filter,
            lambda: Amount(0, 0),
            streams.book,
            max_deliver=streams.max_deliver,
            bury=bury,
        )
        self.waiting += 1
        try:
            puller.credit.grant(Amount(options.batch, most_bytes))
            messages = await self._wait(puller, wait_s)
            if not messages:
                return Pulled(None, 0.0, gaps, [], facts.pending)
            # From here on there is no checkpoint until they lie on the desk: nothing is between two hands.
            self._batches += 1
            batch = f"{self._prefix}-{self._batches}"
            now = trio.current_time()
            self._counter(name, terms).hand_over(batch, messages, now)
        finally:
            self.waiting -= 1
            puller.close()
        if streams.find_gaps is not None:
            try:
                gaps = gaps + await streams.find_gaps(name, messages)
            except BaseException:  # not swallowed: whoever pulled will never see them
                self.give_back(name, batch)
                raise
        lease_s = max(0.0, min(one.held.until for one in messages) - trio.current_time())
        return Pulled(batch, lease_s, gaps, messages, pending_after(messages[-1].delivery.reply))

    def give_back(self, durable: str, batch: str) -> None:
        """Give a whole batch back at once, because its agent never got it."""
        counter = self._counters.get(durable)
        if counter is not None and counter.desk is not None:
            lying = counter.desk.table.batches.get(batch)
            if lying is not None:
                whole: list[tuple[Span, int | None]] = [((0, len(lying.held) - 1), 0)]
                counter.desk.settle(Settle(batch, [], whole, [], [], confirm=False), trio.current_time())

    async def settle(self, durable: str, words: Settle) -> dict[str, Any] | None:
        """Do what a settle frame says, and wait for what came of it.

        Returns:
            The `settled` frame; None when the batch is not outstanding here: all of it is late.

        Raises:
            Refused: the frame cannot be followed; nothing of it was done.
        """
        counter = self._counters.get(durable)
        if counter is None or counter.desk is None:
            return None
        while (before := counter.waiting.get(words.batch)) is not None:
            await before.done.wait()
            await trio.lowlevel.checkpoint()
        answer = counter.waiting[words.batch] = _Answer()
        try:
            problem = counter.desk.settle(words, trio.current_time())
            if isinstance(problem, BadFrame):
                if problem.code == "stream.unknown-batch":
                    return None
                raise Refused("request.wrong-shape", problem.message)
            if not words.confirm:
                return {"type": "settled", "batch": words.batch, "confirmed": [], "late": []}
            with trio.move_on_after(SETTLE_MOST_S):
                await answer.done.wait()
            spans = [*words.ack, *(one for one, _ in words.nak), *(one for one, _ in words.term)]
            unknown = {"type": "settled", "batch": words.batch, "confirmed": [], "late": [], "failed": spans}
            return answer.words or unknown
        finally:
            if counter.waiting.get(words.batch) is answer:
                del counter.waiting[words.batch]
            answer.done.set()

    def forget(self, durable: str) -> None:
        """Take back what the agents of a durable hold, because it was moved or removed: their verdicts are late."""
        counter = self._counters.pop(durable, None)
        if counter is not None and counter.desk is not None:
            counter.desk.forget("reset")

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Look after the leases, for ever."""
        ready()
        async with trio.open_nursery() as nursery:
            if self._burier is not None:
                nursery.start_soon(self._burier.run)
            while True:
                await trio.sleep(LOOK_EVERY_S)
                now = trio.current_time()
                for name, counter in list(self._counters.items()):
                    if counter.desk is not None:
                        counter.desk.look_after(now)
                        if not counter.desk.table.batches and not counter.waiting:
                            del self._counters[name]

    # ------------------------------------------------------------------ inside

    async def _wait(self, puller: Puller, wait_s: float) -> list[Ready]:
        puller.pump()
        with trio.move_on_after(max(LEAST_WAIT_S, wait_s)):
            while not puller.waiting.messages and not self._has_ended():
                with trio.move_on_after(LOOK_EVERY_S):
                    await puller.wait_news()
                puller.take_batch(has_room=False)  # raises when the consumer is gone
                puller.look_after(trio.current_time())
        if puller.waiting.messages:
            with trio.move_on_after(GATHER_S):
                await trio.sleep_forever()
        return puller.take_batch(has_room=True) if not self._has_ended() else []

    def _counter(self, name: str, terms: LeaseTerms) -> Desk:
        counter = self._counters.setdefault(name, _Counter())
        if counter.desk is None:
            streams = self._streams
            bury = self._burier.bury_nowait if self._burier is not None else None
            counter.desk = Desk(
                streams.log,
                name,
                terms,
                counter.tell,
                streams.book,
                bury=bury,
                nak_delay_ms=streams.nak_delay_ms,
                extends=False,
                tell_delivery=streams.tell_delivery,
            )
        return counter.desk

    def _unsettled(self) -> int:
        return sum(one.desk.table.messages for one in self._counters.values() if one.desk is not None)

    def _nudge(self) -> None:
        for counter in self._counters.values():
            if counter.desk is not None:
                counter.desk.nudge()
