"""A PostgreSQL that hangs: events are taken, probes answered, and the shutdown ends in time (T22)."""

import time
from functools import partial
from pathlib import Path

from tests.faults.test_catalog_killed import CATALOG, is_migrated, postmaster
from tests.support.gateway import open_gateway
from tests.support.http import ask, post_json
from tests.support.processes import descendants, freeze_process, is_alive
from tests.support.waiting import wait_until

FILE = {"path": "/a", "size": 1, "mtime": 5, "algo": "sha1", "hash": "aa"}
GRACE_S = 5.0


async def test_a_hanging_postgres_holds_nobody_up(tmp_path: Path) -> None:
    """T22: with every process of it frozen the gateway works on, and ends within its drain and five seconds."""
    env = {**CATALOG, "HEADGATE_DRAIN_S": "1"}
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        await wait_until(partial(is_migrated, gateway), "the catalog is ready", timeout_s=20)
        assert (
            await post_json(gateway.url, "/ingest", {"events": [{"type": "file.upsert", "data": FILE}]})
        ).status == 200
        first = postmaster(gateway)
        assert first is not None
        frozen = [first, *descendants(first.pid)]
        for process in frozen:
            await freeze_process(process)
        for number in range(3):
            event = {"type": "file.upsert", "data": FILE | {"path": f"/{number}"}}
            assert (await post_json(gateway.url, "/ingest", {"events": [event]})).status == 200
            began = time.monotonic()
            probes = [FILE, FILE | {"path": "/never"}]
            answer = await post_json(gateway.url, "/cache/batch", probes)
            assert [one["hash"] for one in answer.json()] == ["aa", None]
            print(f"probed in {time.monotonic() - began:.3f} s")
            assert time.monotonic() - began < 1.5

        async def is_down() -> bool:
            answer = await ask(gateway.url, "GET", "/readyz")
            return bool(answer.json()["dependencies"]["postgres"]["state"] == "down")

        await wait_until(is_down, "/readyz says that it does not answer", timeout_s=20)
        began = time.monotonic()
        assert await gateway.terminate() == 0
        print(f"ended within {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < 1 + GRACE_S + 1  # two busy cores
        assert not any(is_alive(process) for process in frozen)
