"""The embedded engines, outermost of all: they start first and stop last.

Rules of the file:
- PostgreSQL starts before the log's server and stops after it: who uses them is gone by then.
- What this file imports delays the engines; everything else is imported while they start (`edge/serve_start.py`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import trio

from actors.children import run_embedded_log
from actors.postgres_server import run_embedded_postgres
from actors.tree import Actor, supervise
from engine.children import locked_folder
from engine.endpoints import Locate, rotation
from engine.nats_server import EmbeddedLog
from engine.postgres_address import Address, LocateDatabase
from engine.postgres_server import EmbeddedPostgres
from engine.settings import Settings


class Engines(NamedTuple):
    """What a gateway stands on.

    Args:
        root: the tree of actors, which begins with the engines.
        embedded: the log's server, None where others run it.
        locate: where the log is.
        locate_database: where the catalog's database is, None where there is no catalog.
        are_local: what they store is on this machine's disk.
    """

    root: Actor
    embedded: EmbeddedLog | None
    locate: Locate
    locate_database: LocateDatabase | None
    are_local: bool


@asynccontextmanager
async def open_engines(settings: Settings, *, is_ours: bool = True) -> AsyncIterator[Engines]:
    """Run the embedded engines for the length of the block.

    Args:
        settings: say which there are.
        is_ours: this process runs them; otherwise its parent does.

    Raises:
        Refused: the data folder is in use.
    """
    root = Actor("headgate", trio.current_time())
    embedded = None if settings.nats_url else EmbeddedLog(settings.data.resolve() / "nats", settings.durability)
    locate = embedded.endpoint if embedded is not None else rotation(settings.nats_url)
    are_local = embedded is not None or settings.has_own_database
    with locked_folder(settings.data) if are_local and is_ours else nullcontext(), root.child("children") as nest:
        async with (
            open_embedded_postgres(settings, nest, is_ours=is_ours) as locate_database,
            trio.open_nursery() as children,
        ):
            if embedded is not None and is_ours:
                children.start_soon(partial(supervise, nest, "nats", partial(run_embedded_log, embedded)))
            yield Engines(root, embedded, locate, locate_database, are_local)
            children.cancel_scope.cancel()


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
        embedded = EmbeddedPostgres(settings.data.resolve() / "postgres", settings.workers)
        try:
            async with trio.open_nursery() as nursery:
                run = partial(run_embedded_postgres, embedded)
                nursery.start_soon(partial(supervise, nest, "postgres", run, is_needed=False))
                yield embedded.address
                nursery.cancel_scope.cancel()
        finally:
            embedded.close()


def _external(settings: Settings) -> Address:
    if settings.database_url:
        return Address(url=settings.database_url)
    return Address(settings.db_host, settings.db_port, settings.db_user, settings.db_password, settings.db_name)
