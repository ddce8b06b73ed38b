"""Gaps: what was removed before a durable saw it is announced, compared with a model, and nothing else is.

The model: an agent's sequences and its gaps together are everything that was published after it began; no sequence is
in both, and each gap comes before any later message.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from tests.support.agent_v1 import AgentV1, open_agent_v1
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask
from tests.support.nats_client import NatsClient, open_embedded_log
from tests.support.waiting import wait_until

STREAM = "SNAPFS_FILES"
SUBJECT = "snapfs.files"
LOOK_S = 2.5
"""How long the gateway takes at most to notice a position (`LOOK_EVERY_S`)."""


class Scene:
    """A gateway, its log, and a model of one durable."""

    def __init__(self, gateway: Gateway, log: NatsClient) -> None:
        self.gateway = gateway
        self.log = log
        self.seen: set[int] = set()
        self.gone: set[int] = set()
        self.reasons: set[str] = set()

    async def publish(self, count: int, subject: str = SUBJECT) -> list[int]:
        """Put frames on the log; gives their sequences."""
        frame = orjson.dumps({"events": [{"type": "note", "data": {}}]})
        return [await self.log.publish(subject, frame) for _ in range(count)]

    async def limit(self, **limits: int) -> None:
        """Let the stream keep no more than this."""
        config = (await self.log.api(f"STREAM.INFO.{STREAM}"))["config"]
        await self.log.api(f"STREAM.UPDATE.{STREAM}", {**config, **limits})

    async def delete(self, sequence: int) -> None:
        """Delete one message."""
        await self.log.api(f"STREAM.MSG.DELETE.{STREAM}", {"seq": sequence})

    async def purge(self, **what: object) -> None:
        """Purge the stream."""
        await self.log.api(f"STREAM.PURGE.{STREAM}", what)

    async def read_to(self, agent: AgentV1, last: int) -> None:
        """Take and acknowledge batches until a sequence was seen, and keep the model."""
        while last not in self.seen:
            await self._read(agent)

    async def read_all(self, agent: AgentV1, last: int) -> None:
        """Take and acknowledge batches until every sequence from 1 on was seen or announced.

        What was on its way to an agent that had gone comes again, and may come behind what was new.
        """
        while not set(range(1, last + 1)) <= self.seen | self.gone:
            await self._read(agent)

    async def _read(self, agent: AgentV1) -> None:
        batch = await agent.receive()
        self._note_gaps(agent)
        for sequence in batch.sequences:
            assert sequence not in self.gone, f"{sequence} was announced as gone"
        self.seen.update(batch.sequences)
        assert (await agent.confirm(batch))["confirmed"] == [[0, batch.last]]

    async def wait_left(self) -> None:
        """Wait until the gateway knows that no agent is attached: what is published then is on its way to nobody."""

        async def has_left() -> bool:
            answer = orjson.loads((await ask(self.gateway.url, "GET", "/consumers")).body)
            return all(one["attached"] == 0 and one["waiting"] == 0 for one in answer["consumers"])

        await wait_until(has_left, "nobody is attached, and no pull is open")

    async def take_gaps(self, agent: AgentV1) -> None:
        """Note what was announced by now: an answer that was asked for afterwards has come."""
        await agent.status()
        self._note_gaps(agent)

    def _note_gaps(self, agent: AgentV1) -> None:
        for one in [other for other in agent.others if other["type"] == "gap"]:
            agent.others.remove(one)
            span = set(range(one["from"], one["to"] + 1))
            assert not span & self.seen, f"seen, and yet announced: {sorted(span & self.seen)}"
            assert not span & self.gone, f"announced twice: {sorted(span & self.gone)}"
            self.gone |= span
            self.reasons.add(one["reason"])


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[Scene]:
    """Open everything."""
    async with (
        open_gateway(folder / "data", env={"HEADGATE_CATALOG": "off"}) as gateway,
        open_embedded_log(gateway) as log,
    ):
        yield Scene(gateway, log)


@asynccontextmanager
async def attached(scene: Scene, durable: str = "d", subject: str = SUBJECT) -> AsyncIterator[AgentV1]:
    """An agent with plenty of credit."""
    async with open_agent_v1(scene.gateway.url, durable, subject=subject) as agent:
        await agent.credit()
        yield agent


@pytest.mark.parametrize("limits", [{"max_msgs": 20}, {"max_bytes": 2000}], ids=["messages", "bytes"])
async def test_what_a_limited_stream_dropped_while_the_agent_was_away_is_a_gap(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    """Filled beyond its limit: the gap is exactly what is missing, and it is counted."""
    async with open_scene(tmp_path) as scene:
        async with attached(scene) as agent:
            await scene.read_to(agent, (await scene.publish(10))[-1])
        await scene.limit(**limits)
        last = (await scene.publish(100))[-1]
        async with attached(scene) as agent:
            await scene.read_all(agent, last)
        assert scene.reasons == {"retention"}
        assert 70 <= len(scene.gone) <= 90
        text = (await ask(scene.gateway.url, "GET", "/metrics")).body.decode()
        assert 'headgate_gaps_total{reason="retention"} 1.0' in text
        assert f"headgate_gap_messages_total {float(len(scene.gone))}" in text
        async with attached(scene) as agent:
            await scene.take_gaps(agent)
            await scene.read_to(agent, (await scene.publish(1))[-1])


@pytest.mark.parametrize("is_all", [False, True], ids=["a part", "all"])
async def test_what_was_purged_while_the_agent_was_away_is_a_gap(tmp_path: Path, is_all: bool) -> None:
    """A purge moves the consumer's own position; the gateway remembers the one before."""
    async with open_scene(tmp_path) as scene:
        async with attached(scene) as agent:
            await scene.read_to(agent, (await scene.publish(10))[-1])
        await scene.wait_left()
        await scene.publish(20)
        await scene.purge(**({} if is_all else {"seq": 26}))
        async with attached(scene) as agent:
            await scene.take_gaps(agent)
            assert scene.gone == set(range(11, 31 if is_all else 26))
            await scene.publish(5)
            await scene.read_all(agent, 35)
        assert scene.reasons == {"purged"}


