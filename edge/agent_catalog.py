"""`headgate agent --builtin catalog`: the catalog as a process of its own, fed by a gateway that may be far away.

    DATABASE_URL=postgresql://… headgate agent --gateway https://gateway --durable catalog --builtin catalog

It is the same writer as the gateway's own actor, into `DATABASE_URL`, `DB_HOST` and so on, or a PostgreSQL of its own
in `HEADGATE_DATA`; the gateway may then run with `HEADGATE_CATALOG=off`.

Rules of the file:
- A batch is acknowledged after its commit. While PostgreSQL is away it is given back, and comes again.
- Positions are the log's, with the epoch that the gateway says; so a gateway's own catalog actor and this agent may
  even feed one database.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Final

import trio

from actors.tree import Actor
from edge.client import StreamBatch
from edge.logs import configure_logs
from edge.serve_engines import open_embedded_postgres
from edge.serve_postgres import open_databases
from engine.bridge import open_bridge
from engine.catalog import Rows, Source, take_message
from engine.catalog_store import CatalogStore
from engine.children import locked_folder
from engine.errors import Unavailable
from engine.settings import load_settings

READY_WITHIN_S: Final = 30.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def open_catalog() -> AsyncIterator[Callable[[StreamBatch], Awaitable[None]]]:
    """Open the database that the environment names, bring it up to date, and give what stores a batch.

    Raises:
        Refused: a setting is malformed, the data folder is in use, or the database is another release's.
        Unavailable: the database does not answer.
        ValueError: the environment says that there is no catalog.
    """
    settings = load_settings()
    configure_logs(settings.log_level)
    if settings.catalog == "off":
        raise ValueError("HEADGATE_CATALOG is off; expected on, for an agent that keeps the catalog")
    root = Actor("agent", trio.current_time())
    with locked_folder(settings.data) if settings.has_own_database else nullcontext():
        async with (
            open_embedded_postgres(settings, root) as locate,
            open_bridge() as bridge,
            open_databases(settings, root, bridge, locate) as databases,
        ):
            if databases is None:
                raise ValueError("there is no database")
            with trio.move_on_after(READY_WITHIN_S):
                await databases.migrated.wait()
            if not databases.migrated.is_set():
                raise Unavailable("postgres.down", f"no catalog within {READY_WITHIN_S:g} s: {databases.error}")
            yield CatalogWriter(CatalogStore(databases.owner))


class CatalogWriter:
    """Stores batches. Call it with each.

    Args:
        store: the catalog's tables.
    """

    def __init__(self, store: CatalogStore) -> None:
        self._store = store
        self._epochs: dict[tuple[str, str], int] = {}

    async def __call__(self, batch: StreamBatch) -> None:
        """Store a batch; when this returns, it is on the disk.

        Raises:
            Unavailable: PostgreSQL does not answer; the batch may come again.
        """
        life = batch.stream, batch.epoch
        if life not in self._epochs:
            self._epochs[life] = await self._store.open_epoch(*life)
        epoch = self._epochs[life]
        rows = Rows()
        for message in batch.messages:
            stored_us = (message.time - _EPOCH) // timedelta(microseconds=1) if message.time is not None else 0
            take_message(rows, Source(bytes(message.data), False, message.seq, stored_us), epoch)
            await trio.lowlevel.checkpoint()
        await self._store.write(rows, epoch)
