"""Confirmations when the network is slow and the log is killed: never a false one (issue 3, must be shown 1; T7)."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from engine.endpoints import Endpoint
from engine.jetstream import JetStream
from engine.leases import LeaseTerms
from engine.log import Delivery, PullRequest, Verdict, read_delivery
from engine.nats_wire import Message
from engine.stream_v1 import Ready
from tests.support.leased_agent import LeasedAgent, open_leased_agent
from tests.support.nats_client import open_nats_client
from tests.support.stream_scene import SUBJECT, StreamScene, open_stream_scene
from tests.support.waiting import let_pass, wait_until


class Rival:
    """Somebody else who takes from the durable, straight at the server, and acknowledges what it gets."""

    def __init__(self, scene: StreamScene) -> None:
        self.got: dict[int, int] = {}
        self._log = JetStream(lambda: Endpoint("127.0.0.1", scene.server.port, {}), "rival")

    async def run(self) -> None:
        """Take whatever comes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._log.connection.run)
            while True:
                await self._log.connection.wait_up()
                inbox = self._log.connection.subscribe(self._take)
                self._log.pull_nowait("S", "d", inbox.subject, PullRequest(1000, expires_s=0.2))
                await let_pass(0.25)
                inbox.close()

    def _take(self, message: Message) -> None:
        item = read_delivery(message)
        if isinstance(item, Delivery):
            self.got[item.sequence] = item.delivered
            self._log.settle_nowait([item], Verdict.ACK)


@asynccontextmanager
async def open_rival(scene: StreamScene) -> AsyncIterator[Rival]:
    """Let somebody else take from the durable for the length of the block."""
    rival = Rival(scene)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rival.run)
        yield rival
        nursery.cancel_scope.cancel()


def indexes_of(spans: list[list[int]]) -> list[int]:
    """Every index of these ranges."""
    return [one for first, last in spans for one in range(first, last + 1)]


@pytest.mark.parametrize("delay_s", [0.12, 0.4])
async def test_under_latency_nothing_confirmed_goes_to_somebody_else(
    tmp_path: Path, chance: random.Random, delay_s: float
) -> None:
    """Both ways are slow, the lease is short: what is confirmed nobody else gets, and what somebody got is late."""
    async with (
        open_stream_scene(tmp_path, ack_wait_s=1.0, is_through_chaos=True) as scene,
        open_leased_agent(scene, batch="20") as agent,
    ):
        scene.chaos.delay_s = delay_s
        await scene.publish(*(b"%d" % number for number in range(40)))
        agent.credit()
        confirmed: set[int] = set()
        doubtful: set[int] = set()
        seen: set[int] = set()
        batches = []
        while len(seen) < 40:
            batch, messages = await agent.receive()
            batches.append((batch, messages))
            seen |= {one.delivery.sequence for one in messages}
        async with open_rival(scene) as rival:
            for batch, messages in batches:
                await let_pass(chance.uniform(0, 1.0))
                agent.settle(batch, ack=[[0, len(messages) - 1]], confirm=True)
                frame = await agent.receive_frame("settled")
                confirmed |= {messages[one].delivery.sequence for one in indexes_of(frame["confirmed"])}
                others = indexes_of(frame["late"]) + indexes_of(frame.get("failed", []))
                doubtful |= {messages[one].delivery.sequence for one in others}
            await let_pass(1.2)
            print(f"{delay_s=}: {len(confirmed)} confirmed, {len(doubtful)} late, {len(rival.got)} went to the rival")
            assert not confirmed & rival.got.keys()
            assert confirmed | doubtful | rival.got.keys() >= seen
            if delay_s == 0.4:
                assert doubtful, "a lease that is shorter than the way there cannot be confirmed"


async def test_an_answer_that_comes_after_the_lease_confirms_nothing(tmp_path: Path) -> None:
    """The log answers a late double ack as it answers any: the lease decides, and the message comes to somebody."""
    async with (
        open_stream_scene(tmp_path, ack_wait_s=1.0, is_through_chaos=True) as scene,
        open_leased_agent(scene) as agent,
    ):
        await scene.publish(b"1")
        agent.credit()
        batch, [message] = await agent.receive()
        scene.chaos.hold(to_client=False)  # nothing of ours arrives any more: neither the ack nor an extension
        agent.settle(batch, ack=[0], confirm=True)
        async with open_rival(scene) as rival:
            frame = await agent.receive_frame("settled")
            assert (frame["confirmed"], frame["late"]) == ([], [[0, 0]])
            await wait_until(lambda: rival.got, "the rival has it")
            assert rival.got == {message.delivery.sequence: 2}
            scene.chaos.release()
        assert scene.leased.book.confirmed == 0


