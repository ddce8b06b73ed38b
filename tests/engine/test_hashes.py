"""What a file's identity is, what events do to the cache, and how an entry is kept (S0.3 to S0.5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import hashes
from engine.errors import Refused
from engine.events import FileEvent, FileFacts
from engine.hashes import (
    MAX_HASH_CHARS,
    MAX_PROBES,
    Changes,
    Entry,
    Probe,
    changes_of,
    decode_entry,
    decode_probes,
    encode_entry,
    export_entry,
    identity_of,
    import_entry,
    path_of,
    seeded_at,
)

FILE = {"path": "/a/b", "size": 10, "mtime": 1_700_000_000}
INODE = {**FILE, "inode": 5, "dev": 7}
HASH = {"algo": "xxh3_128", "hash": "00ff"}


def facts(base: dict[str, object], **other: object) -> FileFacts:
    """A file's facts, some of them other ones."""
    return FileFacts(**{**base, **other})


def upsert(base: dict[str, object], **other: object) -> FileEvent:
    """The event that reports a file with its hash."""
    return FileEvent("file.upsert", facts({**base, **HASH}, **other))


def delete(**data: object) -> FileEvent:
    """The event that reports that a file is gone."""
    return FileEvent("file.delete", facts({}, **data))


SAME: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "the fraction of mtime does not count": (FILE, {"mtime": 1_700_000_000.999}),
    "mtime as text": (FILE, {"mtime": "1700000000"}),
    "one spelling of the path": (FILE, {"path": "/a//./b/"}),
    "a dev without an inode is none": (FILE, {"dev": 7}),
    "an inode without a dev is none": (FILE, {"inode": 5}),
    "zero is no inode": (FILE, {"inode": 0, "dev": 7}),
    "zero is no dev": (FILE, {"inode": 5, "dev": 0}),
    "the hash does not count": (FILE, dict(HASH)),
    "with an inode the path does not count": (INODE, {"path": "/elsewhere"}),
    "with an inode there need not be a path": (INODE, {"path": None}),
    "the fraction of mtime does not count with an inode": (INODE, {"mtime": 1_700_000_000.5}),
}


@pytest.mark.parametrize(("base", "other"), SAME.values(), ids=SAME.keys())
def test_these_are_the_same_file(base: dict[str, object], other: dict[str, object]) -> None:
    """(dev, inode, size, seconds) where both are set, else (path, size, seconds)."""
    one = identity_of(facts(base))
    assert one is not None
    assert one == identity_of(facts(base, **other))


OTHER: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "size": (FILE, {"size": 11}),
    "mtime": (FILE, {"mtime": 1_700_000_001}),
    "mtime before the epoch": (FILE, {"mtime": -1}),
    "path": (FILE, {"path": "/a/B"}),
    "inode and dev": (FILE, {"inode": 5, "dev": 7}),
    "inode": (INODE, {"inode": 6}),
    "dev": (INODE, {"dev": 8}),
    "inode and dev in each other's place": (INODE, {"inode": 7, "dev": 5}),
    "size with an inode": (INODE, {"size": 11}),
    "mtime with an inode": (INODE, {"mtime": 1_699_999_999}),
}


@pytest.mark.parametrize(("base", "other"), OTHER.values(), ids=OTHER.keys())
def test_these_are_different_files(base: dict[str, object], other: dict[str, object]) -> None:
    """Each fact of the identity counts."""
    assert identity_of(facts(base)) != identity_of(facts(base, **other))
    assert identity_of(facts(base, **other)) is not None


NONE: dict[str, dict[str, object]] = {
    "no facts": {"path": None, "size": None, "mtime": None},
    "no path": {"path": None},
    "a path that is no text": {"path": 5},
    "no size": {"size": None},
    "a size that is text": {"size": "10"},
    "a size with a fraction": {"size": 10.0},
    "a negative size": {"size": -1},
    "a size without end": {"size": 2**64},
    "no mtime": {"mtime": None},
    "an mtime that is no number": {"mtime": "yesterday"},
    "an mtime of a list": {"mtime": [1]},
    "an mtime that never ends": {"mtime": float("inf")},
    "an mtime that is nothing": {"mtime": float("nan")},
    "an mtime out of all time": {"mtime": 2**63},
    "a dev that is text": {"inode": 5, "dev": "7"},
    "a negative inode": {"inode": -5, "dev": 7},
    "an inode with a fraction": {"inode": 5.0, "dev": 7},
}


