"""The keeper of gaps: says what was removed before a durable saw it, and remembers how far each durable saw.

Rules of the file:
- A gap is said before any later message, and once; whoever is attached then is told.
- A durable that is attached here is followed message by message; the others are looked at every few seconds, so that
  a purge while their agents are away is noticed with the position before it.
- Marks are kept in a stream of their own, the last of each durable; one that could not be kept is kept the next time.
- When the log does not answer, nothing is announced and nothing forgotten: what was left out is looked at again.

Back-pressure: bounded by the consumers of the stream (`engine/gaps_log.py`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
import trio

from actors.tree import Actor
from engine.consumers import ConsumerFacts
from engine.errors import Fault
from engine.gaps import (
    Mark,
    Run,
    StreamState,
    is_of,
    joined,
    may_be_passed,
    position_of,
    remade,
    removed_in,
    removed_of,
    runs_of,
    size_of,
    write_mark,
)
from engine.gaps_log import GapsLog
from engine.jetstream import JetStream
from engine.left_out import Jump, LeftOut
from engine.log import Delivery, Outcome, Stored, consumer_sequence
from engine.log_control import LogControl
from engine.stream_v1 import Gap

log = structlog.get_logger("gaps")
LOOK_EVERY_S: Final = 2.0
MOST_READS: Final = 200
"""Jumps that are looked up at a time, to tell what was passed over from other subjects', and messages of each."""


