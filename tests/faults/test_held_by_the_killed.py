"""A killed gateway is started again: what it held is delivered at once, and not when its leases run out."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.agent import Agent, open_agent
from tests.support.agent_v1 import AgentV1, open_agent_v1
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask
from tests.support.nats_server import open_nats_server

LONG_LEASES = {"HEADGATE_ACK_WAIT_S": "600"}
COUNT = 5
JSON = {"Content-Type": "application/json"}
PULL = "/stream/pull?subject=snapfs.files&durable=pulled&wait=20"


@pytest.mark.parametrize("is_embedded", [True, False], ids=["with-its-log", "beside-its-log"])
async def test_what_a_killed_gateway_held_is_delivered_again_at_once(tmp_path: Path, *, is_embedded: bool) -> None:
    """Both wires and pulls hold messages for ten minutes; SIGKILL; the next gateway hands them out, but for one.

    That one was settled before. The embedded log dies with the gateway, the other one lives on.
    """
    async with AsyncExitStack() as stack:
        env = LONG_LEASES
        if not is_embedded:
            server = await stack.enter_async_context(open_nats_server(tmp_path / "nats", is_syncing_always=True))
            env = env | {"NATS_URL": server.url, "NATS_MONITOR_URL": server.monitor_url}
        gateway = await stack.enter_async_context(open_gateway(tmp_path / "data", env=env))
        for number in range(COUNT):
            events = {"events": [{"type": "scan.started", "data": {"number": number}}]}
            assert (await ask(gateway.url, "POST", "/ingest", JSON, orjson.dumps(events))).status == 200
        async with open_agent(gateway.url, "old") as old, open_agent_v1(gateway.url, "new") as new:
            await new.credit()
            assert (await old.receive()).events
            held = await new.receive()
            assert (await new.confirm(held, ack=[0]))["confirmed"] == [[0, 0]]
            assert (await pull(gateway))["messages"]
            gateway.kill()
        await gateway.start()
        async with open_agent(gateway.url, "old") as old, open_agent_v1(gateway.url, "new") as new:
            await new.credit()
            assert await numbers_of(old, COUNT) == list(range(COUNT))
            assert await sequences_of(new, COUNT - 1) == list(range(2, COUNT + 1))
            pulled: list[int] = []
            while len(pulled) < COUNT:
                pulled += [one["seq"] for one in (await pull(gateway))["messages"]]
            assert sorted(pulled) == list(range(1, COUNT + 1))


async def pull(gateway: Gateway) -> dict[str, Any]:
    """Pull a batch."""
    answer = await ask(gateway.url, "GET", PULL)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json()
    assert found["batch"], "nothing came"
    return found


async def numbers_of(agent: Agent, count: int) -> list[int]:
    """Receive and acknowledge this many events of the old wire."""
    found: list[int] = []
    while len(found) < count:
        batch = await agent.receive()
        found += [event["data"]["number"] for event in batch.events]
        await agent.ack(batch)
    return sorted(found)


async def sequences_of(agent: AgentV1, count: int) -> list[int]:
    """Receive this many messages."""
    found: list[int] = []
    while len(found) < count:
        found += (await agent.receive()).sequences
    return sorted(found)
