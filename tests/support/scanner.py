"""A remote scanner as they are in the field, on trio-websocket: exactly the wire, and nothing by itself.

Rules of the file:
- It knows nothing of the product's own agent.
- It never answers by itself: a test says what is said, and when.
"""

import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson
import trio
import trio_websocket

from tests.support.agent import AgentClosed
from tests.support.http import Answer, ask

__all__ = ["HELLO", "Scanner", "get_scan", "open_scanner", "post_scan"]

RECEIVE_TIMEOUT_S = 10.0
HELLO: dict[str, Any] = {
    "type": "AGENT_HELLO",
    "agent_id": "scanner-1",
    "agent_type": "scanner",
    "version": "0.4.2",
    "capabilities": ["scan.fs"],
    "root_path": "/mnt/show",
    "scanner_type": "fs",
    "max_concurrency": 2,
}
"""As the issue writes it."""


class Scanner:
    """One WebSocket connection to `/agents`."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection, stream: trio.SocketStream) -> None:
        self.websocket = websocket
        self._stream = stream

    async def hello(self, agent_id: str, **more: object) -> None:
        """Introduce itself, and wait until that was taken."""
        await self.say({**HELLO, "agent_id": agent_id, **more})
        await self.ping()

    async def ping(self) -> None:
        """Ask for a sign of life; what comes before the answer is not allowed to be anything else."""
        await self.say({"type": "PING"})
        assert await self.receive() == {"type": "PONG"}

    async def receive(self, timeout_s: float = RECEIVE_TIMEOUT_S) -> dict[str, Any]:
        """Wait for the next frame.

        Raises:
            AgentClosed: the socket is closed.
            trio.TooSlowError: nothing came in time.
        """
        try:
            with trio.fail_after(timeout_s):
                text = await self.websocket.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise AgentClosed.by(closed) from None
        assert isinstance(text, str), "the wire is text"
        value: dict[str, Any] = orjson.loads(text)
        return value

    async def receive_target(self) -> dict[str, Any]:
        """Wait for an order, which has exactly the shape of the wire."""
        frame = await self.receive()
        assert frame.keys() == {"type", "command_id", "target", "options"}
        assert frame["type"] == "SCAN_TARGET"
        assert frame["target"].keys() == {"root", "trigger_type", "schedule_id"}
        assert isinstance(frame["options"]["force"], bool)
        return frame

    async def wait_closed(self) -> AgentClosed:
        """Wait for the end, whatever comes before it."""
        while True:
            try:
                await self.receive()
            except AgentClosed as closed:
                return closed

    async def complete(self, command_id: str, **more: object) -> None:
        """Say that a scan is done."""
        summary = {"files": 3, "bytes": 12}
        frame = {"type": "SCAN_COMPLETE", "command_id": command_id, "root": "/mnt/show", "took_s": 1.5}
        await self.say({**frame, "summary": summary, **more})

    async def fail(self, command_id: str, error: str) -> None:
        """Say that a scan failed."""
        await self.say({"type": "SCAN_ERROR", "command_id": command_id, "root": "/mnt/show", "error": error})

    async def say(self, value: object) -> None:
        """Send one JSON text message."""
        await self.say_raw(orjson.dumps(value).decode())

    async def say_raw(self, message: str | bytes) -> None:
        """Send one message as it is: text for `str`, binary for `bytes`."""
        try:
            await self.websocket.send_message(message)
        except trio_websocket.ConnectionClosed as closed:
            raise AgentClosed.by(closed) from None

    def reset(self) -> None:
        """Die as a killed process behind a strict kernel does: RST, no close frame."""
        self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()


@asynccontextmanager
async def open_scanner(
    url: str,
    agent_id: str | None = None,
    *,
    path: str = "/agents",
    headers: Mapping[str, str] | None = None,
    **hello: object,
) -> AsyncIterator[Scanner]:
    """Connect a scanner; whatever state it is in when the block is left, its socket is gone then.

    Args:
        url: the gateway's `http://` address.
        agent_id: introduce it at once, None leaves that to the test.
        headers: sent with the upgrade.
        hello: members of the introduction that are not as usual.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    stream = await trio.open_tcp_stream(parts.hostname, parts.port or 80)
    try:
        async with trio.open_nursery() as nursery:
            websocket = await trio_websocket.wrap_client_stream(
                nursery,
                stream,
                parts.netloc,
                path,
                extra_headers=[(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            )
            scanner = Scanner(websocket, stream)
            if agent_id is not None:
                await scanner.hello(agent_id, **hello)
            yield scanner
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
    finally:
        stream.socket.close()


async def post_scan(
    url: str, agent_id: str, *, key: str | None = None, headers: Mapping[str, str] | None = None, **body: object
) -> Answer:
    """Ask the gateway for a scan."""
    fields = {
        "content-type": "application/json",
        **({} if key is None else {"idempotency-key": key}),
        **(headers or {}),
    }
    return await ask(url, "POST", f"/agents/{agent_id}/scan", fields, orjson.dumps({"root": "/mnt/show", **body}))


async def get_scan(url: str, command_id: str) -> dict[str, Any]:
    """Ask the gateway how a scan is."""
    answer = await ask(url, "GET", f"/scans/{command_id}")
    assert answer.status == 200, answer
    scan: dict[str, Any] = answer.json()
    return scan
