"""Consumers on a real log: what an agent gets, what it holds, and what becomes of it when the agent is gone (3.3)."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from actors.stream import Consumer, Streams
from actors.tree import Actor
from engine.bridge import open_bridge
from engine.endpoints import Endpoint
from engine.errors import Refused, Unavailable
from engine.jetstream import JetStream
from engine.log import Delivery, Verdict
from engine.log_control import LogControl
from engine.stream import BATCH_BYTES, MOST_BATCH, PATIENCE_S
from tests.support.nats_client import NatsClient, open_nats_client
from tests.support.nats_peer import open_nats_peer
from tests.support.nats_server import NatsServer, open_nats_server
from tests.support.waiting import wait_stays, wait_until

SUBJECT = "snapfs.files"
SOON_S = 0.2


class Scene:
    """A real stream, the consumers' storey on it, and a client that sees what is there."""

    def __init__(self, server: NatsServer, log: JetStream, streams: Streams, root: Actor, client: NatsClient) -> None:
        self.server = server
        self.log = log
        self.streams = streams
        self.root = root
        self.client = client
        self._batches = itertools.count(1)

    async def publish(self, *payloads: bytes) -> None:
        """Put messages on the log, and wait until the durable knows of them."""
        for payload in payloads:
            await self.client.publish(SUBJECT, payload)

    async def receive(self, consumer: Consumer, within_s: float = 5.0) -> list[bytes]:
        """Take the next batch into the agent's hands."""
        return [one.payload for one in await self.receive_all(consumer, within_s)]

    async def receive_all(self, consumer: Consumer, within_s: float = 5.0) -> list[Delivery]:
        """Take the next batch, with everything known of it."""
        with trio.fail_after(within_s):
            deliveries = await consumer.next_batch()
        consumer.hand_over(f"batch-{next(self._batches)}", deliveries, trio.current_time())
        return deliveries

    def settle(self, consumer: Consumer, verdict: Verdict = Verdict.ACK) -> None:
        """Let the agent answer."""
        consumer.settle(verdict, trio.current_time())

    async def held(self, durable: str = "d") -> int:
        """How many deliveries of a durable wait for an answer."""
        number: int = (await self.client.api(f"CONSUMER.INFO.S.{durable}"))["num_ack_pending"]
        return number

    async def wait_held(self, number: int, *, timeout_s: float = 5.0) -> None:
        """Wait until so many deliveries wait for an answer."""

        async def is_so() -> bool:
            return await self.held() == number

        await wait_until(is_so, f"{number} deliveries wait for an answer", timeout_s=timeout_s)


@asynccontextmanager
async def open_scene(folder: Path, *, ack_wait_s: float = 30.0, max_lease_s: float = 900.0) -> AsyncIterator[Scene]:
    """Open everything, with a stream `S` and a durable `d`."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(open_nats_server(folder))
        client = await stack.enter_async_context(open_nats_client(server.url))
        bridge = await stack.enter_async_context(open_bridge())
        control = LogControl(bridge, lambda: Endpoint("127.0.0.1", server.port, {}))
        stack.push_async_callback(control.aclose)
        log = JetStream(lambda: Endpoint("127.0.0.1", server.port, {}), "test")
        root = Actor("stream", trio.current_time())
        streams = Streams(log, control, "S", ["snapfs.>"], ack_wait_s, max_lease_s, root)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(log.connection.run)
        with trio.fail_after(5):
            await log.connection.wait_up()
        await control.ensure_stream("S", ["snapfs.>"])
        await streams.ensure(SUBJECT, "d")
        yield Scene(server, log, streams, root, client)


async def test_an_agent_gets_what_is_there_in_order(tmp_path: Path) -> None:
    """At most as many messages as it asked for at a time, from the beginning of the stream."""
    async with open_scene(tmp_path) as scene:
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
    async with open_scene(tmp_path) as scene, scene.streams.attach("d", 100) as consumer:
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
    async with open_scene(tmp_path) as scene, scene.streams.attach("d", 2) as consumer:
        await scene.publish(b"1", b"2")
        first: list[Delivery] = []
        while len(first) < 2:
            first += await scene.receive_all(consumer)
            scene.settle(consumer, Verdict.NAK)
        again = await scene.receive_all(consumer, SOON_S)
        assert {one.delivered for one in again} == {2}
        assert {one.sequence for one in again} <= {1, 2}
        scene.settle(consumer)


@pytest.mark.parametrize("has_batch", [True, False], ids=["with a batch in its hands", "between batches"])
async def test_cancelled_here_it_gives_everything_back_at_once(tmp_path: Path, *, has_batch: bool) -> None:
    """Whatever the agent held or was about to get is in another's hands within 50 ms, counted as delivered again."""
    async with open_scene(tmp_path) as scene:
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


async def test_a_message_larger_than_a_batch_comes_alone(tmp_path: Path) -> None:
    """What is too large for a batch is delivered all the same, by itself, and what follows it too."""
    async with open_scene(tmp_path) as scene, scene.streams.attach("d", 100) as consumer:
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
    async with open_scene(tmp_path) as scene, scene.streams.attach("d", 100) as consumer:
        await scene.publish(*(b"x" * 300_000 for _ in range(8)))
        sizes: list[int] = []
        while sum(sizes) < 8 * 300_000:
            sizes.append(sum(len(one) for one in await scene.receive(consumer)))
            scene.settle(consumer)
        assert max(sizes) <= BATCH_BYTES


