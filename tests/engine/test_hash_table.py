"""The in-process tier against a plain model: a hit is never stale, a miss is only for lack of room or time (S0.4)."""

import tracemalloc
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from engine.events import FileEvent, FileFacts
from engine.hashes import (
    ENTRY_COST_BYTES,
    TOMBSTONE_COST_BYTES,
    Changes,
    HashTable,
    changes_of,
    decode_entry,
    encode_entry,
    identity_of,
    path_of,
)
from engine.paths import canonical_path

TTL_S = 100
AMPLE_BYTES = 64 * 1024 * 1024
PATHS = ["/a", "/b", "/a//x", "/a/x", "c"]
FILES = [
    *(FileFacts(path=path, size=size, mtime=5) for path in PATHS for size in (1, 2)),
    *(FileFacts(path=path, size=1, mtime=5, inode=inode, dev=1) for path in PATHS[:3] for inode in (1, 2)),
]


class Seed(NamedTuple):
    """What the model remembers of an identity: the value, when in time, and when in order."""

    value: str
    at_us: int
    order: int


@dataclass
class Model:
    """The words of the issue, without a thought of memory or microseconds: order decides."""

    ttl_us: int
    seeds: dict[tuple[object, ...], Seed] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)
    order: int = 0

    @staticmethod
    def identity(facts: FileFacts) -> tuple[object, ...]:
        """Name a file."""
        if facts.inode and facts.dev:
            return (facts.dev, facts.inode, facts.size, facts.mtime)
        return (canonical_path(facts.path), facts.size, facts.mtime)

    def learn(self, events: list[FileEvent], now_us: int) -> None:
        """Take over stored events."""
        for one in events:
            self.order += 1
            data = one.data
            if one.type == "file.upsert":
                self.seeds[self.identity(data)] = Seed(data.hash, now_us, self.order)
                continue
            if data.size is not None and (data.path is not None or data.inode):
                self.seeds.pop(self.identity(data), None)
            if data.path is not None:
                self.deleted[canonical_path(data.path)] = self.order

    def find(self, probe: FileFacts, now_us: int) -> str | None:
        """Give the hash that a probe may be answered with; None when any answer would be stale."""
        seed = self.seeds.get(self.identity(probe))
        if seed is None or now_us - seed.at_us > self.ttl_us:
            return None
        return seed.value if seed.order > self.deleted.get(canonical_path(probe.path), 0) else None


def upsert(facts: FileFacts, value: str) -> FileEvent:
    """Report a file with its hash."""
    return FileEvent("file.upsert", FileFacts(**{**_fields(facts), "algo": "test", "hash": value}))


def delete(facts: FileFacts, how: str = "path") -> FileEvent:
    """Report that a file is gone, with everything, with only its path, or with everything but its path."""
    everything = _fields(facts)
    known = {"all": everything, "path": {"path": facts.path}, "identity": {**everything, "path": None}}
    return FileEvent("file.delete", FileFacts(**known[how]))


def _fields(facts: FileFacts) -> dict[str, object]:
    return {name: getattr(facts, name) for name in facts.__struct_fields__}


def find(table: HashTable, probe: FileFacts, now_us: int) -> str | None:
    """Ask the table as the cache does."""
    key = identity_of(probe)
    assert key is not None
    entry = table.find(probe, key, now_us)
    return None if entry is None else decode_entry(entry).hash


files = st.sampled_from(FILES)
events = st.one_of(
    st.builds(upsert, files, st.sampled_from("0123456789")),
    st.builds(upsert, files, st.sampled_from("0123456789")),
    st.builds(delete, files, st.sampled_from(["all", "path", "identity"])),
)
steps = st.lists(
    st.tuples(st.just("learn"), st.lists(events, min_size=1, max_size=6))
    | st.tuples(st.just("probe"), st.lists(files, min_size=1, max_size=4))
    | st.tuples(st.just("fill"), st.integers(1, 5))
    | st.tuples(st.just("wait"), st.sampled_from([1, 10**6, 60 * 10**6, TTL_S * 10**6])),
    max_size=40,
)


