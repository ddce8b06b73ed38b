"""The shape of events: what is accepted keeps its bytes, and both ways of decoding agree (S0.6)."""

import json
from typing import Any, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.errors import Refused
from engine.events import EventBatch, decode_event_lines, decode_events
from engine.paths import canonical_path, is_canonical
from tests.support.raw_events import RawEvent, bodies_of, raw_events

EVENT = b'{"type":"file.upsert","data":{"path":"/a","size":1}}'


def no_constant(text: str) -> NoReturn:
    """Refuse what Python's decoder takes although it is no JSON."""
    raise ValueError(f"{text} is not JSON")


def parse(text: bytes) -> Any:
    """Decode as a strict stranger would."""
    return json.loads(text, parse_constant=no_constant)


def with_canonical_paths(event: dict[str, Any]) -> dict[str, Any]:
    """Say what an event becomes, by the issue's words alone."""
    if not event["type"].startswith("file."):
        return event
    data = {
        name: canonical_path(value) if name in {"path", "dir", "root_path"} and isinstance(value, str) else value
        for name, value in event["data"].items()
    }
    return {**event, "data": data}


def refusal_of(body: bytes) -> Refused:
    """The refusal of this body."""
    with pytest.raises(Refused) as caught:
        decode_events(body)
    return caught.value


def summary(batch: EventBatch) -> list[Any]:
    """Everything the gateway learned of the events."""
    return [(event.type, event.data) for event in batch.events]


@given(st.lists(raw_events(), max_size=4))
def test_what_is_accepted_means_the_same_afterwards(events: list[RawEvent]) -> None:
    """The published events re-parse to what was sent, paths canonical and nothing else changed."""
    body = bodies_of(events)
    batch = decode_events(body)
    sent = [with_canonical_paths(event) for event in parse(body)["events"]]
    assert parse(b"[" + batch.content.joined + b"]") == sent
    assert [parse(piece) for piece in batch.content.split()] == sent
    assert b",".join(batch.content.split()).replace(b" ", b"").replace(b"\t", b"") == batch.content.joined.replace(
        b" ", b""
    ).replace(b"\t", b"")
    assert [event.type for event in batch.events] == [event.type for event in events]


@given(st.lists(raw_events(), max_size=4))
def test_an_event_whose_paths_stay_keeps_its_bytes(events: list[RawEvent]) -> None:
    """Numbers without end, odd escapes and white space survive byte for byte."""
    batch = decode_events(bodies_of(events))
    for event, piece in zip(events, batch.content.split(), strict=True):
        if not event.type.startswith("file.") or all(is_canonical(path) for path in event.paths.values()):
            assert piece == event.text.encode()


@given(st.lists(raw_events(), max_size=4), st.sampled_from([b" %b", b"%b\n", b'{"more":1,%b', b"\t%b "]))
def test_the_one_pass_way_and_the_careful_way_agree(events: list[RawEvent], frame: bytes) -> None:
    """What makes a body take the careful way makes no difference to its events or their bytes."""
    plain = bodies_of(events)
    careful = frame.replace(b"%b", plain[1:] if frame.startswith(b"{") else plain)
    assert parse(careful)["events"] == parse(plain)["events"]
    one, other = decode_events(plain), decode_events(careful)
    assert summary(one) == summary(other)
    assert one.content.split() == other.content.split()


@given(st.lists(raw_events(), max_size=4))
def test_lines_and_a_list_agree(events: list[RawEvent]) -> None:
    """The same events on lines give the same facts and the same bytes."""
    lines = decode_event_lines("\n".join(event.text for event in events).encode())
    listed = decode_events(bodies_of(events))
    assert summary(lines) == summary(listed)
    assert lines.content.split() == listed.content.split()


def mutated(body: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    """The body with a few bytes replaced."""
    for place, new in edits:
        at = place % (len(body) + 1)
        body = body[:at] + new + body[at + len(new) :]
    return body


edits = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from([*b'{}[]",:\\\x00\x01\xff\xe9 \n0-.eEtu', *b"NaN"]).map(lambda c: bytes([c])),
    ),
    min_size=1,
    max_size=3,
)


