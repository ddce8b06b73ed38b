"""An agent of `headgate.stream.v1` without its socket: for tests of the storey below the edge."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import trio

from actors.leased import LeasedConsumer
from engine.credit import CREDIT_LIMIT, Amount
from engine.settle_words import BadFrame, Settle, read_settle
from engine.stream_v1 import Grant, Ready, read_options
from tests.support.stream_scene import SUBJECT, StreamScene

__all__ = ["LeasedAgent", "open_leased_agent"]

WITHIN_S = 10.0


class LeasedAgent:
    """Takes batches from a consumer as the edge does, and reads its outbox."""

    def __init__(self, consumer: LeasedConsumer) -> None:
        self.consumer = consumer
        self.frames: list[dict[str, Any]] = []

    def credit(self, messages: int = CREDIT_LIMIT.messages, size_bytes: int = CREDIT_LIMIT.bytes) -> None:
        """Grant credit."""
        self.consumer.grant(Grant(Amount(messages, size_bytes)))

    async def receive(self, within_s: float = WITHIN_S) -> tuple[str, list[Ready]]:
        """Take the next batch."""
        with trio.fail_after(within_s):
            while True:
                batch = self.consumer.next_batch()
                if batch is not None:
                    return batch
                await self.consumer.puller.wait_news()

    def settle(self, batch: str, **verdicts: object) -> BadFrame | None:
        """Settle."""
        words = read_settle({"type": "settle", "batch": batch, **verdicts})
        assert isinstance(words, Settle)
        return self.consumer.settle(words)

    async def receive_frame(self, kind: str, within_s: float = WITHIN_S) -> dict[str, Any]:
        """Wait for the next frame of a type that is no batch."""
        with trio.fail_after(within_s):
            while True:
                while (text := self.consumer.outbox.take()) is not None:
                    self.frames.append(orjson.loads(text))
                for at, one in enumerate(self.frames):
                    if one["type"] == kind:
                        return self.frames.pop(at)
                await self.consumer.puller.wait_news()


@asynccontextmanager
async def open_leased_agent(scene: StreamScene, durable: str = "d", **parameters: str) -> AsyncIterator[LeasedAgent]:
    """Attach an agent."""
    options = read_options({"subject": SUBJECT, "durable": durable, **parameters})
    name, _ = await scene.leased.ensure(options)
    terms = scene.leased.terms(await scene.leased.describe(name), options.max_lease_s)
    async with scene.leased.attach(name, options, terms) as consumer:
        yield LeasedAgent(consumer)