@pytest.mark.parametrize("other", NONE.values(), ids=NONE.keys())
def test_facts_that_make_no_identity_are_never_a_hit(other: dict[str, object]) -> None:
    """Whatever is missing or absurd, it is a miss and no error, and nothing is remembered for it."""
    assert identity_of(facts(FILE, **other)) is None
    assert changes_of([upsert(FILE, **other)], 1).seeds == {}


@given(
    st.fixed_dictionaries(
        {name: st.none() | st.integers() | st.floats() | st.text(max_size=4) | st.booleans() | st.just([]) | st.just({})
         for name in ("path", "size", "mtime", "inode", "dev", "algo", "hash")}
    )
)  # fmt: skip
def test_no_facts_raise(data: dict[str, object]) -> None:
    """Facts are whatever JSON holds; what is seeded is what a probe with the same facts finds."""
    identity = identity_of(facts(data))
    path_of(data["path"])
    seeds = changes_of([FileEvent("file.upsert", facts(data))], 5).seeds
    assert set(seeds) <= {identity}
    changes_of([FileEvent("file.delete", facts(data))], 5)


def test_an_upsert_with_a_hash_seeds_its_identity() -> None:
    """The entry has the algorithm, the hash as written, and the time; path or inode, as the identity says."""
    changes = changes_of([upsert(FILE), upsert(INODE, hash="11")], 1000)
    assert {key: decode_entry(entry) for key, entry in changes.seeds.items()} == {
        identity_of(facts(FILE)): Entry("xxh3_128", "00ff", 1000),
        identity_of(facts(INODE)): Entry("xxh3_128", "11", 1000),
    }
    assert (changes.evicted, changes.tombstones) == ([], {})


@pytest.mark.parametrize(
    "other",
    [{"algo": None}, {"algo": ""}, {"algo": 5}, {"hash": None}, {"hash": ""}, {"hash": 5}, {"path": ""}],
    ids=repr,
)
def test_an_upsert_without_a_hash_or_path_seeds_nothing(other: dict[str, object]) -> None:
    """Algo, hash, path, size and mtime make an entry; with one of them missing there is none, inode or not."""
    assert changes_of([upsert(INODE, **other), upsert(FILE, **other)], 1) == Changes({}, [], {})


def test_an_entry_costs_no_more_than_it_is_counted_for() -> None:
    """A hash longer than any is not remembered: the budget counts entries of a known size."""
    assert len(changes_of([upsert(FILE, hash="x" * MAX_HASH_CHARS)], 1).seeds) == 1
    assert changes_of([upsert(FILE, hash="x" * (MAX_HASH_CHARS + 1))], 1).seeds == {}


@pytest.mark.parametrize("kind", ["file.rename", "file.Upsert", "upsert", "file.deleted", ""])
def test_other_events_change_nothing(kind: str) -> None:
    """Only the two types that the issue names touch the cache."""
    assert changes_of([FileEvent(kind, facts({**INODE, **HASH}))], 1) == Changes({}, [], {})


def test_a_delete_evicts_and_leaves_a_tombstone() -> None:
    """With facts the identity goes; with a path there is a tombstone, later than what stood before it."""
    path = path_of("/a/b")
    assert path is not None
    changes = changes_of([delete(**INODE)], 1000)
    assert changes.evicted == [identity_of(facts(INODE))]
    assert changes.tombstones == {path: 1001}
    assert changes_of([delete(path="/a//b")], 1000) == Changes({}, [], {path: 1001})
    assert changes_of([delete(inode=5, dev=7, size=10, mtime=1_700_000_000)], 1000).tombstones == {}
    assert changes_of([delete(), delete(path=7), delete(path="")], 1000) == Changes({}, [], {})


def test_the_order_inside_a_request_decides() -> None:
    """An upsert before a delete is gone, one after it is a hit, and the tombstone stands between them."""
    key, path = identity_of(facts(INODE)), path_of("/a/b")
    assert key is not None
    assert path is not None
    assert changes_of([upsert(INODE), delete(**INODE)], 1000).seeds == {}
    by_path = changes_of([upsert(INODE), delete(path="/a/b")], 1000)
    assert seeded_at(by_path.seeds[key]) < by_path.tombstones[path]
    for gone in (delete(**INODE), delete(path="/a/b")):
        again = changes_of([upsert(INODE), gone, upsert(INODE)], 1000)
        assert seeded_at(again.seeds[key]) > again.tombstones[path]


@given(
    st.sampled_from(["xxh3_128", "etag", "a" * 32]) | st.text(min_size=1, max_size=8),
    st.text(max_size=60),
    st.integers(0, 2**63),
)
def test_an_entry_keeps_what_was_said(algo: str, value: str, at_us: int) -> None:
    """Packed and unpacked, exported and imported, an entry is the same."""
    packed = encode_entry(algo, value, at_us)
    assert packed is not None
    assert decode_entry(packed) == Entry(algo, value, at_us)
    assert seeded_at(packed) == at_us
    assert import_entry(export_entry(packed)) == packed


