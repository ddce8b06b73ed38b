"""The keeper of gaps on a real log: what the log delivered to nobody, and what it passes over."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from actors.gaps import Gaps
from engine.log import Delivery, PullRequest, Verdict, consumer_sequence
from engine.stream_v1 import Gap
from tests.support.real_log import Inbox, RealLog, deliveries_of
from tests.support.stream_scene import SUBJECT, StreamScene, open_stream_scene
from tests.support.waiting import wait_until


class Keeper:
    """A keeper of gaps, its log, and a durable `d` of which somebody takes deliveries."""

    def __init__(self, scene: StreamScene) -> None:
        self.scene = scene
        self.client = scene.client
        self.attached = 0
        self.gaps = self.make()
        self._inbox = Inbox(RealLog(scene.log, scene.client))

    def make(self) -> Gaps:
        """Another keeper: that of another gateway, or of one that was started again."""
        leased = self.scene.leased
        return Gaps(leased.log, leased.control, "S", lambda _: self.attached, lambda _: self.here())

    def here(self) -> list[int]:
        """The sequences that have come and were not taken yet."""
        return [one.sequence for one in self._inbox.items if isinstance(one, Delivery)]

    async def publish(self, count: int, subject: str = SUBJECT) -> list[int]:
        """Put messages on the log; gives their sequences."""
        return [await self.client.publish(subject, b"%d" % number) for number in range(count)]

    async def pull(self, count: int) -> list[Delivery]:
        """Take so many deliveries."""
        return deliveries_of(await self._inbox.pull(PullRequest(count, expires_s=5.0), count))

    async def pull_all(self) -> list[Delivery]:
        """Take what is there."""
        found: list[Delivery] = []
        self._inbox.ask(PullRequest(1000))
        while isinstance(one := (await self._inbox.take(1))[0], Delivery):
            found.append(one)
        return found

    async def settle(self, *deliveries: Delivery) -> None:
        """Confirm these, and wait until the log knows."""
        held = await self.scene.held()
        self.scene.log.settle_nowait(list(deliveries), Verdict.ACK)
        await self.scene.wait_held(held - len(deliveries))

    async def delete(self, *sequences: int) -> None:
        """Delete single messages."""
        for one in sequences:
            await self.client.api("STREAM.MSG.DELETE.S", {"seq": one})

    async def raise_the_dead(self) -> list[int]:
        """Purge all, so that the server (2.15.1) has some of it again, and will never deliver it; gives its sequences.

        Two deletions, one of the last message, a purge of everything, a message, and a read.
        """
        sequences = await self.publish(5)
        await self.delete(*sequences[-2:])
        await self.client.api("STREAM.PURGE.S", {"seq": sequences[-1]})
        await self.publish(1)
        await self.scene.log.read_message("S", {"seq": 1, "next_by_subj": SUBJECT}, 5.0)
        return sequences


@asynccontextmanager
async def open_keeper(folder: Path, *, stale_s: float = 600.0) -> AsyncIterator[Keeper]:
    """Open everything; what is delivered to nobody comes again after ten minutes."""
    async with open_stream_scene(folder, ack_wait_s=stale_s) as scene:
        yield Keeper(scene)


def named(gaps: list[Gap]) -> set[int]:
    """The sequences that gaps name, each once."""
    found = [one for gap in gaps for one in range(gap.first, gap.last + 1)]
    assert len(found) == len(set(found)), gaps
    return set(found)


async def test_what_was_delivered_to_nobody_and_then_removed_is_a_gap(tmp_path: Path) -> None:
    """An agent left, and the log counted a delivery that nobody received: it is open until the log gives it again."""
    async with open_keeper(tmp_path) as keeper:
        await keeper.gaps.observe("d")
        keeper.attached = 1
        await keeper.publish(3)
        first, _, third = await keeper.pull(3)
        assert await keeper.gaps.find("d", [first]) == []
        assert await keeper.gaps.find("d", [third]) == []
        await keeper.settle(first, third)
        await keeper.gaps.look()
        await keeper.delete(2)
        await keeper.publish(1)
        assert await keeper.gaps.find("d", await keeper.pull(1)) == [Gap(2, 2, "deleted")]


async def test_what_was_delivered_to_nobody_is_remembered_when_the_next_agent_comes(tmp_path: Path) -> None:
    """Also by a gateway that is started again: its mark stands before it."""
    async with open_keeper(tmp_path) as keeper:
        await keeper.gaps.observe("d")
        keeper.attached = 1
        await keeper.publish(3)
        first, _, third = await keeper.pull(3)
        await keeper.gaps.find("d", [first, third])
        await keeper.settle(first, third)
        keeper.attached = 0
        assert await keeper.gaps.observe("d") == []
        await keeper.gaps.look()

        async def is_kept() -> bool:
            marks = await keeper.client.api("STREAM.INFO.S_MARKS")
            return int(marks["state"]["messages"]) > 0

        await wait_until(is_kept, "the mark is kept")
        await keeper.delete(2)
        again = keeper.make()
        assert await again.observe("d") == [Gap(2, 2, "deleted")]
        assert await keeper.gaps.observe("d") == [Gap(2, 2, "deleted")]
        assert await keeper.gaps.observe("d") == []


async def test_what_comes_again_or_is_settled_elsewhere_is_no_gap(tmp_path: Path) -> None:
    """One of two that went to somebody else is confirmed there, the other is given back and comes here."""
    async with open_keeper(tmp_path) as keeper:
        await keeper.gaps.observe("d")
        keeper.attached = 1
        await keeper.publish(4)
        first, second, third, fourth = await keeper.pull(4)
        await keeper.gaps.find("d", [first, fourth])
        await keeper.settle(first, second, fourth)
        await keeper.gaps.look()
        keeper.scene.log.settle_nowait([third], Verdict.NAK)
        (again,) = await keeper.pull(1)
        assert (again.sequence, consumer_sequence(again.reply)) == (3, 5)
        assert await keeper.gaps.find("d", [again]) == []
        await keeper.settle(again)
        await keeper.gaps.look()
        await keeper.delete(2, 3)
        await keeper.publish(1)
        assert await keeper.gaps.find("d", await keeper.pull(1)) == []


async def test_two_gateways_on_one_durable_announce_nothing_that_the_other_sent(tmp_path: Path) -> None:
    """Each sees half of the numbers: what lies between is open until it is settled, and removed later it is no gap."""
    async with open_keeper(tmp_path) as keeper:
        both = [keeper.gaps, keeper.make()]
        for one in both:
            assert await one.observe("d") == []
        keeper.attached = 1
        gaps: list[Gap] = []
        for _ in range(5):
            await keeper.publish(12)
            found = await keeper.pull(12)
            for at, one in enumerate(both):
                gaps += await one.find("d", [found[index] for index in range(12) if index // 3 % 2 == at])
            await keeper.delete(found[0].sequence)  # before it is settled: the other may name it
            await keeper.scene.wait_held(11)
            await keeper.settle(*found[1:])
            for one in both:
                await one.look()
            await keeper.client.api("STREAM.PURGE.S", {"seq": found[-1].sequence})
        await keeper.publish(1)
        found = await keeper.pull(1)
        for one in both:
            gaps += await one.find("d", found)
        assert named(gaps) <= {1, 13, 25, 37, 49}


async def test_what_the_log_passes_over_is_a_gap_while_an_agent_is_attached(tmp_path: Path) -> None:
    """The purged messages that the server has again are `skipped`; where it has not, they are purged: nothing else."""
    async with open_keeper(tmp_path) as keeper:
        await keeper.gaps.observe("d")
        keeper.attached = 1
        await keeper.publish(3)
        seen = await keeper.pull(3)
        await keeper.gaps.find("d", seen)
        await keeper.settle(*seen)
        lost = await keeper.raise_the_dead()
        gaps = await keeper.gaps.find("d", await keeper.pull(1))
        assert named(gaps) == set(lost)
        state = await keeper.client.stream_state("S")
        there = {one for one in lost if one >= state["first_seq"]} - set(lost[-2:])
        assert {one for gap in gaps if gap.reason == "skipped" for one in range(gap.first, gap.last + 1)} == there
        assert keeper.gaps.messages == len(lost)
        await keeper.publish(1)
        assert await keeper.gaps.find("d", await keeper.pull(1)) == []


async def test_what_the_log_passes_over_is_a_gap_for_the_agent_that_comes_later(tmp_path: Path) -> None:
    """Before any message, and once, whether the gateway looked in between or not."""
    async with open_keeper(tmp_path) as keeper:
        await keeper.gaps.look()
        lost = await keeper.raise_the_dead()
        await keeper.gaps.look()
        gaps = await keeper.gaps.observe("d")
        seen = await keeper.pull(1)
        gaps += await keeper.gaps.find("d", seen)
        await keeper.settle(*seen)
        assert named(gaps) == set(lost)
        await keeper.gaps.look()
        assert await keeper.gaps.observe("d") == []


async def test_a_durable_that_is_moved_to_what_was_skipped_is_given_it(tmp_path: Path) -> None:
    """As the README says: it is in the log."""
    async with open_keeper(tmp_path) as keeper:
        await keeper.gaps.look()
        lost = await keeper.raise_the_dead()
        gaps = await keeper.gaps.observe("d") + await keeper.gaps.find("d", await keeper.pull(1))
        skipped = {one for gap in gaps if gap.reason == "skipped" for one in range(gap.first, gap.last + 1)}
        state = await keeper.client.stream_state("S")
        assert skipped == {one for one in lost[:3] if one >= state["first_seq"]}
        await keeper.client.api("CONSUMER.DELETE.S.d")
        start = {"durable_name": "d", "ack_policy": "explicit", "deliver_policy": "by_start_sequence"}
        config = {**start, "opt_start_seq": min(lost)}
        await keeper.client.api("CONSUMER.DURABLE.CREATE.S.d", {"stream_name": "S", "config": config})
        got = {one.sequence for one in await keeper.pull(len(skipped) + 1)}
        assert got == skipped | {lost[-1] + 1}


async def test_random_removals_match_the_model(tmp_path: Path, chance: random.Random) -> None:
    """Whatever is deleted and purged, and whether agents are attached: seen and named are everything, and apart."""
    async with open_keeper(tmp_path) as keeper:
        seen: set[int] = set()
        gone: set[int] = set()
        last = 0

        async def serve() -> None:
            nonlocal gone
            found = await keeper.pull_all()
            gaps = named(await keeper.gaps.find("d", found))
            assert not gaps & (seen | gone), sorted(gaps & (seen | gone))
            gone |= gaps
            seen.update(one.sequence for one in found)
            assert not seen & gone, sorted(seen & gone)
            await keeper.settle(*found)

        for _ in range(60):
            if keeper.attached:
                keeper.attached = 0
            else:
                gaps = named(await keeper.gaps.observe("d"))
                assert not gaps & (seen | gone)
                gone |= gaps
                keeper.attached = 1
            last = (await keeper.publish(chance.randint(1, 8)))[-1]
            if keeper.attached:
                await serve()
            waiting = await keeper.publish(chance.randint(0, 20))
            for sequence in chance.sample(waiting, min(len(waiting), 5)):
                if (await keeper.client.stream_state("S"))["first_seq"] <= sequence:
                    await keeper.delete(sequence)
            if waiting and chance.random() < 0.4:
                await keeper.client.api("STREAM.PURGE.S", {"seq": chance.choice(waiting)})
            if chance.random() < 0.3:
                await keeper.gaps.look()
        if not keeper.attached:
            gone |= named(await keeper.gaps.observe("d"))
            keeper.attached = 1
        last = (await keeper.publish(1))[-1]
        await serve()
        assert seen | gone == set(range(1, last + 1)), sorted(set(range(1, last + 1)) - seen - gone)
        assert keeper.gaps.messages == len(gone)


async def test_other_subjects_are_no_gap_beside_deleted_messages(tmp_path: Path) -> None:
    """They are looked up where messages were deleted, and nowhere else; at rest the position goes past them."""
    async with open_keeper(tmp_path) as keeper:
        await keeper.gaps.observe("d")
        keeper.attached = 1
        theirs: list[int] = []
        for _ in range(5):
            (ours,) = await keeper.publish(1)
            theirs = await keeper.publish(4, "snapfs.other")
            await keeper.delete(theirs[1])
            seen = await keeper.pull(1)
            assert seen[0].sequence == ours
            gaps = await keeper.gaps.find("d", seen)
            assert not [gap for gap in gaps if gap.reason == "skipped"]
            await keeper.settle(*seen)
            await keeper.gaps.look()
        await keeper.client.api("STREAM.PURGE.S", {"filter": "snapfs.other"})
        await keeper.publish(1)
        gaps = await keeper.gaps.find("d", await keeper.pull(1))
        assert named(gaps) <= {theirs[1]}


async def test_while_the_log_is_away_nothing_is_forgotten(tmp_path: Path) -> None:
    """Cancelled here, or without an answer, it says what was left out with the next messages."""
    async with open_keeper(tmp_path) as keeper:
        await keeper.gaps.observe("d")
        keeper.attached = 1
        await keeper.publish(3)
        first, _, third = await keeper.pull(3)
        await keeper.gaps.find("d", [first])
        await keeper.delete(2)
        with trio.CancelScope() as scope:
            scope.cancel()
            await keeper.gaps.find("d", [third])
        assert scope.cancelled_caught
        await keeper.publish(1)
        assert await keeper.gaps.find("d", await keeper.pull(1)) == [Gap(2, 2, "deleted")]
