"""Who may ask the catalog now: a few queries run, a few wait shortly, the rest are told to come back.

Rules of the file:
- A slot is held exactly as long as its query; whatever ends the query ends the transaction and frees the slot.
- Answers that were composed and are not with their clients yet are bounded in bytes: a query is over in a moment, a
  client that does not read holds its answer for as long as it may.
- A query has its deadline here as well as in PostgreSQL, for planning and waiting between fetches count too.

Back-pressure: sheds, with `query.busy`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from actors.tree import Mailbox
from engine.errors import Fault, Refused, Unavailable
from engine.metrics import Metrics
from engine.postgres import Lease, Postgres
from engine.query import Column, Limits, in_users_text, next_fetch_rows, too_wide
from engine.query_reader import Reader
from engine.query_text import QueryText

SLOTS: Final = 4
MOST_WAITING: Final = 8
"""Twice the slots: a burst of short queries passes, and nobody waits behind more than two others."""
WAIT_S: Final = 1.0
RETRY_AFTER_S: Final = 2.0
MOST_UNSENT_BYTES: Final = 64 * 1024 * 1024
"""Eight of the largest answers. Those of queries that run already come on top."""


class Rows:
    """A running query.

    Args:
        lease: its connection.
        reader: what reads it.
        limits: what it may have.
        metrics: counts its rows.
    """

    def __init__(self, lease: Lease, reader: Reader, limits: Limits, metrics: Metrics) -> None:
        self.columns: Sequence[Column] = reader.columns
        self.is_truncated = False
        self.count = 0
        self._lease = lease
        self._reader = reader
        self._limits = limits
        self._metrics = metrics
        self._size_bytes = 0
        self._is_over = False

    async def next_rows(self) -> list[str]:
        """Give the next rows, each a JSON text; none at the end, where `is_truncated` says whether a limit made it.

        Raises:
            Fault: PostgreSQL failed, or a row is too wide.
        """
        if self._is_over:
            return []
        wanted = min(next_fetch_rows(self.count, self._size_bytes), self._limits.rows + 1 - self.count)
        fetched = await self._lease.call(self._reader.fetch, wanted)
        self._is_over = len(fetched) < wanted
        rows: list[str] = []
        for row in fetched:
            if row is None:
                raise too_wide(self.count + len(rows) + 1)
            if self.count + len(rows) >= self._limits.rows or self._size_bytes + len(row) > self._limits.size_bytes:
                self.is_truncated = self._is_over = True
                break
            self._size_bytes += len(row)
            rows.append(row)
        self.count += len(rows)
        self._metrics.query_rows += len(rows)
        return rows


class Queries:
    """What the edge holds of the catalog's queries.

    Args:
        database: the read-only role's connections.
        metrics: where the rows are counted.
        slots: queries that run at once.
        most_waiting: how many may wait for one.
    """

    def __init__(
        self, database: Postgres, metrics: Metrics, *, slots: int = SLOTS, most_waiting: int = MOST_WAITING
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._free = trio.Semaphore(slots, max_value=slots)
        self._slots = slots
        self._most_waiting = most_waiting
        self._waiting = 0
        self._unsent_bytes = 0

    def mailbox(self) -> Mailbox:
        """How many queries run or wait, and how many may."""
        return Mailbox(self._slots - self._free.value + self._waiting, self._slots + self._most_waiting)

    def keep_answer(self, size_bytes: int) -> Callable[[], None]:
        """Count an answer that is on its way to its client; gives what says that it is no longer kept."""
        self._unsent_bytes += size_bytes

        def let_go() -> None:
            self._unsent_bytes -= size_bytes

        return let_go

    def check_room(self) -> None:
        """Refuse when no further query may even wait, or too much of what was answered is not taken.

        Raises:
            Unavailable: so it is.
        """
        if self._unsent_bytes > MOST_UNSENT_BYTES:
            self._metrics.queries_shed += 1
            raise Unavailable(
                "query.busy",
                f"{self._unsent_bytes} bytes of answers wait for their clients; the limit is {MOST_UNSENT_BYTES}",
                RETRY_AFTER_S,
            )
        if self._free.value == 0 and self._waiting >= self._most_waiting:
            raise self._busy()

    @asynccontextmanager
    async def open_query(
        self, query: QueryText, params: Mapping[str, object], limits: Limits, *, as_texts: bool = False
    ) -> AsyncIterator[Rows]:
        """Run a query for the length of the block.

        Raises:
            Refused: PostgreSQL would not, or a limit was met; with the position in the user's text.
            Unavailable: too many queries run, or PostgreSQL is away.

        Cancellation: the query ends with it.
        """
        async with self._open_slot():
            with trio.move_on_after(limits.within_s) as patience:
                failure: Fault | None = None
                reader = Reader(query, params, limits.rows + 1, as_texts=as_texts)
                async with self._database.lease() as lease:
                    try:
                        await lease.call(reader.open)
                        yield Rows(lease, reader, limits, self._metrics)
                    except Refused as fault:
                        failure = fault
                    except Unavailable as fault:
                        if "sqlstate" not in fault.members:
                            raise
                        failure = fault  # ended at a limit: the connection is good, and goes back
                    await lease.call(reader.close)
                if failure is not None:
                    raise in_users_text(failure, reader.rendered, query.sql) from failure
            if patience.cancelled_caught:
                raise Refused("query.too-slow", f"the query took longer than the limit of {limits.within_s:g} s")

    @asynccontextmanager
    async def _open_slot(self) -> AsyncIterator[None]:
        self.check_room()
        try:
            self._free.acquire_nowait()  # who finds a slot free has not waited, and takes nobody's place in the queue
        except trio.WouldBlock:
            await self._wait_slot()
        try:
            yield
        finally:
            self._free.release()

    async def _wait_slot(self) -> None:
        self._waiting += 1
        try:
            with trio.move_on_after(WAIT_S) as patience:
                await self._free.acquire()
        finally:
            self._waiting -= 1
        if patience.cancelled_caught:
            raise self._busy()

    def _busy(self) -> Unavailable:
        self._metrics.queries_shed += 1
        return Unavailable(
            "query.busy",
            f"{self._slots - self._free.value} queries run and {self._waiting} wait; "
            f"the limits are {self._slots} and {self._most_waiting}",
            RETRY_AFTER_S,
        )