def run(table: HashTable, history: list[tuple[str, object]], *, is_ample: bool) -> None:
    """Run a history on the table and the model; compare every answer, and all of them at the end."""
    model, now_us, filler = Model(TTL_S * 10**6), 10**15, 0
    hits = 0
    for step, what in [*history, ("probe", FILES)]:
        if step == "learn":
            assert isinstance(what, list)
            model.learn(what, now_us)
            table.apply(changes_of(what, now_us))
            now_us += 2 * len(what) + 1
        elif step == "fill":
            assert isinstance(what, int)
            for _ in range(0 if is_ample else what):
                filler += 1
                table.apply(changes_of([upsert(FileFacts(path=f"/fill/{filler}", size=1, mtime=1), "f")], now_us))
                now_us += 3
        elif step == "wait":
            assert isinstance(what, int)
            now_us += what
        else:
            assert isinstance(what, list)
            answers, missing = table.find_all(what, now_us)
            assert [answers[index] for index, _ in missing] == [None] * answers.count(None)
            for probe, entry in zip(what, answers, strict=True):
                found, allowed = None if entry is None else decode_entry(entry).hash, model.find(probe, now_us)
                assert find(table, probe, now_us) in ({found} if is_ample else {None, allowed})
                hits += found is not None
                if is_ample:
                    assert found == allowed
                else:
                    assert found in {None, allowed}
    event("some hits" if hits else "no hit")


@given(steps)
def test_with_room_a_hit_is_exactly_what_the_model_allows(history: list[tuple[str, object]]) -> None:
    """Nothing stale is a hit, and nothing that is known is a miss, while there is room."""
    run(HashTable(AMPLE_BYTES, TTL_S), history, is_ample=True)


@given(steps, st.sampled_from([1, 2, 4, 8, 16]))
def test_without_room_a_hit_is_never_stale(history: list[tuple[str, object]], entries: int) -> None:
    """Forgetting takes no deletion back: what a forgotten tombstone held off stays a miss."""
    run(HashTable(entries * ENTRY_COST_BYTES, TTL_S), history, is_ample=False)


def one_entry(path: str = "/a", at_us: int = 1000) -> tuple[FileFacts, bytes, Changes]:
    """A file, its key, and the changes that seed it."""
    facts = FileFacts(path=path, size=1, mtime=1)
    key = identity_of(facts)
    assert key is not None
    return facts, key, changes_of([upsert(facts, "00")], at_us)


def test_an_entry_lives_for_its_time_and_no_longer() -> None:
    """At the end of its time it is a hit, a microsecond later it is none."""
    table = HashTable(AMPLE_BYTES, TTL_S)
    facts, key, changes = one_entry()
    table.apply(changes)
    assert table.find(facts, key, 1000 + TTL_S * 10**6) is not None
    assert table.find(facts, key, 1000 + TTL_S * 10**6 + 1) is None


def test_a_tombstone_that_is_forgotten_takes_what_is_older_with_it() -> None:
    """After two generations nothing seeded before the deletion is a hit, whatever its path; what is newer is."""
    table = HashTable(8 * ENTRY_COST_BYTES, TTL_S)
    old, old_key, changes = one_entry("/old", 1000)
    table.apply(changes)
    table.apply(changes_of([delete(FileFacts(path="/gone"))], 2000))
    new, new_key, changes = one_entry("/new", 3000)
    table.apply(changes)
    for number in range(40):
        assert table.find(new, new_key, 5000) is not None  # asked for again and again, it is kept
        table.find(old, old_key, 5000)
        table.apply(one_entry(f"/fill/{number}", 4000)[2])
    assert table.find(old, old_key, 5000) is None
    assert table.is_valid(new, changes.seeds[new_key], 5000)
    assert not table.is_valid(old, one_entry("/old", 2001)[2].seeds[old_key], 5000)


def test_what_is_asked_for_is_kept_and_what_is_not_is_forgotten() -> None:
    """The young generation takes what is used; the rest goes with the old one."""
    table = HashTable(8 * ENTRY_COST_BYTES, TTL_S)
    used, used_key, changes = one_entry("/used")
    table.apply(changes)
    idle, idle_key, changes = one_entry("/idle")
    table.apply(changes)
    for number in range(20):
        assert table.find(used, used_key, 2000) is not None
        table.apply(one_entry(f"/fill/{number}")[2])
    assert table.find(idle, idle_key, 2000) is None


