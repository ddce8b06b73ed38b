"""The catalog's tables, as units of work: take in rows, tell streams apart, answer the cache.

Rules of the file:
- A batch is one transaction, and one crossing of the bridge.
- A batch is copied into a table of the session's own and goes from there into the catalog in one statement: measured
  against rows as arrays and against single upserts, this costs the least on both sides.
- An older event never overwrites a newer one, so the same batch may come again, in part and in any order.
"""

from io import BytesIO
from typing import Final, NamedTuple

from engine.catalog import Rows, ScanRow
from engine.catalog_rows import copy_of
from engine.errors import Refused
from engine.postgres import Connection, Postgres

_STAGING: Final = """
CREATE TEMPORARY TABLE IF NOT EXISTS staged_files (LIKE catalog.files) ON COMMIT DELETE ROWS
"""
_COLUMNS: Final = (
    "key, identity, stored_at, seq, epoch, event, is_deleted, name_at, size, disk_size, mtime, atime, ctime, seen_at, "
    "dev, inode, uid, gid, mode, nlinks, path, kind, owner, group_name, algo, hash, scan_id"
)
_MERGE: Final = f"""
INSERT INTO catalog.files AS known ({_COLUMNS})
SELECT {_COLUMNS} FROM pg_temp.staged_files
ON CONFLICT (key) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[1:])}
WHERE (known.epoch, known.seq, known.event) < (excluded.epoch, excluded.seq, excluded.event)
"""  # noqa: S608  # the columns' names above, and nothing from outside
_SCAN: Final = """
INSERT INTO catalog.scan_events AS known (key, kind, seq, event, stored_at, scan_id, root_path, data, epoch)
VALUES ($1, $2, $3, $4, to_timestamp($5::double precision / 1000000), $6, $7, $8::jsonb, $9)
ON CONFLICT (key, kind) DO UPDATE SET
    seq = excluded.seq, event = excluded.event, stored_at = excluded.stored_at, scan_id = excluded.scan_id,
    root_path = excluded.root_path, data = excluded.data, epoch = excluded.epoch
WHERE (known.epoch, known.seq, known.event) < (excluded.epoch, excluded.seq, excluded.event)
"""
_FIND: Final = """
SELECT 0 AS kind, identity AS key, algo, hash, (extract(epoch FROM stored_at) * 1000000)::bigint AS stored_us
FROM catalog.files
WHERE identity = ANY($1::bytea[]) AND identity IS NOT NULL
UNION ALL
SELECT 1, key, NULL, NULL, (extract(epoch FROM stored_at) * 1000000)::bigint
FROM catalog.files
WHERE key = ANY($2::bytea[]) AND is_deleted
"""


class Known(NamedTuple):
    """What the catalog knows of some files.

    Args:
        entries: algorithm, hash and when the log stored it (microseconds), by identity; the newest of each.
        deleted: when the log stored the deletion, microseconds, by the path's digest.
    """

    entries: dict[bytes, tuple[str, str, int]]
    deleted: dict[bytes, int]


class Written(NamedTuple):
    """What became of a batch.

    Args:
        rows: file rows that were new or newer than what was known.
        refused: rows that PostgreSQL would not take, one text each.
    """

    rows: int
    refused: list[str]


class CatalogStore:
    """The catalog in PostgreSQL.

    Args:
        postgres: its owner's connections.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def open_epoch(self, stream: str, created: str) -> int:
        """Give the number of a stream, by its name and when it was created: newer streams have larger numbers.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        return await self._postgres.run(_open_epoch, stream, created)

    async def write(self, rows: Rows, epoch: int) -> Written:
        """Take in a batch; when this returns, it is on the disk.

        A row that PostgreSQL refuses, which packing should have found, is looked for and left out; the rest is taken.

        Raises:
            Unavailable: PostgreSQL does not answer; the same batch may be written again.
        """
        return await self._write(rows.sorted_files(), rows.sorted_scans(), epoch)

    async def find(self, identities: list[bytes], paths: list[bytes]) -> Known:
        """Look up what the catalog knows of files, in one query.

        Args:
            identities: the cache's keys.
            paths: digests of paths, whose deletions are asked for.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        return await self._postgres.run(_find, identities, paths)

    async def _write(self, files: list[bytes], scans: list[ScanRow], epoch: int) -> Written:
        try:
            return Written(await self._postgres.run(_write_rows, files, scans, epoch), [])
        except Refused as problem:
            if len(files) + len(scans) <= 1:
                what = scans[0].data if scans else repr(files[0]) if files else ""
                return Written(0, [f"{problem.detail}: {what:.200}"])
        cut, scan_cut = (len(files) + 1) // 2, len(scans) // 2
        first = await self._write(files[:cut], scans[:scan_cut], epoch)
        second = await self._write(files[cut:], scans[scan_cut:], epoch)
        return Written(first.rows + second.rows, first.refused + second.refused)


# ---------------------------------------------------------------------- on the asyncio side


async def _open_epoch(connection: Connection, stream: str, created: str) -> int:
    await connection.execute(
        "INSERT INTO catalog.epochs (stream, created) VALUES ($1, $2) ON CONFLICT DO NOTHING", stream, created
    )
    return int(
        await connection.fetchval(
            "SELECT epoch FROM catalog.epochs WHERE stream = $1 AND created = $2", stream, created
        )
    )


async def _write_rows(connection: Connection, files: list[bytes], scans: list[ScanRow], epoch: int) -> int:
    written = 0
    if files:
        await connection.execute(_STAGING)
        await connection.copy_to_table("staged_files", source=BytesIO(copy_of(files)), format="binary")
        status = await connection.execute(_MERGE)
        written = int(status.split()[-1])
    if scans:
        await connection.executemany(_SCAN, [(*row, epoch) for row in scans])
    return written


async def _find(connection: Connection, identities: list[bytes], paths: list[bytes]) -> Known:
    entries: dict[bytes, tuple[str, str, int]] = {}
    deleted: dict[bytes, int] = {}
    for kind, key, algo, value, stored_us in await connection.fetch(_FIND, identities, paths):
        if kind:
            deleted[key] = stored_us
        elif key not in entries or entries[key][2] < stored_us:
            entries[key] = algo, value, stored_us
    return Known(entries, deleted)
