"""What strangers' SQL can do to the database: nothing (T28, `RELIABILITY.md` 4.4)."""

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from actors.query import Queries
from engine.confine import MOST_MEMORY_BYTES, NICENESS
from engine.errors import Fault, Unavailable
from engine.metrics import Metrics
from engine.query import Limits
from engine.query_text import read_query
from tests.support.postgres import RealPostgres, execute, fetch, open_real_postgres
from tests.support.sql_corpus import HARMLESS, REFUSED, random_statement
from tests.support.waiting import wait_until

TIMEOUT_S = 0.5
GRACE_S = 0.2
SLACK_S = 0.3
"""For a loaded machine: what the test itself and a scheduler take; the product's own grace is the 200 ms before it."""


UNWRAPPED = [
    "insert into catalog.canary values (2)",
    "delete from catalog.canary",
    "select * from catalog.canary",
    "create temp table mine (n int)",
    "create table headgate.mine (n int)",
    "create table public.mine (n int)",
    "create schema mine",
    "set session authorization headgate",
    "copy headgate.files to '/tmp/stolen'",
    "copy headgate.files to program 'id'",
    "select pg_advisory_lock(1)",
    "select pg_sleep(9)",
    "do $$ begin delete from catalog.canary; end $$",
    "alter role headgate_query superuser",
    "alter role headgate password 'x'",
]


class Scene:
    """A PostgreSQL with a canary, and the queries' way into it."""

    def __init__(self, postgres: RealPostgres) -> None:
        self.postgres = postgres
        self.queries = Queries(postgres.databases.query, Metrics())

    async def run(self, sql: str) -> tuple[list[str], Fault | None, float]:
        """Ask as the route does; the rows, what was wrong, and how long the slot was taken."""
        rows: list[str] = []
        began = time.monotonic()
        failure: Fault | None = None
        try:
            limits = Limits(1000, 1 << 20, TIMEOUT_S)
            async with self.queries.open_query(read_query(sql), {}, limits) as running:
                while more := await running.next_rows():
                    rows += more
        except Fault as fault:
            failure = fault
        return rows, failure, time.monotonic() - began

    async def check_unharmed(self) -> None:
        """The canary lives, nothing of the role's is left, and its sessions are as they were made."""
        assert await self.postgres.fetch("select n from catalog.canary") == [{"n": 1}]
        left = await self.postgres.fetch(
            "select (select count(*) from pg_locks where locktype = 'advisory') as locks, "
            "(select count(*) from pg_class where relowner = 'headgate_query'::regrole) as made, "
            "(select count(*) from pg_prepared_xacts) as prepared, "
            "(select count(*) from pg_largeobject_metadata) as objects"
        )
        assert left == [{"locks": 0, "made": 0, "prepared": 0, "objects": 0}]

    async def wait_cpu_free(self) -> None:
        """No session of the role's works any more."""

        async def idle() -> bool:
            busy = await self.postgres.fetch(
                "select pid from pg_stat_activity where usename = 'headgate_query' and state <> 'idle'"
            )
            return not busy

        await wait_until(idle, "every session of the role is idle", timeout_s=GRACE_S + SLACK_S)


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[Scene]:
    """Run one, with the time limit of the tests."""
    async with open_real_postgres(folder) as postgres:
        await postgres.databases.owner.run(
            execute,
            "create table catalog.canary (n int); insert into catalog.canary values (1); "
            "alter role headgate_query set statement_timeout = '500ms'",
        )
        yield Scene(postgres)


async def session_of(scene: Scene) -> list[dict[str, object]]:
    """What a session of the role says of itself."""
    return await scene.postgres.databases.query.run(
        fetch,
        "select current_user::text as who, current_setting('statement_timeout') as timeout, "
        "current_setting('default_transaction_read_only') as read_only, current_setting('search_path') as path, "
        "current_setting('work_mem') as memory, current_setting('role') as role",
    )


