"""Start positions: every word that is one, and a refusal that says what one is."""

import pytest

from engine.errors import Refused
from engine.positions import Position, parse_position


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("all", {"deliver_policy": "all"}),
        ("new", {"deliver_policy": "new"}),
        ("last", {"deliver_policy": "last"}),
        ("seq:1", {"deliver_policy": "by_start_sequence", "opt_start_seq": 1}),
        ("seq:9223372036854775807", {"deliver_policy": "by_start_sequence", "opt_start_seq": 2**63 - 1}),
        (
            "time:2026-01-31T12:00:00Z",
            {"deliver_policy": "by_start_time", "opt_start_time": "2026-01-31T12:00:00.000000Z"},
        ),
        (
            "time:2026-01-31T12:00:00.5+02:00",
            {"deliver_policy": "by_start_time", "opt_start_time": "2026-01-31T10:00:00.500000Z"},
        ),
    ],
)
def test_a_position_is_what_the_log_is_told(text: str, config: dict[str, object]) -> None:
    """Each of the five forms, with instants in UTC."""
    position = parse_position(text)
    assert (position.text, position.config()) == (text, config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "all, new, last"),
        ("ALL", "all, new, last"),
        ("first", "all, new, last"),
        ("seq", "all, new, last"),
        ("seq:", "whole number"),
        ("seq:0", "whole number"),
        ("seq:-1", "whole number"),
        ("seq:1.0", "whole number"),
        ("seq:٣", "whole number"),
        ("seq:9223372036854775808", "whole number"),
        ("seq:" + "1" * 5000, "whole number"),
        ("time:", "ISO 8601"),
        ("time:yesterday", "ISO 8601"),
        ("time:2026-01-31T12:00:00", "offset"),
        ("time:2026-01-31T12:00:00 02:00", "%2B"),
        ("time:0001-01-01T00:00:00+14:00", "year from"),
        ("time:9999-12-31T23:59:59-14:00", "year from"),
        ("time:2262-01-01T00:00:00Z", "year from"),
    ],
)
def test_what_is_no_position_is_refused(text: str, said: str) -> None:
    """The parameter is named, what was expected is said, and absurd lengths are cut."""
    with pytest.raises(Refused) as caught:
        parse_position(text, "to")
    assert caught.value.detail.startswith("to: expected all, new, last")
    assert said in caught.value.detail
    assert len(caught.value.detail) < 300


def test_a_position_says_nothing_twice() -> None:
    """No start sequence and no instant where the policy alone says it all."""
    assert Position("all", "all").config() == {"deliver_policy": "all"}
