"""T8 and abuse for agents of `headgate.stream.v1`: bounded memory, bounded work (issue 3; P5, P6)."""

import os
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
import trio

from tests.support.agent import AgentClosed
from tests.support.agent_v1 import AgentV1, open_agent_v1
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask
from tests.support.nats_client import open_embedded_log
from tests.support.processes import read_rss_bytes
from tests.support.waiting import let_pass, wait_until

STALLED = 4
MESSAGE_BYTES = 1_000_000
MESSAGES = 20
EACH_BYTES = 12 << 20
"""Two batches read ahead, one on its way with the copies that its making costs; all messages would be 20 MB each."""


async def test_stalled_agents_cost_a_few_batches_of_large_messages(tmp_path: Path) -> None:
    """T8: each is granted 64 MiB and reads nothing; what one costs is bounded, whatever it was granted."""
    async with open_gateway(tmp_path / "data") as gateway, AsyncExitStack() as stack:
        async with open_embedded_log(gateway) as log:
            for _ in range(MESSAGES):
                event = {"type": "note", "data": {"pad": "x" * MESSAGE_BYTES}}
                await log.publish("snapfs.files", orjson.dumps({"events": [event]}))
        async with open_agent_v1(gateway.url, "warm") as agent:
            await agent.credit()
            for _ in range(MESSAGES):
                await agent.ack(await agent.receive())
        before, most = read_rss_bytes(gateway.pid), 0
        for number in range(STALLED):
            agent = await stack.enter_async_context(
                open_agent_v1(gateway.url, f"stalled-{number}", receive_buffer_bytes=4096)
            )
            await agent.credit()
        began = time.monotonic()
        while time.monotonic() - began < 2.5:
            most = max(most, read_rss_bytes(gateway.pid))
            await let_pass(0.02)
        print(f"{STALLED} stalled agents cost {(most - before) / STALLED / 2**20:.1f} MiB each")
        assert most - before < STALLED * EACH_BYTES
        async with open_agent_v1(gateway.url, "stalled-0") as other:  # what waited for it was given back
            await other.credit()
            got: set[int] = set()
            while len(got) < MESSAGES - 4:  # but for what is in its socket
                batch = await other.receive()
                got.update(batch.sequences)
                await other.ack(batch)


async def test_floods_of_credit_and_odd_words_cost_bounded_work(gateway: Gateway) -> None:
    """Ten thousand tiny frames, credit without end, ranges without end: the gateway answers others all the while."""
    subject = f"snapfs.flood-{uuid.uuid4().hex[:8]}"
    async with open_embedded_log(gateway) as log:
        for _ in range(500):
            await log.publish(subject, b'{"events":[]}')
    cpu = cpu_s(gateway.pid)
    async with open_agent_v1(gateway.url, uuid.uuid4().hex, subject=subject, batch=500) as agent:
        for _ in range(1000):
            await agent.credit(2**62, 2**62)
        status = await agent.status()
        limits = agent.hello["limits"]
        assert status["credit"]["messages"] <= limits["credit_messages"]
        assert status["credit"]["bytes"] <= limits["credit_bytes"]
        batch = await agent.receive()
        for _ in range(3000):
            await agent.settle(batch, ack=[[0, batch.last - 1]])
        for _ in range(3000):
            await agent.settle(batch, ack=[[0, batch.last]])
        for _ in range(3000):
            await agent.say({"type": "ping"})
        for number in range(3000):
            await agent.receive_other("pong")
            if number % 500 == 0:
                assert (await ask(gateway.url, "GET", "/healthz")).status == 200
        spent = cpu_s(gateway.pid) - cpu
        print(f"10,000 frames cost {spent:.2f} s of the gateway's CPU")
        assert spent < 10


