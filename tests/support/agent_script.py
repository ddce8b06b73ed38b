"""What a scripted gateway does to an agent, and an agent attached to it.

Rules of the file:
- A step is one connection, from the upgrade to its end.
- What the agent said, and with which code it closed, is written down in the script.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest

from edge.client import Agent, Client
from tests.support.peers import StreamPeer, StreamStep, open_stream_peer, send_batch

__all__ = ["FRAME", "Script", "attach", "attached"]

FRAME = {"events": [{"type": "file.upsert", "data": {"path": "/a"}}, {"type": "file.delete", "data": {"path": "/b"}}]}


class Script:
    """Steps of a stream peer, and what the agent said to them."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.close_codes: list[int | None] = []

    async def serve_batches(self, request: WebSocketRequest) -> None:
        """Send batch after batch, each when the one before was answered."""
        socket = await request.accept()
        number = 0
        try:
            while True:
                number += 1
                await send_batch(socket, f"b{number}", FRAME)
                self.said.append(orjson.loads(await socket.get_message()))
        except ConnectionClosed as closed:
            self.close_codes.append(closed.reason.code if closed.reason else None)

    def close_with(self, code: int, reason: str = "", *, error: str = "") -> StreamStep:
        """Accept, say an error where there is one, and close."""

        async def step(request: WebSocketRequest) -> None:
            socket = await request.accept()
            if error:
                await socket.send_message(orjson.dumps({"type": "error", "message": error}).decode())
            await socket.aclose(code, reason)

        return step

    def reject_with(self, status: int, *headers: tuple[bytes, bytes], body: bytes = b"{}") -> StreamStep:
        """Refuse the upgrade."""

        async def step(request: WebSocketRequest) -> None:
            await request.reject(status, extra_headers=list(headers), body=body)

        return step

    def say(self, text: str) -> StreamStep:
        """Accept, say this, and wait for the end."""

        async def step(request: WebSocketRequest) -> None:
            socket = await request.accept()
            await socket.send_message(text)
            with pytest.raises(ConnectionClosed):
                await socket.get_message()

        return step

    @staticmethod
    async def cut(request: WebSocketRequest) -> None:
        """Accept and end the connection without a word."""
        socket = await request.accept()
        await trio.aclose_forcefully(socket._stream)


@asynccontextmanager
async def attached(*steps: StreamStep, batch: int = 100) -> AsyncIterator[tuple[StreamPeer, Agent]]:
    """Attach an agent to a peer that follows these steps."""
    async with (
        open_stream_peer(*steps) as peer,
        Client(peer.url, "secret") as client,
        client.agent(durable="mysql", subject="snapfs.files", batch=batch) as agent,
    ):
        yield peer, agent


async def attach(peer: StreamPeer) -> None:
    """Attach an agent that acknowledges everything, and never return."""
    async with Client(peer.url) as client, client.agent(durable="mysql") as agent:
        async for batch in agent:
            await batch.ack()
