"""API keys: what is kept of them, how one is recognised, how they are made, replaced and withdrawn.

A key is `hg_<id>_<secret>`, or any text that the operator chose. Only its SHA-256 is kept: a key made here has 256
random bits, which no guessing reaches, and those that are chosen must be long.

Rules of the file:
- No clock, no chance: `now` and random bytes are given.
- A ring is a value: changing it gives another one.
- Two secrets of one name are good at once: a rotation leaves the old key until it expires or is revoked.

What must change with it: `edge/cli_keys.py` shows records.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Final

import msgspec

from engine.audit import Record
from engine.identity import FIELD_SCOPES, Kind, Principal, expand_scopes
from engine.names import check_token

DEMO_KEY: Final = "demo-api-key-2024"
"""S1.2's well-known key: good on loopback and nowhere else."""
LEAST_SECRET_CHARS: Final = 16
MOST_SECRET_CHARS: Final = 512
MOST_KEYS: Final = 10_000
MOST_CHANGES: Final = 1000
"""Of keys, while no gateway runs that could record them: withdrawing a key must never have to wait for one."""
_GOOD_SECRET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/")


class KeyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key.

    Args:
        id: names it, in public.
        name: whose it is; keys of one name are one subject.
        digest: SHA-256 of the whole key, hexadecimal.
        scopes: as given, not expanded.
        subjects: allow list, see `Principal`.
        durables: allow list.
        paths: allow list.
        created_at: seconds since the epoch.
        expires_at: None when it does not expire.
        signing: what checks its signatures, hexadecimal (`engine/signing.py`); empty when it is a bearer. A key that
            signs is good for nothing else.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[str, ...]
    subjects: tuple[str, ...] = ()
    durables: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    created_at: float = 0.0
    expires_at: float | None = None
    signing: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")] = ""

    def is_live(self, now: float) -> bool:
        """Say that it has not expired."""
        return self.expires_at is None or now < self.expires_at

    def principal(self, kind: Kind = Kind.KEY, expires_at: float | None = None) -> Principal:
        """Give who holds it.

        Args:
            kind: how they showed it.
            expires_at: an end that comes before the key's own.
        """
        ends = [end for end in (self.expires_at, expires_at) if end is not None]
        return Principal(
            self.name,
            kind,
            expand_scopes(self.scopes),
            self.subjects,
            self.durables,
            self.paths,
            self.id,
            min(ends, default=None),
        )


