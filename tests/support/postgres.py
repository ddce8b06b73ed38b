"""A real PostgreSQL for tests: the embedded one, as the gateway runs it, without a gateway.

Rules of the file:
- It is the product's own actor under the product's own supervisor, so what the tests prove holds there.
- Whatever happens in the test, afterwards no process of it is alive.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from actors.postgres import Databases
from actors.postgres_server import run_embedded_postgres
from actors.tree import Actor, supervise
from engine.bridge import open_bridge
from engine.children import stop_leftovers
from engine.postgres_server import EmbeddedPostgres, find_binaries
from tests.support.processes import ProcessName, kill_process

__all__ = ["RealPostgres", "execute", "fetch", "open_real_postgres"]

READY_WITHIN_S = 20.0


class RealPostgres:
    """The embedded PostgreSQL of a test and the pools on it."""

    def __init__(self, folder: Path, databases: Databases, root: Actor) -> None:
        self.folder = folder
        self.databases = databases
        self.root = root

    @property
    def process(self) -> ProcessName:
        """The postmaster."""
        name = ProcessName.of(int(json.loads((self.folder / "postgres.json").read_text())["pid"]))
        assert name is not None
        return name

    def kill(self) -> None:
        """SIGKILL the postmaster; its supervisor starts another."""
        kill_process(self.process)

    async def fetch(self, sql: str, *args: object) -> list[dict[str, Any]]:
        """Run one query as the owner and give its rows."""
        return await self.databases.owner.run(fetch, sql, args)


async def fetch(connection: Any, sql: str, args: tuple[object, ...] = ()) -> list[dict[str, Any]]:
    """A unit of work: one query, its rows as dicts."""
    return [dict(row) for row in await connection.fetch(sql, *args)]


async def execute(connection: Any, sql: str) -> str:
    """A unit of work: statements without parameters, the last one's status."""
    return str(await connection.execute(sql))


@asynccontextmanager
async def open_real_postgres(
    folder: Path, *, is_migrated: bool = True, make: Callable[[Path], EmbeddedPostgres] = EmbeddedPostgres
) -> AsyncIterator[RealPostgres]:
    """Run a PostgreSQL in `folder/postgres` for the length of the block; migrated when it is entered."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240  # once, before anything runs
    embedded = make(folder / "postgres")
    root = Actor("test", trio.current_time())
    try:
        async with trio.open_nursery() as children, open_bridge() as bridge:
            run: Callable[..., Any] = partial(run_embedded_postgres, embedded)
            children.start_soon(partial(supervise, root, "server", run))
            databases = Databases(bridge, embedded.address, is_embedded=True)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(supervise, root, "keeper", databases.run))
                    if is_migrated:
                        with trio.fail_after(READY_WITHIN_S):
                            await databases.migrated.wait()
                    yield RealPostgres(folder, databases, root)
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):  # closing a pool has a deadline
                    await databases.aclose()
            children.cancel_scope.cancel()
    finally:
        embedded.close()
        with contextlib.suppress(FileNotFoundError):
            assert not stop_leftovers(find_binaries() / "bin" / "postgres", embedded.cluster)
