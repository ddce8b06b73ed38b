"""A client of HTTP/2 that shows a test the frames, on Trio.

Rules of the file:
- It checks nothing that it sends, so that a test can be wrong on purpose; `raw` sends bytes as they are.
- GOAWAY is noted and kept from the library, for which it would be the end of every stream.
"""

import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, InformationalResponseReceived, ResponseReceived, StreamEnded, StreamReset

from tests.support.gateway import Gateway
from tests.support.http import ask
from tests.support.tls import open_tls

ANSWER_TIMEOUT_S = 15.0
GOAWAY_FRAME = 7


@dataclass
class StreamAnswer:
    """What came on one stream."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    informational: list[int] = field(default_factory=list)
    is_whole: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """The answer's status, 0 before it came."""
        return int(self.header(":status") or 0)

    def header(self, name: str) -> str | None:
        """The value of one header."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(bytes(self.body))


@dataclass(frozen=True)
class GoAway:
    """One GOAWAY, and how many streams it found open."""

    last: int
    code: int
    detail: str
    found: int


class Http2Client:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream, authority: str) -> None:
        self.stream = stream
        self.authority = authority
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.answers: dict[int, StreamAnswer] = {}
        self.goaways: list[GoAway] = []
        self.is_over = False
        self.opens_windows = True
        self.believes = True
        """Off where the test sends bytes past the library, which then cannot follow what comes back."""
        self._received = bytearray()

    async def start(self) -> None:
        """Send the preface, and wait for the server's settings."""
        self.h2.initiate_connection()
        await self.flush()
        await self.pump()

    async def flush(self) -> None:
        """Send what the library has to send."""
        data = self.h2.data_to_send()
        if data:
            await self.stream.send_all(data)

    async def raw(self, data: bytes) -> None:
        """Send these bytes."""
        await self.stream.send_all(data)

    async def begin(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        ends: bool = True,
    ) -> int:
        """Open a stream; its number."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        pseudo = [(":method", method), (":scheme", "https"), (":authority", self.authority), (":path", path)]
        return await self.begin_with([*pseudo, *pairs], ends=ends)

    async def begin_with(self, pairs: list[tuple[str, str]], *, ends: bool = True) -> int:
        """Open a stream with exactly these headers; its number."""
        number = self.h2.get_next_available_stream_id()
        self.answers[number] = StreamAnswer()
        self.h2.send_headers(number, pairs, end_stream=ends)
        await self.flush()
        return number

    async def send_body(self, number: int, body: bytes) -> None:
        """Send a whole body, as the server's windows allow; what it says meanwhile is taken."""
        at = 0
        while not self.answers[number].is_whole:
            room = min(self.h2.local_flow_control_window(number), 16_384)
            if room <= 0 and at < len(body):
                await self.pump()
                continue
            piece = body[at : at + room]
            at += len(piece)
            self.h2.send_data(number, piece, end_stream=at == len(body))
            await self.flush()
            if at == len(body):
                return

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> StreamAnswer:
        """Send a request and wait for its answer."""
        number = await self.begin(method, path, headers, ends=body is None)
        if body is not None:
            await self.send_body(number, body)
        return await self.answer(number)

    async def answer(self, number: int, *, timeout_s: float = ANSWER_TIMEOUT_S) -> StreamAnswer:
        """Wait until a stream is over, one way or another."""
        with trio.fail_after(timeout_s):
            while not self.answers[number].is_whole and self.answers[number].reset is None and not self.is_over:
                await self.pump()
        return self.answers[number]

    async def end(self, *, timeout_s: float = ANSWER_TIMEOUT_S) -> GoAway | None:
        """Wait until the server has ended the connection; its last word."""
        with trio.fail_after(timeout_s):
            while not self.is_over:
                await self.pump()
        return self.goaways[-1] if self.goaways else None

    async def pump(self) -> list[Event]:
        """Receive once, and note what it means."""
        assert not self.is_over, f"the connection is over: {self.goaways}"
        try:
            data = bytes(await self.stream.receive_some(65_536))
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.is_over = True
            return []
        self._received += data
        events: list[Event] = []
        while len(self._received) >= 9:
            size = 9 + int.from_bytes(self._received[:3])
            if len(self._received) < size:
                break
            frame = bytes(self._received[:size])
            del self._received[:size]
            if frame[3] == GOAWAY_FRAME:
                last, code = int.from_bytes(frame[9:13]), int.from_bytes(frame[13:17])
                found = sum(not one.is_whole and one.reset is None for one in self.answers.values())
                self.goaways.append(GoAway(last, code, frame[17:].decode(), found))
            elif self.believes:
                events += self._take(frame)
        try:
            await self.flush()
        except trio.BrokenResourceError:
            self.is_over = True
        return events

    def _take(self, frame: bytes) -> list[Event]:
        events = self.h2.receive_data(frame)
        for event in events:
            self._note(event)
        return events

    def _note(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self.answers[event.stream_id].headers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, InformationalResponseReceived):
            self.answers[event.stream_id].informational.append(int(event.headers[0][1]))
        elif isinstance(event, DataReceived):
            self.answers[event.stream_id].body += event.data
            if self.opens_windows and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            self.answers[event.stream_id].is_whole = True
        elif isinstance(event, StreamReset):
            self.answers[event.stream_id].reset = int(event.error_code)


@asynccontextmanager
async def open_http2(url: str, trust: ssl.SSLContext | None = None) -> AsyncIterator[Http2Client]:
    """Connect and greet; over TLS (whom to trust), which must agree on h2, or plainly."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    stream: trio.abc.Stream
    if trust is None:
        stream = await trio.open_tcp_stream(parts.hostname, parts.port)
    else:
        trust.set_alpn_protocols(["h2"])
        secured = await open_tls(url, trust)
        assert secured.selected_alpn_protocol() == "h2"
        stream = secured
    client = Http2Client(stream, f"{parts.hostname}:{parts.port}")
    try:
        await client.start()
        yield client
    finally:
        await trio.aclose_forcefully(stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """The bytes of a frame; its length may lie."""
    size = len(payload) if length is None else length
    return size.to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


async def count_of(gateway: Gateway, event: str) -> float:
    """A figure of HTTP/2, as the gateway counts it."""
    text = (await ask(gateway.url, "GET", "/metrics")).body.decode()
    line = next(line for line in text.splitlines() if line.startswith(f'headgate_http2_total{{event="{event}"}}'))
    return float(line.split()[-1])
