"""Mixed verdicts against what the real log then knows: floor, redelivered, terminated (issue 3, must be shown 1)."""

import random
from pathlib import Path
from typing import Any

import pytest

from engine.settle_words import BadFrame
from tests.support.leased_agent import LeasedAgent, open_leased_agent
from tests.support.stream_scene import StreamScene, open_stream_scene
from tests.support.waiting import wait_until

MESSAGES = 300
FRAMES_BETWEEN_LOOKS = 50


class Model:
    """What must be true of the log, from what the agent said."""

    def __init__(self, scene: StreamScene, agent: LeasedAgent, chance: random.Random) -> None:
        self.scene = scene
        self.agent = agent
        self.chance = chance
        self.published = 0
        self.settled: set[int] = set()
        self.terminated = 0
        self.delivered: dict[int, int] = {}
        self.batches: dict[str, list[int]] = {}
        self.held: dict[tuple[str, int], int] = {}

    @property
    def unsettled(self) -> set[int]:
        """Sequences that wait for a verdict."""
        return set(range(1, self.published + 1)) - self.settled

    async def publish(self, count: int) -> None:
        """Put messages on the log."""
        await self.scene.publish(*(b"%d" % number for number in range(count)))
        self.published += count

    async def gather(self) -> None:
        """Receive until everything that is unsettled is in the agent's hands."""
        while len(self.held) < len(self.unsettled):
            batch, messages = await self.agent.receive()
            self.batches[batch] = [one.delivery.sequence for one in messages]
            for index, one in enumerate(messages):
                sequence = one.delivery.sequence
                assert sequence not in self.settled, f"{sequence} was settled and came again"
                assert one.delivery.delivered == self.delivered.get(sequence, 0) + 1
                self.delivered[sequence] = one.delivery.delivered
                self.held[batch, index] = sequence

    async def say(self) -> None:
        """Send one random frame about one batch and note what it must do."""
        batch = self.chance.choice(list(self.batches))
        size = len(self.batches[batch])
        if self.chance.random() < 0.05:
            bads: list[dict[str, object]] = [
                {"ack": [[0, 10**18]]},
                {"ack": [0], "nak": [{"i": [0, size - 1]}]},
                {"term": [{"i": size}]},
            ]
            assert isinstance(self.agent.settle(batch, **self.chance.choice(bads)), BadFrame)
            return
        parts: dict[str, list[int]] = {"ack": [], "nak": [], "term": [], "progress": [], "": []}
        weights = (5, 2, 1, 1, self.chance.choice([0, 2, 20]))
        for index in range(size):
            parts[self.chance.choices(list(parts), weights)[0]].append(index)
        ranges: list[object] = [[one, one] if self.chance.random() < 0.5 else one for one in parts["ack"]]
        confirm = self.chance.random() < 0.3
        problem = self.agent.settle(
            batch,
            ack=ranges,
            nak=[{"i": one} for one in parts["nak"]],
            term=[{"i": one, "reason": "a reason"} for one in parts["term"]],
            progress=parts["progress"],
            confirm=confirm,
        )
        assert problem is None
        expected: list[int] = []
        for verdict in ("ack", "nak", "term"):
            for index in parts[verdict]:
                sequence = self.held.pop((batch, index), None)
                if sequence is None:
                    continue  # settled before: passed over
                expected.append(index)
                if verdict != "nak":
                    self.settled.add(sequence)
                self.terminated += verdict == "term"
        if confirm:
            frame = await self.agent.receive_frame("settled")
            assert frame["late"] == []
            assert "failed" not in frame
            assert [one for first, last in frame["confirmed"] for one in range(first, last + 1)] == sorted(expected)
        if not any(name == batch for name, _ in self.held):
            self.batches.pop(batch)

    async def look(self) -> None:
        """Compare with the log, once all that was given back is here again."""
        await self.gather()
        unsettled = self.unsettled
        floor = min(unsettled) - 1 if unsettled else self.published
        again = sum(self.delivered[one] > 1 for one in unsettled)

        async def is_so() -> Any:
            info = await self.scene.client.api("CONSUMER.INFO.S.d")
            letters = (await self.scene.client.api("STREAM.INFO.TERMINATED"))["state"]["messages"]
            found = info["ack_floor"]["stream_seq"], info["num_ack_pending"], info["num_redelivered"], letters
            return found == (floor, len(unsettled), again, self.terminated)

        await wait_until(is_so, f"the log knows {floor=} pending={len(unsettled)} {again=} {self.terminated=}")


async def compare(folder: Path, chance: random.Random, frames: int) -> None:
    """Send so many random frames, and look at the log in between."""
    async with open_stream_scene(folder) as scene:
        advisories = ["$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.d"]
        await scene.client.api("STREAM.CREATE.TERMINATED", {"name": "TERMINATED", "subjects": advisories})
        async with open_leased_agent(scene, batch="40") as agent:
            model = Model(scene, agent, chance)
            agent.credit()
            for number in range(frames):
                agent.credit()
                if len(model.unsettled) < MESSAGES // 3:
                    await model.publish(MESSAGES)
                if number % FRAMES_BETWEEN_LOOKS == 0:
                    await model.look()
                await (model.say() if model.batches else model.gather())
            await model.look()
            for batch, sequences in list(model.batches.items()):
                agent.settle(batch, ack=[[0, len(sequences) - 1]])
            model.held.clear()
            model.settled = set(range(1, model.published + 1))
            await model.look()


async def test_a_thousand_random_frames_leave_the_log_as_a_model_says(tmp_path: Path, chance: random.Random) -> None:
    """Ack floor, pending, redelivered and terminated are what the verdicts say, also after repeated and bad frames."""
    await compare(tmp_path, chance, 1_000)


@pytest.mark.long
async def test_thousands_of_random_frames_do_so_too(tmp_path: Path, chance: random.Random) -> None:
    """The long form; the model counts everything anew each time, so it grows with the square."""
    await compare(tmp_path, chance, 4_000)
