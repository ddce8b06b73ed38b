"""T7 and the failover of issue 3 for agents of `headgate.stream.v1`: they die, lie, repeat themselves, and are slow."""

import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from tests.support.agent import open_agent
from tests.support.agent_v1 import AgentV1, BatchV1, open_agent_v1
from tests.support.agents_v1_script import spawn_agents
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask
from tests.support.nats_client import NatsClient, open_embedded_log
from tests.support.waiting import let_pass, wait_until

SOCKETS = 100
EACH = 5


class Topic:
    """A subject and a durable of the test's own."""

    def __init__(self, gateway: Gateway, log: NatsClient) -> None:
        self.gateway = gateway
        self.log = log
        self.subject = f"snapfs.v1-{uuid.uuid4().hex[:12]}"
        self.durable = f"v1-{uuid.uuid4().hex[:12]}"

    async def publish(self, count: int, size_bytes: int = 10) -> None:
        """Put frames on the log."""
        event = {"type": "note", "data": {"pad": "x" * size_bytes}}
        for _ in range(count):
            await self.log.publish(self.subject, orjson.dumps({"events": [event]}))

    @asynccontextmanager
    async def agent(self, **more: Any) -> AsyncIterator[AgentV1]:
        """Connect an agent of the durable."""
        async with open_agent_v1(self.gateway.url, self.durable, subject=self.subject, **more) as agent:
            yield agent

    async def info(self) -> dict[str, Any]:
        """What the log knows of the durable."""
        [info] = await self.log.find_consumers("SNAPFS_FILES", self.durable)
        return info

    async def wait_settled(self) -> None:
        """Wait until the log has nothing of the durable left."""

        async def is_settled() -> bool:
            info = await self.info()
            return not info["num_pending"] and not info["num_ack_pending"]

        await wait_until(is_settled, "everything is settled")


@asynccontextmanager
async def open_topic(gateway: Gateway) -> AsyncIterator[Topic]:
    """A fresh topic; afterwards the gateway must still be well."""
    async with open_embedded_log(gateway) as log:
        yield Topic(gateway, log)
    assert gateway.is_running
    assert (await ask(gateway.url, "GET", "/readyz")).status == 200


@pytest.fixture
async def topic(gateway: Gateway) -> AsyncIterator[Topic]:
    """A fresh topic on the module's gateway."""
    async with open_topic(gateway) as one:
        yield one


async def fail_over(topic: Topic) -> float:
    """Kill 100 sockets that hold batches, all at once; gives the 99th percentile of the redelivery, seconds."""
    await topic.publish(SOCKETS * EACH)
    dying = spawn_agents(topic.gateway.url, topic.durable, topic.subject, SOCKETS, EACH, topic.gateway.data_dir)
    try:

        async def is_held() -> bool:
            found = await topic.log.find_consumers("SNAPFS_FILES", topic.durable)
            return any(one["num_ack_pending"] == SOCKETS * EACH for one in found)

        await wait_until(is_held, "all of it is in their hands", timeout_s=30)
        async with topic.agent(batch=50) as second:
            await second.credit()
            await second.status()  # it has said all that it had to say, and waits
            arrivals: list[float] = []
            batches: list[BatchV1] = []
            began = time.monotonic()
            dying.kill()  # the kernel closes a hundred sockets
            while len(arrivals) < SOCKETS * EACH:
                batches.append(await second.receive())
                arrivals += [time.monotonic() - began] * len(batches[-1].messages)
            assert all(one["delivered"] == 2 for batch in batches for one in batch.messages)
            for batch in batches:
                await second.ack(batch)
            await topic.wait_settled()
    finally:
        dying.kill()
        dying.wait()
    return sorted(arrivals)[int(len(arrivals) * 0.99) - 1]


async def test_what_a_hundred_dead_sockets_held_goes_to_another_at_once(topic: Topic) -> None:
    """T7: one second agent has all of it; the issue's figure is printed, a busy machine is no bug."""
    took_s = await fail_over(topic)
    print(f"{SOCKETS} sockets killed with {EACH} messages each: redelivered, p99 {1000 * took_s:.1f} ms")
    assert took_s < 1.0


@pytest.mark.long
async def test_that_takes_under_50_ms_at_the_99th_percentile(topic: Topic) -> None:
    """Issue 3: p99 under 50 ms, the median of five rounds."""
    took_s = sorted([await fail_over(Topic(topic.gateway, topic.log)) for _ in range(5)])
    print(f"p99 of each round, ms: {[round(1000 * one, 1) for one in took_s]}")
    assert took_s[2] < 0.05


@pytest.mark.parametrize(
    ("ack_wait_s", "work_s", "batches"), [(1, 4, 1), pytest.param(10, 60, 3, marks=pytest.mark.long)]
)
async def test_a_slow_agent_that_lives_sees_no_redelivery(
    tmp_path: Path, ack_wait_s: int, work_s: float, batches: int
) -> None:
    """It works on each batch for several leases: nobody else gets it, and it is confirmed."""
    env = {"HEADGATE_ACK_WAIT_S": str(ack_wait_s)}
    async with open_gateway(tmp_path / "data", env=env) as gateway, open_embedded_log(gateway) as log:
        for _ in range(batches):
            topic = Topic(gateway, log)  # a fresh one: the sockets of the one before may not be seen to be closed yet
            await topic.publish(10)
            async with topic.agent() as slow, topic.agent() as other:
                await slow.credit()
                held = [await slow.receive()]
                while sum(len(one.messages) for one in held) < 10:
                    held.append(await slow.receive())
                await other.credit()
                await other.receive_no_batch(for_s=work_s)
                for batch in held:
                    assert {one["delivered"] for one in batch.messages} == {1}
                    settled = await slow.confirm(batch)
                    assert (settled["confirmed"], settled["late"]) == ([[0, batch.last]], [])
                assert not (await topic.info())["num_redelivered"]
                await topic.wait_settled()


