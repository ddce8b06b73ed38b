"""Rows of files in the binary form of COPY: what cannot be packed cannot be stored, so packing is the check.

Rules of the file:
- Types and order of the fields are those of the table `catalog.files` in `engine/migrations/`; both change together.
- What names a file or its content (path, size, algo, hash) must be right, or its event is refused. Any other fact that
  cannot be stored (a time that no calendar has, a number written as text) is left out.
- `pack_upsert` takes events as scanners write them and raises whatever it trips over; `pack_carefully` then looks at
  each fact by itself. Both give the same row where both give one.

Source: E17; `bench/scenarios/catalog.py` pays for the first of the two.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import xxhash

from engine.hashes import MAX_HASH_CHARS, identity_of
from engine.paths import canonical_path

_COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_COPY_TAIL: Final = struct.pack(">h", -1)
STUMBLES: Final = (struct.error, TypeError, ValueError, AttributeError, OverflowError)
"""What `pack_upsert` raises for an event that needs a closer look."""

_EPOCH_2000_S: Final = 946_684_800
_FIRST_S: Final = -62_135_596_800
_LAST_S: Final = 253_402_300_799
"""The years 1 to 9999: what clients of the database can read back."""
_NULL: Final = b"\xff\xff\xff\xff"
_FIELDS: Final = 27
_LENGTH: Final = struct.Struct(">i").pack
_HEAD: Final = struct.Struct(">hi16s").pack
_PLACE: Final = struct.Struct(">iqiqiiiii?ii").pack
_FACTS: Final = struct.Struct(">iqiqiqiqiqiqiQiQiqiqiqiq").pack
_SIGNED: Final = struct.Struct(">iq").pack
_UNSIGNED: Final = struct.Struct(">iQ").pack
_BY_INODE: Final = struct.Struct("<QQQq").pack
_NO_NUMBERS: Final = _NULL * 12
_NO_TEXTS: Final = _NULL * 6
_MOST_SIGNED: Final = 2**63
_MOST_UNSIGNED: Final = 2**64


class RowRefused(Exception):
    """An event cannot be stored; its text says why."""


class FileData(msgspec.Struct, gc=False):
    """The members of a file event's data that the catalog keeps; any type, checked by packing."""

    path: Any = None
    size: Any = None
    mtime: Any = None
    inode: Any = None
    dev: Any = None
    algo: Any = None
    hash: Any = None
    fsize_du: Any = None
    atime: Any = None
    ctime: Any = None
    seen_at: Any = None
    uid: Any = None
    gid: Any = None
    mode: Any = None
    nlinks: Any = None
    type: Any = None
    owner: Any = None
    group: Any = None
    scan_id: Any = None


def copy_of(rows: Sequence[bytes]) -> bytes:
    """Give rows as one binary COPY."""
    return b"".join([_COPY_HEAD, *rows, _COPY_TAIL])


def key_of(path: str) -> bytes:
    """Give the 16 bytes that stand for a canonical path; the hash cache's tombstones have the same."""
    return xxhash.xxh3_128_digest(path.encode(), seed=1)


def timestamp_of(microseconds: int) -> int:
    """Turn microseconds since 1970 into PostgreSQL's, since 2000."""
    return microseconds - _EPOCH_2000_S * 1_000_000


def pack_upsert(data: FileData, stored: int, seq: int, epoch: int, index: int) -> tuple[bytes, bytes]:
    """Pack an upsert of a frame that a gateway validated, without NUL characters.

    Args:
        data: the event's.
        stored: when the log stored it, `timestamp_of`.
        seq: position of its message.
        epoch: number of its stream.
        index: its place in the message.

    Returns:
        The key and the row.

    Raises:
        STUMBLES: something is missing or unusual: `pack_carefully` may still take it.
    """
    path: str = data.path
    name = path.encode()
    size, dev, inode = data.size, data.dev, data.inode
    mtime, algo, value, scan_id = data.mtime, data.algo, data.hash, data.scan_id
    kind, owner, group = data.type, data.owner, data.group
    if not name or (size is not None and (size.__class__ is not int or size < 0)):
        raise ValueError
    key = xxhash.xxh3_128_digest(name, seed=1)
    try:
        numbers = _FACTS(
            8, size, 8, data.fsize_du, 8, _time(mtime), 8, _time(data.atime), 8, _time(data.ctime),
            8, _time(data.seen_at), 8, dev, 8, inode, 8, data.uid, 8, data.gid, 8, data.mode, 8, data.nlinks,
        )  # fmt: skip
    except (struct.error, TypeError):  # a fact is missing
        numbers = _numbers(data)
    identity = _NULL
    if algo and value and len(value) <= MAX_HASH_CHARS:
        if dev and inode:
            identity = _LENGTH(16) + xxhash.xxh3_128_digest(_BY_INODE(dev, inode, size, int(mtime)))
        elif (by_path := identity_of(data)) is not None:  # type: ignore[arg-type]  # it has the facts' members
            identity = _LENGTH(16) + by_path
    return key, b"".join(
        (
            _HEAD(_FIELDS, 16, key),
            identity,
            _PLACE(8, stored, 8, seq, 4, epoch, 4, index, 1, False, 4, path.rfind("/") + 2),
            numbers,
            _LENGTH(len(name)),
            name,
            _NULL if kind is None else _text(kind),
            _NULL if owner is None else _text(owner),
            _NULL if group is None else _text(group),
            _NULL if algo is None else _text(algo),
            _NULL if value is None else _text(value),
            _NULL if scan_id is None else _text(scan_id),
        )
    )


