"""Consumers on a real log, for tests: a server, its stream and durable, agents' ends, and a client that sees it all."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from actors.stream import Consumer, Streams
from actors.stream_v1 import LeasedStreams
from actors.tree import Actor
from engine.bridge import open_bridge
from engine.endpoints import Endpoint
from engine.jetstream import JetStream
from engine.log import Delivery, Verdict
from engine.log_control import LogControl
from engine.settle_book import SettleBook
from tests.support.chaos import ChaosProxy, open_chaos_proxy
from tests.support.nats_client import NatsClient, open_nats_client
from tests.support.nats_server import NatsServer, open_nats_server
from tests.support.waiting import wait_until

__all__ = ["SOON_S", "SUBJECT", "StreamScene", "open_stream_scene"]

SUBJECT = "snapfs.files"
SOON_S = 0.2
"""Far below a lease, and above what a busy machine takes."""


class StreamScene:
    """A real stream, the consumers' storey on it, and a client that sees what is there."""

    def __init__(
        self,
        server: NatsServer,
        log: JetStream,
        streams: Streams,
        leased: LeasedStreams,
        root: Actor,
        client: NatsClient,
        chaos: ChaosProxy | None = None,
    ) -> None:
        self._chaos = chaos
        self.leased = leased
        self.server = server
        self.log = log
        self.streams = streams
        self.root = root
        self.client = client
        self._batches = itertools.count(1)

    @property
    def chaos(self) -> ChaosProxy:
        """The proxy between the data plane and the server."""
        assert self._chaos is not None
        return self._chaos

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
async def open_stream_scene(
    folder: Path, *, ack_wait_s: float = 30.0, max_lease_s: float = 900.0, is_through_chaos: bool = False
) -> AsyncIterator[StreamScene]:
    """Open everything, with a stream `S` and a durable `d`.

    Args:
        folder: of the server.
        ack_wait_s: lease.
        max_lease_s: longest time that a batch may be held.
        is_through_chaos: the data plane goes through a proxy, `scene.chaos`.
    """
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(open_nats_server(folder))
        client = await stack.enter_async_context(open_nats_client(server.url))
        bridge = await stack.enter_async_context(open_bridge())
        proxy = await stack.enter_async_context(open_chaos_proxy(server.url)) if is_through_chaos else None
        control = LogControl(bridge, lambda: Endpoint("127.0.0.1", server.port, {}))
        stack.push_async_callback(control.aclose)
        log = JetStream(lambda: Endpoint("127.0.0.1", proxy.port if proxy else server.port, {}), "test")
        root = Actor("stream", trio.current_time())
        book = SettleBook()
        streams = Streams(log, control, "S", ["snapfs.>"], ack_wait_s, max_lease_s, root, book)
        leased = LeasedStreams(log, control, "S", ["snapfs.>"], ack_wait_s, max_lease_s, root, book=book)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(log.connection.run)
        with trio.fail_after(5):
            await log.connection.wait_up()
        await control.ensure_stream("S", ["snapfs.>"])
        await streams.ensure(SUBJECT, "d")
        yield StreamScene(server, log, streams, leased, root, client, proxy)
