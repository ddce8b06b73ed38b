"""Verdicts: ranges, statements of commands and callables, and what an exit code means."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.verdicts import Verdicts, choose_delay, judge_exit, pack_ranges, read_verdicts, unpack_ranges

NINE = dict.fromkeys(range(5), 9.0)


@given(st.sets(st.integers(0, 60)))
def test_ranges_come_back_as_they_went(indexes: set[int]) -> None:
    """Packed, they are in order, apart from each other, and unpack to the same."""
    ranges = pack_ranges(indexes)
    assert unpack_ranges(ranges, 61) == sorted(indexes)
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(ranges))


@pytest.mark.parametrize("wrong", [-1, 5, [5], [[3, 5]], [[2, 1]], [1, 1], [[0, 2], 1], "0", [True], [[0, 1, 2]], None])
def test_ranges_outside_or_twice_are_refused(wrong: object) -> None:
    """Whatever is no index of a batch of five."""
    with pytest.raises(ValueError, match=r"is no index|twice"):
        unpack_ranges(wrong, 5)


def test_a_range_of_billions_is_refused_before_it_is_counted() -> None:
    """Hostile input costs nothing."""
    with pytest.raises(ValueError, match="is no index"):
        unpack_ranges([[0, 10**15]], 5)


def test_statements_are_read() -> None:
    """An index, a list, ranges; the delay and the reason are of its naks and terms."""
    said = {"ack": [0, [2, 3]], "nak": 1, "delay_s": 2, "term": [4], "reason": "bad"}
    assert read_verdicts(said, NINE) == Verdicts(frozenset({0, 2, 3}), {1: 2.0}, {4: "bad"})
    assert read_verdicts({"nak": [0]}, NINE).nak == {0: 9.0}
    assert read_verdicts({}, NINE) == Verdicts()


@pytest.mark.parametrize(
    "wrong",
    [
        {"ack": [0], "nak": [0]},
        {"akc": [0]},
        {"ack": 7},
        {"nak": 0, "delay_s": -1},
        {"nak": 0, "delay_s": True},
        {"nak": 0, "delay_s": 1e9},
        {"nak": 0, "delay_s": float("nan")},
        {"term": 0, "reason": 5},
    ],
)
def test_statements_with_a_mistake_are_refused_whole(wrong: dict[str, object]) -> None:
    """Two verdicts, unknown words, messages that are not there, delays that are none."""
    with pytest.raises(ValueError, match=r"."):
        read_verdicts(wrong, NINE)


def test_frames_group_what_is_alike() -> None:
    """One entry a range, delay and reason."""
    verdicts = Verdicts(frozenset({0, 1}), {2: 1.0, 3: 1.0, 4: 0.25}, {6: "x", 7: "x"})
    assert verdicts.frame("b", is_confirmed=True) == {
        "type": "settle",
        "batch": "b",
        "ack": [[0, 1]],
        "nak": [{"i": [2, 3], "delay_ms": 1000}, {"i": [4, 4], "delay_ms": 250}],
        "term": [{"i": [6, 7], "reason": "x"}],
        "confirm": True,
    }


def test_exit_codes_judge_what_was_left_open() -> None:
    """0 acknowledges, 65 ends, everything else (a signal and a timeout too) gives back with delay."""
    delays = {0: 1.0, 1: 4.0}
    assert judge_exit(0, [0, 1], delays) == Verdicts(ack=frozenset({0, 1}))
    assert judge_exit(65, [1], delays).term.keys() == {1}
    for code in (1, 64, 75, 255, -9, None):
        assert judge_exit(code, [0, 1], delays) == Verdicts(nak=delays)


def test_delays_double_up_to_the_most() -> None:
    """And a count that is absurd is no overflow."""
    assert [choose_delay(1.0, 60.0, delivered) for delivered in (0, 1, 2, 3, 7, 10**9)] == [1, 1, 2, 4, 60, 60]
