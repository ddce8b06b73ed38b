"""A real stream for tests of the data plane: our end of it, inboxes for pulls, and a client that sees what is there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from engine.endpoints import Endpoint
from engine.jetstream import JetStream
from engine.log import Delivery, Outcome, PullRequest, PullStatus, read_delivery
from engine.nats_wire import Message
from tests.support.nats_client import NatsClient, open_nats_client
from tests.support.nats_server import open_nats_server
from tests.support.waiting import wait_until

__all__ = ["Inbox", "RealLog", "deliveries_of", "open_real_log"]

WITHIN_S = 5.0


class RealLog:
    """A real stream `S` on `snapfs.>`, our data plane on it, and a client that sees what is there."""

    def __init__(self, data: JetStream, client: NatsClient) -> None:
        self.data = data
        self.client = client

    async def publish(self, *messages: tuple[bytes, bytes], subject: str = "snapfs.files") -> list[Outcome]:
        """Publish these messages together, and give their outcomes in order."""
        outcomes: dict[int, Outcome] = {}
        done = trio.Event()

        def take(number: int, outcome: Outcome) -> None:
            outcomes[number] = outcome
            if len(outcomes) == len(messages):
                done.set()

        for number, (header, payload) in enumerate(messages):
            self.data.publish_nowait(subject, payload, partial(take, number), header)
        with trio.fail_after(WITHIN_S):
            await done.wait()
        return [outcomes[number] for number in range(len(messages))]

    async def make_durable(self, name: str = "d", *, ack_wait_s: float = 30.0) -> None:
        """Make a consumer as the control plane does."""
        config = {"durable_name": name, "ack_policy": "explicit", "ack_wait": int(ack_wait_s * 1e9)}
        await self.client.api(f"CONSUMER.DURABLE.CREATE.S.{name}", {"stream_name": "S", "config": config})

    async def info(self, member: str) -> int:
        """One of the numbers that the log knows of the consumer."""
        value: int = (await self.client.api("CONSUMER.INFO.S.d"))[member]
        return value

    async def wait_info(self, member: str, number: int) -> None:
        """Wait until the log knows that number of the consumer."""

        async def is_there() -> bool:
            return await self.info(member) == number

        await wait_until(is_there, f"{member} is {number}")


class Inbox:
    """Where a test's pulls are answered."""

    def __init__(self, log: RealLog, durable: str = "d") -> None:
        self.items: list[Delivery | PullStatus] = []
        self._log = log
        self._durable = durable
        self._news = trio.Event()
        self.subscription = log.data.connection.subscribe(self._take)

    def ask(self, request: PullRequest) -> None:
        """Send a pull."""
        assert self._log.data.pull_nowait("S", self._durable, self.subscription.subject, request)

    async def pull(self, request: PullRequest, count: int) -> list[Delivery | PullStatus]:
        """Send a pull and wait for this many answers to it."""
        self.ask(request)
        return await self.take(count)

    async def take(self, count: int) -> list[Delivery | PullStatus]:
        """Wait for this many answers."""
        with trio.fail_after(WITHIN_S):
            while len(self.items) < count:
                self._news = trio.Event()
                await self._news.wait()
        items, self.items = self.items[:count], self.items[count:]
        return items

    def _take(self, message: Message) -> None:
        item = read_delivery(message)
        assert item is not None
        self.items.append(item)
        self._news.set()


@asynccontextmanager
async def open_real_log(folder: Path, **stream: object) -> AsyncIterator[RealLog]:
    """A server with a stream, and everything that a test needs of it."""
    async with (
        open_nats_server(folder) as server,
        open_nats_client(server.url) as client,
        trio.open_nursery() as nursery,
    ):
        config = {"name": "S", "subjects": ["snapfs.>"], "allow_atomic": True, "allow_direct": True, **stream}
        await client.api("STREAM.CREATE.S", config)
        data = JetStream(lambda: Endpoint("127.0.0.1", server.port, {}), "test")
        nursery.start_soon(data.connection.run)
        with trio.fail_after(WITHIN_S):
            await data.connection.wait_up()
        yield RealLog(data, client)
        nursery.cancel_scope.cancel()


def deliveries_of(items: list[Delivery | PullStatus]) -> list[Delivery]:
    """The answers, all of which are deliveries."""
    found = [item for item in items if isinstance(item, Delivery)]
    assert len(found) == len(items), items
    return found
