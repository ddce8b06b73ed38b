"""Filters on event types: what is kept keeps its bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.event_filter import MOST_PATTERNS, EventFilter

kinds = st.sampled_from(["file.upsert", "file.delete", "scan.started", "note", "a.b"])


@given(
    st.lists(kinds, max_size=8),
    st.lists(st.sampled_from(["file.*", "note", "scan.started", "*"]), min_size=1, max_size=5),
)
def test_frames_are_thinned_to_what_is_wanted(present: list[str], patterns: list[str]) -> None:
    """Events that match stay, byte for byte and in order; a frame without any is none."""
    texts = [b'{ "type": "%s", "data": {"n": %d} }' % (kind.encode(), at) for at, kind in enumerate(present)]
    wanted = EventFilter(",".join(patterns))
    kept = [
        text
        for text, kind in zip(texts, present, strict=True)
        if any(kind == one or (one.endswith("*") and kind.startswith(one[:-1])) for one in patterns)
    ]
    thinned = wanted.thin(b'{"events":[' + b",".join(texts) + b"]}")
    assert thinned == (b'{"events":[' + b",".join(kept) + b"]}" if kept else None)


@pytest.mark.parametrize("data", [b"1", b"null", b'{"raw":"x"}', b'{"events":7}', b'{"events":[7]}', b'{"events":[]}'])
def test_what_has_no_types_is_not_wanted(data: bytes) -> None:
    """Others may put anything on the log."""
    assert EventFilter("*").thin(data) is None


def test_the_order_of_patterns_makes_no_difference() -> None:
    """Two agents that name the same types in another order have the same filter."""
    assert EventFilter(" b,a*,b").text == EventFilter("a*,b").text == "a*,b"
    assert not EventFilter("")


@pytest.mark.parametrize("text", [",", "a,", "*a", "a**", "a b", "a\nb", "ä", "x" * 129, ",".join(["a"] * 33)])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    """With what was expected."""
    with pytest.raises(ValueError, match="expected"):
        EventFilter(text)
    assert MOST_PATTERNS == 32