def cpu_s(pid: int) -> float:
    """What a process has spent so far, with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


BAD_FRAMES = [
    "",
    "{",
    "[]",
    "null",
    '"ack"',
    '{"type":1}',
    '{"type":"ack","batch":"x"}',
    '{"type":"credit"}',
    '{"type":"credit","messages":-1}',
    '{"type":"credit","messages":true}',
    '{"type":"credit","messages":1e3}',
    '{"type":"credit","messages":1,"bytes":null}',
    '{"type":"credit","mode":"full"}',
    '{"type":"settle"}',
    '{"type":"settle","batch":7}',
    '{"type":"settle","batch":"$B","ack":7}',
    '{"type":"settle","batch":"$B","ack":[[1,0]]}',
    '{"type":"settle","batch":"$B","ack":[[0,1000000000000000000]]}',
    '{"type":"settle","batch":"$B","ack":[-1]}',
    '{"type":"settle","batch":"$B","ack":[0.0]}',
    '{"type":"settle","batch":"$B","ack":[true]}',
    '{"type":"settle","batch":"$B","ack":[[0,0,0]]}',
    '{"type":"settle","batch":"$B","ack":[0],"nak":[{"i":0}]}',
    '{"type":"settle","batch":"$B","nak":[0]}',
    '{"type":"settle","batch":"$B","nak":[{"i":0,"delay_ms":-1}]}',
    '{"type":"settle","batch":"$B","nak":[{"i":0,"delay_ms":1e18}]}',
    '{"type":"settle","batch":"$B","term":[{"i":0,"reason":7}]}',
    '{"type":"settle","batch":"$B","term":[{"i":9}]}',
    '{"type":"settle","batch":"$B","ack":[0],"confirm":1}',
    '{"type":"settle","batch":"$B","ack":[0],"sudo":true}',
    '{"type":"settle","batch":"' + "b" * 200 + '","ack":[0]}',
    '{"type":"' + "t" * 10_000 + '"}',
    "[" * 2000,
]


async def test_bad_frames_are_errors_that_change_nothing(gateway: Gateway) -> None:
    """Each is answered with what was wrong; the batch stays in hand, and can be settled all the same."""
    subject = f"snapfs.bad-{uuid.uuid4().hex[:8]}"
    durable = uuid.uuid4().hex
    async with open_embedded_log(gateway) as log:
        await log.publish(subject, b'{"events":[]}')
        async with open_agent_v1(gateway.url, durable, subject=subject) as agent:
            await agent.credit()
            batch = await agent.receive()
            for frame in BAD_FRAMES:
                await agent.say_text(frame.replace("$B", batch.id))
                error = await agent.receive_other("error")
                assert error["code"].startswith("stream."), frame[:80]
                assert (error["fatal"], len(error["message"]) < 500) == (False, True), frame[:80]
                assert [one for one in agent.others if one["type"] != "error"] == []
            await agent.say_text(b"\xff\xfe")
            assert (await agent.receive_other("error"))["fatal"] is False
            assert (await agent.confirm(batch))["confirmed"] == [[0, 0]]

            async def is_settled() -> bool:
                [info] = await log.find_consumers("SNAPFS_FILES", durable)
                return not info["num_ack_pending"]

            await wait_until(is_settled, "it is settled")


async def test_a_hundred_and_one_bad_frames_end_the_session(gateway: Gateway) -> None:
    """The last is said to be fatal, and the close code says not to come back like this."""
    async with open_agent_v1(gateway.url, None) as agent:
        for _ in range(101):
            await agent.say_text("no")
        assert await agent.wait_closed() == 4500
        assert [one["fatal"] for one in agent.others] == [False] * 100 + [True]


@pytest.mark.long
async def test_who_talks_and_does_not_read_is_cut(gateway: Gateway) -> None:
    """Answers that nobody reads are bounded: after a while the session ends, and what it held is another's."""

    async def talk(agent: AgentV1) -> None:
        while True:
            await agent.say({"type": "ping"})

    subject = f"snapfs.deaf-{uuid.uuid4().hex[:8]}"
    async with open_embedded_log(gateway) as log:
        for _ in range(6):
            await log.publish(subject, orjson.dumps({"events": [{"type": "x", "data": {"pad": "x" * 900_000}}]}))
    async with open_agent_v1(gateway.url, None, subject=subject, from_="all", receive_buffer_bytes=4096) as agent:
        await agent.credit()
        with pytest.raises(AgentClosed), trio.fail_after(30):
            await talk(agent)
