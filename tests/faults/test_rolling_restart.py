"""Two gateways on one log are restarted in turn under load: whoever was accepted is answered, and nothing is lost."""

import random
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.support.gateway import Gateway, open_gateway
from tests.support.ledger import Ledger
from tests.support.nats_client import open_nats_client
from tests.support.nats_server import open_nats_server
from tests.support.traffic import Traffic, wait_delivered
from tests.support.waiting import let_pass

DURABLES = ("mysql", "elastic")
AGENTS_COUNT = 20
DRAIN_S = 30
"""What is left at this deadline is cut, so a busy machine is given time."""

PRODUCERS_COUNT = 60
RATE = 500
"""Requests a second, all producers together."""


class Rota:
    """Gives the gateways in turn, as a balancer without health checks would."""

    def __init__(self, gateways: list[Gateway]) -> None:
        self._gateways = gateways
        self._given = 0

    def url(self) -> str:
        """The next one's address, whether it listens or not."""
        self._given += 1
        return self._gateways[self._given % len(self._gateways)].url


async def restart_in_turn(gateways: list[Gateway], pause_s: float) -> None:
    """Stop each one politely, start it again on its port, and give the next one time in between."""
    for gateway in gateways:
        await let_pass(pause_s)
        assert await gateway.terminate(2 * DRAIN_S) == 0
        await gateway.start()
    await let_pass(pause_s)


@pytest.mark.parametrize("load_s", [4.0, pytest.param(60.0, marks=pytest.mark.long)])
async def test_a_rolling_restart_fails_no_request_that_was_accepted(
    tmp_path: Path, chance: random.Random, load_s: float
) -> None:
    """S4.13: 500 requests/s and 20 agents; a connection is refused or its request answered, and every event arrives."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    async with AsyncExitStack() as stack, trio.open_nursery() as agents:
        server = await stack.enter_async_context(open_nats_server(tmp_path / "nats"))
        env = {"NATS_URL": server.url, "HEADGATE_DRAIN_S": str(DRAIN_S)}
        gateways = [await stack.enter_async_context(open_gateway(tmp_path / name, env=env)) for name in ("a", "b")]
        traffic = Traffic(Rota(gateways).url, ledger, chance)
        for number in range(AGENTS_COUNT):
            run_agent = traffic.run_agent if number < AGENTS_COUNT / 2 else traffic.run_agent_v1
            agents.start_soon(run_agent, DURABLES[number % len(DURABLES)])
        began = time.monotonic()
        async with trio.open_nursery() as producers:
            for _ in range(PRODUCERS_COUNT):
                producers.start_soon(
                    lambda: traffic.run_producer(is_keyed=True, max_batch_count=5, pause_s=PRODUCERS_COUNT / RATE)
                )
            await restart_in_turn(gateways, load_s / (len(gateways) + 1))
            traffic.is_stopping = True
        took_s = time.monotonic() - began
        async with open_nats_client(server.url) as log:
            stored = await log.read_stream("SNAPFS_FILES")
        await wait_delivered(ledger, stored, DURABLES, timeout_s=60)
        agents.cancel_scope.cancel()
        report = ledger.check(stored, DURABLES, is_shared=True)
    ledger.close()
    requests = traffic.statuses["200"]
    print(f"{report}\n{dict(traffic.statuses)}: {requests / took_s:.0f} requests/s over {took_s:.1f} s")
    failed = {status: count for status, count in traffic.statuses.items() if not status.startswith(("200", "agent"))}
    assert not failed, f"requests that were accepted and not answered with 200: {failed}"
    assert report.unknown == 0
