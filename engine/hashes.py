"""The hash cache's rules: what a file's identity is, and what is remembered of it.

A scanner asks before it hashes: is this file, as its stat describes it, known? A hit that is wrong loses a
change for good, a miss only costs time; so everything here errs towards the miss.

Rules of the file:
- No clock, no I/O: times come in as microseconds since the epoch.
- An identity is (dev, inode, size, whole seconds of mtime) when dev and inode are both set and not zero, else
  (path, size, whole seconds of mtime) (S0.4, wire).
- A deletion leaves a *tombstone* on the path: what was remembered before it is no hit for that path any more,
  even where the deletion named nothing but the path.
- Memory is bounded in bytes. Two generations: when the young one is full, the old one is forgotten. A tombstone
  that is forgotten takes with it everything that is older than it.

Sizes (CPython 3.11, measured by `bench/scenarios/memory.py`): a key is 16 bytes, an entry one bytes object.
"""

import struct
from collections.abc import Sequence
from math import trunc
from typing import Any, Final, NamedTuple

import msgspec
import xxhash

from engine.bad_json import check_utf8, json_refusal
from engine.errors import Refused
from engine.events import FileEvent, FileFacts
from engine.paths import canonical_path

MAX_PROBES: Final = 10_000
ENTRY_COST_BYTES: Final = 200
"""What one entry of a 16-byte hash costs in memory: key 64, entry 80, slots in the table up to 88."""
WINDOW_S: Final = 600
"""Who has followed the deletions that others learned of within this time has missed none."""
MAX_HASH_CHARS: Final = 256
"""Longer than any hash is written; what is longer is not remembered, or one entry could cost a request's size."""
TOMBSTONE_COST_BYTES: Final = 170
"""Key 48, time 32, slots in the table up to 88."""
MISS: Final = b'{"status":"MISS","algo":null,"hash":null}'

_BY_INODE: Final = struct.Struct("<QQQq").pack
_BY_PATH: Final = struct.Struct("<Qq").pack
_NOT_COMMON: Final = (TypeError, ValueError, KeyError, OverflowError, AttributeError, struct.error)
"""What facts that are no numbers, or missing, and an algorithm that was not seen before, raise."""
_TIME: Final = struct.Struct("<Q")
_HEAD: Final = struct.Struct("<QB")
ALGORITHM_AT: Final = 8
VALUE_AT: Final = 9
"""Where an entry keeps its algorithm's number, and where its hash begins."""
_ALGORITHMS: Final = (
    *("xxh3_128", "xxh3_64", "xxh128", "xxh64", "xxh32", "blake3", "blake2b", "blake2s", "md5", "crc32", "crc32c"),
    *("sha1", "sha224", "sha256", "sha384", "sha512", "sha3_224", "sha3_256", "sha3_384", "sha3_512", "etag"),
)
"""Names that entries refer to by number. Fixed: a table that is learned is a table that can be filled by anybody."""
_NUMBERS: Final = {name: number for number, name in enumerate(_ALGORITHMS)}
SPELLED_OUT: Final = 255
"""The number of every other name: its length and the name itself stand before the hash."""
MAX_ALGORITHM_BYTES: Final = 32
"""Longer than any hash's name; what is longer is not remembered, so that an entry costs what is counted for it."""


class Probe(FileFacts, gc=False):
    """One question: a file as its stat describes it."""


class Entry(NamedTuple):
    """What is remembered of a file.

    Args:
        algo: the hash's name.
        hash: as the scanner wrote it.
        seeded_us: when it was remembered, microseconds since the epoch.
    """

    algo: str
    hash: str
    seeded_us: int


_PROBES: Final = msgspec.json.Decoder(list[Probe])
_FIELDS: Final = "path, size, mtime and, where known, inode and dev"


def decode_probes(body: bytes) -> list[Probe]:
    """Decode `[{"path":…,"size":…,"mtime":…,"inode":…,"dev":…},…]`.

    Raises:
        Refused: not JSON (with the byte's offset), not an array of objects, more than `MAX_PROBES`.
    """
    check_utf8(body)
    try:
        probes = _PROBES.decode(body)
    except msgspec.ValidationError as problem:
        raise Refused("request.wrong-shape", f"expected an array of probes with {_FIELDS}: {problem}") from None
    except (msgspec.DecodeError, RecursionError) as problem:
        raise json_refusal(body, problem) from None
    if len(probes) > MAX_PROBES:
        raise Refused("request.too-large", f"{len(probes)} probes in one request; the limit is {MAX_PROBES}")
    return probes


