"""PostgreSQL through asyncpg, behind the bridge: units of work, leases, and errors as situations.

Rules of the file:
- One crossing a unit of work: `run(fn, …)` runs the whole transaction on the asyncio side, so that a cancelled caller
  never leaves one half open.
- No foreign object or exception comes out: every error is translated by the table below, by its SQLSTATE.
- A broken connection is thrown away; the next unit of work opens another.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar, TypeVarTuple, Unpack

import asyncpg
import trio

from engine.bridge import Bridge
from engine.confine import confine
from engine.errors import Fault, Refused, Unavailable
from engine.postgres_address import LocateDatabase

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Connection: TypeAlias = Any
"""An asyncpg connection of a pool: asyncpg's own types do not say what it is."""

CONNECT_WITHIN_S: Final = 3.0
ACQUIRE_WITHIN_S: Final = 5.0
"""Who gets no connection within this is told that there is no room."""
IDLE_S: Final = 60.0
CLOSE_WITHIN_S: Final = 2.0

DOWN: Final = "postgres.down"
BUSY: Final = "postgres.busy"
REFUSED: Final = "postgres.refused"
CANCELLED: Final = "postgres.cancelled"
FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that broke between two of its own steps
    OSError,
    TimeoutError,
    EOFError,
)
"""Everything that asyncpg raises; nothing of it may come out."""
SITUATIONS: Final[dict[str, str]] = {
    "57014": CANCELLED,  # query_canceled: a time limit, or somebody's pg_cancel_backend
    "57P01": DOWN,  # admin_shutdown
    "57P02": DOWN,  # crash_shutdown
    "57P03": DOWN,  # cannot_connect_now: starting or stopping
    "57P05": DOWN,  # idle_session_timeout
    "25P03": CANCELLED,  # idle_in_transaction_session_timeout
    "55P03": BUSY,  # lock_not_available
    "08": DOWN,  # connection exceptions
    "28": DOWN,  # not let in: a wrong password is repaired by whoever runs the gateway, not by its client
    "3D": DOWN,  # no such database
    "40": BUSY,  # serialization, deadlock: the same again may succeed
    "53": BUSY,  # insufficient resources: connections, memory, disk, temp_file_limit
    "58": DOWN,  # system errors outside PostgreSQL
    "XX": DOWN,  # its internal errors
}
"""What an SQLSTATE means: by the whole code first, by its class second; what is not named was refused."""