async def test_a_purge_before_a_durable_saw_anything_is_a_gap(tmp_path: Path) -> None:
    """Its agent was told hello, and granted nothing yet."""
    async with open_scene(tmp_path) as scene:
        async with open_agent_v1(scene.gateway.url, "d", subject=SUBJECT):
            await scene.publish(5)
        await scene.purge()
        async with attached(scene) as agent:
            await scene.read_to(agent, (await scene.publish(1))[-1])
        assert scene.gone == {1, 2, 3, 4, 5}


async def test_the_position_before_a_purge_survives_the_gateway(tmp_path: Path) -> None:
    """It is kept in the log: a gateway that was killed, and purged behind its back, still knows."""
    async with open_scene(tmp_path) as scene:
        async with attached(scene) as agent:
            await scene.read_to(agent, (await scene.publish(10))[-1])

        async def is_kept() -> bool:
            marks = [orjson.loads(one.data) for one in await scene.log.read_stream(f"{STREAM}_MARKS")]
            return any(one["seq"] >= 10 for one in marks)

        await wait_until(is_kept, "the mark is kept", timeout_s=LOOK_S * 2)
        await scene.publish(10)
        await scene.purge()
        scene.gateway.kill()
        await scene.gateway.start()
        async with open_embedded_log(scene.gateway) as log:
            scene.log = log
            async with attached(scene) as agent:
                await scene.read_to(agent, (await scene.publish(1))[-1])
        assert scene.gone == set(range(11, 21))


async def test_single_deleted_messages_are_gaps(tmp_path: Path) -> None:
    """Each of them, joined where they are neighbours; those that were seen before are none."""
    async with open_scene(tmp_path) as scene:
        async with attached(scene) as agent:
            await scene.read_to(agent, (await scene.publish(10))[-1])
        await scene.publish(20)
        for sequence in (2, 11, 15, 16, 17, 29):
            await scene.delete(sequence)
        async with attached(scene) as agent:
            await scene.read_all(agent, 30)
            assert scene.gone == {11, 15, 16, 17, 29}
            assert "deleted" in scene.reasons


async def test_what_is_removed_while_the_agent_is_slow_is_a_gap(tmp_path: Path) -> None:
    """The agent is attached and has no credit while the stream runs over."""
    async with open_scene(tmp_path) as scene:
        await scene.limit(max_msgs=10)
        async with open_agent_v1(scene.gateway.url, "d", subject=SUBJECT, batch=5) as agent:
            await agent.credit(5, 1 << 20)
            await scene.read_to(agent, (await scene.publish(5))[-1])
            last = (await scene.publish(50))[-1]
            await agent.credit()
            await scene.read_all(agent, last)
        assert scene.gone == set(range(6, 46))