@given(st.lists(raw_events(), min_size=1, max_size=2), edits)
@example([RawEvent("a", '{"type":1,"data":{"x":"\\ud800"}}', {})], [(0, b"{")])
@example([RawEvent("a", '{"type":"a","data":{"size":1e999}}', {})], [(0, b"{")])
@example([RawEvent("a", '{"type":"file.a","data":{"dir":1e999,"path":"a//b"}}', {})], [(0, b"{")])
@example([RawEvent("a", '{"type":1,"data":{}},', {})], [(0, b"{")])
def test_a_damaged_body_is_refused_or_is_still_json(events: list[RawEvent], edits: list[tuple[int, bytes]]) -> None:
    """No body raises anything but `Refused`; one that is taken is JSON to a strict reader, whole and in its parts."""
    body = mutated(bodies_of(events), edits)
    for text in (body, b" " + body):
        try:
            batch = decode_events(text)
        except Refused as refusal:
            check_refusal(refusal, text)
        else:
            parse(text)
            assert len(parse(b"[" + batch.content.joined + b"]")) == len(batch.events)
    try:
        batch = decode_event_lines(body)
    except Refused as refusal:
        check_refusal(refusal, body)
    else:
        assert [parse(piece)["type"] for piece in batch.content.split()] == [event.type for event in batch.events]


def check_refusal(refusal: Refused, body: bytes) -> None:
    """A refusal of a body that is not JSON says where; any other is about its shape."""
    assert refusal.kind.status in {400, 413, 422}
    if refusal.kind.status == 400:
        offset = refusal.members["offset"]
        assert isinstance(offset, int)
        assert 0 <= offset <= len(body)
        assert str(offset) in refusal.detail


ONE_WAY_OR_THE_OTHER = {
    "as scanners write it": (b'{"events":[%e]}', True),
    "white space inside": (b'{"events":[ %e ]}', True),
    "white space around": (b' {"events":[%e]}\n', True),
    "white space at every token": (b'{ "events" : [ %e ] } ', True),
    "another member": (b'{"source":{"events":[]},"events":[%e]}', True),
    "another member after": (b'{"events":[%e],"source":1}', True),
    "an escaped name": (b'{"\\u0065vents":[%e]}', True),
    "the name in a text": (b'{"events":[%e],"note":"\\"events\\""}', True),
    "twice, the last counts": (b'{"events":[{"type":"x","data":{}}],"events":[%e]}', True),
    "twice, the last wrong": (b'{"events":[%e],"events":5}', False),
    "twice, the first wrong": (b'{"events":5,"events":[%e]}', False),
    "a byte order mark": (b'\xef\xbb\xbf{"events":[%e]}', False),
    "something after it": (b'{"events":[%e]}{}', False),
    "a comma too many": (b'{"events":[%e,]}', False),
    "an array alone": (b"[%e]", False),
}


@pytest.mark.parametrize(("form", "is_taken"), ONE_WAY_OR_THE_OTHER.values(), ids=ONE_WAY_OR_THE_OTHER.keys())
def test_every_form_of_the_body_is_taken_or_refused(form: bytes, is_taken: bool) -> None:
    """Each form of the object around the events, and none but the events of its last `events`."""
    body = form.replace(b"%e", EVENT)
    if is_taken:
        assert decode_events(body).content.split() == [EVENT]
    else:
        refusal_of(body)


def test_repeated_members_of_an_event_keep_their_bytes() -> None:
    """An event whose paths stay is not touched, even where a name is there twice; the last one counts."""
    event = b'{"type":"file.upsert","data":{"path":"/x","x":1,"x":2,"path":"/a"}}'
    batch = decode_events(b'{"events":[' + event + b"]}")
    assert batch.content.joined == event
    assert batch.events[0].data.path == "/a"


def test_no_events_are_no_error() -> None:
    """An empty list is taken, with nothing in it, in every form."""
    for body in (b'{"events":[]}', b'{"events":[ ]}', b' {"events":[]}', b'{"events":[\n]}'):
        batch = decode_events(body)
        assert (batch.events, batch.content.split()) == ([], [])
    for lines in (b"", b"\n", b" \r\n\t\n"):
        batch = decode_event_lines(lines)
        assert (batch.events, batch.content.joined, batch.content.split()) == ([], b"", [])
