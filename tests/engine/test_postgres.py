"""The driver: units of work, leases, errors by the table, the two roles, migrations (against a real PostgreSQL)."""

import random
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.errors import Refused, Unavailable
from engine.postgres_migrations import Migration, migrate, read_migrations
from tests.support.postgres import RealPostgres, execute, fetch, open_real_postgres
from tests.support.waiting import wait_until


async def write_and_fail(connection: Any) -> None:
    """A unit of work that raises after it wrote."""
    await connection.execute("CREATE TABLE public.half (a int)")
    raise Refused("request.conflict", "half way")


async def write_and_hang(connection: Any, started: list[int]) -> None:
    """A unit of work that hangs after it wrote."""
    await connection.execute("INSERT INTO public.whole VALUES (1)")
    started.append(1)
    await connection.execute("SELECT pg_sleep(60)")


async def test_a_unit_of_work_is_one_transaction(tmp_path: Path) -> None:
    """What raises or is cancelled leaves nothing; the connection after it is as good as new."""
    async with open_real_postgres(tmp_path) as real:
        owner = real.databases.owner
        with pytest.raises(Refused):
            await owner.run(write_and_fail)
        assert await real.fetch("SELECT to_regclass('public.half') IS NULL AS gone") == [{"gone": True}]
        await owner.run(execute, "CREATE TABLE public.whole (a int)")
        started: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.run, write_and_hang, started)
            await wait_until(lambda: bool(started), "it hangs")
            nursery.cancel_scope.cancel()
        assert await real.fetch("SELECT count(*) AS n FROM public.whole") == [{"n": 0}]
        await errors_are_situations(real)
        await a_guest_sees_the_views_and_nothing_else(real)
        await a_lease_keeps_its_connection(real)


async def errors_are_situations(real: RealPostgres) -> None:
    """Each error is what the table says, with PostgreSQL's own words and the position."""
    owner = real.databases.owner
    with pytest.raises(Refused) as wrong:
        await owner.run(fetch, "SELECT nothing FROM nowhere")
    assert wrong.value.kind.code == "postgres.refused"
    assert wrong.value.members == {"sqlstate": "42P01", "position": 21, "hint": None}
    assert "nowhere" in wrong.value.detail
    with pytest.raises(Refused, match="division by zero"):
        await owner.run(fetch, "SELECT 1/0")
    with pytest.raises(Unavailable) as late:
        await owner.run(execute, "SET LOCAL statement_timeout = 20; SELECT pg_sleep(5)")
    assert late.value.kind.code == "postgres.cancelled"
    with pytest.raises(Refused):
        await owner.run(fetch, "SELECT $1::int", ("no number",))


async def a_guest_sees_the_views_and_nothing_else(real: RealPostgres) -> None:
    """The query role reads the views without a schema's name, and is refused everything else."""
    guest = real.databases.query
    for view in ("files", "deleted", "contents", "duplicates", "directories", "scans"):
        assert await guest.run(fetch, f"TABLE {view}") == []
    for sql in (
        "SELECT * FROM catalog.files",
        "SELECT * FROM catalog.secrets",
        "DELETE FROM files",
        "SELECT set_config('statement_timeout', '0', false)",
        "SELECT pg_sleep(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_read_file('/etc/passwd')",
        "CREATE TABLE mine (a int)",
        "CREATE TEMPORARY TABLE mine (a int)",
    ):
        with pytest.raises(Refused) as no:
            await guest.run(execute, sql)
        assert no.value.members["sqlstate"] in {"42501", "25006"}, sql


async def a_lease_keeps_its_connection(real: RealPostgres) -> None:
    """Several crossings share one session; nothing of a guest's session is left for the next."""
    async with real.databases.query.lease() as lease:
        first = await lease.call(fetch, "SELECT pg_backend_pid() AS pid")
        await lease.call(execute, "SET statement_timeout = 0")
        assert await lease.call(fetch, "SELECT pg_backend_pid() AS pid") == first
    async with real.databases.query.lease() as lease:
        assert await lease.call(fetch, "SHOW statement_timeout") == [{"statement_timeout": "5s"}]


async def test_who_gives_up_while_it_connects_leaves_no_session(tmp_path: Path, chance: random.Random) -> None:
    """Calls are cancelled at any moment of their connecting: after closing, the server has no session of theirs."""
    async with open_real_postgres(tmp_path) as real:
        guest = real.databases.query
        for _ in range(60):
            with trio.move_on_after(chance.uniform(0.0, 0.03)):
                await guest.run(fetch, "SELECT 1 AS one")
            await guest.aclose()  # so that the next one connects

        async def is_alone() -> bool:
            sessions = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'headgate query'"
            return await real.fetch(sessions) == [{"n": 0}]

        await wait_until(is_alone, "no session is left")


async def test_a_killed_server_is_unavailable_and_then_back(tmp_path: Path) -> None:
    """SIGKILL of the postmaster: units of work say so, and work again without anybody's help."""
    async with open_real_postgres(tmp_path) as real:
        before = real.process
        real.kill()

        async def works() -> bool:
            try:
                await real.fetch("SELECT 1 AS one")
            except Unavailable:
                return False
            return before != real.process

        await wait_until(works, "PostgreSQL answers again", timeout_s=15)
        assert (await real.fetch("SELECT count(*) AS n FROM catalog.migrations"))[0]["n"] == real.databases.version


def test_the_migrations_are_numbered_without_a_gap(tmp_path: Path) -> None:
    """The files run from 1; a missing number is found before a database is touched."""
    assert [one.number for one in read_migrations()][:2] == [1, 2]
    (tmp_path / "0002_later.sql").write_text("SELECT 1")
    with pytest.raises(ValueError, match="without a gap"):
        read_migrations(tmp_path)


async def test_migrations_run_once_and_never_change(tmp_path: Path) -> None:
    """Two gateways that start at once migrate once; an edited file and an unknown newer one are refused."""
    async with open_real_postgres(tmp_path) as real:
        files = read_migrations()
        more = Migration(len(files) + 1, "9999_more.sql", "CREATE TABLE public.more (a int)", "abc")
        applied: list[int] = []

        async def start() -> None:
            async with real.databases.owner.lease() as lease:
                applied.append((await lease.call(migrate, [*files, more])).applied)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(start)
        assert sorted(applied) == [0, 0, 1]
        edited = [files[0]._replace(checksum="other"), *files[1:], more]
        for wrong, words in ((edited, "is not the one"), (files, "newer headgate")):
            async with real.databases.owner.lease() as lease:
                with pytest.raises(Refused, match=words):
                    await lease.call(migrate, wrong)