class _KeysFile(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    keys: list[KeyRecord]
    changes: list[Record] = []
    version: int = 1


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys that are good here.

    Args:
        records: in the order in which they were made.
    """

    records: tuple[KeyRecord, ...] = ()
    _by_digest: dict[str, KeyRecord] | None = None
    _by_id: dict[str, KeyRecord] | None = None

    def __post_init__(self) -> None:
        """Index the records; a repeated id is refused."""
        by_id = {record.id: record for record in self.records}
        if len(by_id) != len(self.records):
            raise ValueError("expected each key's id once")
        object.__setattr__(self, "_by_id", by_id)
        object.__setattr__(self, "_by_digest", {record.digest: record for record in self.records})

    def recognise(self, secret: str, now: float) -> KeyRecord | None:
        """Find the live key that this is.

        The time it takes tells nothing of a key: what is looked up is a digest, and the last comparison is constant.
        """
        digest = digest_of(secret)
        record = (self._by_digest or {}).get(digest)
        if record is None or not hmac.compare_digest(record.digest, digest) or not record.is_live(now):
            return None
        return record

    def find(self, key_id: str) -> KeyRecord | None:
        """Give the key with this id."""
        return (self._by_id or {}).get(key_id)

    def named(self, name: str) -> list[KeyRecord]:
        """Give the keys of one name."""
        return [record for record in self.records if record.name == name]

    def with_key(self, record: KeyRecord) -> "KeyRing":
        """Give a ring that has this key too.

        Raises:
            ValueError: there are too many, or its id is there.
        """
        if len(self.records) >= MOST_KEYS:
            raise ValueError(f"expected at most {MOST_KEYS} keys")
        return KeyRing((*self.records, record))

    def without(self, key_id: str) -> "KeyRing":
        """Give a ring that has not this key."""
        return KeyRing(tuple(record for record in self.records if record.id != key_id))

    def ending(self, key_id: str, at: float) -> "KeyRing":
        """Give a ring in which this key expires at a time, if it did not expire before."""
        return KeyRing(
            tuple(
                msgspec.structs.replace(record, expires_at=min(at, record.expires_at or at))
                if record.id == key_id
                else record
                for record in self.records
            )
        )

    def __or__(self, other: "KeyRing") -> "KeyRing":
        """Give the keys of both; an id that both have is the left one's."""
        known = self._by_id or {}
        return replace(self, records=(*self.records, *(one for one in other.records if one.id not in known)))

    def __len__(self) -> int:
        """Count the keys."""
        return len(self.records)


def digest_of(secret: str) -> str:
    """Give what is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_key(chance: bytes) -> tuple[str, str]:
    """Give a new key's id and the key, out of 40 random bytes."""
    if len(chance) != 40:
        raise ValueError("expected 40 random bytes")
    key_id = chance[:8].hex()
    return key_id, f"hg_{key_id}_{urlsafe_b64encode(chance[8:]).decode().rstrip('=')}"


def decode_keys(text: bytes) -> tuple[KeyRing, list[Record]]:
    """Read a keys file: the keys, and the changes of them that wait for the audit log.

    Raises:
        ValueError: it is not one; the text says where.
    """
    try:
        file = msgspec.json.decode(text, type=_KeysFile)
    except msgspec.DecodeError as problem:
        raise ValueError(f"expected a file that `headgate keys` wrote: {problem}") from None
    for record in file.keys:
        expand_scopes(record.scopes)
    return KeyRing(tuple(file.keys)), file.changes


def encode_keys(ring: KeyRing, changes: Iterable[Record] = ()) -> bytes:
    """Write a keys file; of the changes that wait for the audit log it holds the newest `MOST_CHANGES`."""
    file = _KeysFile(list(ring.records), list(changes)[-MOST_CHANGES:])
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def keys_of_setting(text: str) -> KeyRing:
    """Read keys that the environment gives: `name=secret`, several by commas.

    After the secret may follow `;scopes=ingest:write+stream:read`, `;subjects=a.>+b.>`, `;durables=` and `;paths=`.
    Without scopes a key has those of the field (`FIELD_SCOPES`).

    Raises:
        ValueError: it is malformed; the text quotes no secret.
    """
    return KeyRing(tuple(_keys_of_parts(part.strip() for part in text.split(",") if part.strip())))


def _keys_of_parts(parts: Iterable[str]) -> Iterator[KeyRecord]:
    for number, part in enumerate(parts, 1):
        first, *more = part.split(";")
        name, is_named, secret = first.partition("=")
        if not is_named:
            raise ValueError(f"expected name=secret for key {number}")
        check_token(name)
        check_secret(secret, f"key {number} ({name})")
        lists: dict[str, tuple[str, ...]] = {}
        for word in more:
            what, _, values = word.partition("=")
            if what not in {"scopes", "subjects", "durables", "paths"} or what in lists or not values:
                raise ValueError(
                    f"key {number} ({name}): expected ;scopes=, ;subjects=, ;durables= or ;paths=, each once"
                )
            lists[what] = tuple(values.split("+"))
        yield key_of(name, secret, lists.pop("scopes", tuple(sorted(FIELD_SCOPES))), **lists)


def key_of(
    name: str,
    secret: str,
    scopes: tuple[str, ...],
    subjects: tuple[str, ...] = (),
    durables: tuple[str, ...] = (),
    paths: tuple[str, ...] = (),
) -> KeyRecord:
    """Give the record of a key that the operator chose.

    Raises:
        ValueError: a scope is not known.
    """
    expand_scopes(scopes)
    digest = digest_of(secret)
    return KeyRecord(f"env-{name}-{digest[:8]}", name, digest, scopes, subjects, durables, paths)


def check_secret(secret: str, where: str) -> None:
    """Refuse a key that could be guessed, or that a header cannot carry.

    Raises:
        ValueError: the text does not quote it.
    """
    if not LEAST_SECRET_CHARS <= len(secret) <= MOST_SECRET_CHARS:
        raise ValueError(f"{where}: expected {LEAST_SECRET_CHARS} to {MOST_SECRET_CHARS} characters")
    if not _GOOD_SECRET.issuperset(secret.rstrip("=")):
        raise ValueError(f"{where}: expected letters, digits and -._~+/ (a header must carry it)")
