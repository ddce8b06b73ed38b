"""Consumers when something ends: the agent, its durable, its lease, the log (3.3, T7)."""

from pathlib import Path

import pytest
import trio
import trio.testing

from engine.errors import Unavailable
from engine.log import Verdict
from tests.support.nats_client import open_nats_client
from tests.support.stream_scene import SOON_S, SUBJECT, open_stream_scene
from tests.support.waiting import wait_until


@pytest.mark.parametrize("has_batch", [True, False], ids=["with a batch in its hands", "between batches"])
async def test_cancelled_here_it_gives_everything_back_at_once(tmp_path: Path, *, has_batch: bool) -> None:
    """Whatever the agent held or was about to get is in another's hands within 50 ms, counted as delivered again."""
    async with open_stream_scene(tmp_path) as scene:
        with trio.CancelScope() as scope:
            async with scene.streams.attach("d", 5) as consumer:
                if has_batch:
                    await scene.publish(*(b"%d" % number for number in range(5)))
                    await scene.receive(consumer)
                else:
                    with trio.move_on_after(0):
                        await consumer.next_batch()
                    await scene.publish(*(b"%d" % number for number in range(5)))
                    await scene.wait_held(5)  # they came to the pull that was left open
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert scene.root.children == {}
        found: list[bytes] = []
        async with scene.streams.attach("d", 5) as other:
            with trio.fail_after(SOON_S):
                while len(found) < 5:
                    found += await scene.receive(other)
                    scene.settle(other)
        assert sorted(found) == [b"%d" % number for number in range(5)]
        await scene.wait_held(0)


async def test_a_durable_that_is_deleted_under_an_agent_is_said_to_be_gone(tmp_path: Path) -> None:
    """The agent's session ends with a reason, whether it waits or comes later."""
    async with open_stream_scene(tmp_path) as scene:
        async with scene.streams.attach("d", 10) as consumer, trio.open_nursery() as nursery:

            async def delete() -> None:
                async def is_waiting() -> bool:
                    return bool((await scene.client.api("CONSUMER.INFO.S.d"))["num_waiting"])

                await wait_until(is_waiting, "the agent's pull is open")
                await scene.client.api("CONSUMER.DELETE.S.d")

            nursery.start_soon(delete)
            with pytest.raises(Unavailable, match="gone from the log"):
                await scene.receive(consumer)
        async with scene.streams.attach("d", 10) as consumer:
            with pytest.raises(Unavailable, match="gone from the log"):
                await scene.receive(consumer)


async def test_an_agent_outlives_its_log(tmp_path: Path) -> None:
    """When the log comes back the agent goes on; an acknowledgement that found no log is said again."""
    async with open_stream_scene(tmp_path) as scene, scene.streams.attach("d", 10) as consumer:
        await scene.publish(b"1")
        assert await scene.receive(consumer) == [b"1"]
        scene.server.kill()
        with trio.fail_after(5):
            while scene.log.connection.is_up:
                await scene.log.connection.wait_changed()
        scene.settle(consumer)
        await scene.server.start()
        async with open_nats_client(scene.server.url) as client:
            await client.publish(SUBJECT, b"2")
            batch = await scene.receive(consumer)
            while b"2" not in batch:  # the log may deliver the first again before it hears of its end
                scene.settle(consumer)
                batch = await scene.receive(consumer)
            scene.settle(consumer)

            async def is_settled() -> bool:
                return not (await client.api("CONSUMER.INFO.S.d"))["num_ack_pending"]

            await wait_until(is_settled, "nothing waits for an answer")


async def test_a_waiting_agent_outlives_its_log(tmp_path: Path) -> None:
    """The open pull went with the connection: another one is opened as soon as there is a log."""
    async with (
        open_stream_scene(tmp_path) as scene,
        scene.streams.attach("d", 10) as consumer,
        trio.open_nursery() as nursery,
    ):
        found: list[bytes] = []

        async def receive() -> None:
            found.extend(await scene.receive(consumer))

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked(0.02)
        scene.server.kill()
        await scene.server.start()
        async with open_nats_client(scene.server.url) as client:
            await client.publish(SUBJECT, b"1")
            await wait_until(lambda: found == [b"1"], "the message arrived")


async def test_a_lease_is_extended_while_the_agent_works(tmp_path: Path) -> None:
    """An agent that works for longer than a lease keeps its batch."""
    async with open_stream_scene(tmp_path, ack_wait_s=1.0) as scene, scene.streams.attach("d", 1) as consumer:
        await scene.publish(b"1")
        await scene.receive(consumer)
        async with scene.streams.attach("d", 1) as other:
            with trio.move_on_after(2.0) as patience:
                await scene.receive_all(other, 10.0)
            assert patience.cancelled_caught
        scene.settle(consumer)
        await scene.wait_held(0)


async def test_a_lease_is_not_extended_for_ever(tmp_path: Path) -> None:
    """An agent that has had its batch too long loses it to another."""
    async with (
        open_stream_scene(tmp_path, ack_wait_s=1.0, max_lease_s=0.1) as scene,
        scene.streams.attach("d", 1) as consumer,
    ):
        await scene.publish(b"1")
        await scene.receive(consumer)
        async with scene.streams.attach("d", 1) as other:
            [again] = await scene.receive_all(other)
            assert (again.payload, again.delivered) == (b"1", 2)
            scene.settle(other)


async def test_after_many_agents_nothing_is_left(tmp_path: Path) -> None:
    """Agents that come and go in every state leave no actor, and the next one gets everything at once."""
    async with open_stream_scene(tmp_path) as scene:
        await scene.publish(*(b"%d" % number for number in range(20)))
        for number in range(60):
            with trio.move_on_after(number % 7 / 100):
                async with scene.streams.attach("d", 5) as consumer:
                    while True:
                        await scene.receive(consumer)
                        if number % 3:
                            scene.settle(consumer, Verdict.NAK)
                        else:
                            await trio.sleep_forever()
        assert scene.root.children == {}
        found: set[bytes] = set()
        async with scene.streams.attach("d", 5) as last:
            with trio.fail_after(SOON_S):
                while len(found) < 20:
                    found |= set(await scene.receive(last))
                    scene.settle(last)
        await scene.wait_held(0)
