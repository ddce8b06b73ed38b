"""A scripted gateway that speaks `headgate.stream.v1`: it says what a test tells it to, and writes down what it hears.

Rules of the file:
- It knows nothing of the product's own client and server: the frames are written out here.
- A step is one connection, from the upgrade to its end.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest

from edge.client import Client, Credit, Notice, Stream
from tests.support.peers import StreamPeer, StreamStep, open_stream_peer

__all__ = ["Conversation", "V1Script", "frame_of", "streaming"]

DEADLINE_S = 90.0  # of a whole test: one that waits for what will not come fails instead of hanging
PROTOCOL = "headgate.stream.v1"


def frame_of(*paths: str) -> dict[str, Any]:
    """A log message with a `file.upsert` for each path."""
    return {"events": [{"type": "file.upsert", "data": {"path": path}} for path in paths]}


class Conversation:
    """One connection, as the gateway sees it."""

    def __init__(self, socket: WebSocketConnection, script: "V1Script") -> None:
        self.socket = socket
        self._script = script

    async def say(self, **frame: object) -> None:
        """Send a frame; `from_` stands for `from`."""
        await self.socket.send_message(
            orjson.dumps({name.rstrip("_"): value for name, value in frame.items()}).decode()
        )

    async def hello(self, **more: object) -> None:
        """Send a hello with good defaults."""
        defaults: dict[str, object] = {
            "protocol": PROTOCOL,
            "stream": "SNAPFS_FILES",
            "subject": "snapfs.files",
            "durable": "mysql",
            "created": False,
            "epoch": "e1",
            "first_seq": 1,
            "last_seq": 9,
            "pending": 9,
            "window": {"messages": 0, "bytes": 0, "mode": "credit"},
            "ack_wait_s": 30.0,
            "max_lease_s": 900.0,
            "max_deliver": 5,
            "limits": {"batch_messages": 100, "batch_bytes": 10**6, "credit_messages": 1000, "credit_bytes": 10**8},
        }
        await self.say(type="hello", **(defaults | more))

    async def batch(self, name: str, *messages: object, seq: int = 1, delivered: int = 1) -> None:
        """Send a batch of messages with positions from `seq` on."""
        numbered = [
            {"index": i, "seq": seq + i, "delivered": delivered, "time": "2026-01-02T03:04:05.678901234Z", "data": data}
            for i, data in enumerate(messages)
        ]
        await self.say(type="events", batch=name, messages=numbered)

    async def hear(self) -> dict[str, Any]:
        """Wait for what the agent says, and write it down."""
        said: dict[str, Any] = orjson.loads(await self.socket.get_message())
        self._script.said.append(said)
        return said

    async def hear_until(self, kind: str) -> dict[str, Any]:
        """Wait for a frame of this type."""
        while (said := await self.hear())["type"] != kind:
            pass
        return said

    async def listen(self) -> None:
        """Write down what the agent says, to the end of the connection."""
        while True:
            await self.hear()


class V1Script:
    """The steps of a stream peer, and what was said to them."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.close_codes: list[int | None] = []

    def settles(self) -> list[dict[str, Any]]:
        """The settle frames so far."""
        return [said for said in self.said if said["type"] == "settle"]

    def step(
        self, play: Callable[[Conversation], Awaitable[None]], *, subprotocol: str | None = PROTOCOL
    ) -> StreamStep:
        """One connection: accept it, and play until the agent closes or the play is over."""

        async def serve(request: WebSocketRequest) -> None:
            socket = await request.accept(subprotocol=subprotocol)
            try:
                await play(Conversation(socket, self))
            except ConnectionClosed as closed:
                self.close_codes.append(closed.reason.code if closed.reason else None)

        return serve


async def cut(conversation: Conversation) -> None:
    """End the connection without a word."""
    await trio.aclose_forcefully(conversation.socket._stream)


@asynccontextmanager
async def streaming(
    *steps: StreamStep,
    durable: str | None = "mysql",
    credit: Credit | None = None,
    auto: bool = True,
    from_: str | None = None,
    filter_: tuple[str, ...] = (),
    notices: list[Notice] | None = None,
) -> AsyncIterator[tuple[StreamPeer, Stream]]:
    """Attach the product's client to a peer that follows these steps."""
    with trio.fail_after(DEADLINE_S):
        async with (
            open_stream_peer(*steps) as peer,
            Client(peer.url, "secret") as client,
            client.stream(
                "snapfs.files",
                durable=durable,
                credit=credit,
                auto=auto,
                from_=from_,
                filter=filter_,
                on_notice=None if notices is None else notices.append,
            ) as stream,
        ):
            yield peer, stream
