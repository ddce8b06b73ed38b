"""Scripted peers: servers on loopback that answer what a test tells them to, right or wrong.

Rules of the file:
- A peer runs in the test's own Trio run, so `autojump_clock` moves its time too.
- It records everything it was sent; what it answers is the test's script and nothing else. When the script is over,
  the last step repeats.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import orjson
import trio
from trio_websocket import WebSocketConnection, WebSocketRequest, serve_websocket

__all__ = ["HANG_UP", "Answer", "HttpPeer", "Step", "StreamPeer", "StreamStep", "open_http_peer", "open_stream_peer"]


async def read_request(stream: trio.SocketStream, data: bytes) -> tuple[str, dict[str, str], bytes, bytes] | None:
    """Read one request as a well-behaved client of ours sends it; None when there are no more.

    Args:
        stream: the connection.
        data: what was read of it already.

    Returns:
        The request line, the headers with names in lower case, the body, and what came behind it.
    """
    while b"\r\n\r\n" not in data:
        received = await stream.receive_some(65_536)
        if not received:
            return None
        data += received
    head, _, data = data.partition(b"\r\n\r\n")
    request_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(data) < length:
        data += await stream.receive_some(65_536)
    return request_line, headers, data[:length], data[length:]


@dataclass(frozen=True)
class Answer:
    """One scripted HTTP answer: `body` is sent as JSON, bytes as they are; `pause_s` comes before it."""

    status: int
    body: object = None
    headers: tuple[tuple[str, str], ...] = ()
    pause_s: float = 0.0

    def encode(self) -> bytes:
        """Give its bytes."""
        body = self.body if isinstance(self.body, bytes) else orjson.dumps(self.body)
        lines = [f"HTTP/1.1 {self.status} Scripted", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode() + body


HANG_UP = b""
"""A step that closes the connection instead of answering. Other bytes are sent as they are, before closing."""

Step = Answer | bytes


@dataclass(frozen=True)
class Seen:
    """One request that a peer was sent, and when (`trio.current_time()`)."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class HttpPeer:
    """A scripted HTTP server.

    Attributes:
        url: where it is.
        script: what it answers, one step a request.
        seen: the requests so far.
        connections: how many connections were opened to it.
    """

    url: str
    script: Sequence[Step]
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0

    async def serve_one(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        self.connections += 1
        data = b""
        while True:
            asked = await read_request(stream, data)
            if asked is None:
                return
            request_line, headers, body, data = asked
            method, target, _ = request_line.split(" ")
            step = self.script[min(len(self.seen), len(self.script) - 1)]
            self.seen.append(Seen(method, target, headers, body, trio.current_time()))
            if isinstance(step, bytes):
                await stream.send_all(step)
                return
            await trio.sleep(step.pause_s)
            await stream.send_all(step.encode())


@asynccontextmanager
async def open_http_peer(*script: Step) -> AsyncIterator[HttpPeer]:
    """Run a scripted HTTP server for the length of the block."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        peer = HttpPeer(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", script)
        nursery.start_soon(partial(trio.serve_listeners, _guarded(peer.serve_one), [listener]))
        yield peer
        nursery.cancel_scope.cancel()


StreamStep = Callable[[WebSocketRequest], Awaitable[None]]


@dataclass
class StreamPeer:
    """A scripted WebSocket server: one step a connection; a step accepts or rejects the request itself."""

    url: str
    script: Sequence[StreamStep]
    targets: list[str] = field(default_factory=list)
    headers: list[dict[bytes, bytes]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)

    async def serve_one(self, request: WebSocketRequest) -> None:
        """Serve one connection to its end."""
        step = self.script[min(len(self.targets), len(self.script) - 1)]
        self.targets.append(request.path)
        self.headers.append(dict(request.headers))
        self.at.append(trio.current_time())
        await step(request)


@asynccontextmanager
async def open_stream_peer(*script: StreamStep) -> AsyncIterator[StreamPeer]:
    """Run a scripted WebSocket server for the length of the block."""
    async with trio.open_nursery() as nursery:
        peer = StreamPeer("", script)
        server = await nursery.start(partial(serve_websocket, peer.serve_one, "127.0.0.1", 0, None))
        match = re.fullmatch(r"ws(://127\.0\.0\.1:\d+)/?", server.listeners[0].url)
        assert match is not None
        peer.url = "http" + match[1]
        yield peer
        nursery.cancel_scope.cancel()


async def send_batch(socket: WebSocketConnection, batch_id: str, *messages: object) -> None:
    """Send one `events` frame as the gateway does."""
    numbered = [{"index": index, "data": data} for index, data in enumerate(messages)]
    await socket.send_message(orjson.dumps({"type": "events", "batch": batch_id, "messages": numbered}).decode())


def _guarded(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def serve_guarded(stream: trio.SocketStream) -> None:
        try:
            await serve(stream)
        except trio.BrokenResourceError:
            pass  # the client hung up, which is its right
        finally:
            await trio.aclose_forcefully(stream)

    return serve_guarded
