"""PostgreSQL's part of the composition: the embedded server, outermost of all children, and the pools on it.

Rules of the file:
- The embedded PostgreSQL starts first and stops last, after the log's server: who uses it is gone by then.
- The gateway is ready without it: events are taken, and the catalog catches up from the log when it is back.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from actors.catalog import Catalog
from actors.postgres import Databases, run_embedded_postgres
from actors.tree import Actor, supervise
from engine.bridge import Bridge
from engine.catalog_store import CatalogStore
from engine.jetstream import JetStream
from engine.postgres_address import Address, LocateDatabase
from engine.postgres_server import EmbeddedPostgres
from engine.settings import Settings


@asynccontextmanager
async def open_embedded_postgres(
    settings: Settings, nest: Actor, *, is_ours: bool = True
) -> AsyncIterator[LocateDatabase | None]:
    """Start the embedded PostgreSQL, where there is to be one, for the length of the block.

    Args:
        settings: say which database.
        nest: where its process stands in the tree.
        is_ours: this process runs it; otherwise the parent does.

    Gives:
        Where the catalog's database is; None when there is no catalog.
    """
    if settings.catalog == "off":
        yield None
    elif not settings.has_own_database:
        yield partial(_external, settings)
    elif not is_ours:
        other = EmbeddedPostgres.run_by_another(settings.data.resolve() / "postgres")
        try:
            yield other.address
        finally:
            other.close()
    else:
        embedded = EmbeddedPostgres(settings.data.resolve() / "postgres")
        try:
            async with trio.open_nursery() as nursery:
                run = partial(run_embedded_postgres, embedded)
                nursery.start_soon(partial(supervise, nest, "postgres", run, is_needed=False))
                yield embedded.address
                nursery.cancel_scope.cancel()
        finally:
            embedded.close()


@asynccontextmanager
async def open_databases(
    settings: Settings, root: Actor, bridge: Bridge, locate: LocateDatabase | None
) -> AsyncIterator[Databases | None]:
    """Open the pools and keep the catalog up to date for the length of the block; None where there is no catalog."""
    if locate is None:
        yield None
        return
    databases = Databases(bridge, locate, is_embedded=settings.has_own_database)
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


def _external(settings: Settings) -> Address:
    if settings.database_url:
        return Address(url=settings.database_url)
    return Address(settings.db_host, settings.db_port, settings.db_user, settings.db_password, settings.db_name)
