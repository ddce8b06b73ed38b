"""What a durable never saw because it was removed before: where it stands, and which sequences are gone.

A consumer's own position cannot tell: the log moves it with what it delivers, also to an agent that died before it was
sent anything, and a purge moves it to the end of what was purged. So gateways keep *marks*: how far agents were really
sent what is there. A mark goes on with what is sent, with what was acknowledged while nothing is missing, and to the
end of the stream when nothing is left for the durable.

Rules of the file:
- No clock, no I/O.
- What a durable saw is no gap. What cannot be told is said as a gap rather than left out: in a stream of several
  subjects a removed sequence may have been another subject's, and what agents were sent in the seconds after the last
  mark that was kept may be named when the gateway was killed, or was another one, and it was removed at once.

What must change with it: `actors/gaps.py` keeps the marks; /stream in the README's wire reference.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from engine.consumers import ConsumerFacts
from engine.stream_v1 import Gap

RETENTION: Final = "retention"
PURGED: Final = "purged"
DELETED: Final = "deleted"
RECREATED: Final = "recreated"
SKIPPED: Final = "skipped"
"""The log has it, and will not deliver it: a durable that is moved there is given it."""
REASONS: Final = (RETENTION, PURGED, DELETED, RECREATED, SKIPPED)
MOST_DELETED: Final = 100_000
"""Deleted messages inside a stream that are asked for by number; above it, one gap says where they may be."""
_LIMITS: Final = ("max_msgs", "max_bytes", "max_age")


class Mark(NamedTuple):
    """How far a durable had seen the stream, when it had so many deliveries.

    Args:
        seq: everything up to here was delivered to it, announced as a gap, or not for it.
        deliveries: the consumer's own count then.
        created: when the consumer was made: another one of its name starts anew.
        epoch: when the stream was made.
        last: the stream's last sequence then.
        counted: the deliveries up to this number were of `seq` or before it; fewer than there were when in doubt.
    """

    seq: int
    deliveries: int
    created: str
    epoch: str
    last: int
    counted: int = 0


class StreamState(NamedTuple):
    """What the log says of the stream.

    Args:
        epoch: when it was made.
        first: its first sequence; one above `last` when it is empty.
        last: the last one that was given out.
        deleted_count: how many are missing between the two.
        deleted: which, ascending; empty when they were not asked for.
        has_limits: it removes its oldest messages by itself.
        has_subject_limit: it removes the oldest of each subject.
    """

    epoch: str
    first: int
    last: int
    deleted_count: int
    deleted: tuple[int, ...]
    has_limits: bool
    has_subject_limit: bool


Run = tuple[int, int]
"""A range of sequences, both ends included."""


def read_state(info: Mapping[str, Any]) -> StreamState:
    """Read a stream from JetStream's description of it."""
    state, config = info.get("state") or {}, info.get("config") or {}
    last = int(state.get("last_seq", 0))
    first = int(state.get("first_seq", 0))
    return StreamState(
        str(info.get("created", "")),
        first if first and state.get("messages") else last + 1,
        last,
        int(state.get("num_deleted", 0)),
        tuple(state.get("deleted") or ()),
        any(int(config.get(name, -1)) > 0 for name in _LIMITS),
        int(config.get("max_msgs_per_subject", -1)) > 0,
    )


def is_of(mark: Mark, facts: ConsumerFacts, state: StreamState) -> bool:
    """Say that a mark is this consumer's, and that it was not moved since."""
    return (mark.created, mark.epoch) == (facts.created, state.epoch) and facts.deliveries >= mark.deliveries


def position_of(mark: Mark | None, facts: ConsumerFacts, state: StreamState) -> tuple[int, int]:
    """Give up to where a durable has seen the stream, and up to which number its deliveries were of that.

    Args:
        mark: what was noted last, None when nothing was.
        facts: the consumer, asked after the stream.
        state: the stream.
    """
    if mark is None or not is_of(mark, facts, state):
        return facts.delivered_seq, facts.deliveries
    return mark.seq, mark.counted


