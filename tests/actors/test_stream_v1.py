"""Consumers with credit and leases on a real log, when something ends, and when an agent is overloaded."""

from pathlib import Path

import pytest
import trio

from engine.credit import PREFETCH
from engine.errors import Unavailable
from engine.settle_words import BadFrame
from engine.stream_v1 import Grant
from tests.support.leased_agent import open_leased_agent
from tests.support.nats_client import open_nats_client
from tests.support.stream_scene import SOON_S, SUBJECT, open_stream_scene
from tests.support.waiting import wait_stays, wait_until


@pytest.mark.parametrize("has_batch", [True, False], ids=["with a batch in its hands", "with one on its way"])
async def test_cancelled_here_it_gives_everything_back_at_once(tmp_path: Path, *, has_batch: bool) -> None:
    """What the agent held or was about to get is in another's hands at once, counted as delivered again."""
    async with open_stream_scene(tmp_path) as scene:
        await scene.publish(*(b"%d" % number for number in range(5)))
        with trio.CancelScope() as scope:
            async with open_leased_agent(scene) as agent:
                agent.credit(5)
                await scene.wait_held(5)
                while has_batch and agent.consumer.in_flight.messages < 5:
                    await agent.receive()
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert scene.root.children == {}
        async with open_leased_agent(scene) as other:
            other.credit()
            got: dict[int, int] = {}
            with trio.fail_after(SOON_S * 2):
                while len(got) < 5:
                    batch, messages = await other.receive()
                    got |= {one.delivery.sequence: one.delivery.delivered for one in messages}
                    other.settle(batch, ack=[[0, len(messages) - 1]])
        assert set(got.values()) == {2}
        await scene.wait_held(0)


async def test_overloaded_it_takes_no_more_than_its_credit(tmp_path: Path) -> None:
    """An agent that settles nothing is at its credit; what it does not hold is free for others."""
    async with open_stream_scene(tmp_path) as scene, open_leased_agent(scene) as stalled:
        await scene.publish(*(b"%d" % number for number in range(40)))
        stalled.credit(7)
        while stalled.consumer.in_flight.messages < 7:
            await stalled.receive()

        async def is_bounded() -> bool:
            return await scene.held() <= 7

        await wait_stays(is_bounded, "no more than its credit is out", for_s=0.3)
        async with open_leased_agent(scene) as other:
            other.credit()
            got = 0
            while got < 33:
                batch, messages = await other.receive()
                got += len(messages)
                other.settle(batch, ack=[[0, len(messages) - 1]])
            await scene.wait_held(7)


async def test_an_agent_whose_socket_is_stuck_gives_back_what_waits_for_it(tmp_path: Path) -> None:
    """What waits here is bounded by the read-ahead, whatever was granted, and after a second it is another's."""
    async with open_stream_scene(tmp_path, ack_wait_s=2.0) as scene, open_leased_agent(scene, batch="10") as stuck:
        await scene.publish(*(b"x" * 500_000 for _ in range(12)))
        stuck.consumer.sending_since = trio.current_time()  # as the edge says while a frame does not go
        stuck.credit()
        await wait_until(lambda: stuck.consumer.puller.waiting.bytes > 1_000_000, "messages wait")
        assert stuck.consumer.puller.waiting.bytes <= PREFETCH.bytes
        got: set[int] = set()
        async with open_leased_agent(scene) as other:
            other.credit()
            while len(got) < 12:
                batch, messages = await other.receive()
                got |= {one.delivery.sequence for one in messages}
                other.settle(batch, ack=[[0, len(messages) - 1]])
        assert stuck.consumer.puller.waiting.messages == 0
        stuck.consumer.sending_since = None
        await scene.publish(b"1")
        await stuck.receive()


async def test_a_durable_that_is_deleted_ends_the_session_with_a_reason(tmp_path: Path) -> None:
    """The agent is told, whether it waits or comes later."""
    async with open_stream_scene(tmp_path) as scene, open_leased_agent(scene) as agent:
        agent.credit()

        async def is_waiting() -> bool:
            return bool((await scene.client.api("CONSUMER.INFO.S.d"))["num_waiting"])

        await wait_until(is_waiting, "its pull is open")
        await scene.client.api("CONSUMER.DELETE.S.d")
        with pytest.raises(Unavailable, match="gone from the log"):
            await agent.receive()