def pack_carefully(data: FileData, stored: int, seq: int, epoch: int, index: int) -> tuple[bytes, bytes]:
    """Pack an upsert whatever it holds; arguments and result as `pack_upsert`.

    Raises:
        RowRefused: what names the file or its content cannot be stored.
    """
    path = _checked_path(data)
    size = data.size
    if size is not None and _whole(size, _MOST_SIGNED) is None:
        raise RowRefused(f"size is no whole number from 0 to {_MOST_SIGNED - 1}: {size!r:.40}")
    for name in ("algo", "hash"):
        value = getattr(data, name)
        if value is not None and _storable(value) is None:
            raise RowRefused(f"{name} is no text that can be stored: {value!r:.40}")
    clean = FileData(
        path,
        _whole(size, _MOST_SIGNED),
        _instant(data.mtime),
        _whole(data.inode, _MOST_UNSIGNED),
        _whole(data.dev, _MOST_UNSIGNED),
        data.algo,
        data.hash,
        _whole(data.fsize_du, _MOST_SIGNED),
        _instant(data.atime),
        _instant(data.ctime),
        _instant(data.seen_at),
        *(_whole(one, _MOST_SIGNED) for one in (data.uid, data.gid, data.mode, data.nlinks)),
        *(_storable(one) for one in (data.type, data.owner, data.group, data.scan_id)),
    )
    key, row = (
        pack_upsert(clean, stored, seq, epoch, index)
        if _has_identity(clean)
        else _without_identity(clean, stored, seq, epoch, index)
    )
    return key, row


def pack_deletion(data: FileData, stored: int, seq: int, epoch: int, index: int) -> tuple[bytes, bytes]:
    """Pack a deletion: a row that has nothing but the path; arguments and result as `pack_upsert`.

    Raises:
        RowRefused: the path cannot be stored.
    """
    path = _checked_path(data)
    name = path.encode()
    key = key_of(path)
    place = _PLACE(8, stored, 8, seq, 4, epoch, 4, index, 1, True, 4, path.rfind("/") + 2)
    return key, b"".join((_HEAD(_FIELDS, 16, key), _NULL, place, _NO_NUMBERS, _LENGTH(len(name)), name, _NO_TEXTS))


def _has_identity(data: FileData) -> bool:
    """Say whether the fast way can compute the cache's identity, where it would."""
    return not (data.dev and data.inode) or (data.size is not None and data.mtime is not None)


def _without_identity(data: FileData, *place: int) -> tuple[bytes, bytes]:
    """Pack a file that the cache cannot be asked for: size or mtime is missing."""
    algo, value = data.algo, data.hash
    data.algo = data.hash = None
    key, row = pack_upsert(data, *place)
    scan_id = _NULL if data.scan_id is None else _text(data.scan_id)
    texts = (_NULL if algo is None else _text(algo)) + (_NULL if value is None else _text(value))
    return key, row[: -len(_NULL * 2 + scan_id)] + texts + scan_id


def _numbers(data: FileData) -> bytes:
    facts = (data.size, data.fsize_du, *map(_maybe_time, (data.mtime, data.atime, data.ctime, data.seen_at)))
    return b"".join(
        [
            *[_NULL if one is None else _SIGNED(8, one) for one in facts],
            *[_NULL if one is None else _UNSIGNED(8, one) for one in (data.dev, data.inode)],
            *[_NULL if one is None else _SIGNED(8, one) for one in (data.uid, data.gid, data.mode, data.nlinks)],
        ]
    )


def _time(value: float) -> int:
    if _FIRST_S <= value <= _LAST_S:
        return int((value - _EPOCH_2000_S) * 1_000_000)
    raise ValueError


def _maybe_time(value: float | None) -> int | None:
    return None if value is None else _time(value)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _LENGTH(len(encoded)) + encoded


def _checked_path(data: FileData) -> str:
    path = _storable(data.path)
    if not path:
        raise RowRefused(f"path is no text that can be stored: {data.path!r:.40}")
    return canonical_path(path)


def _storable(value: Any) -> str | None:
    """Give back a text that PostgreSQL takes: UTF-8, no NUL character; None for anything else."""
    if not isinstance(value, str) or "\0" in value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None  # half of a surrogate pair
    return value


def _whole(value: Any, end: int) -> int | None:
    """Give a whole number from 0 on and below `end`, however it was written; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if value.__class__ is int and 0 <= value < end else None


def _instant(value: Any) -> float | None:
    """Give back a time that a calendar has; None for anything else."""
    return value if value.__class__ in (int, float) and _FIRST_S <= value <= _LAST_S else None
