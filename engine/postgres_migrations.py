"""The catalog's migrations: numbered SQL files, run once each, under a lock, in order.

Rules of the file:
- One transaction a file; the row that says it was done is written in it.
- A file that was run is never edited: its checksum is compared at every start.
- Several gateways may start at once: an advisory lock lets one of them migrate while the others wait.

Source: `DESIGN.md` section 5, T37.
"""

import secrets
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

from engine.errors import Refused
from engine.postgres import Connection

FOLDER: Final = Path(__file__).parent / "migrations"
LOCK: Final = 0x6865_6164_6761_7465
"""`headgate`, as PostgreSQL's advisory locks are numbered."""
QUERY_ROLE: Final = "headgate_query"
_LEDGER: Final = """
CREATE SCHEMA IF NOT EXISTS catalog;
CREATE TABLE IF NOT EXISTS catalog.migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS catalog.secrets (name text PRIMARY KEY, value text NOT NULL);
"""


class Migration(NamedTuple):
    """One file.

    Args:
        number: its place in the order, from 1.
        name: the file's name.
        sql: its statements.
        checksum: of its bytes.
    """

    number: int
    name: str
    sql: str
    checksum: str


class Migrated(NamedTuple):
    """What a start found and did.

    Args:
        version: the last migration's number.
        applied: how many this start applied.
        identity: names this database for good.
        query_password: of the query role; empty when there is no such role and it may not be made.
    """

    version: int
    applied: int
    identity: str
    query_password: str


def read_migrations(folder: Path = FOLDER) -> list[Migration]:
    """Read the files `NNNN_<word>.sql`, in order.

    Raises:
        ValueError: the numbers do not run from 1 without a gap.
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        content = path.read_bytes()
        found.append(
            Migration(int(path.name.split("_")[0]), path.name, content.decode(), xxhash.xxh3_128_hexdigest(content))
        )
    if [one.number for one in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations in {folder} are not numbered from 1 without a gap")
    return found


async def migrate(connection: Connection, migrations: list[Migration]) -> Migrated:
    """Bring the database up to date; runs on the asyncio side, outside a transaction.

    Raises:
        Refused: the database was made by another version of these files, or by a newer headgate.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
    try:
        await connection.execute(_LEDGER)
        rows = await connection.fetch("SELECT number, name, checksum FROM catalog.migrations ORDER BY number")
        done = {row["number"]: row for row in rows}
        for number, row in done.items():
            if number > len(migrations):
                raise Refused(
                    "request.conflict", f"the catalog was made by a newer headgate: it has {row['name']}, unknown here"
                )
            if migrations[number - 1].checksum != row["checksum"]:
                raise Refused("request.conflict", f"the migration {row['name']} is not the one that made this catalog")
        pending = [one for one in migrations if one.number not in done]
        for one in pending:
            async with connection.transaction():
                await connection.execute(one.sql)
                await connection.execute(
                    "INSERT INTO catalog.migrations (number, name, checksum) VALUES ($1, $2, $3)",
                    one.number,
                    one.name,
                    one.checksum,
                )
        identity = await _secret(connection, "identity")
        return Migrated(len(migrations), len(pending), identity, await _open_query_role(connection))
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def _secret(connection: Connection, name: str) -> str:
    await connection.execute(
        "INSERT INTO catalog.secrets VALUES ($1, $2) ON CONFLICT DO NOTHING", name, secrets.token_hex(16)
    )
    return str(await connection.fetchval("SELECT value FROM catalog.secrets WHERE name = $1", name))


async def _open_query_role(connection: Connection) -> str:
    """Let the query role in, with a password that only the owner can read; an empty text where there is no role."""
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", QUERY_ROLE):
        return ""
    password = await _secret(connection, "query_password")
    async with connection.transaction():
        # Utility statements take no parameters; the password is 32 hexadecimal digits of our own.
        await connection.execute(f"ALTER ROLE {QUERY_ROLE} LOGIN PASSWORD '{password}'")
    return password
