"""An agent as they are in the field: the old wire, without a subprotocol, on trio-websocket.

Rules of the file:
- It knows nothing of the product's own client.
- It never answers by itself: a test says what is acknowledged, and when.
"""

import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import trio
import trio_websocket

__all__ = ["Agent", "AgentClosed", "AgentFailed", "Batch", "open_agent", "stream_target"]

RECEIVE_TIMEOUT_S = 15.0
UPGRADE_TIMEOUT_S = 10.0
# A batch may hold 100 frames of 512 KiB each. What real agents accept is a test of its own.
MAX_MESSAGE_BYTES = 64 << 20


class AgentClosed(Exception):
    """The gateway closed the socket, or it broke."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(f"closed with {code}: {reason}")
        self.code = code
        self.reason = reason

    @classmethod
    def by(cls, closed: trio_websocket.ConnectionClosed) -> "AgentClosed":
        """Take the close frame's code and reason over; None where the socket just broke."""
        if isinstance(closed.reason, trio_websocket.CloseReason):
            return cls(closed.reason.code, closed.reason.reason)
        return cls(None, None)


class AgentFailed(Exception):
    """The gateway sent `{"type":"error"}`; the text is its message."""


@dataclass(frozen=True)
class Batch:
    """One `events` message."""

    id: str
    messages: list[Any]
    text: str

    @property
    def events(self) -> list[Any]:
        """The events of all its frames, in order."""
        return [event for data in self.messages for event in data["events"]]


class Agent:
    """One WebSocket connection to `/stream`."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection, stream: trio.SocketStream) -> None:
        self.websocket = websocket
        self._stream = stream

    async def receive(self, timeout_s: float = RECEIVE_TIMEOUT_S) -> Batch:
        """Wait for the next batch.

        Raises:
            AgentClosed: the socket is closed.
            AgentFailed: the gateway reported an error instead.
            trio.TooSlowError: nothing came in time.
        """
        try:
            with trio.fail_after(timeout_s):
                text = await self.websocket.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise AgentClosed.by(closed) from None
        assert isinstance(text, str), "the old wire is text"
        value = orjson.loads(text)
        if value["type"] == "error":
            raise AgentFailed(value["message"])
        assert value.keys() == {"type", "batch", "messages"}, f"not the shape of the old wire: {value.keys()}"
        assert value["type"] == "events"
        assert [message["index"] for message in value["messages"]] == list(range(len(value["messages"])))
        return Batch(value["batch"], [message["data"] for message in value["messages"]], text)

    async def receive_nothing(self, for_s: float) -> None:
        """Assert that nothing is sent to this agent for so long."""
        with trio.move_on_after(for_s):
            message = await self.websocket.get_message()
            raise AssertionError(f"nothing was to come, but this did: {message[:300]!r}")

    async def ack(self, batch: Batch | str) -> None:
        """Acknowledge a whole batch, by itself or by its id."""
        await self.say({"type": "ack", "batch": batch if isinstance(batch, str) else batch.id})

    async def say(self, value: object) -> None:
        """Send one JSON text message."""
        await self.say_text(orjson.dumps(value).decode())

    async def say_text(self, text: str | bytes) -> None:
        """Send one message as it is: text for `str`, binary for `bytes`."""
        try:
            await self.websocket.send_message(text)
        except trio_websocket.ConnectionClosed as closed:
            raise AgentClosed.by(closed) from None

    def reset(self) -> None:
        """Die as a killed process behind a strict kernel does: RST, no close frame."""
        self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()

    def vanish(self) -> None:
        """Die as a killed process usually does: the kernel sends a FIN, nobody says goodbye."""
        self._stream.socket.close()


def stream_target(subject: str | None, durable: str | None, **more: object) -> str:
    """The request target of `/stream`, with None left out."""
    parameters = {"subject": subject, "durable": durable, **more}
    query = "&".join(f"{name}={quote(str(value))}" for name, value in parameters.items() if value is not None)
    return f"/stream?{query}"


@contextmanager
def upgrade_deadline() -> Iterator[None]:
    """Bound an upgrade: the library waits for ever for the answer of a peer that was killed while it wrote one.

    Raises:
        AgentClosed: there was no answer in time.
    """
    with trio.move_on_after(UPGRADE_TIMEOUT_S) as patience:
        yield
    if patience.cancelled_caught:
        raise AgentClosed(None, "no answer to the upgrade")


@asynccontextmanager
async def open_agent(
    url: str,
    durable: str,
    *,
    subject: str = "snapfs.files",
    batch: int | None = None,
    receive_buffer_bytes: int | None = None,
) -> AsyncIterator[Agent]:
    """Connect an agent; whatever state it is in when the block is left, its socket is gone then.

    Args:
        url: the gateway's `http://` address.
        durable: the consumer's name.
        subject: what it listens to.
        batch: messages a batch at most; None leaves the parameter out.
        receive_buffer_bytes: SO_RCVBUF, small for an agent that must stall its sender soon.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        await sock.connect((parts.hostname, parts.port))
    except BaseException:  # closed and raised again
        sock.close()
        raise
    stream = trio.SocketStream(sock)
    try:
        async with trio.open_nursery() as nursery:
            with upgrade_deadline():
                websocket = await trio_websocket.wrap_client_stream(
                    nursery,
                    stream,
                    f"{parts.hostname}:{parts.port}",
                    parts.path + stream_target(subject, durable, batch=batch),
                    max_message_size=MAX_MESSAGE_BYTES,
                )
            yield Agent(websocket, stream)
            # Not `aclose`: that waits for the peer's close frame, and some tests have no peer any more.
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
    finally:
        sock.close()