async def test_an_agent_that_stalls_is_given_no_more_than_it_holds(tmp_path: Path) -> None:
    """Overloaded: beside its batch nothing stays here; what was read ahead is another's within its patience."""
    async with open_scene(tmp_path) as scene:
        await scene.publish(*(b"%d" % number for number in range(100)))
        async with scene.streams.attach("d", 10) as stalled:
            await scene.receive(stalled)
            scene.settle(stalled)
            mine = await scene.receive(stalled)
            await wait_stays(lambda: scene_is_bounded(scene, 20), "at most two batches are out", for_s=PATIENCE_S)
            await scene.wait_held(len(mine), timeout_s=2 * PATIENCE_S)
            found: set[bytes] = set()
            async with scene.streams.attach("d", 10) as other:
                while len(found) < 100 - 10 - len(mine):
                    found |= set(await scene.receive(other, 1.0))
                    scene.settle(other)
                assert found.isdisjoint(mine)
                await scene.wait_held(len(mine))
            assert scene.root.describe(trio.current_time())["children"] != []
            scene.settle(stalled)
        await scene.wait_held(0)


async def scene_is_bounded(scene: Scene, most: int) -> bool:
    """Say that no more deliveries than that are out."""
    return await scene.held() <= most


async def test_two_agents_share_a_durable(tmp_path: Path) -> None:
    """Everything once, whoever gets it."""
    async with open_scene(tmp_path) as scene:
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


async def test_a_durable_that_is_deleted_under_an_agent_is_said_to_be_gone(tmp_path: Path) -> None:
    """The agent's session ends with a reason, whether it waits or comes later."""
    async with open_scene(tmp_path) as scene:
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
    async with open_scene(tmp_path) as scene, scene.streams.attach("d", 10) as consumer:
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
    async with open_scene(tmp_path) as scene, scene.streams.attach("d", 10) as consumer, trio.open_nursery() as nursery:
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
    async with open_scene(tmp_path, ack_wait_s=1.0) as scene, scene.streams.attach("d", 1) as consumer:
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
    async with open_scene(tmp_path, ack_wait_s=1.0, max_lease_s=0.1) as scene, scene.streams.attach("d", 1) as consumer:
        await scene.publish(b"1")
        await scene.receive(consumer)
        async with scene.streams.attach("d", 1) as other:
            [again] = await scene.receive_all(other)
            assert (again.payload, again.delivered) == (b"1", 2)
            scene.settle(other)


async def test_after_many_agents_nothing_is_left(tmp_path: Path) -> None:
    """Agents that come and go in every state leave no actor, and the next one gets everything at once."""
    async with open_scene(tmp_path) as scene:
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


BAD_PARAMETERS = [
    ("snapfs.files", "", 10, "durable"),
    ("snapfs.files", "a.b", 10, "durable"),
    ("snapfs.files", "a b", 10, "durable"),
    ("snapfs.files", "a>", 10, "durable"),
    ("", "d", 10, "subject"),
    ("snapfs.>", "d", 10, "subject"),
    ("snapfs..files", "d", 10, "subject"),
    ("other.files", "d", 10, "subject"),
    ("snapfs", "d", 10, "subject"),
    ("snapfs.files", "d", 0, "batch"),
    ("snapfs.files", "d", -1, "batch"),
    ("snapfs.files", "d", MOST_BATCH + 1, "batch"),
]


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    """Consumers whose log nobody can reach."""
    async with open_nats_peer() as peer, open_bridge() as bridge:
        log, control = JetStream(peer.locate, "test"), LogControl(bridge, peer.locate)
        yield Streams(log, control, "S", ["snapfs.>"], 30.0, 900.0, Actor("stream", 0.0))


@pytest.mark.parametrize(("subject", "durable", "count", "name"), BAD_PARAMETERS)
async def test_wrong_parameters_are_named(streams: Streams, subject: str, durable: str, count: int, name: str) -> None:
    """Which of the three is wrong, what was expected, and what came."""
    with pytest.raises(Refused) as caught:
        streams.check(subject, durable, count)
    assert caught.value.kind.code == "request.bad-parameter"
    assert caught.value.detail.startswith(f"{name}: ")
    assert str({"subject": repr(subject), "durable": repr(durable), "batch": count}[name]) in caught.value.detail


async def test_good_parameters_pass(streams: Streams) -> None:
    """The bounds themselves are good."""
    streams.check("snapfs.files", "mysql", 1)
    streams.check("snapfs.a.b", "é", MOST_BATCH)


async def test_without_a_log_an_agent_is_told_so_at_once(streams: Streams) -> None:
    """A log that is known to be away is not asked."""
    with trio.fail_after(0.5), pytest.raises(Unavailable) as caught:
        await streams.ensure("snapfs.files", "d")
    assert caught.value.kind.code == "log.down"
