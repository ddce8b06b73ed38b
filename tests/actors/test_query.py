"""Who may ask now: slots, a short queue, deadlines, and what a cancelled query leaves behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from actors.query import MOST_WAITING, SLOTS, WAIT_S, Queries
from engine.errors import Refused, Unavailable
from engine.metrics import Metrics
from engine.postgres import Postgres
from engine.query import ANSWER
from engine.query_text import read_query

Clock = trio.testing.MockClock
QUERY = read_query("select 1")


class Hanging:
    """A database that never answers, and counts the leases that are out: the driver's port, without an engine."""

    def __init__(self) -> None:
        self.leases = 0

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Any]:
        """Give a connection on which nothing ever comes."""
        self.leases += 1
        try:
            yield self
        finally:
            self.leases -= 1

    async def call(self, *_: object) -> object:
        """Wait for ever."""
        await trio.sleep_forever()


def make() -> tuple[Queries, Hanging, Metrics]:
    """A desk of queries over a database that hangs."""
    database, metrics = Hanging(), Metrics()
    return Queries(cast("Postgres", database), metrics), database, metrics


async def ask(queries: Queries, told: list[tuple[str, float]]) -> None:
    """Ask once, and note what came of it and when."""
    began = trio.current_time()
    try:
        async with queries.open_query(QUERY, {}, ANSWER):
            raise AssertionError("answered")
    except (Refused, Unavailable) as fault:
        told.append((fault.kind.code, trio.current_time() - began))


async def test_overloaded_here_it_sheds_and_waits_shortly(autojump_clock: Clock) -> None:
    """Overloaded: four run, eight wait for a second, the rest are shed at once; deadlines free the slots."""
    queries, database, metrics = make()
    told: list[tuple[str, float]] = []
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask, queries, told)
        await trio.testing.wait_all_tasks_blocked()
        assert (database.leases, queries.mailbox()) == (SLOTS, (SLOTS + MOST_WAITING, SLOTS + MOST_WAITING))
        with pytest.raises(Unavailable) as caught:
            queries.check_room()
        assert (caught.value.kind.status, caught.value.retry_after_s) == (429, 2.0)
    assert sorted(told) == [
        *[("query.busy", 0.0)] * (50 - SLOTS - MOST_WAITING),
        *[("query.busy", WAIT_S)] * MOST_WAITING,
        *[("query.too-slow", ANSWER.within_s)] * SLOTS,
    ]
    assert (database.leases, queries.mailbox().depth, metrics.queries_shed) == (0, 0, 50 - SLOTS + 1)


async def test_cancelled_here_a_query_leaves_nothing(autojump_clock: Clock) -> None:
    """Cancelled: running and waiting ones give slot, place and connection back, and the next ones run."""
    queries, database, _ = make()
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for _ in range(SLOTS + MOST_WAITING):
                nursery.start_soon(ask, queries, [])
            await trio.testing.wait_all_tasks_blocked()
            assert database.leases == SLOTS
            nursery.cancel_scope.cancel()
        assert (database.leases, queries.mailbox().depth) == (0, 0)


async def test_who_waits_gets_the_slot_that_is_freed(autojump_clock: Clock) -> None:
    """A slot that is given back within the second goes to who waits for it."""
    queries, database, _ = make()
    told: list[tuple[str, float]] = []
    async with trio.open_nursery() as nursery, trio.open_nursery() as first:
        for _ in range(SLOTS):
            first.start_soon(ask, queries, [])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, queries, told)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel_scope.cancel()
    assert [code for code, _ in told] == ["query.too-slow"]
    assert database.leases == 0


async def test_answers_that_nobody_takes_are_bounded() -> None:
    """Overloaded: past 64 MiB on their way the next query is refused before it runs; one that was taken makes room."""
    queries, database, metrics = make()
    let_go = [queries.keep_answer(8 << 20) for _ in range(8)]
    queries.check_room()
    let_go.append(queries.keep_answer(1))
    told: list[tuple[str, float]] = []
    await ask(queries, told)
    assert [code for code, _ in told] == ["query.busy"]
    assert (database.leases, metrics.queries_shed) == (0, 1)
    for one in let_go[1:]:
        one()
    queries.check_room()
