"""PostgreSQL's keeper: it brings the catalog up to date, and says how the database is.

Rules of the file:
- Nobody waits for PostgreSQL but who needs it: the log takes events while it starts, and while it is away.

What must change with it: the embedded server is `actors/postgres_server.py`.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.tree import Actor
from engine.bridge import Bridge
from engine.errors import Fault
from engine.postgres import Postgres
from engine.postgres_address import Address, LocateDatabase
from engine.postgres_migrations import QUERY_ROLE, Migrated, Migration, migrate, read_migrations
from engine.postgres_server import OWNER_CONNECTIONS, query_connections

log = structlog.get_logger("postgres")
RETRY_S: Final = 0.02
RETRY_MOST_S: Final = 1.0
LOOK_EVERY_S: Final = 2.0
"""How stale the health of PostgreSQL may be where nobody asks it anything."""
ANSWER_WITHIN_S: Final = 2.0


class Databases:
    """The catalog's database, as its owner and as the role that runs other people's SQL.

    Args:
        bridge: where asyncpg lives.
        locate: where the database is, as its owner.
        is_embedded: it is the gateway's own.
        workers: how many processes of this gateway use it.
    """

    def __init__(self, bridge: Bridge, locate: LocateDatabase, *, is_embedded: bool, workers: int = 1) -> None:
        self._locate = locate
        self._error: str | None = None
        self._query_password = ""
        self.is_embedded = is_embedded
        self.owner = Postgres(bridge, locate, OWNER_CONNECTIONS)
        self.query = Postgres(
            bridge, self._locate_query, query_connections(workers), is_guest=True, is_confined=is_embedded
        )
        self.migrated = trio.Event()
        self.version = 0
        self.identity = ""
        """Names the database for good, once `migrated` is set."""

    @property
    def error(self) -> str | None:
        """Why it does not answer or cannot be used, None while it can."""
        return self._error or self.owner.state()[1]

    def state(self) -> tuple[float, str | None]:
        """Say since when it answers or does not, Trio's clock, and why it does not."""
        age_s, _ = self.owner.state()
        return trio.current_time() - age_s, self.error

    def pending(self) -> str | None:
        """Say why the gateway waits for the database at its start; None once the migrations are done."""
        if self.migrated.is_set():
            return None
        return f"migrations are pending: {self.error or 'they run'}"

    def facts(self) -> dict[str, object]:
        """Give more about it for the health paths, JSON values."""
        return {
            "embedded": self.is_embedded,
            "migrations": "done" if self.migrated.is_set() else "pending",
            "version": self.version,
            "query_role": bool(self._query_password),
        }

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Bring the database up to date as soon as it answers, and look after its health, for ever."""
        ready()
        migrations = await trio.to_thread.run_sync(read_migrations)
        await self._prepare(migrations)
        while True:
            with trio.move_on_after(ANSWER_WITHIN_S) as patience:
                try:
                    await self.owner.run(_ask)
                except Fault as fault:
                    log.debug("PostgreSQL does not answer", error=fault.detail)
            if patience.cancelled_caught:
                self.owner.note(f"PostgreSQL did not answer within {ANSWER_WITHIN_S:g} s")
            await trio.sleep(LOOK_EVERY_S)

    async def aclose(self) -> None:
        """Close every connection."""
        await self.query.aclose()
        await self.owner.aclose()

    async def _prepare(self, migrations: list[Migration]) -> None:
        pause_s = RETRY_S
        while True:
            try:
                async with self.owner.lease() as lease:
                    done: Migrated = await lease.call(migrate, migrations)
            except Fault as fault:
                if pause_s >= RETRY_MOST_S:
                    log.warning("the catalog's database is not ready", error=fault.detail)
                self._error = fault.detail
                await trio.sleep(pause_s)
                pause_s = min(RETRY_MOST_S, pause_s * 2)
                continue
            break
        self._error = None
        self.version, self.identity, self._query_password = done.version, done.identity, done.query_password
        self.migrated.set()
        log.info("catalog ready", version=done.version, applied=done.applied, queries=bool(done.query_password))

    def _locate_query(self) -> Address:
        if not self.migrated.is_set():
            raise FileNotFoundError("the catalog is not ready yet")
        if not self._query_password:
            raise FileNotFoundError(f"the role {QUERY_ROLE} is not there, and the catalog's owner may not make it")
        owner = self._locate()
        return Address(owner.host, owner.port, QUERY_ROLE, self._query_password, owner.database, owner.url)


async def _ask(connection: object) -> None:
    """Ask nothing: to have a connection and a transaction is the answer."""
