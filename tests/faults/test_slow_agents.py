"""T8: an agent that stalls costs little memory and does not slow down the others (P2)."""

import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.agent import open_agent
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import post_json
from tests.support.ingest import some_events
from tests.support.processes import read_rss_bytes

FRAME_EVENTS = 100
GROWTH_LIMIT_BYTES = 20 << 20
STALLED_COUNT = 3


async def drain(gateway: Gateway, durable: str, count: int) -> float:
    """Let a fast agent take `count` events; returns events a second."""
    received = 0
    began = time.monotonic()
    async with open_agent(gateway.url, durable) as agent:
        while received < count:
            batch = await agent.receive()
            received += len(batch.events)
            await agent.ack(batch)
    assert received == count
    return received / (time.monotonic() - began)


@pytest.mark.parametrize(
    ("events_count", "least_share"), [(50_000, None), pytest.param(200_000, 0.95, marks=pytest.mark.long)]
)
async def test_stalled_agents_cost_little_and_slow_nobody_down(
    tmp_path: Path, events_count: int, least_share: float | None
) -> None:
    """T8: three agents that never read stand before a backlog; memory grows by under 20 MiB, a fast one is as fast.

    The short form drains for too short a time to compare rates, and says them; the long one holds the fast agent to
    95 % of its solo rate.
    """
    async with open_gateway(tmp_path / "data") as gateway, AsyncExitStack() as stack:
        for _ in range(events_count // 1000):
            body = some_events(FRAME_EVENTS)
            for _ in range(1000 // FRAME_EVENTS):
                assert (await post_json(gateway.url, "/ingest", body)).status == 200
        await drain(gateway, uuid.uuid4().hex, events_count)  # warm up: buffers of both sides have their size
        solo = max([await drain(gateway, uuid.uuid4().hex, events_count) for _ in range(3)])
        before = read_rss_bytes(gateway.pid)
        for number in range(STALLED_COUNT):
            agent = open_agent(gateway.url, f"stalled-{number}", receive_buffer_bytes=4096)
            await stack.enter_async_context(agent)
        beside = max([await drain(gateway, uuid.uuid4().hex, events_count) for _ in range(3)])
        growth = read_rss_bytes(gateway.pid) - before
        print(f"fast agent {solo:,.0f} events/s alone, {beside:,.0f} beside {STALLED_COUNT} stalled ones")
        print(f"resident memory grew by {growth / 2**20:.1f} MiB")
        assert growth < GROWTH_LIMIT_BYTES
        assert least_share is None or beside >= least_share * solo