async def test_an_agent_outlives_its_log(tmp_path: Path) -> None:
    """A plain verdict that found no log is said again; a confirmed one fails, and may be said again by the agent."""
    async with open_stream_scene(tmp_path) as scene, open_leased_agent(scene) as agent:
        agent.credit()
        await scene.publish(b"1")
        first, _ = await agent.receive()
        await scene.publish(b"2")
        second, _ = await agent.receive()
        scene.server.kill()
        with trio.fail_after(5):
            while scene.log.connection.is_up:
                await scene.log.connection.wait_changed()
        agent.settle(first, ack=[0])
        agent.settle(second, ack=[0], confirm=True)
        frame = await agent.receive_frame("settled")
        assert (frame["confirmed"], frame["late"], frame["failed"]) == ([], [], [[0, 0]])
        assert agent.consumer.in_flight.messages == 1
        await scene.server.start()
        async with open_nats_client(scene.server.url) as client:
            await client.publish(SUBJECT, b"3")
            got: set[int] = set()
            while 3 not in got:
                batch, messages = await agent.receive()
                got |= {one.delivery.sequence for one in messages}
                agent.settle(batch, ack=[[0, len(messages) - 1]])
            agent.settle(second, ack=[0], confirm=True)
            frame = await agent.receive_frame("settled")
            assert frame["confirmed"] == [], "another server: the lease is in doubt"

            async def is_settled() -> bool:
                info = await client.api("CONSUMER.INFO.S.d")
                return not info["num_ack_pending"] and not info["num_pending"]

            async def settle_again() -> bool:
                with trio.move_on_after(0.05):
                    batch, messages = await agent.receive()
                    agent.settle(batch, ack=[[0, len(messages) - 1]])
                return await is_settled()

            await wait_until(settle_again, "nothing waits for an answer", timeout_s=35)


async def test_moving_a_durable_takes_back_what_its_agents_hold(tmp_path: Path) -> None:
    """They are told, and their verdicts count for nothing."""
    async with open_stream_scene(tmp_path) as scene, open_leased_agent(scene) as agent:
        agent.credit()
        await scene.publish(b"1")
        batch, _ = await agent.receive()
        scene.leased.forget("d", "reset")
        lost = await agent.receive_frame("lost")
        assert (lost["batch"], lost["messages"], lost["reason"]) == (batch, [[0, 0]], "reset")
        assert agent.settle(batch, ack=[0]) is None
        again, [message] = await agent.receive()
        assert message.delivery.delivered == 2
        assert not isinstance(agent.settle(again, ack=[0]), BadFrame)
        await scene.wait_held(0)


async def test_dead_letters_are_buried_before_they_are_ended(tmp_path: Path) -> None:
    """A terminated message is ended once it lies among the dead letters; when it could not be buried it comes again."""
    async with open_stream_scene(tmp_path) as scene:
        buried: list[tuple[str, int, int, str]] = []
        is_open = False

        async def bury(consumer: str, sequence: int, delivered: int, reason: str) -> bool:
            buried.append((consumer, sequence, delivered, reason))
            return is_open

        scene.leased.bury = bury
        async with open_leased_agent(scene) as agent:
            agent.credit()
            await scene.publish(b"poison")
            batch, _ = await agent.receive()
            agent.settle(batch, term=[{"i": 0, "reason": "no"}], confirm=True)
            assert (await agent.receive_frame("settled"))["failed"] == [[0, 0]]
            is_open = True
            agent.settle(batch, term=[{"i": 0, "reason": "no"}], confirm=True)
            assert (await agent.receive_frame("settled"))["confirmed"] == [[0, 0]]
            assert buried == [("d", 1, 1, "no")] * 2
            await scene.wait_held(0)


async def test_what_is_delivered_too_often_is_buried_instead(tmp_path: Path) -> None:
    """The agent never sees it again, and the main flow goes on."""
    async with open_stream_scene(tmp_path) as scene:
        buried = trio.Event()

        async def bury(consumer: str, sequence: int, delivered: int, reason: str) -> bool:
            assert (consumer, sequence, delivered) == ("d", 1, 3)
            assert "the most is 3" in reason
            buried.set()
            return True

        scene.leased.bury, scene.leased.max_deliver = bury, 3
        async with open_leased_agent(scene) as agent:
            agent.credit()
            await scene.publish(b"poison")
            for _ in range(3):
                batch, _ = await agent.receive()
                agent.settle(batch, nak=[{"i": 0}])
            with trio.fail_after(2):
                await buried.wait()
            await scene.publish(b"fine")
            batch, [message] = await agent.receive()
            assert message.delivery.sequence == 2
            agent.settle(batch, ack=[0])
            await scene.wait_held(0)


async def test_auto_gives_a_fast_agent_all_it_takes(tmp_path: Path) -> None:
    """Nothing is granted, and a thousand messages arrive in batches that grow."""
    async with open_stream_scene(tmp_path) as scene, open_leased_agent(scene) as agent:
        await scene.publish(*(b"%d" % number for number in range(1000)))
        agent.consumer.grant(Grant(None))
        got: list[int] = []
        while len(got) < 1000:
            batch, messages = await agent.receive()
            got += [one.delivery.sequence for one in messages]
            agent.settle(batch, ack=[[0, len(messages) - 1]])
        assert got == sorted(got)
        await scene.wait_held(0)