async def test_a_killed_log_makes_no_confirmation_false(tmp_path: Path, chance: random.Random) -> None:
    """What the server forgets when it is killed is handed out again to agents of neither wire, and nothing is lost."""
    rounds, count = 4, 200
    async with open_stream_scene(tmp_path, ack_wait_s=1.0) as scene:
        confirmed: set[int] = set()
        async with open_leased_agent(scene, batch="10") as agent, trio.open_nursery() as nursery:
            agent.credit()
            taken: dict[str, list[Ready]] = {}
            async with open_nats_client(scene.server.url) as client:
                for number in range(rounds * count):
                    await client.publish(SUBJECT, b"%d" % number)
            for _ in range(rounds):
                kill = trio.Event()

                async def work(kill: trio.Event = kill) -> None:
                    while not kill.is_set():
                        await confirm_some(agent, taken, confirmed, chance)

                nursery.start_soon(work)
                await let_pass(chance.uniform(0.01, 0.15))
                scene.server.kill()
                kill.set()
                await let_pass(0.05)
                before = set(confirmed)
                await scene.server.start()
                with trio.fail_after(5):
                    await scene.log.connection.wait_up()
                print(f"killed with {len(before)} confirmed")
            nursery.cancel_scope.cancel()
        print(f"acknowledged again because the log had forgotten: {scene.leased.book.repeated}")
        rest: set[int] = set()
        async with scene.streams.attach("d", 50) as old, open_leased_agent(scene) as new:
            new.credit()

            async def take_old() -> None:
                while True:
                    rest.update(one.sequence for one in await scene.receive_all(old))
                    scene.settle(old)

            async def take_new() -> None:
                while True:
                    batch, messages = await new.receive(60)
                    rest.update(one.delivery.sequence for one in messages)
                    new.settle(batch, ack=[[0, len(messages) - 1]])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_old)
                nursery.start_soon(take_new)
                await wait_until(
                    lambda: rest | confirmed == set(range(1, rounds * count + 1)), "everything was confirmed or came"
                )
                await let_pass(1.5)  # a lease: whatever the log believes to be unsettled comes again
                nursery.cancel_scope.cancel()
        assert confirmed
        assert not rest & confirmed, f"{len(rest & confirmed)} false confirmations"


async def confirm_some(
    agent: LeasedAgent, taken: dict[str, list[Ready]], confirmed: set[int], chance: random.Random
) -> None:
    """Take a batch and acknowledge a random part of it; note what is confirmed.

    Args:
        agent: who takes and settles.
        taken: every batch taken so far: an answer may be about one of before, when patience ended first.
        confirmed: the sequences that were confirmed.
        chance: decides what is acknowledged.
    """
    with trio.move_on_after(0.3):
        batch, messages = await agent.receive()
        taken[batch] = messages
        for one in messages:
            assert one.delivery.sequence not in confirmed, "confirmed, and handed out again"
        wanted = [index for index in range(len(messages)) if chance.random() < 0.8]
        agent.settle(batch, ack=wanted, confirm=True)
        frame = await agent.receive_frame("settled")
        answered = taken[frame["batch"]]
        confirmed |= {answered[one].delivery.sequence for one in indexes_of(frame["confirmed"])}


async def test_the_control_without_memory_has_false_confirmations(tmp_path: Path) -> None:
    """The log itself forgets: it delivers again what it answered just before it was killed."""
    async with open_stream_scene(tmp_path, ack_wait_s=1.0) as scene:
        await scene.publish(*(b"%d" % number for number in range(20)))
        async with open_leased_agent(scene) as agent:
            agent.credit()
            confirmed = 0
            while confirmed < 20:
                batch, messages = await agent.receive()
                agent.settle(batch, ack=[[0, len(messages) - 1]], confirm=True)
                confirmed += len(indexes_of((await agent.receive_frame("settled"))["confirmed"]))
            scene.server.kill()
            await scene.server.start()
        async with open_rival(scene) as rival:
            await wait_until(lambda: rival.got, "the log delivers again what it had confirmed", timeout_s=5)


def test_terms_of_a_short_lease_look_often_enough() -> None:
    """With six looks a lease, an extension is asked for while half of the lease is left."""
    terms = LeaseTerms(1.0, 900.0)
    assert terms.pull_s + terms.look_s <= terms.ack_wait_s / 2 + 1e-9
