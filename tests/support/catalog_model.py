"""What the catalog must hold, computed from the log's messages by the plainest means, and random events to feed it.

Rules of the file:
- Nothing of the product's rules is used: a mistake there must not be repeated here.
- A row is what the newest event about a path says; the model reads messages in the order of the log, once.
"""

import json
import os
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio

from engine.bridge import open_bridge
from engine.postgres import Postgres
from engine.postgres_address import Address
from tests.support.gateway import Gateway
from tests.support.postgres import fetch

__all__ = ["COLUMNS", "FileRow", "Model", "messages_of", "open_catalog_of", "random_event", "read_table"]


class FileRow(NamedTuple):
    """What is compared of a row."""

    seq: int
    event: int
    is_deleted: bool
    size: int | None
    mtime_us: int | None
    inode: int | None
    dev: int | None
    mode: int | None
    owner: str | None
    algo: str | None
    hash: str | None
    scan_id: str | None


COLUMNS = (
    "path, seq, event, is_deleted, size, (extract(epoch from mtime) * 1000000)::bigint, "
    "catalog.unsigned(inode) AS inode, catalog.unsigned(dev) AS dev, mode, owner, algo, hash, scan_id"
)


class Model:
    """The catalog's files, by path."""

    def __init__(self) -> None:
        self.files: dict[str, FileRow] = {}
        self.events = 0
        self.refused = 0

    def take(self, sequence: int, payload: bytes) -> None:
        """Read one message of the log; they must come in order."""
        for index, event in enumerate(json.loads(payload)["events"]):
            self.events += 1
            data = event["data"]
            if event["type"] not in ("file.upsert", "file.delete"):
                continue
            path, size = data.get("path"), data.get("size")
            texts = (path or "", data.get("algo") or "", data.get("hash") or "")
            is_upsert = event["type"] == "file.upsert"
            is_storable = bool(path) and all(is_text(one) for one in (texts if is_upsert else texts[:1]))
            has_wrong_size = is_upsert and size is not None and as_whole(size, 2**63) is None
            if not is_storable or has_wrong_size:
                self.refused += 1
            elif is_upsert:
                mtime = data.get("mtime")
                is_time = isinstance(mtime, int | float) and -62_135_596_800 <= mtime <= 253_402_300_799
                self.files[path] = FileRow(
                    sequence,
                    index,
                    False,
                    as_whole(size, 2**63),
                    int((mtime - 946_684_800) * 1_000_000) + 946_684_800_000_000 if is_time else None,
                    as_whole(data.get("inode"), 2**64),
                    as_whole(data.get("dev"), 2**64),
                    as_whole(data.get("mode"), 2**63),
                    data["owner"] if is_text(data.get("owner")) else None,
                    data.get("algo"),
                    data.get("hash"),
                    data["scan_id"] if is_text(data.get("scan_id")) else None,
                )
            else:
                self.files[path] = FileRow(sequence, index, True, *[None] * 9)


def is_text(value: object) -> bool:
    """Whether PostgreSQL can hold it as text."""
    return isinstance(value, str) and "\0" not in value and value.isprintable() | value.isascii()


def as_whole(value: Any, end: int) -> int | None:
    """The whole number below `end` that it is, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if 0 <= value < end else None


def random_event(chance: random.Random, names_count: int) -> dict[str, Any]:
    """An event about one of so many files: mostly an upsert, some deletions, some that cannot be stored."""
    path = f"/show/seq_{chance.randrange(7)}/file_{chance.randrange(names_count)}.exr"
    roll = chance.random()
    if roll < 0.12:
        return {"type": "file.delete", "data": {"path": path}}
    if roll < 0.14:
        return {"type": "note.taken", "data": {"path": path}}
    data: dict[str, Any] = {
        "path": path,
        "size": chance.randrange(1 << 40),
        "mtime": 1_763_640_000 + chance.randrange(1000) / 8,
        "inode": chance.randrange(1, 1 << 64),
        "dev": 64769,
        "mode": 33188,
        "owner": chance.choice(["render", "artists", "Jürgen"]),
        "algo": "xxh3_128",
        "hash": f"{chance.randrange(1 << 128):032x}",
        "scan_id": "a-scan",
    }
    for name in chance.sample(sorted(data.keys() - {"path"}), chance.choice((0, 0, 0, 1, 3))):
        del data[name]
    if roll > 0.97:
        data |= chance.choice(
            (
                {"path": "/nul\0byte"},
                {"path": ""},
                {"size": -1},
                {"size": 1 << 70},
                {"size": "large"},
                {"size": True},
                {"hash": "nul\0"},
                {"mtime": 1e300},
                {"mtime": "yesterday"},
                {"mode": "0644"},
                {"inode": -5},
                {"owner": "nul\0"},
                {"owner": 7},
                {"scan_id": ["no", "text"]},
            )
        )
    return {"type": "file.upsert", "data": data}


def messages_of(chance: random.Random, count: int, most_events: int, names_count: int) -> list[bytes]:
    """Frames of random events, as they lie on the log."""
    return [
        json.dumps(
            {"events": [random_event(chance, names_count) for _ in range(chance.randint(1, most_events))]},
            separators=(",", ":"),
        ).encode()
        for _ in range(count)
    ]


def model_of(messages: Iterable[tuple[int, bytes]]) -> Model:
    """Read the log's messages, in order."""
    model = Model()
    for sequence, payload in messages:
        model.take(sequence, payload)
    return model


async def read_table(postgres: Postgres) -> dict[str, FileRow]:
    """What the table holds, by path."""
    rows = await postgres.run(fetch, f"SELECT {COLUMNS} FROM catalog.files")  # noqa: S608  # names above
    table = {}
    for row in rows:
        path, *values = row.values()
        values[5:7] = [None if one is None else int(one) for one in values[5:7]]
        table[path] = FileRow(*values)
    assert len(table) == len(rows)
    return table


@asynccontextmanager
async def open_catalog_of(gateway: Gateway) -> AsyncIterator[Postgres]:
    """A connection of the test's own to a running gateway's embedded PostgreSQL, as its owner."""
    folder = gateway.data_dir / "postgres"
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # a socket's path may be too long, this one never is
    try:
        secret = await trio.Path(folder / "secret").read_text()
        address = Address(f"/proc/self/fd/{descriptor}", 5432, "headgate", secret, "postgres")
        async with open_bridge() as bridge:
            postgres = Postgres(bridge, lambda: address, 1)
            yield postgres
            await postgres.aclose()
    finally:
        os.close(descriptor)
