"""The audit log's records: what they hold, what they never hold, and what may be asked about them."""

import random
from collections.abc import Callable

import msgspec
import pytest

from engine.audit import (
    MOST_CHARS,
    MOST_FACTS,
    OUTCOMES,
    AuditQuery,
    Record,
    begin_record,
    end_record,
    outcome_of,
    read_query,
    read_record,
    read_time,
    time_of,
    write_record,
)
from engine.errors import KINDS, Refused, Situation
from engine.identity import OPEN, Kind, Principal
from engine.log import StoredMessage

ID = "0123456789abcdef" * 2


def some_record(action: str = "consumer.reset", who: Principal = OPEN) -> Record:
    """The record of a change that begins."""
    return begin_record(ID, 1_763_640_000.25, action, "d1", who, address="10.0.0.1", request_id="r1")


def test_a_record_is_read_as_it_was_written() -> None:
    """Beginning and end stand on one subject, under two ids, so that neither is taken for the other's repetition."""
    begun = some_record(who=Principal("me", Kind.KEY, frozenset({"admin"}), key_id="k1"))
    ended = end_record(begun, 200, None, {"to": "seq:5", "force": True})
    subjects, ids = set(), set()
    for record in (begun, ended):
        subject, payload, header = write_record("AUDIT", record)
        subjects.add(subject)
        ids.add(header)
        assert read_record(StoredMessage(subject, 7, "2026-01-01T00:00:00Z", {}, payload)).record == record
    assert (subjects, len(ids)) == ({f"AUDIT.records.{ID}"}, 2)
    assert (begun.outcome, begun.status, ended.outcome, ended.status) == ("unknown", None, "done", 200)
    assert (ended.principal, ended.kind, ended.key_id, ended.began) == ("me", "key", "k1", "2025-11-20T12:00:00.250Z")


def test_a_record_never_holds_who_may_do_what_or_more_than_its_bounds(chance: random.Random) -> None:
    """Whatever a client chose: texts are cut, facts are few and plain, and scopes and lists are no members."""
    for _ in range(200):
        wild = "".join(chr(chance.randrange(1, 0x2FFF)) for _ in range(chance.randrange(2000)))
        facts = {f"{number}{wild[:5]}": chance.choice([wild, 1, None, [wild], {"a": wild}]) for number in range(40)}
        record = end_record(
            begin_record(ID, 1.0, "a.b", wild, Principal(wild, Kind.JWT, frozenset()), address=wild, request_id=wild),
            chance.choice([200, 404, 503]),
            None,
            facts,
        )
        _, payload, _ = write_record("A", record)
        assert len(record.facts) <= MOST_FACTS
        assert len(payload) < (MOST_FACTS * 2 + 10) * MOST_CHARS * 6
        assert msgspec.json.decode(payload, type=Record) == record
        texts = [one for one in msgspec.structs.astuple(record) if isinstance(one, str)]
        assert max(len(one) for one in [*texts, *record.facts]) <= MOST_CHARS


@pytest.mark.parametrize("code", KINDS)
def test_every_code_has_an_outcome(code: str) -> None:
    """What the caller must change is refused, what may have happened is unknown, the rest failed."""
    kind = KINDS[code]
    outcome = outcome_of(kind.status, code)
    assert outcome in OUTCOMES
    assert (outcome == "unknown") == (kind.situation is Situation.UNKNOWN)
    assert outcome != "done"


def test_what_is_no_record_is_shown_as_such() -> None:
    """Somebody with the log's own password may put anything there; a page does not fail for it."""
    for payload in (b"", b"{}", b'{"id":7}', b"\xff", b"[" * 100_000):
        found = read_record(StoredMessage("AUDIT.records.x", 7, "2026-01-01T00:00:00Z", {}, payload))
        assert (found.seq, found.record.action, found.record.outcome) == (7, "unreadable", "unknown")


@pytest.mark.parametrize("record_id", ["", "x" * 32, "0" * 31, "0" * 31 + ".", "0" * 31 + ">"])
def test_an_id_that_could_be_a_subject_is_none(record_id: str) -> None:
    """What becomes part of a subject is digits."""
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        write_record("A", msgspec.structs.replace(some_record(), id=record_id))


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a limit of nothing": ({"limit": "0"}, "limit: expected 1 to 1000 (it is '0')"),
    "a limit above the bound": ({"limit": "1001"}, "limit: expected 1 to 1000"),
    "a limit in other digits": ({"limit": "\u0661"}, "limit: expected 1 to 1000"),
    "a negative position": ({"before": "-1"}, "before: expected 0 to"),
    "both directions": ({"before": "1", "after": "1"}, "not both"),
    "a time without offset": ({"since": "2026-01-31T12:00:00"}, "since: expected a time with its offset"),
    "no time": ({"until": "yesterday"}, "until: expected a time such as"),
    "no action": ({"action": "consumer reset"}, "action: expected words such as"),
    "a pattern in the middle": ({"action": "con*er"}, "action: expected words"),
    "another parameter": ({"who": "me"}, "'who' is not a parameter here; expected principal, action"),
    "a very long name": ({"principal": "x" * 257}, "principal: expected at most 256"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_question_says_what_was_expected(name: str) -> None:
    """Naming the parameter."""
    parameters, said = WRONG[name]
    with pytest.raises(Refused) as caught:
        read_query(parameters)
    assert said in caught.value.detail


def test_times_are_read_in_each_of_their_forms() -> None:
    """Also with the plus that a query's decoding made a blank."""
    at = 1_769_860_800.0
    for text in ("2026-01-31T12:00:00Z", "2026-01-31T14:00:00+02:00", "2026-01-31T14:00:00 02:00", "1769860800"):
        assert read_time(text) == at
    assert time_of(at) == "2026-01-31T12:00:00.000Z"


WANTS: dict[str, tuple[AuditQuery, bool]] = {
    "all": (AuditQuery(), True),
    "whose": (AuditQuery(principal="anybody"), True),
    "another's": (AuditQuery(principal="any"), False),
    "which": (AuditQuery(action="consumer.reset"), True),
    "a family": (AuditQuery(action="consumer.*"), True),
    "another family": (AuditQuery(action="consume.*"), False),
    "a beginning": (AuditQuery(action="consumer"), False),
}


@pytest.mark.parametrize("name", WANTS)
def test_a_query_takes_what_it_names(name: str) -> None:
    """Whole names, or whole words of them."""
    query, wanted = WANTS[name]
    assert query.wants(some_record()) is wanted


def test_reading_a_query_never_fails_otherwise(chance: random.Random) -> None:
    """Any text in any parameter is a query, or refused."""
    letters: list[Callable[[], str]] = [
        lambda: chr(chance.randrange(0x20, 0x250)),
        lambda: chance.choice("0123456789-:TZ+. *"),
    ]
    refused: list[tuple[str, str]] = []
    for _ in range(2000):
        text = "".join(chance.choice(letters)() for _ in range(chance.randrange(30)))
        name = chance.choice([*AuditQuery._fields, "other"])
        try:
            assert isinstance(read_query({name: text}), AuditQuery)
        except Refused as refusal:
            refused.append((name, refusal.detail))
    assert all(name in detail for name, detail in refused)