@given(st.binary(max_size=40))
def test_what_another_process_wrote_is_an_entry_or_nothing(data: bytes) -> None:
    """Redis may hold anything: a value that is no entry is a miss."""
    data = data[:8] + b"\x01" + b"a" + data[9:] if len(data) > 8 else data
    found = import_entry(data)
    assert found is None or export_entry(found) == data


@pytest.mark.parametrize(
    "data", [b"", b"x", b"x" * 8, b"12345678\x00", b"12345678\x00hash", b"12345678\x02\xff\xfehash"]
)
def test_what_is_no_entry_is_not_imported(data: bytes) -> None:
    """Cut short, without an algorithm, or not text."""
    assert import_entry(data) is None


def test_made_up_algorithms_take_nothing_from_the_others() -> None:
    """A thousand names later a new one is remembered as well, and the process has learned none of them."""

    def seed(algo: str) -> bytes | None:
        facts = FileFacts("/a", size=1, mtime=1, algo=algo, hash="00")
        return next(iter(changes_of([FileEvent("file.upsert", facts)], 1).seeds.values()), None)

    before = len(hashes._ALGORITHMS), len(hashes._NUMBERS)
    for number in range(1000):
        entry = seed(f"made-up-{number}")
        assert entry is not None
        assert decode_entry(entry) == Entry(f"made-up-{number}", "00", 1)
    assert (len(hashes._ALGORITHMS), len(hashes._NUMBERS)) == before
    assert seed("x" * 33) is None, "longer than any name"
    assert encode_entry("\ud800", "00", 1) is None


def test_probes_are_read_in_order() -> None:
    """Members that are not asked for are passed over; those that are missing are None."""
    probes = decode_probes(b'[{"path":"/a","size":1,"mtime":2.5,"x":{"path":1}},{"inode":3,"dev":4},{}]')
    assert probes == [Probe(path="/a", size=1, mtime=2.5), Probe(inode=3, dev=4), Probe()]
    assert decode_probes(b" [] ") == []


@pytest.mark.parametrize(
    ("body", "code", "offset"),
    [
        (b"", "request.bad-json", 0),
        (b"[{]", "request.bad-json", 2),
        ('[{"path":"é"},'.encode() + b"]", "request.bad-json", 15),
        (b'[{"path":"\xff"}]', "request.bad-json", 10),
        (b"[]x", "request.bad-json", 2),
        (b"{}", "request.wrong-shape", None),
        (b"[1]", "request.wrong-shape", None),
        (b"[[]]", "request.wrong-shape", None),
        (b"null", "request.wrong-shape", None),
        (b"[" + b"{}," * MAX_PROBES + b"{}]", "request.too-large", None),
        (b"[" * 5000, None, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_not_probes_is_refused(body: bytes, code: str | None, offset: int | None) -> None:
    """Not JSON with the byte, the wrong shape with what was expected, too many with the limit."""
    with pytest.raises(Refused) as caught:
        decode_probes(body)
    assert code is None or caught.value.kind.code == code
    assert offset is None or caught.value.members["offset"] == offset
    if code == "request.wrong-shape":
        assert "path, size, mtime" in caught.value.detail


ODD: dict[str, list[object]] = {
    "path": ["", None, 5, []],
    "size": [None, "10", -1, 10.0, 2**64, True],
    "mtime": [None, "17", "", -1.5, float("nan"), float("inf"), 2**63, [], True],
    "inode": [None, 0, -1, "5", 5.0, 2**64, [], True],
    "dev": [None, 0, -1, "7", 7.0, 2**64, [], True],
    "algo": [None, "", "md5", "of its own", 5, [], "x" * 99],
    "hash": [None, "", 5, ["00"], "é" * MAX_HASH_CHARS, "1" * (MAX_HASH_CHARS + 1)],
}


@pytest.mark.parametrize(("member", "value"), [(member, value) for member in ODD for value in ODD[member]], ids=repr)
def test_a_file_is_seeded_as_alone_whatever_was_reported_before_it(member: str, value: object) -> None:
    """The second file of an algorithm takes a shorter way through the code, to the same place."""
    before, odd = upsert(FILE), upsert(INODE, **{member: value})
    assert changes_of([before, odd], 5).seeds == changes_of([before], 5).seeds | changes_of([odd], 5).seeds
