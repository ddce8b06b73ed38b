"""The keeper of gaps: says what was removed before a durable saw it, and remembers how far each durable saw.

Rules of the file:
- A gap is said before any later message, and once; whoever is attached then is told.
- A durable that is attached here is followed message by message; the others are looked at every few seconds, so that
  a purge while their agents are away is noticed with the position before it.
- Marks are kept in a stream of their own, the last of each durable; one that could not be kept is kept the next time.
- When the log does not answer, nothing is announced and nothing forgotten: what was left out is looked at again.

Back-pressure: bounded by the consumers of the stream, of which `MOST_CONSUMERS` are followed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
import trio

from actors.tree import Actor
from engine.consumers import CONSUMER_NOT_FOUND, ConsumerFacts, read_consumer
from engine.errors import Fault, Unavailable
from engine.gaps import (
    MOST_DELETED,
    Mark,
    Run,
    StreamState,
    advanced,
    joined,
    read_mark,
    read_state,
    remade,
    removed_in,
    runs_between,
    runs_of,
    without,
    write_mark,
)
from engine.jetstream import JetStream
from engine.log import Delivery, Outcome, Stored, StoredMessage, consumer_sequence
from engine.log_control import LogControl
from engine.stream_v1 import Gap

log = structlog.get_logger("gaps")
LOOK_EVERY_S: Final = 2.0
READ_WITHIN_S: Final = 2.0
MOST_CONSUMERS: Final = 1024
MOST_RUNS: Final = 1000
"""Ranges of one durable that wait to be looked at while the log does not answer."""


@dataclass(slots=True)
class Cursor:
    """What is known of one durable.

    Args:
        mark: how far it saw.
        stored: the mark that is kept in the log.
        unchecked: ranges that were left out and not looked at yet.
        returned: sequences below the mark that an agent held when it left, and nobody was sent again yet.
    """

    mark: Mark
    stored: Mark | None = None
    unchecked: list[Run] = field(default_factory=list)
    returned: set[int] = field(default_factory=set)

    def as_kept(self) -> Mark:
        """Give the mark that is true without what only this gateway knows."""
        lowest = min([*self.returned, *(low for low, _ in self.unchecked)], default=self.mark.seq + 1)
        return self.mark._replace(seq=min(self.mark.seq, lowest - 1))


class Gaps:
    """What the edge holds of the gaps.

    Args:
        data: the log's data plane.
        control: its control plane.
        stream: the stream's name.
        attached: how many sockets of this gateway a durable has.
        arrived: sequences that are here for a durable's agents and were not sent yet.
    """

    def __init__(
        self,
        data: JetStream,
        control: LogControl,
        stream: str,
        attached: Callable[[str], int],
        arrived: Callable[[str], Iterable[int]],
    ) -> None:
        self.announced: Counter[str] = Counter()
        """Gaps by their reason."""
        self.messages = 0
        """Sequences that gaps named."""
        self._data = data
        self._control = control
        self._stream = stream
        self._marks = f"{stream}_MARKS"
        self._attached = attached
        self._arrived = arrived
        self._cursors: dict[str, Cursor] = {}
        self._is_made = False

    async def observe(self, durable: str, wanted: int = 0) -> list[Gap]:
        """Look at a durable before its agent's first pull: what was removed while nobody was attached.

        Args:
            durable: its name.
            wanted: for one that was made just now: the sequence that it was to begin at, 0 when none was named.

        Returns:
            The gaps, to be said before any message.

        Raises:
            Unavailable: the log does not answer, or the consumer is gone.
        """
        if self._attached(durable) and durable in self._cursors:
            return []  # it is followed already; whoever follows was told
        before = await self._state()
        facts = await self._facts(durable)
        state = (await self._state())._replace(last=before.last)  # see `look`
        mark = self._later(durable, await self._read_mark(durable))
        notice = remade(mark, state) if mark is not None else None
        seq = wanted - 1 if wanted else advanced(mark, facts, state).seq
        gaps: list[Gap] = []
        cursor = self._cursors.get(durable)
        if cursor is not None and notice is None:
            gaps += self._take_returned(cursor, state)
        returned = cursor.returned if cursor is not None and notice is None else set[int]()
        if seq + 1 < state.first:
            gaps += removed_in([(seq + 1, state.first - 1)], state)
            seq = state.first - 1
        gaps = ([notice] if notice is not None else []) + joined(gaps)
        mark = Mark(seq, facts.deliveries, facts.created, state.epoch, state.last)
        self._cursors[durable] = Cursor(mark, returned=returned)
        self._count(durable, gaps)
        return gaps

    async def find(self, durable: str, deliveries: Sequence[Delivery]) -> list[Gap]:
        """Say what is missing before these messages, which are about to be sent to an agent."""
        cursor = self._cursors.get(durable)
        if cursor is None or not deliveries:
            return []
        runs = runs_between(cursor.mark.seq, [one.sequence for one in deliveries])
        self.saw(durable, deliveries)
        if not runs and not cursor.unchecked and not cursor.returned:
            return []
        cursor.unchecked = (cursor.unchecked + runs)[-MOST_RUNS:]
        try:
            state = await self._state()
        except Fault:
            return []  # looked at with the next messages
        runs, here = cursor.unchecked, list(self._arrived(durable))
        cursor.unchecked = [(one, one) for one in sorted(here) if any(low <= one <= high for low, high in runs)]
        gaps = joined(self._take_returned(cursor, state) + removed_in(without(runs, here), state))
        self._count(durable, gaps)
        return gaps

    def saw(self, durable: str, deliveries: Sequence[Delivery]) -> None:
        """Note that a durable's agent is sent these."""
        cursor = self._cursors.get(durable)
        if cursor is not None and deliveries:
            mark = cursor.mark
            highest = max(one.sequence for one in deliveries)
            if cursor.returned:
                cursor.returned.difference_update(one.sequence for one in deliveries)
            if cursor.unchecked:
                cursor.unchecked = without(cursor.unchecked, [one.sequence for one in deliveries])
            count = max(consumer_sequence(one.reply) for one in deliveries)
            cursor.mark = mark._replace(seq=max(mark.seq, highest), deliveries=max(mark.deliveries, count))

    def gave_back(self, durable: str, sequences: Iterable[int]) -> None:
        """Note what an agent held when it left: it may never have seen it."""
        cursor = self._cursors.get(durable)
        if cursor is not None:
            cursor.returned.update(one for one in sequences if one <= cursor.mark.seq)

    def renew(self, durable: str) -> None:
        """Forget how far a durable saw, because it was moved."""
        self._cursors.pop(durable, None)

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Keep the marks, for ever."""
        ready()
        while True:
            await self._data.connection.wait_up()
            try:
                await self.look()
            except Fault as fault:
                log.info("the marks were not kept", error=fault.detail)
            await trio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look at every durable once, and keep what changed.

        Raises:
            Unavailable: the log does not answer.
        """
        await self._make_stream()
        before = await self._state()
        found = await self._all_facts()
        # What is pending was asked after the last sequence, and what is gone after what is settled: neither is then
        # taken for settled that was removed in between, nor for not its own that was published.
        state = (await self._state())._replace(last=before.last)
        for facts in found:
            cursor = self._cursors.get(facts.name)
            if cursor is not None and cursor.returned:
                settled = {one for one in cursor.returned if one <= facts.floor_seq}
                cursor.returned -= settled - _removed_of(settled, state)
            if cursor is None:
                mark = await self._read_mark(facts.name)
                if facts.name not in self._cursors:
                    self._cursors[facts.name] = Cursor(advanced(mark, facts, state), mark)
            elif not self._attached(facts.name):
                if cursor.mark.epoch == state.epoch:  # a log made again is for `observe` to say
                    cursor.mark = advanced(cursor.mark, facts, state)
            elif not (facts.pending or facts.ack_pending) and cursor.mark.deliveries == facts.deliveries:
                cursor.mark = cursor.mark._replace(seq=max(cursor.mark.seq, state.last), last=state.last)
        names = {facts.name for facts in found}
        for name in [one for one in self._cursors if one not in names and not self._attached(one)]:
            del self._cursors[name]
        self._keep(names)

    # ------------------------------------------------------------------ inside

    def _keep(self, names: set[str]) -> None:
        for name, cursor in self._cursors.items():
            mark = cursor.as_kept()
            if mark != cursor.stored and name in names:
                taken = partial(self._kept, cursor, mark)
                self._data.publish_nowait(f"{self._marks}.{name}", write_mark(mark), taken)

    def _kept(self, cursor: Cursor, mark: Mark, outcome: Outcome) -> None:
        if isinstance(outcome, Stored):
            cursor.stored = mark
        else:
            self._is_made = False  # it may have been removed: look again next time

    def _take_returned(self, cursor: Cursor, state: StreamState) -> list[Gap]:
        """Say which of the returned ones are gone, and forget these."""
        gone = _removed_of(cursor.returned, state)
        cursor.returned -= gone
        return removed_in(runs_of(gone), state)

    def _count(self, durable: str, gaps: list[Gap]) -> None:
        for gap in gaps:
            self.announced[gap.reason] += 1
            self.messages += gap.last - gap.first + 1
            log.warning("a gap", durable=durable, first=gap.first, last=gap.last, reason=gap.reason)

    def _later(self, durable: str, kept: Mark | None) -> Mark | None:
        """Give the later of the mark that is kept, perhaps by another gateway, and the one that is known here."""
        cursor = self._cursors.get(durable)
        if cursor is None or kept is None or (kept.created, kept.epoch) != (cursor.mark.created, cursor.mark.epoch):
            return cursor.mark if cursor is not None else kept
        return max(cursor.mark, kept, key=lambda mark: mark.seq)

    async def _make_stream(self) -> None:
        if self._is_made:
            return
        config = {
            "name": self._marks,
            "subjects": [f"{self._marks}.*"],
            "max_msgs_per_subject": 1,
            "allow_direct": True,
        }
        answer = await self._control.request_api(f"STREAM.CREATE.{self._marks}", config)
        if answer.error:
            raise Unavailable("log.refused", f"the stream of marks cannot be made: {answer.reason}")
        self._is_made = True

    async def _read_mark(self, durable: str) -> Mark | None:
        query = {"last_by_subj": f"{self._marks}.{durable}"}
        message = await self._data.read_message(self._marks, query, READ_WITHIN_S)
        return read_mark(message.payload) if isinstance(message, StoredMessage) else None

    async def _state(self) -> StreamState:
        answer = await self._control.request_api(f"STREAM.INFO.{self._stream}")
        if not answer.error and 0 < int((answer.fields.get("state") or {}).get("num_deleted", 0)) <= MOST_DELETED:
            answer = await self._control.request_api(f"STREAM.INFO.{self._stream}", {"deleted_details": True})
        if answer.error:
            raise Unavailable("log.refused", f"the log refused: {answer.reason}")
        return read_state(answer.fields)

    async def _facts(self, durable: str) -> ConsumerFacts:
        answer = await self._control.request_api(f"CONSUMER.INFO.{self._stream}.{durable}")
        if answer.error == CONSUMER_NOT_FOUND:
            raise Unavailable("log.refused", "the durable consumer is gone from the log")
        if answer.error:
            raise Unavailable("log.refused", f"the log refused: {answer.reason}")
        return read_consumer(answer.fields)

    async def _all_facts(self) -> list[ConsumerFacts]:
        found: list[ConsumerFacts] = []
        while len(found) < MOST_CONSUMERS:
            answer = await self._control.request_api(f"CONSUMER.LIST.{self._stream}", {"offset": len(found)})
            if answer.error:
                raise Unavailable("log.refused", f"the log refused: {answer.reason}")
            page = [read_consumer(one) for one in answer.fields.get("consumers") or []]
            found += page
            if not page or len(found) >= int(answer.fields.get("total", 0)):
                break
        return [one for one in found if one.is_durable]


def _removed_of(sequences: set[int], state: StreamState) -> set[int]:
    deleted = set(state.deleted)
    return {one for one in sequences if one < state.first or one in deleted}
