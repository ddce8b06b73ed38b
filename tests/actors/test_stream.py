"""Consumers on a real log: what an agent gets, in what portions, and what others get meanwhile (3.3)."""

from pathlib import Path

import trio
import trio.testing

from actors.stream import Consumer
from engine.log import Delivery, Verdict
from engine.stream import BATCH_BYTES, PATIENCE_S
from tests.support.stream_scene import SOON_S, StreamScene, open_stream_scene
from tests.support.waiting import wait_stays


async def test_an_agent_gets_what_is_there_in_order(tmp_path: Path) -> None:
    """At most as many messages as it asked for at a time, from the beginning of the stream."""
    async with open_stream_scene(tmp_path) as scene:
        await scene.publish(*(b"%d" % number for number in range(7)))
        found: list[bytes] = []
        async with scene.streams.attach("d", 3) as consumer:
            while len(found) < 7:
                batch = await scene.receive(consumer)
                assert 1 <= len(batch) <= 3
                found += batch
                scene.settle(consumer)
        assert found == [b"%d" % number for number in range(7)]
        await scene.wait_held(0)


async def test_a_waiting_agent_gets_a_message_at_once(tmp_path: Path) -> None:
    """No polling: what is published arrives, also after a long wait, also alone."""
    async with open_stream_scene(tmp_path) as scene, scene.streams.attach("d", 100) as consumer:
        for number in range(5):
            async with trio.open_nursery() as nursery:

                async def publish(number: int = number) -> None:
                    await trio.testing.wait_all_tasks_blocked(0.02)
                    await scene.publish(b"%d" % number)

                nursery.start_soon(publish)
                batch = await scene.receive(consumer, SOON_S + 0.02)
            assert batch == [b"%d" % number]
            scene.settle(consumer)


async def test_what_is_refused_comes_again_at_once(tmp_path: Path) -> None:
    """A NAK brings the same messages again, counted."""
    async with open_stream_scene(tmp_path) as scene, scene.streams.attach("d", 2) as consumer:
        await scene.publish(b"1", b"2")
        first: list[Delivery] = []
        while len(first) < 2:
            first += await scene.receive_all(consumer)
            scene.settle(consumer, Verdict.NAK)
        again = await scene.receive_all(consumer, SOON_S)
        assert {one.delivered for one in again} == {2}
        assert {one.sequence for one in again} <= {1, 2}
        scene.settle(consumer)


async def test_a_message_larger_than_a_batch_comes_alone(tmp_path: Path) -> None:
    """What is too large for a batch is delivered all the same, by itself, and what follows it too."""
    async with open_stream_scene(tmp_path) as scene, scene.streams.attach("d", 100) as consumer:
        large = b"x" * (BATCH_BYTES + 10_000)
        sent = [b"1", large, large, b"2", b"3"]
        await scene.publish(*sent)
        found: list[bytes] = []
        while len(found) < 5:
            batch = await scene.receive(consumer)
            assert len(batch) == 1 or large not in batch
            found += batch
            scene.settle(consumer)
        assert found == sent


async def test_a_batch_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Many large messages come in several batches, none larger than its bound."""
    async with open_stream_scene(tmp_path) as scene, scene.streams.attach("d", 100) as consumer:
        await scene.publish(*(b"x" * 300_000 for _ in range(8)))
        sizes: list[int] = []
        while sum(sizes) < 8 * 300_000:
            sizes.append(sum(len(one) for one in await scene.receive(consumer)))
            scene.settle(consumer)
        assert max(sizes) <= BATCH_BYTES


async def test_an_agent_that_stalls_is_given_no_more_than_it_holds(tmp_path: Path) -> None:
    """Overloaded: beside its batch nothing stays here; what was read ahead is another's within its patience."""
    async with open_stream_scene(tmp_path) as scene, scene.streams.attach("d", 10) as stalled:
        await scene.publish(b"first")
        assert await scene.receive(stalled) == [b"first"]  # its pull stays open for nine more
        later = {b"%d" % number for number in range(30)}
        await scene.publish(*later)
        await wait_stays(lambda: is_bounded(scene, 20), "at most two batches are out", for_s=PATIENCE_S / 2)
        found: set[bytes] = set()
        async with scene.streams.attach("d", 10) as other:
            with trio.fail_after(PATIENCE_S + SOON_S):
                while found != later:
                    found |= set(await scene.receive(other))
                    scene.settle(other)
            await scene.wait_held(1)
            scene.settle(stalled)
            await scene.wait_held(0)


async def is_bounded(scene: StreamScene, most: int) -> bool:
    """Say that no more deliveries than that are out."""
    return await scene.held() <= most


async def test_two_agents_share_a_durable(tmp_path: Path) -> None:
    """Everything once, whoever gets it."""
    async with open_stream_scene(tmp_path) as scene:
        await scene.publish(*(b"%d" % number for number in range(60)))
        found: list[bytes] = []
        async with scene.streams.attach("d", 4) as one, scene.streams.attach("d", 4) as other:
            assert list(scene.root.children) == ["d", "d-2"]
            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:

                    async def consume(consumer: Consumer) -> None:
                        while True:
                            found.extend(await scene.receive(consumer))
                            scene.settle(consumer)
                            if len(found) >= 60:
                                nursery.cancel_scope.cancel()

                    nursery.start_soon(consume, one)
                    nursery.start_soon(consume, other)
        assert sorted(map(int, found)) == list(range(60))
        assert scene.root.children == {}
