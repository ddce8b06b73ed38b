"""A small HTTP/1.1 client that shows a test the exact bytes, on Trio.

Rules of the file:
- It sends what it is told, right or wrong, and corrects nothing: no header is added behind the test's back
  but `Host`, `Content-Length` and what `body` needs, and none of these by `send`.
- It believes nothing either: an answer that is not strict HTTP/1.1 raises.
"""

import gzip
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
import trio

__all__ = ["Answer", "Connection", "ConnectionLost", "ask", "open_connection", "post_json"]

# Longer than any deadline of the product that a single answer waits for (2 s for a log that is down).
ANSWER_TIMEOUT_S = 15.0

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class ConnectionLost(OSError):
    """The peer closed or reset the connection before the answer was whole; `received` is what came."""

    def __init__(self, received: bytes, why: str) -> None:
        super().__init__(f"{why} after {len(received)} bytes: {received[:200]!r}")
        self.received = received


@dataclass(frozen=True)
class Answer:
    """One response, with its bytes."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    raw_head: bytes = field(repr=False, default=b"")

    def header(self, name: str) -> str | None:
        """The value of the one header with this name, None where there is none; two are an error."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None

    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    def problem(self, status: int) -> dict[str, Any]:
        """Assert that it is an RFC 9457 problem with this status and the seeds' members; returns it."""
        assert self.status == status, f"{self.status} instead of {status}: {self.body[:1000]!r}"
        assert self.header("content-type") == "application/problem+json"
        problem: dict[str, Any] = self.json()
        for member in ("type", "title", "detail", "instance", "request_id", "error"):
            assert problem.get(member), f"{member} is missing or empty: {problem}"
        assert problem["status"] == status
        assert problem["success"] is False
        return problem


class Connection:
    """One TCP connection to the gateway; requests go one after another or pipelined."""

    def __init__(self, stream: trio.SocketStream, host: str) -> None:
        self.stream = stream
        self.host = host
        self._received = bytearray()

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes."""
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise ConnectionLost(bytes(self._received), f"could not send ({error})") from error

    async def request(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes | None = None,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """Send one well-formed request and wait for its answer."""
        await self.send(self.encode(method, target, headers, body))
        return await self.read_answer(timeout_s=timeout_s, has_body=method != "HEAD")

    def encode(self, method: str, target: str, headers: Headers = (), body: bytes | None = None) -> bytes:
        """The bytes of one request, as `request` sends them."""
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in pairs]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")

    async def read_answer(self, *, timeout_s: float = ANSWER_TIMEOUT_S, has_body: bool = True) -> Answer:
        """Read the next answer whole, interim (1xx) ones skipped.

        Raises:
            ConnectionLost: the peer went before the answer was whole.
            trio.TooSlowError: it took longer than `timeout_s`.
        """
        with trio.fail_after(timeout_s):
            while True:
                answer = await self._read_one(has_body)
                if answer.status >= 200 or answer.status == 101:
                    return answer

    async def receive(self) -> bytes:
        """What has come and was not read, or else what comes next; empty when the peer has closed or reset it."""
        if not self._received:
            await self._fill()
        data, self._received = bytes(self._received), bytearray()
        return data

    async def read_to_end(self, *, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
        """Everything until the peer closes; a reset counts as closed."""
        with trio.fail_after(timeout_s):
            while await self._fill():
                pass
        data, self._received = bytes(self._received), bytearray()
        return data

    def reset(self) -> None:
        """End the connection with an RST instead of a FIN, at once."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def aclose(self) -> None:
        """Close it cleanly."""
        await self.stream.aclose()

    async def _fill(self) -> bool:
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            return False
        self._received += data
        return bool(data)

    async def _read_until(self, end: bytes) -> bytes:
        while (at := self._received.find(end)) < 0:
            if not await self._fill():
                raise ConnectionLost(bytes(self._received), "closed inside a head")
        data = bytes(self._received[: at + len(end)])
        del self._received[: at + len(end)]
        return data

    async def _read_exactly(self, size_bytes: int) -> bytes:
        while len(self._received) < size_bytes:
            if not await self._fill():
                raise ConnectionLost(bytes(self._received), f"closed inside a body of {size_bytes}")
        data = bytes(self._received[:size_bytes])
        del self._received[:size_bytes]
        return data

    async def _read_one(self, has_body: bool) -> Answer:
        head = await self._read_until(b"\r\n\r\n")
        status_line, *header_lines = head[:-4].decode("latin-1").split("\r\n")
        version, status, reason = (status_line + " ").split(" ", 2)
        assert version == "HTTP/1.1", f"not an HTTP/1.1 status line: {status_line!r}"
        headers: list[tuple[str, str]] = []
        for line in header_lines:
            name, colon, value = line.partition(":")
            is_well_formed = bool(colon) and bool(name) and name == name.strip()
            assert is_well_formed, f"not a header line: {line!r}"
            headers.append((name, value.strip()))
        answer = Answer(int(status), reason.strip(), headers, b"", head)
        body = b"" if not has_body or answer.status < 200 or answer.status in (204, 304) else await self._body(answer)
        return Answer(answer.status, answer.reason, headers, body, head)

    async def _body(self, answer: Answer) -> bytes:
        length, coding = answer.header("content-length"), answer.header("transfer-encoding")
        assert length is None or coding is None, "both Content-Length and Transfer-Encoding"
        if length is not None:
            return await self._read_exactly(int(length))
        if coding is None:
            while await self._fill():
                pass
            data, self._received = bytes(self._received), bytearray()
            return data
        assert coding.lower() == "chunked", f"unknown transfer coding {coding!r}"
        chunks = []
        while size := int(await self._read_until(b"\r\n"), 16):
            chunks.append(await self._read_exactly(size))
            assert await self._read_exactly(2) == b"\r\n", "a chunk without its end"
        assert await self._read_until(b"\r\n") == b"\r\n", "trailers were not expected"
        return b"".join(chunks)


@asynccontextmanager
async def open_connection(url: str) -> AsyncIterator[Connection]:
    """Open one connection to the gateway at `url`; it is closed when the block is left."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    stream = await trio.open_tcp_stream(parts.hostname, parts.port)
    try:
        yield Connection(stream, f"{parts.hostname}:{parts.port}")
    finally:
        with trio.move_on_after(1, shield=True):  # a close only; bounded as every shield is
            await stream.aclose()


async def ask(
    url: str,
    method: str,
    target: str,
    headers: Headers = (),
    body: bytes | None = None,
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> Answer:
    """One request on a connection of its own."""
    async with open_connection(url) as connection:
        return await connection.request(method, target, headers, body, timeout_s=timeout_s)


async def post_json(
    url: str,
    target: str,
    value: object,
    headers: Mapping[str, str] | None = None,
    *,
    is_gzipped: bool = False,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> Answer:
    """POST a value as JSON, gzipped where asked, on a connection of its own."""
    body = orjson.dumps(value)
    sent = {"Content-Type": "application/json", **(headers or {})}
    if is_gzipped:
        body, sent["Content-Encoding"] = gzip.compress(body, 1), "gzip"
    return await ask(url, "POST", target, sent, body, timeout_s=timeout_s)
