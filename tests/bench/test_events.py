"""The load is what scanners send."""

import json

import pytest

from bench.events import FIRST_NUMBER, SENT_BASE_NS, EventSize, Template, frame_of, post, probes_of

FIELDS_OF_A_SCANNER = {
    *("root_path", "scan_id", "seen_at", "path", "dir", "name", "ext", "type", "size", "fsize_du", "mtime", "atime"),
    *("ctime", "nlinks", "inode", "dev", "owner", "group", "uid", "gid", "mode", "algo", "hash"),
}


def filled(content: bytes, sequence: int = 0, *, timed: bool = False) -> bytes:
    """Fill a template in that uses every number."""
    return Template(content, 1, range(FIRST_NUMBER, FIRST_NUMBER + 1000), timed).fill(sequence, 123_456_789)


@pytest.mark.parametrize(("size", "fields"), [("full", FIELDS_OF_A_SCANNER), ("small", set())])
def test_event_has_the_fields_of_its_size(size: EventSize, fields: set[str]) -> None:
    """A full event has every field that scanners send (E17); a small one what seeds the cache."""
    event = json.loads(filled(frame_of(1, size)))["events"][0]
    assert event["type"] == "file.upsert"
    assert event["data"].keys() == (fields or {"path", "size", "mtime", "inode", "dev", "algo", "hash"})
    assert len(event["data"]["hash"]) == 32


def test_filling_in_keeps_the_length_and_names_new_files() -> None:
    """Content-Length stays right, and no two events of a run name one file."""
    content = post("/ingest", frame_of(10, timed=True))
    requests = [filled(content, sequence, timed=True) for sequence in range(20)]
    assert {len(request) for request in requests} == {len(content)}
    events = [event for request in requests for event in json.loads(request.partition(b"\r\n\r\n")[2])["events"]]
    assert len({event["data"]["path"] for event in events}) == 200
    assert len({event["data"]["inode"] for event in events}) == 200
    assert {event["data"]["sent_ns"] for event in events} == {SENT_BASE_NS + 123_456_789}


def test_probes_ask_for_the_files_that_frames_name() -> None:
    """The n-th probe of a number has the identity of the n-th event of that number."""
    events = json.loads(filled(frame_of(5), 3))["events"]
    probes = json.loads(filled(probes_of(5), 3))
    identity = ("path", "size", "mtime", "inode", "dev")
    assert probes == [{name: event["data"][name] for name in identity} for event in events]
