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

Sizes (CPython 3.11, measured by `bench/scenarios/memory.py`): a key is one 128-bit int, an entry one bytes object.
"""

import struct
from binascii import a2b_hex, b2a_hex
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import xxhash

from engine.errors import Refused
from engine.events import FileEvent, FileFacts
from engine.paths import canonical_path

MAX_PROBES: Final = 10_000
ENTRY_COST_BYTES: Final = 200
"""What one entry of a 16-byte hash costs in memory: key 48, entry 64, slots in the table up to 88."""
TOMBSTONE_COST_BYTES: Final = 170
"""Key 48, time 32, slots in the table up to 88."""
MISS: Final = b'{"status":"MISS","algo":null,"hash":null}'

_BY_INODE: Final = struct.Struct("<QQQq").pack
_BY_PATH: Final = struct.Struct("<Qq").pack
_TIME: Final = struct.Struct("<Q")
_HEX: Final = 1
"""Flag of an entry: the hash was lower-case hex and is kept as half as many bytes."""


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
    try:
        probes = _PROBES.decode(body)
    except msgspec.ValidationError as problem:
        raise Refused("request.wrong-shape", f"expected an array of probes with {_FIELDS}: {problem}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
        raise Refused("request.bad-json", f"not JSON: {problem}") from None
    if len(probes) > MAX_PROBES:
        raise Refused("request.too-large", f"{len(probes)} probes in one request; the limit is {MAX_PROBES}")
    return probes


def identity_of(facts: FileFacts) -> int | None:
    """Give a file's identity as a 128-bit number; None when the facts do not make one."""
    try:
        mtime_s = int(facts.mtime)
        if facts.inode and facts.dev:
            return xxhash.xxh3_128_intdigest(_BY_INODE(facts.dev, facts.inode, facts.size, mtime_s))
        path = canonical_path(facts.path)
        return xxhash.xxh3_128_intdigest(_BY_PATH(facts.size, mtime_s) + path.encode())
    except (TypeError, ValueError, OverflowError, AttributeError, struct.error):
        return None  # a fact is missing or not a number: such a file is never a hit


def path_of(path: Any) -> int | None:
    """Give the number under which a path's tombstone is kept; None when it is not a path."""
    if not isinstance(path, str) or not path:
        return None
    return xxhash.xxh3_128_intdigest(canonical_path(path).encode(errors="surrogatepass"), seed=1)


def encode_entry(algo: str, value: str, seeded_us: int) -> bytes | None:
    """Pack an entry; None when the algorithm's name is absurdly long."""
    name = algo.encode()
    if len(name) > 255:
        return None
    flags, packed = 0, value.encode()
    if len(packed) % 2 == 0:
        try:
            halved = a2b_hex(packed)
        except ValueError:
            pass
        else:
            if b2a_hex(halved) == packed:
                flags, packed = _HEX, halved
    return _TIME.pack(seeded_us) + bytes((flags, len(name))) + name + packed


def decode_entry(packed: bytes) -> Entry:
    """Unpack an entry."""
    algo_end = 10 + packed[9]
    tail = packed[algo_end:]
    value = b2a_hex(tail) if packed[8] & _HEX else tail
    return Entry(packed[10:algo_end].decode(), value.decode(), _TIME.unpack_from(packed)[0])


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

    seeds: dict[int, bytes]
    evicted: list[int]
    tombstones: dict[int, int]


def changes_of(events: Sequence[FileEvent], now_us: int) -> Changes:
    """Say what stored events change: `file.upsert` with algo, hash, size and mtime seeds, `file.delete` evicts.

    Later events of one request count as later by a microsecond each, so that an upsert after a delete is a hit.
    """
    seeds: dict[int, bytes] = {}
    evicted: list[int] = []
    tombstones: dict[int, int] = {}
    for event in events:
        now_us += 1
        data = event.data
        if event.type == "file.upsert":
            if data.algo.__class__ is str and data.hash.__class__ is str and data.algo and data.hash and data.path:
                key = identity_of(data)
                if key is not None:
                    entry = encode_entry(data.algo, data.hash, now_us)
                    if entry is not None:
                        seeds[key] = entry
        elif event.type == "file.delete":
            key, path = identity_of(data), path_of(data.path)
            if key is not None:
                seeds.pop(key, None)
                evicted.append(key)
            if path is not None:
                tombstones[path] = now_us
    return Changes(seeds, evicted, tombstones)


class HashTable:
    """The in-process tier.

    Args:
        budget_bytes: the most memory to use, by the costs above.
        ttl_s: how long an entry is a hit, seconds.
    """

    def __init__(self, budget_bytes: int, ttl_s: int) -> None:
        self._half_bytes = max(ENTRY_COST_BYTES, budget_bytes // 2)
        self._ttl_us = ttl_s * 1_000_000
        self._young: dict[int, bytes] = {}
        self._old: dict[int, bytes] = {}
        self._young_tombs: dict[int, int] = {}
        self._old_tombs: dict[int, int] = {}
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
            self._young_tombs.update(changes.tombstones)
        self._young.update(changes.seeds)
        self._age()

    def bury(self, path: int, at_us: int) -> None:
        """Take over a tombstone that another tier knew; the latest one counts."""
        self._young_tombs[path] = max(at_us, self._young_tombs.get(path, 0))

    def remember(self, key: int, entry: bytes) -> None:
        """Take over an entry that another tier knew."""
        self._young[key] = entry
        self._age()

    def find(self, probe: FileFacts, key: int, now_us: int) -> bytes | None:
        """Give the entry of an identity unless it is too old or its path was deleted since."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.get(key)
            if entry is None:
                return None
            self._young[key] = entry
            self._age()
        return entry if self.is_valid(probe, entry, now_us) else None

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
