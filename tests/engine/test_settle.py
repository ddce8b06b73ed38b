"""Settle frames against a model; what is confirmed and what is late."""

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.leases import Held
from engine.settle import FINISHED_REMEMBERED, Batch, Decision, Outstanding
from engine.settle_words import BadFrame, Settle, read_settle, spans_of
from engine.stream_v1 import Grant, read_words

SIZE = 12


def batch_of(size: int, until: float = 100.0, name: str = "b") -> Batch:
    """A batch of so many messages of 10 bytes."""
    return Batch(name, [Held(f"r{index}", index, 1, 10, until) for index in range(size)], 0.0)


def frame(**members: object) -> Settle:
    """A settle frame that can be read."""
    words = read_settle({"type": "settle", "batch": "b", **members})
    assert isinstance(words, Settle), words
    return words


def table_with(batch: Batch) -> Outstanding:
    """A table with one batch."""
    table = Outstanding()
    table.hand_over(batch)
    return table


spans = st.tuples(st.integers(0, SIZE + 1), st.integers(0, SIZE + 1)).map(lambda one: [min(one), max(one)])
verdicts = st.fixed_dictionaries(
    {
        "ack": st.lists(st.one_of(spans, st.integers(0, SIZE)), max_size=3),
        "nak": st.lists(spans.map(lambda one: {"i": one}), max_size=2),
        "term": st.lists(st.integers(0, SIZE).map(lambda one: {"i": one, "reason": "r"}), max_size=2),
        "progress": st.lists(spans, max_size=1),
    }
)


def indexes(value: object) -> list[int]:
    """What a range, an index or an object with one names."""
    named: Any = value["i"] if isinstance(value, dict) else value
    return list(range(named[0], named[1] + 1)) if isinstance(named, list) else [named]


@given(st.lists(verdicts, max_size=8))
def test_frames_do_what_a_model_says(frames: list[dict[str, list[object]]]) -> None:
    """Whole or not at all, each index once, and what is settled stays settled."""
    table = table_with(batch_of(SIZE))
    open_ones = set(range(SIZE))
    for members in frames:
        decision = table.judge(frame(**members), 1.0)
        named = [index for part in members.values() for one in part for index in indexes(one)]
        if len(named) != len(set(named)) or any(one >= SIZE for one in named):
            assert isinstance(decision, BadFrame)
        elif not open_ones:
            assert decision is None
        else:
            assert isinstance(decision, Decision)
            for verdict in ("ack", "nak", "term", "progress"):
                expected = [one for value in members[verdict] for one in indexes(value) if one in open_ones]
                found = getattr(decision, verdict)
                assert [one if isinstance(one, int) else one[0] for one in found] == expected
                if verdict != "progress":
                    open_ones -= set(expected)
        assert (table.messages, table.bytes) == (len(open_ones), 10 * len(open_ones))
        assert bool(table.batches) == bool(open_ones)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=8), st.data())
def test_confirmed_is_what_was_answered_while_its_lease_ran(untils: list[float], data: st.DataObject) -> None:
    """Asked in time and answered in time; everything else is late or failed, and every index is in one of them."""
    batch = Batch("b", [Held("r", 1, 1, 1, until) for until in untils], 0.0)
    table = table_with(batch)
    asked_at = data.draw(st.floats(0, 10))
    decision = table.judge(frame(ack=[[0, len(untils) - 1]], confirm=True), asked_at)
    assert isinstance(decision, Decision)
    confirmation = decision.confirmation
    assert confirmation is not None
    assert decision.ack == [index for index, until in enumerate(untils) if asked_at < until]
    for index in decision.ack:
        answered_at = asked_at + data.draw(st.floats(0, 10))
        if data.draw(st.booleans()):
            assert confirmation.answered(index, answered_at) is (answered_at < untils[index])
            table.close_asked(batch, index)
        elif data.draw(st.booleans()):
            confirmation.fail(index)
            table.reopen(batch, index)
    for index in confirmation.expire(1e9):
        table.close_asked(batch, index)
    assert confirmation.is_complete
    ends = confirmation.confirmed + confirmation.late + confirmation.failed
    assert sorted(ends) == list(range(len(untils)))
    assert table.messages == len(confirmation.failed), "what failed is in hand again"


def test_a_verdict_in_doubt_is_not_sent() -> None:
    """It could settle, or give back, what somebody else holds by now; a plain acknowledgement is sent all the same."""
    for members, sent in (({"ack": [0], "confirm": True}, False), ({"nak": [{"i": 0}]}, False), ({"ack": [0]}, True)):
        decision = table_with(batch_of(1, until=5.0)).judge(frame(**members), 6.0)
        assert isinstance(decision, Decision)
        assert bool(decision.ack or decision.nak) is sent


def test_a_finished_batch_is_remembered_for_a_while() -> None:
    """A frame about it may be repeated, and is still checked; of an unknown batch nothing is known."""
    table = Outstanding()
    for number in range(FINISHED_REMEMBERED + 1):
        table.hand_over(batch_of(1, name=f"b{number}"))
        table.judge(frame(ack=[0], batch=f"b{number}"), 1.0)
    assert table.judge(frame(ack=[0], batch=f"b{FINISHED_REMEMBERED}"), 1.0) is None
    assert isinstance(table.judge(frame(ack=[1], batch=f"b{FINISHED_REMEMBERED}"), 1.0), BadFrame)
    forgotten = table.judge(frame(ack=[0], batch="b0"), 1.0)
    assert isinstance(forgotten, BadFrame)
    assert (forgotten.code, forgotten.batch) == ("stream.unknown-batch", "b0")


def test_giving_up_takes_what_is_open_alone() -> None:
    """What was settled or is asked about is not taken back."""
    batch = batch_of(4)
    table = table_with(batch)
    table.judge(frame(ack=[0]), 1.0)
    table.judge(frame(ack=[1], confirm=True), 1.0)
    assert table.give_up(batch) == [2, 3]
    assert table.overdue(1e9, 1.0) == [batch]
    table.close_asked(batch, 1)
    assert table.batches == {}


def test_a_batch_is_handed_over_once() -> None:
    """And never empty."""
    table = table_with(batch_of(2))
    for bad in (batch_of(2), batch_of(0, name="c")):
        with pytest.raises(ValueError, match="outstanding already, or empty"):
            table.hand_over(bad)
    assert table.messages == 2


@given(st.sets(st.integers(0, 50)))
def test_ranges_name_what_they_were_made_of(numbers: set[int]) -> None:
    """In order, and as few as can be."""
    found = spans_of(list(numbers))
    assert [one for first, last in found for one in range(first, last + 1)] == sorted(numbers)
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(found))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
members = ("batch", "ack", "nak", "term", "progress", "confirm", "messages", "bytes", "mode")
words = st.fixed_dictionaries(
    {"type": st.sampled_from(["settle", "credit", "status", "ping", "?"])},
    optional=dict.fromkeys(members, json_values),
)


@given(st.one_of(words, json_values))
def test_no_words_raise(value: object) -> None:
    """Whatever an agent says is words, or a frame that is bad for a reason."""
    try:
        text = orjson.dumps(value)
    except TypeError:
        return  # an integer that is no JSON here
    found = read_words(text)
    assert isinstance(found, (Settle, Grant, BadFrame, str))
    if isinstance(found, Settle):
        table = table_with(batch_of(3, name=found.batch))
        assert isinstance(table.judge(found, 1.0), (Decision, BadFrame))