@dataclass(slots=True)
class Cursor:
    """What is known of one durable.

    Args:
        name: its name.
        subjects: what its consumer is for; none when for the whole stream.
        mark: which consumer it is; how far it saw stands in `left_out`.
        left_out: how far it saw, and what was left out before that.
        stored: the mark that is kept in the log.
        returned: sequences that an agent held when it left, and nobody was sent again yet.
    """

    name: str
    subjects: tuple[str, ...]
    mark: Mark
    left_out: LeftOut
    stored: Mark | None = None
    returned: set[int] = field(default_factory=set)

    def as_kept(self) -> Mark:
        """Give the mark that is true without what only this gateway knows."""
        left_out = self.left_out
        lowest = min([left_out.lowest(), *self.returned])
        is_whole = lowest > left_out.sequence
        return self.mark._replace(
            seq=left_out.sequence if is_whole else int(lowest) - 1,
            deliveries=left_out.number,
            counted=left_out.counted() if is_whole else 0,
        )


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
        self._log = GapsLog(data, control, stream)
        self._attached = attached
        self._arrived = arrived
        self._cursors: dict[str, Cursor] = {}

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
        before = await self._log.state()
        facts = await self._log.facts(durable)
        kept = await self._log.read_mark(durable)
        state = (await self._log.state())._replace(last=before.last)  # see `look`
        cursor = self._cursors.get(durable)
        if cursor is not None and self._attached(durable):
            return []  # by another agent, meanwhile
        last = cursor.as_kept() if cursor is not None else kept
        notice = remade(last, state) if last is not None else None
        cursor = self._cursor_of(kept, facts, state)
        if wanted:
            cursor.left_out = LeftOut(wanted - 1, 0)
        await self._follow(cursor, facts, state)
        if cursor.left_out.sequence + 1 < state.first:
            cursor.left_out.pass_over(state.first - 1, facts.deliveries, is_reached=False)
        gaps = self._take(cursor, await self._judge(cursor))
        gaps = ([notice] if notice is not None else []) + gaps
        self._count(durable, gaps)
        return gaps

    async def find(self, durable: str, deliveries: Sequence[Delivery]) -> list[Gap]:
        """Say what is missing before these messages, which are about to be sent to an agent."""
        cursor = self._cursors.get(durable)
        if cursor is None or not deliveries:
            return []
        self.saw(durable, deliveries)
        if not cursor.left_out.jumps and not cursor.returned:
            return []
        try:
            state = await self._judge(cursor)
        except Fault:
            return []  # looked at with the next messages
        if state.epoch != cursor.mark.epoch:
            return []  # a log made again is for `observe` to say
        gaps = self._take(cursor, state)
        self._count(durable, gaps)
        return gaps

    def saw(self, durable: str, deliveries: Sequence[Delivery]) -> None:
        """Note that a durable's agent is sent these."""
        cursor = self._cursors.get(durable)
        if cursor is not None and deliveries:
            numbers = [consumer_sequence(one.reply) for one in deliveries]
            sequences = [one.sequence for one in deliveries]
            cursor.left_out.note(numbers, sequences, [one.delivered for one in deliveries])
            if cursor.returned:
                cursor.returned.difference_update(sequences)

    def gave_back(self, durable: str, sequences: Iterable[int]) -> None:
        """Note what an agent held when it left: it may never have seen it."""
        cursor = self._cursors.get(durable)
        if cursor is not None:
            cursor.returned.update(one for one in sequences if one <= cursor.left_out.sequence)

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
        await self._log.make_marks()
        before = await self._log.state()
        found = await self._log.all_facts()
        # What is pending was asked after the last sequence, and what is gone after what is settled: neither is then
        # taken for settled that was removed in between, nor for not its own that was published.
        state = (await self._log.state())._replace(last=before.last)
        for facts in found:
            cursor = self._cursors.get(facts.name)
            if cursor is None:
                kept = await self._log.read_mark(facts.name)
                cursor = self._cursors.get(facts.name)
                if cursor is None:
                    cursor = self._cursor_of(kept, facts, state)
                    cursor.stored = kept
            if cursor.mark.epoch == state.epoch:  # a log made again is for `observe` to say
                await self._follow(cursor, facts, state)
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
                self._data.publish_nowait(f"{self._log.marks}.{name}", write_mark(mark), taken)

    def _kept(self, cursor: Cursor, mark: Mark, outcome: Outcome) -> None:
        if isinstance(outcome, Stored):
            cursor.stored = mark
        else:
            self._log.has_marks = False  # it may have been removed: look again next time

    def _take(self, cursor: Cursor, state: StreamState) -> list[Gap]:
        """Say what is gone, and forget it."""
        gone = removed_of(cursor.returned, state)
        cursor.returned -= gone
        here = self._arrived(cursor.name)
        return joined([*removed_in(runs_of(gone), state), *cursor.left_out.take(state, here)])

    def _count(self, durable: str, gaps: list[Gap]) -> None:
        for gap in gaps:
            self.announced[gap.reason] += 1
            self.messages += gap.last - gap.first + 1
            log.warning("a gap", durable=durable, first=gap.first, last=gap.last, reason=gap.reason)

    def _cursor_of(self, kept: Mark | None, facts: ConsumerFacts, state: StreamState) -> Cursor:
        """Give what is known of a durable, here or by the mark that is kept, perhaps by another gateway."""
        cursor = self._cursors.get(facts.name)
        if cursor is not None and is_of(cursor.as_kept(), facts, state):
            if kept is not None and is_of(kept, facts, state):
                cursor.left_out.forget(kept.seq, kept.counted)
            return cursor
        mark = Mark(0, facts.deliveries, facts.created, state.epoch, state.last)
        new = Cursor(facts.name, facts.subjects, mark, LeftOut(*position_of(kept, facts, state)))
        if cursor is not None and (cursor.mark.created, cursor.mark.epoch) == (mark.created, mark.epoch):
            new.left_out = cursor.left_out.moved(facts.delivered_seq, facts.deliveries)
            new.returned = {one for one in cursor.returned if one <= facts.delivered_seq}
        self._cursors[facts.name] = new
        return new

    async def _follow(self, cursor: Cursor, facts: ConsumerFacts, state: StreamState) -> None:
        """Let a durable's position go on with what the log says of its consumer.

        Args:
            cursor: the durable's.
            facts: the consumer.
            state: the stream, asked after it, but for its last sequence, which was asked before.

        Raises:
            Unavailable: the log does not answer.
        """
        left_out = cursor.left_out
        cursor.subjects = facts.subjects
        cursor.mark = cursor.mark._replace(last=state.last)
        is_at_rest = not (facts.pending or facts.ack_pending)
        if is_at_rest or not self._attached(facts.name):
            left_out.pass_over(facts.delivered_seq, facts.deliveries)
        if is_at_rest and left_out.sequence < state.last:
            # Nothing is pending, the log says; what it has nevertheless may come with the next message.
            rest = [(left_out.sequence + 1, state.last)]
            (own,) = await self._log.own_of_all(cursor.subjects, [rest], 1)
            left_out.pass_over(own[0][0] - 1 if own else state.last, facts.deliveries, is_reached=False)
        settled = state.last if is_at_rest else facts.floor_seq
        done = {one for one in cursor.returned if one <= settled}
        cursor.returned -= done - removed_of(done, state)
        if left_out.to_judge(settled):  # what an agent was sent meanwhile is compared with the stream as it is since
            await self._judge(cursor, settled, None if self._attached(facts.name) else state)

    async def _judge(self, cursor: Cursor, settled: int = 0, state: StreamState | None = None) -> StreamState:
        """Decide about what was left out, where all can be known of it; gives the stream as it is then.

        Args:
            cursor: the durable's.
            settled: up to where everything is settled.
            state: the stream, asked after all that was left out; asked anew when None.

        Raises:
            Unavailable: the log does not answer; what was not decided still is to be.
        """
        left_out = cursor.left_out
        jumps = left_out.to_judge(settled)
        state = state or await self._log.state()
        asked = [
            one
            for one in jumps
            if one.unknown < min(MOST_READS, size_of(one.left)) and may_be_passed([one.span], state)
        ]
        found: dict[Jump, list[Run]] = {}
        if asked:
            later = asked[MOST_READS:]  # with the next look
            asked = asked[:MOST_READS]
            runs = [list(one.left) for one in asked]
            found = dict(zip(asked, await self._log.own_of_all(cursor.subjects, runs, MOST_READS), strict=True))
            state = await self._log.state()  # what was removed before it was looked up is no other subject's
            jumps = [one for one in jumps if one not in later]
        for jump in jumps:
            left_out.judge(jump, found.get(jump, []), state)
        return state
