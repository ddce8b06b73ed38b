"""X6: slots of requests at once, against a model, and with tables that stay small."""

import random
from collections import Counter

import pytest

from engine.limits import headers_of
from engine.slots import Hold, SlotPolicy, Slots


def test_slots_are_given_back() -> None:
    """No more than there are, of all together; giving back what nobody took is a bug."""
    slots = Slots(SlotPolicy("uploads", 2))
    assert [slots.try_take(who) for who in "aba"] == [True, True, False]
    slots.give_back("a")
    assert slots.try_take("b")
    slots.give_back("b")
    slots.give_back("b")
    with pytest.raises(ValueError, match="nobody took"):
        slots.give_back("b")
    assert str(slots.policy) == '"uploads";q=2;qu="concurrent-requests"'


def test_any_number_of_requests_holds_what_the_model_says(chance: random.Random) -> None:
    """Requests that come and go in any order, some twice: all or none, and nothing is left in the tables."""
    together, each = Slots(SlotPolicy("together", 9)), Slots(SlotPolicy("each", 3, is_each=True))
    held: list[tuple[str, Hold]] = []
    for _ in range(5000):
        if chance.random() < 0.55:
            who = chance.choice("abcdefgh")
            model = Counter(one for one, _ in held)
            hold = Hold([together, each], who)
            refusing = {one.policy.name for one in hold.refusing}
            assert refusing == {
                name for name, full in (("together", len(held) >= 9), ("each", model[who] >= 3)) if full
            }
            if not refusing:
                held.append((who, hold))
            else:
                hold.release()
        elif held:
            held.pop(chance.randrange(len(held)))[1].release()
        model = Counter(one for one, _ in held)
        assert (together.in_use, each.in_use, len(each)) == (len(held), len(held), len(model))
        assert [each.state(who).left_count for who in "abcdefgh"] == [3 - model[who] for who in "abcdefgh"]
    for _, hold in held:
        hold.release()
        hold.release()
    assert (together.in_use, each.in_use, len(together), len(each)) == (0, 0, 0, 0)


def test_what_a_client_is_told_without_a_window() -> None:
    """No time of a reset, which nobody knows; the old fields say the tightest."""
    wide, narrow = Slots(SlotPolicy("wide", 9)), Slots(SlotPolicy("narrow", 2, is_each=True))
    assert headers_of((), Hold([wide, narrow], "a").states) == {
        "RateLimit-Policy": '"wide";q=9;qu="concurrent-requests", "narrow";q=2;qu="concurrent-requests"',
        "RateLimit": '"wide";r=8, "narrow";r=1',
        "X-RateLimit-Limit": "2",
        "X-RateLimit-Remaining": "1",
    }
