"""T7: agents of one durable come and go while events flow; nothing is stuck in a dead one's hands (P2)."""

import random
import time
import uuid
from pathlib import Path

import trio
import trio_websocket

from tests.support.agent import AgentClosed, open_agent
from tests.support.gateway import Gateway
from tests.support.ledger import Ledger, event_ids_of
from tests.support.nats_client import open_embedded_log
from tests.support.traffic import Traffic
from tests.support.waiting import let_pass, wait_until

RUN_S = 4.0
STUCK_LIMIT_S = 5.0
"""Far below ack_wait (30 s): what the log handed to a dead agent's pull must come back at once, not then."""
CHURNERS_COUNT = 6


async def test_nothing_is_stuck_after_agents_that_come_and_go(
    gateway: Gateway, tmp_path: Path, chance: random.Random
) -> None:
    """T7: every frame reaches the durable's last agent within seconds after the others died at any moment."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    durable = f"churn-{uuid.uuid4().hex[:8]}"
    subject = "snapfs.files"
    traffic = Traffic(lambda: gateway.url, ledger, chance)
    deaths_count = 0

    async def churn() -> None:
        nonlocal deaths_count
        while not traffic.is_stopping:
            run = ledger.begin_run(durable)
            try:
                async with open_agent(gateway.url, durable, subject=subject, batch=chance.choice((1, 5, 100))) as agent:
                    with trio.move_on_after(chance.uniform(0.0, 0.1)):
                        while True:
                            batch = await agent.receive()
                            ledger.note_delivery(run, batch.messages)
                            if chance.random() < 0.1:
                                break  # dies with the batch in its hands
                            await agent.ack(batch)
                    chance.choice((agent.reset, agent.vanish))()
                    deaths_count += 1
            except (AgentClosed, trio_websocket.HandshakeError, trio_websocket.ConnectionClosed):
                continue

    async with trio.open_nursery() as nursery:
        for _ in range(CHURNERS_COUNT):
            nursery.start_soon(churn)
        for _ in range(2):
            nursery.start_soon(lambda: traffic.run_producer(is_keyed=True, max_batch_count=20, pause_s=0.002))
        await let_pass(RUN_S)
        traffic.is_stopping = True
    async with open_embedded_log(gateway) as log, trio.open_nursery() as nursery:
        stored = await log.read_stream("SNAPFS_FILES")
        event_ids = event_ids_of(stored)
        began = time.monotonic()
        nursery.start_soon(traffic.run_agent, durable)

        async def is_all_acked() -> bool:
            info = (await log.find_consumers("SNAPFS_FILES", durable))[0]
            return bool(info["num_ack_pending"] == 0 and info["num_pending"] == 0)

        await wait_until(is_all_acked, "the log has every ack", timeout_s=60, interval_s=0.05)
        took_s = time.monotonic() - began
        nursery.cancel_scope.cancel()
    ledger.close()
    missing = ledger.missing_count(durable, event_ids)
    print(f"{len(event_ids)} events, {deaths_count} deaths; all acked {took_s:.2f} s after the last one came")
    # An ack that a dying agent sent may be the last word on a frame it had received: all was received by somebody.
    assert missing == 0
    assert took_s < STUCK_LIMIT_S, f"some frames were stuck for {took_s:.1f} s"