def test_a_delete_by_identity_alone_reaches_the_old_generation() -> None:
    """Without a path there is no tombstone: the entry itself must be gone, wherever it is kept."""
    table = HashTable(8 * ENTRY_COST_BYTES, TTL_S)
    facts = FileFacts(path="/a", size=1, mtime=1, inode=1, dev=1)
    key = identity_of(facts)
    assert key is not None
    table.apply(changes_of([upsert(facts, "00")], 1000))
    for number in range(4):
        table.apply(one_entry(f"/fill/{number}")[2])
    table.apply(changes_of([delete(facts, "identity")], 2000))
    assert table.find(facts, key, 3000) is None


def test_a_deletion_elsewhere_is_a_miss_here() -> None:
    """A tombstone of another tier counts, and the latest of several does."""
    table = HashTable(AMPLE_BYTES, TTL_S)
    facts, key, changes = one_entry(at_us=1000)
    path = path_of(facts.path)
    assert path is not None
    table.apply(changes)
    table.bury(path, 999)
    assert table.find(facts, key, 2000) is not None
    table.bury(path, 1000)
    table.bury(path, 500)
    assert table.find(facts, key, 2000) is None
    table.apply(one_entry(at_us=1001)[2])
    assert table.find(facts, key, 2000) is not None


def test_what_was_remembered_before_a_gap_is_no_hit() -> None:
    """After deletions may have been missed, only what was learned since counts; the gap never shrinks."""
    table = HashTable(AMPLE_BYTES, TTL_S)
    facts, key, changes = one_entry(at_us=1000)
    table.apply(changes)
    table.forget_before(1000)
    table.forget_before(500)
    assert table.find(facts, key, 2000) is None
    table.apply(one_entry(at_us=1001)[2])
    assert table.find(facts, key, 2000) is not None


def test_an_entry_of_another_tier_is_taken_over() -> None:
    """What Redis knew is found here the next time, with the time at which it was seeded."""
    table = HashTable(AMPLE_BYTES, TTL_S)
    facts, key, changes = one_entry(at_us=1000)
    table.remember(key, changes.seeds[key])
    assert table.find(facts, key, 1000 + TTL_S * 10**6) is not None
    assert table.find(facts, key, 1001 + TTL_S * 10**6) is None


def test_the_count_of_entries_counts_each_once() -> None:
    """An entry that moved to the young generation is not there twice."""
    table = HashTable(8 * ENTRY_COST_BYTES, TTL_S)
    for number in range(4):
        table.apply(one_entry(f"/{number}")[2])
    for number in range(3):
        facts, key, _ = one_entry(f"/{number}")
        assert table.find(facts, key, 2000) is not None
    assert len(table) == 4


@pytest.mark.parametrize("kind", ["entries", "tombstones", "tombstones of others", "entries of others"])
def test_memory_is_bounded_by_the_budget(kind: str) -> None:
    """Overloaded: six times more than there is room for costs no more than the budget, measured."""
    budget_bytes = 1024 * 1024
    cost = ENTRY_COST_BYTES if "entries" in kind else TOMBSTONE_COST_BYTES
    count = 6 * budget_bytes // cost
    digest = "0123456789abcdef0123456789abcdef"
    entry = encode_entry("test", digest, 1)
    assert entry is not None
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        table = HashTable(budget_bytes, TTL_S)
        for number in range(count):
            key = number.to_bytes(16, "little")
            if kind == "entries":
                table.apply(Changes({key: bytes(bytearray(entry))}, [], {}))
            elif kind == "entries of others":
                table.remember(key, bytes(bytearray(entry)))
            elif kind == "tombstones":
                table.apply(Changes({}, [], {key: number + 2**40}))
            else:
                table.bury(key, number + 2**40)
        used_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used_bytes <= budget_bytes * 1.05
    assert used_bytes >= budget_bytes * 0.3  # and the budget is used


def test_an_older_deletion_never_takes_the_place_of_a_newer_one() -> None:
    """Two deletions of one path are applied the wrong way round: what was remembered between them stays deleted."""
    table, file = HashTable(1 << 20, TTL_S), FILES[0]
    table.apply(changes_of([upsert(file, "5")], 10**15 + 50))
    table.apply(changes_of([delete(file)], 10**15 + 100))
    assert find(table, file, 10**15 + 200) is None
    table.apply(changes_of([delete(file)], 10**15))
    assert find(table, file, 10**15 + 200) is None