async def test_no_statement_of_the_corpus_does_anything(tmp_path: Path) -> None:
    """T28: refused within the limit, or harmless; after each the canary lives, sessions are clean, the CPU is free."""
    async with open_scene(tmp_path / "data") as scene:
        clean = await session_of(scene)
        for sql in [*HARMLESS, *REFUSED]:
            rows, failure, took_s = await scene.run(sql)
            if sql in HARMLESS:
                for _ in range(5):  # queries give way: on a loaded machine a quick one may take its whole limit
                    if failure is not None and failure.kind.code == "query.too-slow":
                        rows, failure, took_s = await scene.run(sql)
                assert failure is None, f"{sql!r}: {failure}"
                assert rows or "files" in sql
            else:
                assert failure is not None, f"{sql[:200]!r} gave {rows[:3]}"
            assert not isinstance(failure, Unavailable), f"{sql[:200]!r}: {failure}"
            assert took_s < TIMEOUT_S + GRACE_S + SLACK_S, f"{sql[:200]!r} took {took_s:.3f} s"
            await scene.wait_cpu_free()
            await scene.check_unharmed()
            assert await session_of(scene) == clean, sql


async def test_random_statements_do_nothing(tmp_path: Path, chance: random.Random) -> None:
    """T28: 100 strings of meaningful words."""
    async with open_scene(tmp_path / "data") as scene:
        clean = await session_of(scene)
        answered = 0
        for _ in range(100):
            sql = random_statement(chance)
            _, failure, took_s = await scene.run(sql)
            answered += failure is None
            assert not isinstance(failure, Unavailable), f"{sql!r}: {failure}"
            assert took_s < TIMEOUT_S + GRACE_S + SLACK_S, sql
        print(f"{answered} of 100 were queries")
        await scene.check_unharmed()
        assert await session_of(scene) == clean


async def test_the_role_alone_is_the_wall(tmp_path: Path) -> None:
    """Without the wrapping, and with the read-only default switched off, the role may still change and read nothing.

    What it could change by itself are its own settings and password, by statements that are no queries: the wrapping
    lets none through.
    """
    async with open_scene(tmp_path / "data") as scene:
        for sql in UNWRAPPED:
            with pytest.raises(Fault) as caught:
                await scene.postgres.databases.query.run(execute, f"set transaction read write; {sql}")
            assert caught.value.members["sqlstate"] == "42501", (sql, caught.value.detail)
        await scene.check_unharmed()


async def test_a_cancelled_query_frees_its_processor(tmp_path: Path) -> None:
    """Whoever leaves takes the query along: its slot at once, its process within the grace."""
    async with open_scene(tmp_path / "data") as scene:
        sql = "select count(*) from generate_series(1, 1000000000000) a, generate_series(1, 100) b"
        with trio.move_on_after(0.3):
            await scene.run(sql)
        assert scene.queries.mailbox().depth == 0
        await scene.wait_cpu_free()
        rows, failure, _ = await scene.run("select 1 as a")
        assert (rows, failure) == (['{"a":1}'], None)


async def test_queries_above_the_limit_are_shed(tmp_path: Path) -> None:
    """Four run and eight wait for a second; the rest are told 429."""
    async with open_scene(tmp_path / "data") as scene:
        told: list[tuple[str, float]] = []

        async def ask() -> None:
            _, failure, took_s = await scene.run("select count(*) from generate_series(1, 1000000000000)")
            assert failure is not None
            told.append((failure.kind.code, took_s))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        shed = [took_s for code, took_s in told if code == "query.busy"]
        assert len(shed) >= 38
        assert {code for code, _ in told} == {"query.busy", "query.too-slow"}
        assert scene.queries.mailbox().depth == 0


async def test_a_query_has_little_memory_and_gives_way(tmp_path: Path) -> None:
    """4.4: on our own PostgreSQL the kernel limits a query's process, and what needs more is told so."""
    async with open_scene(tmp_path / "data") as scene:
        _, failure, _ = await scene.run("select repeat('x', 300000000)")
        assert failure is not None
        assert failure.members["sqlstate"] == "53200"
        (one,) = await scene.postgres.fetch("select pid from pg_stat_activity where usename = 'headgate_query'")
        limits = Path(f"/proc/{one['pid']}/limits").read_text()  # noqa: ASYNC240  # procfs waits for nothing
        assert str(MOST_MEMORY_BYTES) in limits
        assert os.getpriority(os.PRIO_PROCESS, one["pid"]) == NICENESS
