"""What a durable's deliveries left out, until it is told what became of it.

The log numbers a consumer's deliveries without holes, and delivers for the first time in the order of the stream. So
what lies between two first deliveries was given to nobody when every number between them is known: each of it is
removed, of another subject, or was *passed over* by the log. Where numbers are missing, so many of it may be in other
hands, or on their way to nobody, and stay open until they are seen, settled, or removed.

Rules of the file:
- No clock, no I/O.
- Nothing leaves a jump but what was seen, what was announced, what was settled, and what is not the durable's.
- Bounded: `MOST_JUMPS`, of which the oldest goes.

What must change with it: `actors/gaps.py`, which asks the log.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from math import inf
from typing import Final, NamedTuple

from engine.gaps import SKIPPED, Run, StreamState, cut, joined, overlap, removed_in, runs_of, size_of
from engine.stream_v1 import Gap

MOST_JUMPS: Final = 1000
"""Of one durable; several gateways on it make many, and each look at the log (`actors/gaps.py`) ends most."""


class _Given(NamedTuple):
    """One delivery; see `LeftOut.note`."""

    number: int
    sequence: int
    delivered: int


class Jump:
    """What was left out between two first deliveries.

    Args:
        numbers: the numbers between theirs that are not known here.
        left: the sequences between theirs that nothing is known of; `span` goes on saying where it was.
    """

    __slots__ = ("explained", "is_passed", "left", "numbers", "span")

    def __init__(self, numbers: list[Run], left: list[Run]) -> None:
        self.numbers = numbers
        self.left = left
        self.span = (left[0][0], left[-1][1]) if left else (1, 0)
        self.explained = 0
        self.is_passed = False
        """All that is left was passed over."""

    @property
    def unknown(self) -> int:
        """How many of its messages may have been given to somebody, at most."""
        return size_of(self.numbers) - self.explained

    @property
    def high(self) -> int:
        """The last sequence that is left."""
        return self.left[-1][1] if self.left else 0


class LeftOut:
    """The deliveries of one durable, and what they left out.

    Args:
        sequence: everything up to here was delivered, announced, or not for it.
        number: the deliveries up to this number were of these sequences.
    """

    def __init__(self, sequence: int, number: int) -> None:
        self.sequence = sequence
        self.number = number
        self.reached = sequence
        """The log is past this: what it has not delivered before it for the first time it never will."""
        self.jumps: list[Jump] = []
        self._tail: list[Run] = []
        """Numbers that are not known, after the first delivery of the highest sequence."""
        self._ahead: set[int] = set()
        """Sequences above it that were seen when they came again."""

    def note(self, numbers: list[int], sequences: list[int], delivered: list[int]) -> None:
        """Note what an agent is sent.

        Args:
            numbers: which deliveries of the consumer they are, counted from 1; 0 when that is not known.
            sequences: their positions in the stream.
            delivered: how often each was delivered, this time included.
        """
        count = len(numbers)
        number, sequence = self.number + 1, self.sequence + 1
        if (
            not self._tail
            and delivered.count(1) == count
            and numbers == list(range(number, number + count))
            and sequences == list(range(sequence, sequence + count))
        ):
            self.number += count
            self.sequence += count
            self.reached = max(self.reached, self.sequence)
            return
        for one in sorted(zip(numbers, sequences, delivered, strict=True)):
            self._note(_Given(*one))
        self._tidy()

    def pass_over(self, sequence: int, number: int, *, is_reached: bool = True) -> None:
        """Note that the log has nothing more to deliver up to this sequence, after so many deliveries.

        Args:
            sequence: of the stream.
            number: of the deliveries.
            is_reached: the log itself stands there; otherwise, where it has purged messages again, they may come.
        """
        if is_reached:
            self.reached = max(self.reached, sequence)
        if number > self.number:
            self._tail.append((self.number + 1, number))
            self.number = number
        if sequence > self.sequence:
            self._jump(sequence + 1)
            self.sequence = sequence
        self._tail = cut(self._tail, [(0, number)])  # they were of what lies before: repeated ones, or in a jump
        self._tidy()

    def forget(self, sequence: int, number: int) -> None:
        """Note that everything up to a sequence is known to be told elsewhere."""
        for jump in self.jumps:
            jump.left = cut(jump.left, [(0, sequence)])
        if sequence > self.sequence:
            self.sequence = sequence
            self.number = max(self.number, number)
            self._tail = cut(self._tail, [(0, number)])
            self._ahead = {one for one in self._ahead if one > sequence}
        self._tidy()

    def moved(self, sequence: int, number: int) -> "LeftOut":
        """Give what stands when a durable is found further back, or when its log has forgotten deliveries.

        What was left out before its new position is open still, and may be in anybody's hands.
        """
        new = LeftOut(sequence, number)
        anybodys = [(1, max(self.number, number))]
        for jump in self.jumps:
            if left := overlap(jump.left, [(0, sequence)]):
                new.jumps.append(Jump(list(anybodys), left))
        return new

    def to_judge(self, settled: float) -> list[Jump]:
        """Give the jumps of which all can be known: given to nobody, or settled.

        Args:
            settled: up to where everything is settled.
        """
        return [one for one in self.jumps if not one.is_passed and (not one.unknown or one.high <= settled)]

    def judge(self, jump: Jump, own: list[Run], state: StreamState) -> None:
        """Decide what remains to be announced of a jump that can be judged.

        Args:
            jump: one of `to_judge`.
            own: what was there of the durable's own messages among what was left of it.
            state: the stream, asked after them.
        """
        if jump not in self.jumps:
            return  # it ended while the log was asked
        gone = [(one.first, one.last) for one in removed_in(jump.left, state)]
        there = cut(overlap(jump.left, own), gone)
        coming = cut(there, [(0, self.reached)])
        there = overlap(there, [(0, self.reached)])
        jump.is_passed = size_of(there) > jump.unknown
        jump.left = sorted([*overlap(jump.left, gone), *(there if jump.is_passed else [])])
        if coming:
            self.jumps.insert(self.jumps.index(jump) + 1, Jump(list(jump.numbers), coming))
        self._tidy()

    def take(self, state: StreamState, here: Iterable[int] = ()) -> list[Gap]:
        """Give what is to be announced, and forget it.

        Args:
            state: the stream.
            here: sequences that are about to be sent.
        """
        gaps: list[Gap] = []
        held = sorted(here)
        for jump in self.jumps:
            begin, end = bisect_left(held, jump.span[0]), bisect_right(held, jump.span[1])
            looked = cut(jump.left, runs_of(held[begin:end])) if begin < end else jump.left
            found = removed_in(looked, state)
            gone = [(one.first, one.last) for one in found]
            if jump.is_passed:
                found += [Gap(low, high, SKIPPED) for low, high in cut(looked, gone)]
                gone = looked
            if found:
                gaps += found
                jump.left = cut(jump.left, gone)
        if gaps:
            self._tidy()
        return joined(gaps)

    def lowest(self) -> float:
        """Give the first sequence that nothing is known of yet."""
        return self.jumps[0].left[0][0] if self.jumps else inf

    def counted(self) -> int:
        """Give up to which number all deliveries were of `sequence` or before it."""
        return self._tail[0][0] - 1 if self._tail else self.number

    # ------------------------------------------------------------------ inside

    def _note(self, one: _Given) -> None:
        self.reached = max(self.reached, one.sequence)
        if one.number > self.number:
            if one.number > self.number + 1:
                self._tail.append((self.number + 1, one.number - 1))
            self.number = one.number
            if one.delivered == 1 and one.sequence > self.sequence:
                self._jump(one.sequence)
                self.sequence = one.sequence
            else:
                self._saw(one)
            return
        if self._is_late(one):
            return
        jump = next((jump for jump in reversed(self.jumps) if overlap(jump.numbers, [(one.number, one.number)])), None)
        if jump is not None:
            self._fill(jump, one)
        elif one.delivered == 1 and one.sequence > self.sequence:  # the log counts anew: it forgot, or was moved
            self._tail = [(1, max(1, self.number))]
            self.number = max(1, one.number)
            self._jump(one.sequence)
            self.sequence = one.sequence
        else:
            self._saw(one)

    def _is_late(self, one: _Given) -> bool:
        """Take a number out of the tail, when it is there."""
        this = (one.number, one.number)
        if not overlap(self._tail, [this]):
            return False
        if one.delivered == 1 and one.sequence > self.sequence:
            later = cut(self._tail, [(0, one.number)])
            self._tail = cut(self._tail, [(one.number, self.number)])
            self._jump(one.sequence)
            self.sequence, self._tail = one.sequence, later
        else:
            self._tail = cut(self._tail, [this])
            self._saw(one)
        return True

    def _jump(self, sequence: int) -> None:
        if sequence > self.sequence + 1:
            jump = Jump(self._tail, [(self.sequence + 1, sequence - 1)])
            if self._ahead:
                seen = {one for one in self._ahead if self.sequence < one < sequence}
                jump.left = cut(jump.left, runs_of(seen))
                jump.explained = min(len(seen), jump.unknown)
                self._ahead = {one for one in self._ahead if one > sequence}
            self.jumps.append(jump)
        self._tail = []

    def _fill(self, jump: Jump, one: _Given) -> None:
        """Take a delivery that was not known into its jump; what is left lies on its two sides."""
        this = [(one.sequence, one.sequence)]
        if one.delivered > 1 or not overlap(jump.left, this):
            jump.numbers = cut(jump.numbers, [(one.number, one.number)])
            self._saw(one)
            return
        above = Jump(cut(jump.numbers, [(0, one.number)]), cut(jump.left, [(0, one.sequence)]))
        jump.explained = 0  # it cannot be told of which side they were
        jump.numbers = cut(jump.numbers, [(one.number, self.number)])
        jump.left = cut(jump.left, [(one.sequence, self.sequence)])
        self.jumps.insert(self.jumps.index(jump) + 1, above)

    def _saw(self, one: _Given) -> None:
        """Take a sequence out of what is left; that it was delivered before explains one number of its jump."""
        this = [(one.sequence, one.sequence)]
        if one.sequence > self.sequence and len(self._ahead) < MOST_JUMPS:
            self._ahead.add(one.sequence)
        for jump in self.jumps:
            if jump.left and jump.left[0][0] <= one.sequence <= jump.high and overlap(jump.left, this):
                jump.left = cut(jump.left, this)
                if one.delivered > 1 and jump.unknown:
                    jump.explained += 1
                return

    def _tidy(self) -> None:
        self.jumps = [one for one in self.jumps if one.left][-MOST_JUMPS:]
