"""A scripted NATS server on loopback: it says what a test tells it to, and shows what it was sent.

Rules of the file:
- Every command of the client is read at once and kept in order, so that the client is never blocked by the script; only
  a peer that was told not to read leaves bytes in the kernel.
- It answers nothing by itself but PING, and that only until it is told to be mute.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import trio

from engine.endpoints import Endpoint

__all__ = ["Command", "NatsPeer", "PeerConnection", "open_nats_peer"]

WITHIN_S = 10.0
MOST_COMMANDS = 100_000


@dataclass(frozen=True)
class Command:
    """One command of the client: `words` are what stands on its line, the lengths left out."""

    verb: str
    words: tuple[str, ...]
    payload: bytes = b""
    header: bytes = b""

    @property
    def reply(self) -> str:
        """Where the answer to a PUB goes, empty when nowhere."""
        return self.words[1] if len(self.words) > 1 else ""


class PeerConnection:
    """One client's connection, from the server's side."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.is_mute = False
        self.connect: dict[str, object] = {}
        self._data = b""
        self._sending = trio.Lock()
        self._kept, self.commands = trio.open_memory_channel[Command](MOST_COMMANDS)

    async def greet(self, **info: object) -> None:
        """Say INFO, hear CONNECT and PING, say PONG."""
        await self.say_info(**info)
        await self.hear_connect()
        await self.send(b"PONG\r\n")

    async def say_info(self, **info: object) -> None:
        """Say INFO with these fields."""
        await self.send(b"INFO " + orjson.dumps({"max_payload": 1_048_576, "headers": True, **info}) + b"\r\n")

    async def hear_connect(self) -> None:
        """Hear the client's CONNECT and the PING after it."""
        line = await self._line()
        assert line.startswith(b"CONNECT "), line
        self.connect = orjson.loads(line[len(b"CONNECT ") :])
        assert await self._line() == b"PING"

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes."""
        async with self._sending:
            await self.stream.send_all(data)

    async def next(self, verb: str) -> Command:
        """Wait for the client's next command of this verb; what comes before it is passed over."""
        with trio.fail_after(WITHIN_S):
            async for command in self.commands:
                if command.verb == verb:
                    return command
        raise AssertionError(f"the client ended the connection without {verb}")

    async def wait_subscribed(self, prefix: str = "_INBOX.") -> Command:
        """Wait for the next SUB of a subject that begins so."""
        while True:
            command = await self.next("SUB")
            if command.words[0].startswith(prefix):
                return command

    async def wait_closed(self) -> None:
        """Wait until the client ended the connection."""
        with trio.fail_after(WITHIN_S):
            async for _ in self.commands:
                pass

    async def deliver(self, sid: int, subject: str, payload: bytes, reply: str = "", header: bytes = b"") -> None:
        """Send one message on a subscription."""
        words = f"{subject} {sid} {reply}".strip()
        total = len(header) + len(payload)
        line = f"HMSG {words} {len(header)} {total}" if header else f"MSG {words} {total}"
        await self.send(line.encode() + b"\r\n" + header + payload + b"\r\n")

    async def answer(self, request: Command, payload: bytes, header: bytes = b"") -> None:
        """Answer a request on the client's own inbox, which is its first subscription."""
        await self.deliver(1, request.reply, payload, header=header)

    async def run(self) -> None:
        """Read the client's commands until it is gone."""
        with self._kept:
            while True:
                try:
                    line = await self._line()
                    command = await self._command(line)
                except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                if command.verb == "PING" and not self.is_mute:
                    await self.send(b"PONG\r\n")
                self._kept.send_nowait(command)

    async def cut(self) -> None:
        """End the connection without a word."""
        await trio.aclose_forcefully(self.stream)

    async def _command(self, line: bytes) -> Command:
        verb, *words = line.decode().split(" ")
        if verb not in {"PUB", "HPUB"}:
            return Command(verb, tuple(words))
        body = await self._exactly(int(words[-1]))
        assert await self._exactly(2) == b"\r\n"
        if verb == "PUB":
            return Command("PUB", tuple(words[:-1]), body)
        size = int(words[-2])
        return Command("PUB", tuple(words[:-2]), body[size:], body[:size])

    async def _line(self) -> bytes:
        while b"\r\n" not in self._data:
            await self._more()
        line, _, self._data = self._data.partition(b"\r\n")
        return line

    async def _exactly(self, size: int) -> bytes:
        parts, have = [self._data], len(self._data)
        while have < size:
            self._data = b""
            await self._more()
            parts.append(self._data)
            have += len(self._data)
        data = b"".join(parts)
        self._data = data[size:]
        return data[:size]

    async def _more(self) -> None:
        received = await self.stream.receive_some(262_144)
        if not received:
            raise EOFError("the client ended the connection")
        self._data += bytes(received)


@dataclass
class NatsPeer:
    """A listening socket whose connections a test takes one by one."""

    port: int
    accepted: trio.MemoryReceiveChannel[trio.SocketStream]
    nursery: trio.Nursery
    credentials: dict[str, str] = field(default_factory=dict)
    connections: list[PeerConnection] = field(default_factory=list)

    def locate(self) -> Endpoint:
        """Say where it is, as the driver asks."""
        return Endpoint("127.0.0.1", self.port, self.credentials)

    async def take(self) -> PeerConnection:
        """Take the next connection; the script is the test's from its first byte on."""
        with trio.fail_after(WITHIN_S):
            connection = PeerConnection(await self.accepted.receive())
        self.connections.append(connection)
        return connection

    async def welcome(self, *, reads: bool = True, **info: object) -> PeerConnection:
        """Take the next connection, greet it, and read what it says from then on."""
        connection = await self.take()
        await connection.greet(**info)
        if reads:
            self.nursery.start_soon(connection.run)
        return connection


@asynccontextmanager
async def open_nats_peer() -> AsyncIterator[NatsPeer]:
    """Run a scripted server for the length of the block."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    arriving, accepted = trio.open_memory_channel[trio.SocketStream](100)
    async with trio.open_nursery() as nursery:
        peer = NatsPeer(listener.socket.getsockname()[1], accepted, nursery)

        async def accept() -> None:
            while True:
                await arriving.send(await listener.accept())

        nursery.start_soon(accept)
        try:
            yield peer
        finally:
            nursery.cancel_scope.cancel()
            for connection in peer.connections:
                connection.stream.socket.close()
            while True:
                try:
                    accepted.receive_nowait().socket.close()
                except trio.WouldBlock:
                    break
            listener.socket.close()
