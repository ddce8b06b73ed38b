"""The catalog behind the wire: the cache's last tier, its failures, and a PostgreSQL from outside."""

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask, post_json
from tests.support.postgres import RealPostgres, execute, open_real_postgres
from tests.support.waiting import wait_until

BY_INODE = {"path": "/show/a.exr", "size": 10, "mtime": 1763640000.5, "inode": 77, "dev": 3}
BY_PATH = {"path": "/show/b.exr", "size": 11, "mtime": 1763640001}
GONE = {"path": "/show/gone.exr", "size": 12, "mtime": 1763640002, "inode": 78, "dev": 3}
NEVER = {"path": "/show/never.exr", "size": 13, "mtime": 1763640003, "inode": 79, "dev": 3}


def upsert(facts: dict[str, Any], value: str) -> dict[str, Any]:
    """The event that teaches a file."""
    return {"type": "file.upsert", "data": {**facts, "algo": "sha1", "hash": value}}


async def metric(gateway: Gateway, name: str) -> float:
    """One of the catalog's numbers."""
    text = (await ask(gateway.url, "GET", "/metrics")).body.decode()
    [line] = [one for one in text.splitlines() if one.startswith(f"headgate_catalog_{name} ")]
    return float(line.split()[1])


async def wait_metric(gateway: Gateway, name: str, value: float) -> None:
    """Wait until a number has grown to this."""

    async def is_there() -> bool:
        return await metric(gateway, name) >= value

    await wait_until(is_there, f"{name} is {value:g}", timeout_s=20)


async def probe(gateway: Gateway, *probes: dict[str, Any]) -> list[str | None]:
    """The hashes that the gateway knows, None for a miss."""
    answer = await post_json(gateway.url, "/cache/batch", list(probes))
    assert answer.status == 200, answer.body
    return [one["hash"] for one in answer.json()]


async def ingest(gateway: Gateway, *events: dict[str, Any]) -> None:
    """Put events on the log."""
    assert (await post_json(gateway.url, "/ingest", {"events": list(events)})).status == 200


async def test_a_gateway_with_an_empty_memory_answers_from_the_catalog(tmp_path: Path) -> None:
    """One query a request for what the memory misses, and the memory knows it afterwards; the database is external."""
    async with open_real_postgres(tmp_path / "pg") as real:
        folder = tmp_path / "pg" / "postgres"
        secret = quote((folder / "secret").read_text(), safe="")
        url = f"postgresql://headgate:{secret}@/postgres?host={quote(str(folder), safe='')}"
        env = {"HEADGATE_CATALOG": "on", "DATABASE_URL": url}
        async with open_gateway(tmp_path / "data", env=env) as gateway:
            assert not (tmp_path / "data" / "postgres").exists(), "a database of its own is not started"
            await ingest(gateway, upsert(BY_INODE, "aa"), upsert(BY_PATH, "bb"), upsert(GONE, "cc"))
            await ingest(gateway, {"type": "file.delete", "data": {"path": GONE["path"]}})
            await wait_metric(gateway, "events_total", 4)
            answer = await post_json(
                gateway.url, "/query/sql", {"sql": "select count(*) as n, current_user::text from files"}
            )
            assert answer.json()["rows"] == [{"n": 2, "current_user": "headgate_query"}], (
                "its role is another's, by the URL"
            )
            assert await probe(gateway, BY_INODE, NEVER) == ["aa", None]
            assert await metric(gateway, "tier_hits_total") == 0, "the memory knew it"
            gateway.kill()
            await gateway.start()
            await wait_metric(gateway, "current", 1)
            assert await probe(gateway, GONE, BY_PATH, NEVER, BY_INODE) == [None, "bb", None, "aa"]
            assert await probe(gateway, BY_INODE, BY_PATH) == ["aa", "bb"]
            assert await metric(gateway, "tier_hits_total") == 2, "the second time the memory knew both"
            await a_hanging_catalog_is_a_miss(gateway, real)
            await a_deletion_that_the_catalog_lacks_is_no_hit(gateway, real)


async def a_hanging_catalog_is_a_miss(gateway: Gateway, real: RealPostgres) -> None:
    """Whoever asks waits a quarter of a second, once, and is told a miss; the memory answers as ever."""
    async with real.databases.owner.lease() as lease:
        await lease.call(execute, "BEGIN; LOCK TABLE catalog.files IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        assert await probe(gateway, NEVER) == [None]
        first_s = time.monotonic() - began
        began = time.monotonic()
        assert await probe(gateway, NEVER, BY_INODE) == [None, "aa"]
        second_s = time.monotonic() - began
        await lease.call(execute, "ROLLBACK")
    print(f"hanging: {first_s:.3f} s, then {second_s:.3f} s")
    assert first_s < 1.5
    assert second_s < first_s
    assert await metric(gateway, "tier_failures_total") == 1


async def a_deletion_that_the_catalog_lacks_is_no_hit(gateway: Gateway, real: RealPostgres) -> None:
    """A gateway that starts while the log knows of a deletion and the catalog not yet: a miss."""
    async with real.databases.owner.lease() as lease:
        await lease.call(execute, "BEGIN; LOCK TABLE catalog.files IN EXCLUSIVE MODE")  # it may be read, not written
        await ingest(gateway, {"type": "file.delete", "data": {"path": BY_INODE["path"]}})
        assert await probe(gateway, BY_INODE) == [None]
        await gateway.restart()
        for _ in range(3):
            assert await probe(gateway, BY_INODE) == [None]
        assert await metric(gateway, "current") == 0
        await lease.call(execute, "ROLLBACK")
    await wait_metric(gateway, "current", 1)
    assert await probe(gateway, BY_INODE, BY_PATH) == [None, "bb"]