def identity_of(facts: FileFacts) -> bytes | None:
    """Give a file's identity as 16 bytes; None when the facts do not make one."""
    try:
        mtime_s = int(facts.mtime)
        if facts.inode and facts.dev:
            return xxhash.xxh3_128_digest(_BY_INODE(facts.dev, facts.inode, facts.size, mtime_s))
        path = canonical_path(facts.path)
        return xxhash.xxh3_128_digest(_BY_PATH(facts.size, mtime_s) + path.encode())
    except (TypeError, ValueError, OverflowError, AttributeError, struct.error):
        return None  # a fact is missing or not a number: such a file is never a hit


def path_of(path: Any) -> bytes | None:
    """Give the 16 bytes under which a path's tombstone is kept; None when it is not a path."""
    if not isinstance(path, str) or not path:
        return None
    return xxhash.xxh3_128_digest(canonical_path(path).encode(errors="surrogatepass"), seed=1)


def encode_entry(algo: str, value: str, seeded_us: int) -> bytes | None:
    """Pack an entry for the in-process tier; None when the algorithm's name is none."""
    head = _head_of(algo, seeded_us)
    return None if head is None else head + value.encode()


def _head_of(algo: str, seeded_us: int) -> bytes | None:
    number = _NUMBERS.get(algo)
    if number is not None:
        return _HEAD.pack(seeded_us, number)
    try:
        name = algo.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return None
    if not 0 < len(name) <= MAX_ALGORITHM_BYTES:
        return None
    return _HEAD.pack(seeded_us, SPELLED_OUT) + bytes([len(name)]) + name


def decode_entry(packed: bytes) -> Entry:
    """Unpack an entry."""
    seeded_us, number = _HEAD.unpack_from(packed)
    if number != SPELLED_OUT:
        return Entry(_ALGORITHMS[number], packed[VALUE_AT:].decode(), seeded_us)
    value_at = VALUE_AT + 1 + packed[VALUE_AT]
    return Entry(packed[VALUE_AT + 1 : value_at].decode(), packed[value_at:].decode(), seeded_us)


def export_entry(packed: bytes) -> bytes:
    """Give an entry in the form that other processes understand: the algorithm by name."""
    entry = decode_entry(packed)
    name = entry.algo.encode()
    return _HEAD.pack(entry.seeded_us, len(name)) + name + entry.hash.encode()


def import_entry(exported: bytes) -> bytes | None:
    """Take over an exported entry; None when it is not one."""
    try:
        seeded_us, length = _HEAD.unpack_from(exported)
        value_at = _HEAD.size + length
        algo = exported[_HEAD.size : value_at].decode()
        return encode_entry(algo, exported[value_at:].decode(), seeded_us) if algo else None
    except (struct.error, UnicodeDecodeError):
        return None


def seeded_at(packed: bytes) -> int:
    """Give when an entry was remembered, microseconds since the epoch."""
    return int(_TIME.unpack_from(packed)[0])


class Changes(NamedTuple):
    """What stored events do to the cache; evictions come before seeds.

    Args:
        seeds: identities to entries to remember.
        evicted: identities to forget.
        tombstones: deleted paths, to when, microseconds since the epoch.
    """

    seeds: dict[bytes, bytes]
    evicted: list[bytes]
    tombstones: dict[bytes, int]


def changes_of(events: Sequence[FileEvent], now_us: int) -> Changes:
    """Say what stored events change: `file.upsert` with algo, hash, size and mtime seeds, `file.delete` evicts.

    A delete counts as a microsecond later than what stands before it in the request, and what stands after it as one
    later still, so that an upsert after a delete is a hit.
    """
    seeds: dict[bytes, bytes] = {}
    evicted: list[bytes] = []
    tombstones: dict[bytes, int] = {}
    by_inode, digest = _BY_INODE, xxhash.xxh3_128_digest
    heads: dict[str, bytes] = {}
    for event in events:
        data = event.data
        if event.type == "file.upsert":
            try:  # the common case without a call of ours: `bench/scenarios/ingest.py` pays for it
                value, dev, inode = data.hash, data.dev, data.inode
                if dev and inode and data.path and value and len(value) <= MAX_HASH_CHARS:
                    key = digest(by_inode(dev, inode, data.size, trunc(data.mtime)))
                    seeds[key] = heads[data.algo] + value.encode()
                    continue
            except _NOT_COMMON:
                pass
            seed = _seed_of(data, heads, now_us)
            if seed is not None:
                seeds[seed[0]] = seed[1]
        elif event.type == "file.delete":
            now_us += 1
            heads.clear()
            gone, path = identity_of(data), path_of(data.path)
            if gone is not None:
                seeds.pop(gone, None)
                evicted.append(gone)
            if path is not None:
                tombstones[path] = now_us
            now_us += 1
    return Changes(seeds, evicted, tombstones)


