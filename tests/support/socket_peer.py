"""A WebSocket client that sends bytes as it is told and reads frames, and the socket routes it goes to.

Rules of the file:
- It corrects nothing, answers nothing by itself, and takes no frame for good that RFC 6455 forbids a server.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.support.hostile_frames import CLOSE, PING, PONG, frame
from tests.support.hostile_packet import request
from tests.support.http import Answer, Connection, ConnectionLost, open_connection
from tests.support.socket_cases import frames_in

__all__ = ["ENDS_WITHIN_S", "TARGETS", "UPGRADE", "WIRES", "Peer", "open_peer"]

ENDS_WITHIN_S = 30.0
UPGRADE = (
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
V1 = b"Sec-WebSocket-Protocol: headgate.stream.v1"
QUERY = b"?subject=snapfs.sockets&durable="
# By what a test's id calls it: target and what the upgrade says besides.
TARGETS: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "stream": (b"/stream" + QUERY + b"old", ()),
    "stream-v1": (b"/stream" + QUERY + b"v1", (V1,)),
    "api-stream": (b"/api/stream" + QUERY + b"api", ()),
    "agents": (b"/agents", ()),
    "ws-agents": (b"/ws/agents", ()),
    "api-agents": (b"/api/agents", ()),
    "api-ws-agents": (b"/api/ws/agents", ()),
}
WIRES = ("stream", "stream-v1", "agents")
"""One of each kind: the others are the same under another name."""


class Peer:
    """A WebSocket client that sends bytes as it is told, and reads frames."""

    def __init__(self, connection: Connection, answer: Answer) -> None:
        self.connection = connection
        self.answer = answer
        self._sending = trio.Lock()
        self._received = b""
        self._frames: list[tuple[int, bytes]] = []

    async def next_frame(self, *opcodes: int) -> tuple[int, bytes]:
        """The next frame with one of these opcodes; those before it are skipped.

        Raises:
            ConnectionLost: the connection ended before.
        """
        while True:
            while self._frames:
                opcode, payload = self._frames.pop(0)
                if opcode in opcodes:
                    return opcode, payload
            data = await self.connection.receive()
            if not data:
                raise ConnectionLost(self._received, "the gateway ended the connection")
            self._frames, self._received = frames_in(self._received + data)

    async def send(self, data: bytes, piece_bytes: int | None = None) -> None:
        """Send bytes, in pieces of a size where one is given; nothing else is sent between them.

        That the gateway has ended meanwhile is seen by who reads.
        """
        size = piece_bytes or max(1, len(data))
        async with self._sending:
            try:
                for start in range(0, len(data), size):
                    await self.connection.send(data[start : start + size])
            except ConnectionLost:
                return

    async def prove_alive(self, payload: bytes = b"still there?") -> None:
        """Have a ping answered."""
        await self.send(frame(PING, payload))
        seen = await self.next_frame(PONG, CLOSE)
        assert seen == (PONG, payload), f"{seen} instead of a pong"

    async def close_code(self) -> int | None:
        """The code of the gateway's close frame, None where the connection ends without one; then it must end."""
        code: int | None = None
        try:
            _, payload = await self.next_frame(CLOSE)
            code = int.from_bytes(payload[:2]) if payload else 1005
            rest = await self.connection.read_to_end(timeout_s=ENDS_WITHIN_S)
            assert not self._frames, f"frames after the close frame: {self._frames}"
            assert not self._received + rest, "bytes after the close frame"
        except ConnectionLost:
            pass
        return code


@asynccontextmanager
async def open_peer(url: str, wire: str, *lines: bytes) -> AsyncIterator[Peer]:
    """Upgrade a connection on one of the socket routes; the answer may be a refusal."""
    target, more = TARGETS[wire]
    async with open_connection(url) as connection:
        await connection.send(request(target, *UPGRADE, *more, *lines))
        yield Peer(connection, await connection.read_answer())
