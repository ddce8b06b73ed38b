"""An agent that speaks `headgate.stream.v1`, on trio-websocket.

Rules of the file:
- It knows nothing of the product's own client.
- It never answers by itself: a test says what is granted and settled, and when.
"""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson
import trio
import trio_websocket

from tests.support.agent import AgentClosed, upgrade_deadline

__all__ = ["PROTOCOL", "AgentV1", "BatchV1", "open_agent_v1", "v1_target"]

PROTOCOL = "headgate.stream.v1"
WITHIN_S = 10.0
MAX_MESSAGE_BYTES = 64 << 20
PLENTY = {"messages": 10_000, "bytes": 64 << 20}


@dataclass(frozen=True)
class BatchV1:
    """One `events` frame."""

    id: str
    messages: list[dict[str, Any]]
    text: str

    @property
    def sequences(self) -> list[int]:
        """The stream sequences of its messages."""
        return [one["seq"] for one in self.messages]

    @property
    def last(self) -> int:
        """The index of its last message."""
        return len(self.messages) - 1


class AgentV1:
    """One connection; frames that are no batches are kept in `others` until somebody asks for them."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection, stream: trio.SocketStream) -> None:
        self.websocket = websocket
        self.stream = stream
        self.hello: dict[str, Any] = {}
        self.batches: list[BatchV1] = []
        self.others: list[dict[str, Any]] = []

    async def credit(self, messages: int = PLENTY["messages"], size_bytes: int = PLENTY["bytes"]) -> None:
        """Grant credit."""
        await self.say({"type": "credit", "messages": messages, "bytes": size_bytes})

    async def auto(self) -> None:
        """Let the gateway keep a window."""
        await self.say({"type": "credit", "mode": "auto"})

    async def receive(self, within_s: float = WITHIN_S) -> BatchV1:
        """Wait for the next batch."""
        with trio.fail_after(within_s):
            while not self.batches:
                await self._take()
        return self.batches.pop(0)

    async def receive_other(self, kind: str, within_s: float = WITHIN_S) -> dict[str, Any]:
        """Wait for the next frame of a type."""
        with trio.fail_after(within_s):
            while True:
                for at, one in enumerate(self.others):
                    if one["type"] == kind:
                        return self.others.pop(at)
                await self._take()

    async def receive_no_batch(self, for_s: float) -> None:
        """Assert that no batch comes for so long."""
        assert not self.batches
        with trio.move_on_after(for_s):
            while True:
                await self._take()
                assert not self.batches, f"nothing was to come, but this did: {self.batches[0].text[:300]}"

    async def settle(self, batch: BatchV1 | str, **verdicts: object) -> None:
        """Send a settle frame."""
        name = batch if isinstance(batch, str) else batch.id
        await self.say({"type": "settle", "batch": name, **verdicts})

    async def ack(self, batch: BatchV1) -> None:
        """Acknowledge a whole batch."""
        await self.settle(batch, ack=[[0, batch.last]])

    async def confirm(self, batch: BatchV1, **verdicts: object) -> dict[str, Any]:
        """Settle, and wait for what came of it; without verdicts all of the batch is acknowledged."""
        await self.settle(batch, **(verdicts or {"ack": [[0, batch.last]]}), confirm=True)
        settled = await self.receive_other("settled")
        assert settled["batch"] == batch.id
        return settled

    async def status(self) -> dict[str, Any]:
        """Ask how it stands."""
        await self.say({"type": "status"})
        return await self.receive_other("status")

    async def say(self, value: object) -> None:
        """Send one JSON text message."""
        await self.say_text(orjson.dumps(value).decode())

    async def say_text(self, text: str | bytes) -> None:
        """Send one message as it is."""
        try:
            await self.websocket.send_message(text)
        except trio_websocket.ConnectionClosed as closed:
            raise AgentClosed.by(closed) from None

    async def wait_closed(self, within_s: float = WITHIN_S) -> int | None:
        """Wait for the end of the session, and give its close code."""
        try:
            with trio.fail_after(within_s):
                while True:
                    await self._take()
        except AgentClosed as closed:
            return closed.code

    def reset(self) -> None:
        """Die: RST, no close frame."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def _take(self) -> None:
        try:
            text = await self.websocket.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise AgentClosed.by(closed) from None
        assert isinstance(text, str), "frames are text"
        value = orjson.loads(text)
        if value["type"] == "events":
            assert [one["index"] for one in value["messages"]] == list(range(len(value["messages"])))
            self.batches.append(BatchV1(value["batch"], value["messages"], text))
        else:
            self.others.append(value)


def v1_target(subject: str, durable: str | None, **more: object) -> str:
    """The request target, with None left out; `from_` is `from`."""
    parameters = {"subject": subject, "durable": durable, **{name.rstrip("_"): value for name, value in more.items()}}
    return f"/stream?{urlencode({name: value for name, value in parameters.items() if value is not None})}"


@asynccontextmanager
async def open_agent_v1(
    url: str,
    durable: str | None,
    *,
    subject: str = "snapfs.files",
    receive_buffer_bytes: int | None = None,
    **more: object,
) -> AsyncIterator[AgentV1]:
    """Connect an agent and take its hello; whatever state it is in when the block is left, its socket is gone then.

    Raises:
        trio_websocket.ConnectionRejected: the upgrade was refused.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        await sock.connect((parts.hostname, parts.port))
        stream = trio.SocketStream(sock)
        async with trio.open_nursery() as nursery:
            with upgrade_deadline():
                websocket = await trio_websocket.wrap_client_stream(
                    nursery,
                    stream,
                    f"{parts.hostname}:{parts.port}",
                    parts.path + v1_target(subject, durable, **more),
                    subprotocols=[PROTOCOL],
                    max_message_size=MAX_MESSAGE_BYTES,
                )
            assert websocket.subprotocol == PROTOCOL
            agent = AgentV1(websocket, stream)
            agent.hello = await agent.receive_other("hello")
            yield agent
            # Not `aclose`: that waits for the peer's close frame, and some tests have no peer any more.
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
    finally:
        sock.close()
