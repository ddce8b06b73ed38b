"""Packing: the quick way and the careful way give one row, and nothing that JSON can say stops either."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog import MOST_REASONS, Source, rows_of
from engine.catalog_rows import STUMBLES, FileData, RowRefused, pack_carefully, pack_deletion, pack_upsert
from engine.hashes import path_of

PLACE = (1, 2, 3, 4)
NAMES = [
    "path", "size", "mtime", "inode", "dev", "algo", "hash", "fsize_du", "atime", "ctime", "seen_at",
    "uid", "gid", "mode", "nlinks", "type", "owner", "group", "scan_id",
]  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(["/a/b", "sha1", 0, 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 1.0, 253_402_300_799, 253_402_300_800]),
)
GOOD: dict[str, Any] = dict.fromkeys(NAMES, 7) | {"path": "/show/a.exr", "algo": "sha1", "hash": "ab", "mtime": 5.5}
GOOD |= {"type": "file", "owner": "me", "group": "us", "scan_id": "s"}


@given(st.fixed_dictionaries({"path": VALUES}, optional=dict.fromkeys(NAMES[1:], VALUES)))
def test_both_ways_give_the_same_row(members: dict[str, Any]) -> None:
    """Whatever the facts are: where the quick way gives a row, the careful way gives the same."""
    try:
        careful = pack_carefully(FileData(**members), *PLACE)
    except RowRefused:
        careful = None
    if "\0" in "".join(str(one) for one in members.values()):
        return  # the quick way is not asked for these
    try:
        quick = pack_upsert(FileData(**members), *PLACE)
    except STUMBLES:
        return
    if quick != careful:  # it may keep a number that the careful way finds too odd, or a path in another spelling
        is_odd = any(isinstance(one, bool) or (isinstance(one, int) and one < 0) for one in members.values())
        assert is_odd or "\\" in members["path"] or "/" in members["path"], members


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.sampled_from(["file.upsert", "file.delete", "scan.error"]))
def test_no_event_raises(members: dict[str, Any], kind: str) -> None:
    """Each event is a row, a scan, or counted as refused; beside it a good one is stored."""
    event = {"type": kind, "data": members}
    good = {"type": "file.upsert", "data": GOOD | {"path": "/good"}}
    payload = json.dumps({"events": [event, good]}).encode()
    for is_frame in (True, False):
        rows = rows_of([Source(payload, is_frame, 9, 5)], 1)
        assert path_of("/good") in rows.files or rows.refused
        assert len(rows.files) + len(rows.scans) + rows.refused >= min(rows.events, 1)


@given(st.binary(max_size=200))
def test_no_bytes_raise(payload: bytes) -> None:
    """A message that is no frame is one refusal."""
    for body in (payload, b'{"events":[' + payload + b"]}"):
        rows_of([Source(body, False, 1, 1)], 1)


def test_refusals_are_counted_and_the_first_are_named() -> None:
    """A flood of poison fills neither the log nor the memory."""
    events = [{"type": "file.upsert", "data": {"path": "/a", "size": -1 - number}} for number in range(100)]
    rows = rows_of([Source(json.dumps({"events": events}).encode(), True, 3, 1)], 1)
    assert (rows.refused, len(rows.reasons), rows.files) == (100, MOST_REASONS, {})
    assert rows.reasons[0].startswith("3:0: size is no whole number")


def test_the_newest_event_of_a_batch_wins_in_any_order() -> None:
    """By message, then by place in it."""
    first = Source(b'{"events":[{"type":"file.upsert","data":{"path":"/a","size":1}}]}', True, 1, 1)
    then = (
        b'{"events":[{"type":"file.delete","data":{"path":"/a"}},{"type":"file.upsert","data":{"path":"/a","size":2}}]}'
    )
    second = Source(then, True, 2, 2)
    rows = [rows_of(order, 1).files for order in ([first, second], [second, first], [second, first, second])]
    assert rows[0] == rows[1] == rows[2]
    assert [position for position, _ in rows[0].values()] == [(2, 1)]


@pytest.mark.parametrize("name", ["size", "algo", "hash"])
def test_what_names_the_content_must_be_right(name: str) -> None:
    """A wrong one refuses the event, and the words name it."""
    with pytest.raises(RowRefused, match=name):
        pack_carefully(FileData(**(GOOD | {name: [1]})), *PLACE)


@pytest.mark.parametrize("name", [one for one in NAMES if one not in {"path", "size", "algo", "hash"}])
def test_any_other_fact_that_cannot_be_stored_is_left_out(name: str) -> None:
    """The row is the one without it."""
    wrong, without = FileData(**(GOOD | {name: {"no": "fact"}})), FileData(**(GOOD | {name: None}))
    assert pack_carefully(wrong, *PLACE) == pack_carefully(without, *PLACE)


def test_a_deletion_keeps_nothing_but_the_path() -> None:
    """Two deletions of one path are one row, whatever else they say."""
    assert pack_deletion(FileData(**GOOD), *PLACE) == pack_deletion(FileData(path="/show//a.exr"), *PLACE)
