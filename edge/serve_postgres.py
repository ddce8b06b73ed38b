"""PostgreSQL's part of the composition: the pools, and the catalog.

Rules of the file:
- The gateway is ready without it: events are taken, and the catalog catches up from the log when it is back.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from actors.catalog import Catalog
from actors.postgres import Databases
from actors.tree import Actor, supervise
from engine.bridge import Bridge
from engine.catalog_store import CatalogStore
from engine.jetstream import JetStream
from engine.postgres_address import LocateDatabase
from engine.settings import Settings


@asynccontextmanager
async def open_databases(
    settings: Settings, root: Actor, bridge: Bridge, locate: LocateDatabase | None
) -> AsyncIterator[Databases | None]:
    """Open the pools and keep the catalog up to date for the length of the block; None where there is no catalog."""
    if locate is None:
        yield None
        return
    databases = Databases(bridge, locate, is_embedded=settings.has_own_database, workers=settings.workers)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(supervise, root, "postgres", databases.run, is_needed=False))
            yield databases
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # bounded: closing a pool has a deadline
            await databases.aclose()


def make_catalog(settings: Settings, log: JetStream, databases: Databases | None) -> Catalog | None:
    """Make the actor that keeps the catalog at what the log says; None where there is no catalog."""
    if databases is None:
        return None
    store = CatalogStore(databases.owner)
    return Catalog(log, settings.stream, store, databases.migrated, lambda: databases.identity)