async def test_a_batch_is_not_held_for_ever(topic: Topic) -> None:
    """T7: after the maximum lease it is another's; what the agent says then is late and settles nothing."""
    await topic.publish(3)
    async with topic.agent(max_lease_s="0.5") as agent, topic.agent() as other:
        await agent.credit()
        batches = [await agent.receive()]
        while sum(len(one.messages) for one in batches) < 3:
            batches.append(await agent.receive())
        await other.credit()
        lost = await agent.receive_other("lost")
        assert lost["batch"] == batches[0].id
        assert lost["messages"] == [[0, batches[0].last]]
        got: list[BatchV1] = []
        while sum(len(one.messages) for one in got) < 3:
            got.append(await other.receive())
        settled = await agent.confirm(batches[0])
        assert settled["confirmed"] == []
        assert (await topic.info())["num_ack_pending"] == 3
        for batch in got:
            assert (await other.confirm(batch))["confirmed"] == [[0, batch.last]]
        await topic.wait_settled()


async def test_half_a_batch_twice_and_unknown_ones(topic: Topic) -> None:
    """T7: the settled half never comes again, saying it twice does nothing, another's batch is nobody's."""
    await topic.publish(10)
    async with topic.agent() as agent:
        await agent.credit()
        batch = await agent.receive()
        while len(batch.messages) < 10:
            await agent.confirm(batch, nak=[{"i": [0, batch.last]}])
            batch = await agent.receive()
        for _ in range(2):
            await agent.settle(batch, ack=[[0, 4]])
        await agent.settle(str(uuid.uuid4()), ack=[0])
        error = await agent.receive_other("error")
        assert (error["code"], error["fatal"]) == ("stream.unknown-batch", False)
        half = batch.sequences[5:]
        agent.reset()
    async with topic.agent() as agent:
        await agent.settle(batch, ack=[[0, 9]])  # a batch of another connection
        assert (await agent.receive_other("error"))["code"] == "stream.unknown-batch"
        await agent.credit()
        got: list[int] = []
        while len(got) < 5:
            again = await agent.receive()
            got += again.sequences
            assert all(one["delivered"] >= 2 for one in again.messages)
            await agent.ack(again)
        assert sorted(got) == half
        await topic.wait_settled()


async def test_both_wires_share_the_work_of_one_durable(topic: Topic) -> None:
    """Old agents and new ones die and work in turns; everything is settled once, by somebody."""
    await topic.publish(200)
    got: set[int] = set()
    async with trio.open_nursery() as nursery:

        async def work_old() -> None:
            async with open_agent(topic.gateway.url, topic.durable, subject=topic.subject, batch=7) as agent:
                while True:
                    batch = await agent.receive(60)
                    got.update(range(len(got), len(got) + len(batch.messages)))
                    await agent.ack(batch)

        async def work_new() -> None:
            async with topic.agent(batch=7) as agent:
                await agent.auto()
                while True:
                    batch = await agent.receive(60)
                    got.update(range(len(got), len(got) + len(batch.messages)))
                    await agent.ack(batch)

        async def die() -> None:
            for _ in range(5):
                async with topic.agent(batch=7) as agent:
                    await agent.credit(7)
                    with trio.move_on_after(0.5):
                        await agent.receive()
                    agent.reset()

        nursery.start_soon(die)
        await let_pass(0.1)
        nursery.start_soon(work_old)
        nursery.start_soon(work_new)
        await wait_until(lambda: len(got) >= 200, "everything came")
        await topic.wait_settled()
        nursery.cancel_scope.cancel()


async def test_verdicts_are_followed_while_a_batch_is_stuck(topic: Topic) -> None:
    """The path of a settle never waits behind a delivery that the agent does not read."""
    await topic.publish(1)
    async with topic.agent(receive_buffer_bytes=4096) as agent:
        await agent.credit()
        batch = await agent.receive()
        await topic.publish(20, size_bytes=900_000)
        await let_pass(0.3)  # the sender is stuck by then: nobody reads, and the kernel's buffers are small
        await agent.ack(batch)

        async def is_acked() -> bool:
            return bool((await topic.info())["ack_floor"]["consumer_seq"] >= 1)

        await wait_until(is_acked, "the verdict reached the log", timeout_s=2)


async def test_shutdown_waits_for_verdicts_and_gives_back_the_rest(tmp_path: Path) -> None:
    """SIGTERM: nothing more is sent, a verdict in time counts, the agent is told to come back; the rest comes again.

    After its lease, because a log that is stopped forgets what was given back to it.
    """
    env = {"HEADGATE_DRAIN_S": "4", "HEADGATE_ACK_WAIT_S": "2"}
    async with open_gateway(tmp_path / "data", env=env) as gateway, open_embedded_log(gateway) as log:
        topic = Topic(gateway, log)
        await topic.publish(2)
        async with topic.agent(batch=1) as agent, topic.agent(batch=1) as idle:
            await agent.credit(2)
            held = [await agent.receive(), await agent.receive()]
            gateway.signal(signal.SIGTERM)
            assert await idle.wait_closed() == 1001
            assert (await agent.confirm(held[0]))["confirmed"] == [[0, 0]]
            assert await agent.wait_closed() == 1001
        assert await gateway.wait_exit() == 0
    async with open_gateway(tmp_path / "data") as gateway, open_embedded_log(gateway) as log:
        again = Topic(gateway, log)
        again.subject, again.durable = topic.subject, topic.durable
        async with again.agent() as agent:
            await agent.credit()
            batch = await agent.receive()
            assert batch.sequences == held[1].sequences
            await agent.ack(batch)
            await again.wait_settled()
