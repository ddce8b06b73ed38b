"""The table of situations, walked (4)."""

import inspect
import re

import pytest

from engine import errors
from engine.errors import KINDS, Broken, Fault, Kind, Refused, Situation, Unavailable, Unknown

CLASSES: list[type[Fault]] = [Refused, Unavailable, Unknown, Broken]
STANDARD_CLOSE_CODES = {"server.draining": 1012, "server.broken": 1011}
COME_BACK_CODES = {"request.too-slow", "request.wrong-lane", "agents.no-hello", "identity.expired"}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def test_every_class_stands_for_one_situation() -> None:
    """Four situations, four classes, and no other fault."""
    faults = [
        one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Fault) and one is not Fault
    ]
    assert {one.__name__ for one in faults} == {one.__name__ for one in CLASSES}
    assert [one.situation for one in CLASSES] == list(Situation)


@every_kind
def test_a_kind_can_be_raised_by_exactly_one_class(kind: Kind) -> None:
    """The class says what the caller can do; a code of another situation is our bug."""
    made: list[Fault] = []
    for one in CLASSES:
        if one.situation is kind.situation:
            made.append(one(kind.code, "why"))
            continue
        with pytest.raises(ValueError, match=kind.code):
            one(kind.code, "why")
    [fault] = made
    assert fault.kind is kind
    assert fault.situation is kind.situation
    assert (str(fault), fault.detail, fault.members) == ("why", "why", {})


@every_kind
def test_a_kind_keeps_the_conventions(kind: Kind) -> None:
    """Codes are words, statuses fit the situation, close codes say whether to come back."""
    assert KINDS[kind.code] is kind
    assert re.fullmatch(r"[a-z]+\.[a-z-]+", kind.code)
    assert kind.title
    assert not kind.title.endswith(".")
    if kind.situation is Situation.REFUSED:
        assert 400 <= kind.status < 500 or kind.status == 501
    elif kind.situation is Situation.BROKEN:
        assert kind.status == 500
    else:
        assert kind.status in {429, 503}
    if kind.code in STANDARD_CLOSE_CODES:
        assert kind.close_code == STANDARD_CLOSE_CODES[kind.code]
    elif kind.situation is not Situation.REFUSED or kind.code in COME_BACK_CODES:
        assert 4000 <= kind.close_code <= 4499  # come back
    else:
        assert 4500 <= kind.close_code <= 4999  # do not


def test_no_code_is_there_twice() -> None:
    """A row that repeats a code would hide another: the table has as many rows as are written."""
    written = re.findall(r'Kind\(\s*"([a-z.-]+)"', inspect.getsource(errors._kinds))
    assert sorted(written) == sorted(KINDS)


def test_an_unknown_code_is_our_bug() -> None:
    """A code that is not in the table cannot be raised."""
    with pytest.raises(KeyError):
        Refused("request.made-up", "why")


def test_faults_carry_when_to_try_again_and_more() -> None:
    """Unavailable says when, Unknown too; members are kept as they are."""
    assert Unavailable("log.down", "why").retry_after_s == 1.0
    fault = Unavailable("log.down", "why", 2.5, url="nats://x")
    assert (fault.retry_after_s, fault.members) == (2.5, {"url": "nats://x"})
    assert Unknown("ingest.outcome-unknown", "why").retry_after_s == 1.0
    assert Refused("request.too-large", "why", limit=5).members == {"limit": 5}
    assert not hasattr(Refused("request.conflict", "why"), "retry_after_s")
