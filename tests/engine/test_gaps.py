"""Which sequences are gone: decisions alone, against a model that counts one by one."""

import random

import pytest

from engine.consumers import ConsumerFacts, read_consumer
from engine.gaps import (
    Mark,
    StreamState,
    cut,
    is_of,
    joined,
    may_be_passed,
    overlap,
    position_of,
    read_mark,
    remade,
    removed_in,
    removed_of,
    runs_of,
    size_of,
    write_mark,
)
from engine.stream_v1 import Gap

EPOCH = "2026-01-01T00:00:00Z"
MARK = Mark(10, 10, EPOCH, EPOCH, 12, 9)


def facts(**members: object) -> ConsumerFacts:
    """A consumer as the log describes it."""
    info: dict[str, object] = {"name": "d", "created": EPOCH, "config": {"durable_name": "d"}}
    info["delivered"] = {"stream_seq": members.pop("delivered", 10), "consumer_seq": members.pop("deliveries", 10)}
    info["ack_floor"] = {"stream_seq": members.pop("floor", 10)}
    return read_consumer({**info, **members})


def state(first: int = 1, last: int = 20, *deleted: int, count: int | None = None, limits: bool = False) -> StreamState:
    """A stream."""
    return StreamState(EPOCH, first, last, len(deleted) if count is None else count, deleted, limits, False)


def test_runs_are_sequences_that_are_neighbours() -> None:
    """In any order; and what is cut out of them, or common to them."""
    assert runs_of([4, 2, 1, 9]) == [(1, 2), (4, 4), (9, 9)]
    assert size_of([(1, 2), (4, 4)]) == 3


def test_cutting_and_overlapping_match_sets(chance: random.Random) -> None:
    """Ranges do what sets of sequences do."""
    for _ in range(500):
        one, other = (set(chance.sample(range(1, 41), chance.randint(0, 40))) for _ in range(2))
        assert cut(runs_of(one), runs_of(other)) == runs_of(one - other)
        assert overlap(runs_of(one), runs_of(other)) == runs_of(one & other)


def test_what_is_ahead_of_the_stream_and_deleted_inside_it_is_gone() -> None:
    """The rest of the ranges is there, or of another subject."""
    assert removed_in([(1, 9)], state(4, 20, 6, 7, 9)) == [
        Gap(1, 3, "purged"),
        Gap(6, 7, "deleted"),
        Gap(9, 9, "deleted"),
    ]
    assert removed_in([(1, 3)], state(4, 20, limits=True)) == [Gap(1, 3, "retention")]
    assert removed_in([(5, 9)], state()) == []


def test_too_many_deleted_to_ask_for_are_one_gap_each_range() -> None:
    """Where it cannot be told which, all of the range is said."""
    assert removed_in([(3, 5), (9, 9)], state(1, 20, count=200_000)) == [Gap(3, 5, "deleted"), Gap(9, 9, "deleted")]


def test_removed_ranges_match_a_model(chance: random.Random) -> None:
    """For random streams and ranges, exactly the missing sequences are named, once."""
    for _ in range(500):
        first, last = chance.randint(1, 20), 40
        deleted = sorted(chance.sample(range(first + 1, last), chance.randint(0, 10)))
        runs = runs_of(chance.sample(range(1, 41), chance.randint(0, 25)))
        gaps = removed_in(runs, state(first, last, *deleted))
        named = [one for gap in gaps for one in range(gap.first, gap.last + 1)]
        wanted = [one for low, high in runs for one in range(low, high + 1) if one < first or one in deleted]
        assert named == wanted


@pytest.mark.parametrize(
    ("mark", "consumer", "position"),
    [
        (None, facts(delivered=7), (7, 10)),
        (MARK, facts(delivered=30), (10, 9)),  # a purge moved it
        (MARK, facts(delivered=15, deliveries=15), (10, 9)),  # sent to somebody, who may be dead
        (MARK, facts(delivered=2, deliveries=2), (2, 2)),  # it was moved
        (MARK, facts(delivered=2, created="2027-01-01T00:00:00Z"), (2, 10)),  # another one of its name
        (MARK._replace(epoch="x"), facts(delivered=2), (2, 10)),
    ],
)
def test_the_mark_says_where_a_durable_stands(
    mark: Mark | None, consumer: ConsumerFacts, position: tuple[int, int]
) -> None:
    """Unless the consumer is another one, or was moved."""
    assert mark is None or is_of(mark, consumer, state(1, 40)) == (position == (10, 9))
    assert position_of(mark, consumer, state(1, 40)) == position


def test_messages_may_be_passed_over_where_others_were_deleted() -> None:
    """Among them or beside them, or where the stream begins; elsewhere nobody looks."""
    assert may_be_passed([(3, 5)], state(1, 20, 4))
    assert may_be_passed([(1, 1), (3, 5)], state(1, 20, 6))
    assert may_be_passed([(3, 5)], state(1, 20, 2))
    assert not may_be_passed([(3, 5)], state(1, 20, 7, 8))
    assert may_be_passed([(3, 5)], state(4, 20))
    assert not may_be_passed([(3, 5)], state(6, 20))


def test_what_is_gone_of_single_sequences() -> None:
    """Ahead of the stream, or deleted inside it."""
    assert removed_of({1, 4, 6, 9}, state(4, 20, 6)) == {1, 6}


def test_a_log_made_again_is_noticed() -> None:
    """By its epoch; what was known of the old one is void."""
    assert remade(MARK, state()) is None
    assert remade(MARK, state()._replace(epoch="later")) == Gap(1, 12, "recreated")


def test_neighbours_of_one_reason_are_one_gap() -> None:
    """In order, whatever order they were found in."""
    found = [Gap(4, 5, "purged"), Gap(1, 3, "purged"), Gap(6, 6, "deleted"), Gap(9, 9, "deleted")]
    assert joined(found) == [Gap(1, 5, "purged"), Gap(6, 6, "deleted"), Gap(9, 9, "deleted")]


def test_a_mark_is_read_as_it_was_written() -> None:
    """And what is none is none; one of before, which did not count, is in doubt about that."""
    assert read_mark(write_mark(MARK)) == MARK
    assert read_mark(write_mark(MARK).replace(b',"counted":9', b"")) == MARK._replace(counted=0)
    for payload in (b"", b"[]", b"{}", b'{"seq":"x"}', b"\xff"):
        assert read_mark(payload) is None