def _seed_of(data: FileFacts, heads: dict[str, bytes], now_us: int) -> tuple[bytes, bytes] | None:
    """Give the identity and the entry of a file that was reported, however it was written; None where there is none.

    Args:
        data: what was reported.
        heads: the beginnings of entries, by their algorithm's name; one that is missing is added.
        now_us: when it is remembered.
    """
    algo, value = data.algo, data.hash
    if algo.__class__ is not str or value.__class__ is not str or not (algo and value and data.path):
        return None
    if len(value) > MAX_HASH_CHARS:
        return None
    key, head = identity_of(data), heads.get(algo) or _head_of(algo, now_us)
    if key is None or head is None:
        return None
    heads[algo] = head
    return key, head + value.encode()


class HashTable:
    """The in-process tier.

    Args:
        budget_bytes: the most memory to use, by the costs above.
        ttl_s: how long an entry is a hit, seconds.
    """

    def __init__(self, budget_bytes: int, ttl_s: int) -> None:
        self._half_bytes = max(ENTRY_COST_BYTES, budget_bytes // 2)
        self._ttl_us = ttl_s * 1_000_000
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._young_tombs: dict[bytes, int] = {}
        self._old_tombs: dict[bytes, int] = {}
        self._floor_us = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        """How many entries are held."""
        return len(self._young) + len(self._old)

    def apply(self, changes: Changes) -> None:
        """Remember and forget what stored events say."""
        for key in changes.evicted:
            self._young.pop(key, None)
            self._old.pop(key, None)
        if changes.tombstones:
            for path, at_us in changes.tombstones.items():  # frames may be acknowledged out of order: the newer counts
                self._young_tombs[path] = max(at_us, self._young_tombs.get(path, 0))
        self._young.update(changes.seeds)
        self._age()

    def bury(self, path: bytes, at_us: int) -> None:
        """Take over a tombstone that another tier knew; the latest one counts."""
        self._young_tombs[path] = max(at_us, self._young_tombs.get(path, 0))
        self._age()

    def forget_before(self, at_us: int) -> None:
        """Take nothing that was remembered before this time for a hit any more: deletions may have been missed."""
        self._floor_us = max(self._floor_us, at_us)

    def remember(self, key: bytes, entry: bytes) -> None:
        """Take over an entry that another tier knew."""
        self._young[key] = entry
        self._age()

    def find(self, probe: FileFacts, key: bytes, now_us: int) -> bytes | None:
        """Give the entry of an identity unless it is too old or its path was deleted since."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is None:
                return None
            self._young[key] = entry
            self._age()
        return entry if self.is_valid(probe, entry, now_us) else None

    def find_all(self, probes: Sequence[FileFacts], now_us: int) -> tuple[list[bytes | None], list[tuple[int, bytes]]]:
        """Look up many files.

        Returns:
            An entry or None for each, in order, and (index, identity) of those that another tier may know.
        """
        answers: list[bytes | None] = []
        missing: list[tuple[int, bytes]] = []
        by_inode, digest, young, seeded = _BY_INODE, xxhash.xxh3_128_digest, self._young.get, _TIME.unpack_from
        oldest_us = max(self._floor_us, now_us - self._ttl_us - 1)
        is_simple = not self._young_tombs and not self._old_tombs
        for index, probe in enumerate(probes):
            key: bytes | None
            try:  # the common case without a call of ours: `bench/scenarios/hashes.py` pays for it
                dev, inode = probe.dev, probe.inode
                key = digest(by_inode(dev, inode, probe.size, trunc(probe.mtime))) if dev and inode else None
            except _NOT_COMMON:
                key = None
            if key is None:
                key = identity_of(probe)
            if key is None:
                answers.append(None)
                continue
            entry = young(key)
            if entry is None or not is_simple or seeded(entry)[0] <= oldest_us:
                entry = self.find(probe, key, now_us)
                if entry is None:
                    missing.append((index, key))
            answers.append(entry)
        return answers, missing

    def is_valid(self, probe: FileFacts, entry: bytes, now_us: int) -> bool:
        """Say that an entry of any tier is a hit for this probe."""
        seeded_us = seeded_at(entry)
        if seeded_us <= self._floor_us or now_us - seeded_us > self._ttl_us:
            return False
        if not self._young_tombs and not self._old_tombs:
            return True
        path = path_of(probe.path)
        if path is None:
            return True
        return seeded_us > max(self._young_tombs.get(path, 0), self._old_tombs.get(path, 0))

    def _age(self) -> None:
        size = len(self._young) * ENTRY_COST_BYTES + len(self._young_tombs) * TOMBSTONE_COST_BYTES
        if size < self._half_bytes:
            return
        if self._old_tombs:
            self._floor_us = max(self._floor_us, *self._old_tombs.values())
        self._old, self._young = self._young, {}
        self._old_tombs, self._young_tombs = self._young_tombs, {}