async def test_other_subjects_messages_are_no_gap(tmp_path: Path) -> None:
    """A jump in sequence is normal where the stream has other subjects, also when those were removed meanwhile."""
    async with open_scene(tmp_path) as scene:
        async with attached(scene) as agent:
            for _ in range(5):
                await scene.publish(7, "snapfs.other")
                await scene.read_to(agent, (await scene.publish(1))[-1])
            assert scene.gone == set()
        last = (await scene.publish(30, "snapfs.other"))[-1]

        async def is_noticed() -> bool:
            marks = [orjson.loads(one.data) for one in await scene.log.read_stream(f"{STREAM}_MARKS")]
            return any(one["seq"] >= last for one in marks)

        await wait_until(is_noticed, "the gateway knows that nothing of it was for this durable", timeout_s=LOOK_S * 2)
        await scene.purge()
        async with attached(scene) as agent:
            await scene.read_to(agent, (await scene.publish(1))[-1])
        assert scene.gone == set()


async def test_a_log_made_again_is_announced(tmp_path: Path) -> None:
    """The sequences start anew: the agent is told before the first of them, and hello has another epoch."""
    async with open_scene(tmp_path) as scene:
        async with attached(scene) as agent:
            epoch = agent.hello["epoch"]
            await scene.read_to(agent, (await scene.publish(10))[-1])
        config = (await scene.log.api(f"STREAM.INFO.{STREAM}"))["config"]
        await scene.log.api(f"STREAM.DELETE.{STREAM}")
        await scene.log.api(f"STREAM.CREATE.{STREAM}", config)
        await scene.publish(1)
        async with attached(scene) as agent:
            assert agent.hello["epoch"] != epoch
            gap = await agent.receive_other("gap")
            assert (gap["from"], gap["reason"]) == (1, "recreated")
            assert (await agent.receive()).sequences == [1]


async def test_a_position_that_is_gone_is_a_gap(tmp_path: Path) -> None:
    """Who asks to begin where nothing is left is told what is missing."""
    async with open_scene(tmp_path) as scene:
        await scene.publish(10)
        await scene.purge(seq=8)
        async with open_agent_v1(scene.gateway.url, "d", subject=SUBJECT, from_="seq:3") as agent:
            gap = await agent.receive_other("gap")
            assert (gap["from"], gap["to"]) == (3, 7)
            await agent.credit()
            await scene.read_to(agent, 10)


async def test_what_the_log_has_again_after_a_purge_and_passes_over_is_a_gap(tmp_path: Path) -> None:
    """Two deletions, one of the last message, a purge of all, a message, a read: the server (2.15.1) has some again.

    It never delivers these. Where it is right, or the gateway looked before, they are purged.
    """
    async with open_scene(tmp_path) as scene:
        async with attached(scene) as agent:
            await scene.read_to(agent, (await scene.publish(10))[-1])
        await scene.wait_left()
        waiting = await scene.publish(20)
        for sequence in waiting[-2:]:
            await scene.delete(sequence)
        await scene.purge(seq=waiting[-1])
        last = (await scene.publish(1))[-1]
        await scene.log.request(f"$JS.API.DIRECT.GET.{STREAM}", orjson.dumps({"seq": 1, "next_by_subj": SUBJECT}))
        async with attached(scene) as agent:
            await scene.read_all(agent, last)
            await scene.take_gaps(agent)
        assert scene.gone == set(waiting)
        assert scene.reasons <= {"purged", "deleted", "skipped"}


async def test_random_removals_match_the_model(tmp_path: Path, chance: random.Random) -> None:
    """Whatever is deleted, purged and dropped while the agent comes and goes: seen and gone are everything."""
    async with open_scene(tmp_path) as scene:
        await scene.limit(max_msgs=40)
        last = 0
        missing: set[int] = set()
        for _ in range(8):
            async with attached(scene) as agent:
                last = (await scene.publish(chance.randint(1, 15)))[-1]
                await scene.read_to(agent, last)
            waiting = await scene.publish(chance.randint(0, 60))
            for sequence in chance.sample(waiting, min(len(waiting), 5)):
                if (await scene.log.stream_state(STREAM))["first_seq"] <= sequence:
                    await scene.delete(sequence)
            if waiting and chance.random() < 0.4:
                await scene.purge(seq=chance.choice(waiting))
        for _ in range(20):  # what a socket held that is only now found dead is announced with the next message
            async with attached(scene) as agent:
                last = (await scene.publish(1))[-1]
                await scene.read_to(agent, last)
            missing = set(range(1, last + 1)) - scene.seen - scene.gone
            if not missing:
                break
        assert not missing, sorted(missing)
        assert scene.gone
