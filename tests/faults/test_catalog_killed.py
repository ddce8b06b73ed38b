"""The gateway and PostgreSQL are killed again and again while events come in; the catalog is what the log says (T3)."""

import json
import random
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from engine.errors import Unavailable
from tests.support.catalog_model import Model, messages_of, model_of, open_catalog_of, read_table
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ConnectionLost, ask, open_connection
from tests.support.nats_client import open_embedded_log
from tests.support.processes import ProcessName, is_alive, kill_process
from tests.support.waiting import let_pass, wait_until

CATALOG = {"HEADGATE_CATALOG": "on"}
PRODUCERS = 3
CATCH_UP_S = 300.0


class Flood:
    """Producers that post random events until enough are acknowledged, whatever happens to the gateway."""

    def __init__(self, gateway: Gateway, chance: random.Random, *, wanted: int, names_count: int) -> None:
        self.acked = 0
        self._gateway = gateway
        self._chance = chance
        self._wanted = wanted
        self._names_count = names_count

    @property
    def is_done(self) -> bool:
        """Whether enough is acknowledged."""
        return self.acked >= self._wanted

    async def run(self) -> None:
        """Post one body after the other; what is not acknowledged is not sent again."""
        while not self.is_done:
            try:
                async with open_connection(self._gateway.url) as connection:
                    while not self.is_done:
                        [body] = messages_of(self._chance, 1, 400, self._names_count)
                        answer = await connection.request("POST", "/ingest", {"Content-Type": "application/json"}, body)
                        if answer.status == 200:
                            self.acked += answer.json()["received"]
                        else:
                            await let_pass(0.02)
            except (OSError, ConnectionLost, trio.TooSlowError):
                await let_pass(0.02)


def postmaster(gateway: Gateway) -> ProcessName | None:
    """The embedded PostgreSQL's first process, when it runs."""
    try:
        recorded = json.loads((gateway.data_dir / "postgres.json").read_text())
    except (OSError, ValueError):
        return None
    name = ProcessName.of(int(recorded["pid"]))
    return name if name is not None and name.start_time == int(recorded["start_time"]) else None


async def kill_postgres(gateway: Gateway) -> None:
    """SIGKILL the postmaster, as soon as there is one."""
    process = await wait_until(lambda: postmaster(gateway), "PostgreSQL runs", timeout_s=20)
    assert process is not None
    kill_process(process)
    await wait_until(lambda: not is_alive(process), "it is gone")


async def is_migrated(gateway: Gateway) -> bool:
    """Whether the catalog is there."""
    answer = await ask(gateway.url, "GET", "/readyz")
    return bool(answer.json()["dependencies"]["postgres"]["migrations"] == "done")


async def kill_something(gateway: Gateway, what: str) -> None:
    """One disruption."""
    if "postgres" in what:
        await kill_postgres(gateway)
    if "gateway" in what:
        gateway.kill()
        await gateway.start()


async def read_log(gateway: Gateway) -> Model:
    """What the catalog must hold, by the log."""
    async with open_embedded_log(gateway) as log:
        return model_of((one.sequence, one.data) for one in await log.read_stream("SNAPFS_FILES"))


async def differences(gateway: Gateway, model: Model) -> int:
    """How many rows are not what they must be."""
    async with open_catalog_of(gateway) as postgres:
        table = await read_table(postgres)
    return sum(table.get(path) != row for path, row in model.files.items()) + len(table.keys() - model.files.keys())


@pytest.mark.parametrize(
    ("events_count", "names_count", "kills_count"),
    [(12_000, 3_000, 3), pytest.param(1_000_000, 400_000, 24, marks=pytest.mark.long)],
)
async def test_the_catalog_is_what_the_log_says_after_any_kill(
    tmp_path: Path, chance: random.Random, events_count: int, names_count: int, kills_count: int
) -> None:
    """T3: SIGKILL of the gateway, of PostgreSQL, of both, during the ingest; then the table equals the model."""
    async with open_gateway(tmp_path / "data", env=CATALOG) as gateway:
        await wait_until(partial(is_migrated, gateway), "the catalog is ready", timeout_s=20)
        flood = Flood(gateway, chance, wanted=events_count, names_count=names_count)
        async with trio.open_nursery() as nursery:
            for _ in range(PRODUCERS):
                nursery.start_soon(flood.run)
            for number in range(kills_count):
                goal = events_count * (number + 1) // (kills_count + 1)
                await wait_until(partial(lambda goal: flood.acked >= goal, goal), "events come in", timeout_s=300)
                await kill_something(gateway, ("postgres", "gateway", "gateway and postgres")[number % 3])
        began = time.monotonic()
        model = await read_log(gateway)
        assert model.events >= flood.acked

        async def is_equal() -> bool:
            try:
                return await differences(gateway, model) == 0
            except Unavailable:
                return False

        await wait_until(is_equal, "the catalog is what the log says", timeout_s=CATCH_UP_S, interval_s=0.5)
        print(f"{model.events} events, {len(model.files)} files, equal {time.monotonic() - began:.1f} s after the last")
        metrics = (await ask(gateway.url, "GET", "/metrics")).body.decode()
        assert 'headgate_actor_restarts_total{actor="catalog"} 0.0' in metrics, "nothing of this is a fall"


async def test_postgres_dies_with_its_gateway_and_starts_again(tmp_path: Path) -> None:
    """T34, T35: killed with the gateway within 2 s; a warm start finds the same data; a drain stops it in order."""
    async with open_gateway(tmp_path / "data", env=CATALOG) as gateway:
        first = await wait_until(lambda: postmaster(gateway), "PostgreSQL runs", timeout_s=20)
        assert first is not None
        await wait_until(partial(is_migrated, gateway), "the catalog is ready", timeout_s=20)
        everybody = [one for one in gateway.children() if one != first.pid]
        gateway.kill()
        await wait_until(lambda: not is_alive(first), "PostgreSQL is gone", timeout_s=2)
        await gateway.start()
        print(f"ready after {gateway.ready_after_s:.2f} s; {len(everybody)} other children")
        await wait_until(partial(is_migrated, gateway), "the catalog is ready again", timeout_s=20)
        second = postmaster(gateway)
        assert second is not None
        assert second != first
        assert await gateway.terminate() == 0
        assert not is_alive(second)
        log = (gateway.data_dir / "postgres.log").read_text()
        assert "database system is shut down" in log.splitlines()[-1]