class Postgres:
    """One role's connections to one database.

    Args:
        bridge: where asyncpg lives.
        locate: where the database is.
        most: the most connections.
        is_guest: the role runs other people's SQL: nothing that it leaves in a session survives, and nothing is
            prepared by name.
        is_confined: its processes run here under our account, and the kernel limits them.
    """

    def __init__(
        self,
        bridge: Bridge,
        locate: LocateDatabase,
        most: int,
        *,
        is_guest: bool = False,
        is_confined: bool = False,
    ) -> None:
        self._bridge = bridge
        self._locate = locate
        self._most = most
        self._is_guest = is_guest
        self._is_confined = is_confined
        self._pool: asyncpg.Pool | None = None
        self._since = time.monotonic()
        self._error: str | None = "not asked yet"

    def state(self) -> tuple[float, str | None]:
        """Say for how many seconds it has answered or not, and why it does not."""
        return time.monotonic() - self._since, self._error

    async def run(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run `fn(connection, *args)` as one transaction: commit when it returns, roll back when it raises.

        Raises:
            Unavailable: PostgreSQL does not answer, has no room, or ended it at a limit.
            Refused: PostgreSQL said no; the members have `sqlstate`, `position` and `hint`.
            Fault: whatever `fn` raised of ours.

        Cancellation: rolled back before it is raised here.
        """
        return await self._cross(self._unit_of_work, fn, args)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator["Lease"]:
        """Keep one connection over several crossings, for what is taken piece by piece.

        Raises:
            Unavailable: there is none to be had.

        Closes: the connection goes back when the block ends well, and is thrown away otherwise.
        """
        connection = await self._cross(self._acquire)
        is_whole = False
        try:
            yield Lease(self, connection)
            is_whole = True
        finally:
            with trio.CancelScope(shield=True):  # bounded: `_release` has a deadline
                await self._bridge.call(self._release, connection, is_whole)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._bridge.call(self._close)

    # ------------------------------------------------------------------ on the asyncio side

    async def _cross(self, fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        try:
            result = await self._bridge.call(fn, *args)
        except Fault:
            raise
        except FAILURES as problem:
            fault = translate(problem)
            self.note(fault.detail if fault.kind.code == DOWN else None)
            raise fault from problem
        self.note(None)
        return result

    def note(self, error: str | None) -> None:
        """Take over what was seen of it: why it does not answer, or None when it does."""
        if (error is None) != (self._error is None):
            self._since = time.monotonic()
        self._error = error

    async def _unit_of_work(self, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        connection = await self._acquire()
        is_whole = False
        try:
            transaction = connection.transaction()
            await transaction.start()
            try:
                result = await fn(connection, *args)
            except (asyncpg.PostgresError, Fault):
                await transaction.rollback()
                is_whole = True
                raise
            await transaction.commit()
            is_whole = True
            return result
        finally:
            # Whoever was cancelled waits for no ROLLBACK: a server that hangs would hold it for ever. It is rolled
            # back when the connection ends.
            await asyncio.shield(self._release(connection, is_whole))

    async def _acquire(self) -> Connection:
        if self._pool is None:
            self._pool = self._make_pool()
            await self._pool
        return await self._pool.acquire(timeout=ACQUIRE_WITHIN_S)

    async def _release(self, connection: Connection, is_whole: bool) -> None:
        assert self._pool is not None  # noqa: S101  # it gave the connection
        try:
            if not is_whole:
                await asyncio.sleep(0)  # asyncpg asks the server to cancel what was running as soon as it may
                connection.terminate()
            await self._pool.release(connection, timeout=CLOSE_WITHIN_S)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError):
            return  # it broke while it was being reset, or before: the pool has dropped it already

    def _make_pool(self) -> asyncpg.Pool:
        return asyncpg.create_pool(
            connect=self._connect,
            min_size=0,
            max_size=self._most,
            max_inactive_connection_lifetime=IDLE_S,
            connection_class=_Guest if self._is_guest else asyncpg.Connection,
            timeout=CONNECT_WITHIN_S,
            statement_cache_size=0 if self._is_guest else 100,
            reset=_forget_everything if self._is_guest else None,
            server_settings={"application_name": "headgate query" if self._is_guest else "headgate"},
        )

    async def _connect(self, _: None, **options: Any) -> Any:
        """Connect for the pool, whose own address is None: it is looked up each time."""
        connection = await asyncpg.connect(**options, **self._locate().arguments())
        if self._is_confined:
            try:
                await asyncio.to_thread(confine, connection.get_server_pid())
            except BaseException:  # whoever waited has gone: the pool never learns of this connection
                connection.terminate()
                raise
        return connection

    async def _close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), CLOSE_WITHIN_S)
            except FAILURES:
                pool.terminate()


class Lease:
    """One connection, held by `Postgres.lease`."""

    def __init__(self, postgres: Postgres, connection: Connection) -> None:
        self._postgres = postgres
        self._connection = connection

    async def call(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run `fn(connection, *args)` on the asyncio side; transactions are the caller's.

        Raises:
            Unavailable, Refused, Fault: as `Postgres.run`.
        """
        return await self._postgres._cross(fn, self._connection, *args)  # noqa: SLF001  # two classes, one noun


class _Guest(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A guest's connection: it may not call set_config, by which asyncpg puts off the JIT while it asks for types."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._server_caps: Any = self._server_caps._replace(jit=False)


async def _forget_everything(connection: Any) -> None:
    await connection.execute("DISCARD ALL")


def translate(problem: Exception) -> Fault:
    """Say what an error of asyncpg means, by the table."""
    if isinstance(problem, asyncpg.PostgresError):
        sqlstate = problem.sqlstate or "XX000"
        code = SITUATIONS.get(sqlstate) or SITUATIONS.get(sqlstate[:2]) or REFUSED
        text = problem.args[0] if problem.args else type(problem).__name__
        if code == REFUSED:
            position = getattr(problem, "position", None)
            hint = getattr(problem, "hint", None)
            return Refused(code, str(text), sqlstate=sqlstate, position=int(position) if position else None, hint=hint)
        return Unavailable(code, f"PostgreSQL: {text}", sqlstate=sqlstate)
    if isinstance(problem, asyncpg.DataError):
        return Refused(REFUSED, str(problem), sqlstate="22000", position=None, hint=None)
    if isinstance(problem, TimeoutError):
        return Unavailable(BUSY, f"PostgreSQL gave no connection within {ACQUIRE_WITHIN_S:g} s")
    return Unavailable(DOWN, f"PostgreSQL is not reachable: {str(problem) or type(problem).__name__}")
