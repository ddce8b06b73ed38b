"""A TCP proxy that goes wrong on command, between the gateway and an external nats-server.

Rules of the file:
- It changes no byte. It cuts connections, holds or delays bytes, and leaves out whole messages from
  server to client, which it therefore parses.
- What it did is counted, so that a test can show that the fault happened.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

from tests.support.waiting import let_pass

__all__ = ["ChaosProxy", "ServerMessage", "is_publish_ack", "open_chaos_proxy"]


@dataclass(frozen=True)
class ServerMessage:
    """One MSG or HMSG on its way to the client."""

    subject: str
    payload: bytes


def is_publish_ack(message: ServerMessage) -> bool:
    """Whether it is JetStream's answer to a publish that was stored (an API answer has a `type`)."""
    return b'"seq":' in message.payload and b'"stream":' in message.payload and b'"type":' not in message.payload


class ChaosProxy:
    """The proxy's port and its switches; they hold for all connections through it."""

    def __init__(self, target_url: str) -> None:
        parts = urlsplit(target_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self.port = 0
        self.connections_count = 0
        self.dropped: list[ServerMessage] = []
        self.delay_s = 0.0
        self.is_refusing = False
        self._should_drop: Callable[[ServerMessage], bool] | None = None
        self._drops_left = 0
        self._scopes: set[trio.CancelScope] = set()
        self._to_client_open = trio.Event()
        self._to_server_open = trio.Event()
        self.release()

    @property
    def url(self) -> str:
        """The address for NATS_URL."""
        return f"nats://127.0.0.1:{self.port}"

    def drop_next(self, count: int, should_drop: Callable[[ServerMessage], bool] = is_publish_ack) -> None:
        """Leave out the next `count` messages to the client for which `should_drop` is true."""
        self._should_drop, self._drops_left = should_drop, count

    def hold(self, *, to_client: bool = True, to_server: bool = True) -> None:
        """Forward nothing more in these directions, as a network that swallows packets."""
        if to_client:
            self._to_client_open = trio.Event()
        if to_server:
            self._to_server_open = trio.Event()

    def release(self) -> None:
        """Forward again, what was held first."""
        self._to_client_open.set()
        self._to_server_open.set()

    def cut(self) -> None:
        """Close every connection now."""
        for scope in self._scopes:
            scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and forward until cancelled; ready when the port is open."""
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        self.connections_count += 1
        if self.is_refusing:
            return
        try:
            async with await trio.open_tcp_stream(*self._target) as server, trio.open_nursery() as nursery:
                self._scopes.add(nursery.cancel_scope)
                try:
                    nursery.start_soon(self._pump_to_server, client, server, nursery.cancel_scope)
                    await self._pump_to_client(server, client)
                    nursery.cancel_scope.cancel()
                finally:
                    self._scopes.discard(nursery.cancel_scope)
        except OSError:
            return  # the server is down: the client sees its connection closed

    async def _pump_to_server(
        self, client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await client.receive_some(65_536):
                await self._wait_open(to_client=False)
                await server.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()

    async def _pump_to_client(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        received = bytearray()
        try:
            while data := await server.receive_some(65_536):
                received += data
                kept = self._take_whole(received)
                await self._wait_open(to_client=True)
                if kept:
                    await client.send_all(kept)
        except trio.BrokenResourceError:
            return

    async def _wait_open(self, *, to_client: bool) -> None:
        if self.delay_s:
            await let_pass(self.delay_s)
        await (self._to_client_open if to_client else self._to_server_open).wait()

    def _take_whole(self, received: bytearray) -> bytes:
        """Take every complete protocol message off the front, without those to be dropped."""
        kept, at = bytearray(), 0
        while (end := received.find(b"\r\n", at)) >= 0:
            words = bytes(received[at:end]).split()
            size = end + 2 - at
            message = None
            if words and words[0] in (b"MSG", b"HMSG"):
                size += int(words[-1]) + 2
                if len(received) - at < size:
                    break
                header_size = int(words[-2]) if words[0] == b"HMSG" else 0
                payload = bytes(received[end + 2 + header_size : at + size - 2])
                message = ServerMessage(words[1].decode(), payload)
            if message is not None and self._is_to_drop(message):
                self.dropped.append(message)
            else:
                kept += received[at : at + size]
            at += size
        del received[:at]
        return bytes(kept)

    def _is_to_drop(self, message: ServerMessage) -> bool:
        if self._drops_left <= 0 or self._should_drop is None or not self._should_drop(message):
            return False
        self._drops_left -= 1
        return True


@asynccontextmanager
async def open_chaos_proxy(target_url: str) -> AsyncIterator[ChaosProxy]:
    """Run a proxy to `nats://host:port` for the length of the block."""
    proxy = ChaosProxy(target_url)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()
