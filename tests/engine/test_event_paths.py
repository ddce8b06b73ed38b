"""An event whose paths change is written anew, and nothing else of it changes (S0.6)."""

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.events import decode_event_lines, decode_events
from engine.paths import canonical_path
from tests.support.raw_events import RawEvent, bodies_of, raw_events

RAW_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def raw_members(text: bytes) -> dict[str, bytes]:
    """An object's members with the bytes of their values."""
    return {name: bytes(raw) for name, raw in RAW_MEMBERS.decode(text).items()}


def rewritten(event: bytes) -> bytes:
    """What becomes of one event."""
    listed = decode_events(b'{"events":[' + event + b"]}")
    assert decode_event_lines(event).content.joined == listed.content.joined
    return listed.content.joined


@given(raw_events())
def test_every_other_member_keeps_its_bytes(event: RawEvent) -> None:
    """Only the values of path members change; the order of members, and all other values to the byte, stay."""
    joined = decode_events(bodies_of([event])).content.joined
    before, after = raw_members(event.text.encode()), raw_members(joined)
    data_before, data_after = raw_members(before.pop("data")), raw_members(after.pop("data"))
    assert before == after
    assert list(data_before) == list(data_after)
    for name, raw in data_before.items():
        if name in event.paths and event.type.startswith("file."):
            assert orjson.loads(data_after[name]) == canonical_path(event.paths[name])
        else:
            assert data_after[name] == raw


@pytest.mark.parametrize(
    ("event", "becomes"),
    [
        (
            r'{"type":"file.upsert","data":{"path":"C:\\show\\seq\\image.exr","n":123456789012345678901234567890}}',
            '{"type":"file.upsert","data":{"path":"C:/show/seq/image.exr","n":123456789012345678901234567890}}',
        ),
        (
            r'{"type":"file.upsert","data":{"x":"\u002f\/","path":"//server/share//dir/./file.exr","y":1E+2}}',
            r'{"type":"file.upsert","data":{"x":"\u002f\/","path":"//server/share/dir/file.exr","y":1E+2}}',
        ),
        (
            r'{"data":{"dir":"a\/\/b","root_path":"C:\\"},"x":{"path":"a//b"},"type":"file.x"}',
            '{"data":{"dir":"a/b","root_path":"C:/"},"x":{"path":"a//b"},"type":"file.x"}',
        ),
        ('{"type":"file.x","data":{"path":"é//b","é":"é"}}', '{"type":"file.x","data":{"path":"é/b","é":"é"}}'),
        (r'{"type":"file.x","data":{"path":"\u00e9//b"}}', '{"type":"file.x","data":{"path":"é/b"}}'),
        ('{"type":"file.x","data":{"path":null,"dir":"a/"}}', '{"type":"file.x","data":{"path":null,"dir":"a"}}'),
        ('{"type":"file.x","data":{"dir":5,"path":"a/"}}', '{"type":"file.x","data":{"dir":5,"path":"a"}}'),
        (
            '{"type":"file.x","data":{"dir":{"path":"a//b"},"path":"a/"}}',
            '{"type":"file.x","data":{"dir":{"path":"a//b"},"path":"a"}}',
        ),
    ],
)
def test_a_path_is_written_in_its_one_form(event: str, becomes: str) -> None:
    """The issue's examples and their relatives, to the byte."""
    assert rewritten(event.encode()) == becomes.encode()


@pytest.mark.parametrize(
    "event",
    [
        r'{"type":"file.x","data":{"path":"\u0061\/b"}}',
        '{"type":"file.x","data":{"path":"/a/.hidden/..b/c."}}',
        '{"type":"file.x","data":{"path":"//server/share"}}',
        '{"type":"file.x","data":{"path":"a/../b"}}',
        '{"type":"file.x","data":{"path":"https:/x","note":"a//b\\\\c"}}',
        '{"type":"file.x","data":{"Path":"a//b","path ":"a//b"}}',
        '{"type":"job.x","data":{"path":"a//b"}}',
        '{"type":"filex","data":{"path":"a//b"}}',
        '{"type":"File.x","data":{"path":"a//b"}}',
        '{"type":"file.x","path":"a//b","data":{}}',
        '{"type":"file.x","data":{"data":{"path":"a//b"}}}',
        '{"type":"file.x","data":{"path":"a\\nb"}}',
        '{"type":"file.x","data":{"path":""}}',
    ],
)
def test_what_needs_no_change_is_not_touched(event: str) -> None:
    """Canonical paths, other types, other members and other depths keep every byte."""
    assert rewritten(event.encode()) == event.encode()


def test_the_facts_have_the_canonical_path() -> None:
    """The cache learns the path that is published, so that a probe and an event meet."""
    batch = decode_events(rb'{"events":[{"type":"file.upsert","data":{"path":"C:\\a\\.\\b\\"}}]}')
    assert batch.events[0].data.path == "C:/a/b"
    batch = decode_event_lines(rb'{"type":"file.upsert","data":{"path":"a//b","path":"c//d"}}')
    assert batch.events[0].data.path == "c/d"
    assert orjson.loads(batch.content.joined)["data"]["path"] == "c/d"


@given(st.lists(raw_events(), min_size=2, max_size=5))
def test_neighbours_of_a_rewritten_event_are_not_touched(events: list[RawEvent]) -> None:
    """Rewriting one event of a request changes no byte of the others."""
    odd = RawEvent("file.x", '{"type":"file.x","data":{"path":"a//b"}}', {"path": "a//b"})
    with_odd = decode_events(bodies_of([events[0], odd, *events[1:]])).content.split()
    alone = [decode_events(bodies_of([event])).content.joined for event in events]
    assert with_odd[1] == b'{"type":"file.x","data":{"path":"a/b"}}'
    assert [with_odd[0], *with_odd[2:]] == alone


@given(
    st.text("ab./\\:C", max_size=16), st.text("ab./\\:C", max_size=16), st.sampled_from(["path", "dir", "root_path"])
)
def test_all_paths_at_once_and_one_by_one_agree(one: str, other: str, member: str) -> None:
    """The look at all paths of a request at once overlooks none that needs a change."""
    events = [{"type": "file.x", "data": {"path": one}}, {"type": "file.x", "data": {member: other}}]
    published = [orjson.loads(piece) for piece in decode_events(orjson.dumps({"events": events})).content.split()]
    assert published == [
        {"type": "file.x", "data": {"path": canonical_path(one)}},
        {"type": "file.x", "data": {member: canonical_path(other)}},
    ]


def test_repeated_members_of_a_rewritten_event_count_once() -> None:
    """Where an event is written anew, a repeated name keeps its last value, as every reader would have it."""
    event = rb'{"type":"file.x","type":"file.y","data":{"path":"a//b","q":1,"q":2.50}}'
    assert rewritten(event) == b'{"type":"file.y","data":{"path":"a/b","q":2.50}}'