def may_be_passed(runs: Iterable[Run], state: StreamState) -> bool:
    """Say that a log may have passed messages over in these ranges.

    It is seen to where others were deleted one by one among them or beside them, and where the stream begins there now.
    """
    return any(
        low <= state.first <= high or bisect_left(state.deleted, low - 1) < bisect_right(state.deleted, high + 1)
        for low, high in runs
    )


def removed_in(runs: Iterable[Run], state: StreamState) -> list[Gap]:
    """Give what is gone of these ranges, in order.

    Args:
        runs: ranges that were not delivered, ascending and apart.
        state: the stream, with its deleted ones where there are any inside.
    """
    gaps: list[Gap] = []
    ahead = RETENTION if state.has_limits else PURGED
    inside = RETENTION if state.has_subject_limit else DELETED
    are_unknown = state.deleted_count > len(state.deleted)
    for low, high in runs:
        if low < state.first:
            gaps.append(Gap(low, min(high, state.first - 1), ahead))
        if high >= state.first and are_unknown:
            gaps.append(Gap(max(low, state.first), high, inside))
            continue
        begin = bisect_left(state.deleted, max(low, state.first))
        for one in state.deleted[begin : bisect_right(state.deleted, high)]:
            if gaps and gaps[-1].last == one - 1 and gaps[-1].reason == inside:
                gaps[-1] = gaps[-1]._replace(last=one)
            else:
                gaps.append(Gap(one, one, inside))
    return gaps


def removed_of(sequences: Iterable[int], state: StreamState) -> set[int]:
    """Give which of these are gone."""
    wanted = set(sequences)
    return {one for one in wanted if one < state.first} | wanted.intersection(state.deleted) if wanted else wanted


def joined(gaps: Iterable[Gap]) -> list[Gap]:
    """Give gaps in order, neighbours of one reason as one."""
    found: list[Gap] = []
    for gap in sorted(gaps):
        if found and found[-1].last + 1 >= gap.first and found[-1].reason == gap.reason:
            found[-1] = found[-1]._replace(last=max(found[-1].last, gap.last))
        else:
            found.append(gap)
    return found


def runs_of(sequences: Iterable[int]) -> list[Run]:
    """Give sequences as ranges, neighbours joined."""
    runs: list[Run] = []
    for one in sorted(sequences):
        if runs and runs[-1][1] == one - 1:
            runs[-1] = (runs[-1][0], one)
        else:
            runs.append((one, one))
    return runs


def cut(runs: Iterable[Run], others: Iterable[Run]) -> list[Run]:
    """Give ranges without what other ranges cover."""
    left = list(runs)
    for low, high in others:
        if left and low <= left[-1][1] and high >= left[0][0]:
            left = [
                piece
                for first, last in left
                for piece in ((first, min(last, low - 1)), (max(first, high + 1), last))
                if piece[0] <= piece[1]
            ]
    return left


def overlap(runs: Iterable[Run], others: Iterable[Run]) -> list[Run]:
    """Give what both cover; each is ascending and apart."""
    second = list(others)
    return [(max(a, c), min(b, d)) for a, b in runs for c, d in second if max(a, c) <= min(b, d)]


def size_of(runs: Iterable[Run]) -> int:
    """Count what ranges cover."""
    return sum(high - low + 1 for low, high in runs)


def remade(mark: Mark, state: StreamState) -> Gap | None:
    """Give the notice of a log that was made again: what this durable knew as sequences is void."""
    return Gap(1, max(1, mark.last), RECREATED) if mark.epoch and mark.epoch != state.epoch else None


def write_mark(mark: Mark) -> bytes:
    """Encode a mark."""
    return orjson.dumps(mark._asdict())


def read_mark(payload: bytes) -> Mark | None:
    """Decode a mark; None when it is none."""
    try:
        fields = orjson.loads(payload)
        fields.setdefault("counted", 0)  # a gateway of before did not write it
        return Mark(*(kind(fields[name]) for name, kind in Mark.__annotations__.items()))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
