"""The express lane: HTTP/1.1 on plain Trio streams, for the routes where latency counts.

Rules of the file:
- No exception crosses the connection's boundary: `Connection.run` is the guard.
- The lane owns the connection. From the first request that is not its own on, its requests go through a gate to the
  Quart lane (`edge/gate.py`), one at a time and checked here as before; the connection never comes back.
- Deadlines are plain numbers that the listener's reaper looks at twice a second: a cancel scope for every wait would
  cost as much as the request itself (`bench/scenarios/express.py`).

What must change with it: `edge/gate.py` reads its requests with the methods here.
"""

import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final

import structlog
import trio

from edge.chunked import ChunkedDecoder
from edge.heads import read_head
from edge.http import Request, Response, SendPiece
from edge.normaliser import MAX_HEAD_BYTES, Head, head_too_large
from edge.phase import Phase
from edge.problems import problem_response
from edge.responses import encode_response, request_id_of
from edge.routes import Lane, RouteTable, respond
from edge.shed import encode_shed, overload_of
from edge.streamed import StreamedAnswer, is_http_1_0
from edge.tcp_stream import TcpStream
from edge.tls_stream import ClientStream, NotTlsError, TlsStream
from engine.errors import Fault, Refused, Unavailable
from engine.http2_floods import PREFACE
from engine.limits import lines_of

log = structlog.get_logger("express")

RECEIVE_BYTES: Final = 64 * 1024
HEAD_RECEIVE_BYTES: Final = 4 * 1024
"""Most heads, and small requests whole. In a crowd a large body stays with the kernel until somebody works on it: then
it comes into the processor's caches just in time, and one that is turned away never does (`bench overload`)."""
HANDSHAKE_WITHIN_S: Final = 10.0
SEND_PIECE_BYTES: Final = 256 * 1024
BODY_LEAST_BYTES_PER_S: Final = 1024
LINGER_S: Final = 1.0
"""After an early refusal: time for the client to stop sending and read why, before the kernel resets it."""
LINGER_BYTES: Final = 16 * 1024 * 1024
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_REQUEST_START: Final = re.compile(rb"[A-Z]{1,20}(?: |\Z)")


PassOn = Callable[["Connection", Head], Awaitable[bool]]
"""Passes a connection on when the request, whose head was read, belongs to another process; False when it does not."""


class Connection:
    """One client's connection.

    Args:
        stream: the accepted stream; whoever accepted it closes it.
        peer: the client's address.
        table: the routes.
        hand_over: serves this request and all that follow on the Quart lane.
        upgrade: takes over the connection for a WebSocket, with the peer, the head and what came after it.
        is_draining: the gateway is shutting down.
        speak_http2: takes over the connection for HTTP/2, with what was received; None where it is not spoken.
        pass_on: gives a connection to another process where its request belongs to that one; None where there is none.
    """

    def __init__(
        self,
        stream: ClientStream,
        peer: str,
        table: RouteTable,
        hand_over: Callable[["Connection", Head], Awaitable[None]],
        upgrade: Callable[[ClientStream, str, Head, bytes, str], Awaitable[None]],
        is_draining: Callable[[], bool],
        speak_http2: Callable[["Connection", bytes], Awaitable[None]] | None = None,
        pass_on: PassOn | None = None,
    ) -> None:
        is_tls = isinstance(stream, TlsStream)
        self.phase = Phase.HANDSHAKE if is_tls else Phase.IDLE
        self.within = table.deadlines
        self.deadline = trio.current_time() + (HANDSHAKE_WITHIN_S if is_tls else self.within.header_s)
        self.scope = trio.CancelScope()
        self.is_late = False
        self.stream = stream
        self.peer = peer
        self._table = table
        self._hand_over = hand_over
        self._upgrade = upgrade
        self._is_draining = is_draining
        self._speak_http2 = speak_http2
        self._pass_on = pass_on
        self._buffer = bytearray()
        self._head_bytes = b""
        self._unread = False
        self._wants_to_stay = False
        self._streamed: StreamedAnswer | None = None

    async def run(self) -> None:
        """Serve the connection until it ends; whatever happens, nothing is raised but cancellation from outside."""
        try:
            with self.scope:
                if not isinstance(self.stream, TlsStream) or await self._shake_hands(self.stream):
                    await self._serve()
            if self.is_late and self.phase in {Phase.HEAD, Phase.BODY}:
                await self.refuse(Refused("request.too-slow", "the request took too long to arrive"))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went away: nothing to say, nobody to say it to
        except Exception as fault:  # the guard of `DESIGN.md` section 9: one connection's failure is its own
            log.error("connection failed", peer=self.peer, phase=self.phase.value, exc_info=fault)

    async def _shake_hands(self, stream: TlsStream) -> bool:
        """Agree on TLS; False where it is over: plain HTTP, which was told, or HTTP/2, which was served."""
        handshakes = self._table.metrics.tls_handshakes
        handshakes["failed"] += 1
        try:
            await stream.handshake()
        except NotTlsError:
            request_id = request_id_of({})
            refusal = Refused("request.malformed", "this port speaks TLS: connect with https:// or wss://")
            answer = problem_response(refusal, request_id)
            await stream.transport.send_all(encode_response(answer, request_id, stays=False, head_only=False))
            self.stream = stream.transport
            await self._linger()
            return False
        handshakes["failed"] -= 1
        handshakes["done"] += 1
        self.phase = Phase.IDLE
        if self._speak_http2 is not None and stream.protocol == "h2":
            await self._speak_http2(self, b"")
            return False
        return True

    async def _serve(self) -> None:
        while True:
            head = await self.next_head()
            if head is None:
                return
            if head.websocket and head.path in self._table.sockets:
                self.phase, self.deadline = Phase.UPGRADED, inf
                request_id = request_id_of(head.headers)
                await self._upgrade(self.stream, self.peer, head, bytes(self._buffer), request_id)
                return
            if self._table.lane(head.path) is Lane.QUART:
                await self._hand_over(self, head)
                return
            if not await self.answer(head, request_id_of(head.headers)):
                return

    async def next_head(self) -> Head | None:
        """Wait for the next request's head; None when the connection ends, which has then been said to the client."""
        if self.phase is Phase.BUSY and self._is_draining():
            return None
        head_bytes = await self._read_head()
        if head_bytes is None:
            return None
        try:
            head = read_head(head_bytes)
        except Refused as refusal:
            if self._speak_http2 is not None and self._knows_http2(head_bytes):
                await self._speak_http2(self, head_bytes + bytes(self._buffer))
            else:
                await self.refuse(refusal)
            return None
        self._head_bytes = head_bytes
        self.phase, self.deadline = Phase.BUSY, inf
        try:
            if self._pass_on is not None and await self._pass_on(self, head):
                return None
        except Unavailable as fault:
            await self.refuse(fault)
            return None
        self._unread = head.length is None or head.length > 0
        return head

    def _knows_http2(self, head_bytes: bytes) -> bool:
        """Say that the client began with the preface of HTTP/2, on a connection without TLS."""
        return not self._head_bytes and not isinstance(self.stream, TlsStream) and PREFACE.startswith(head_bytes)

    def taken(self) -> bytes:
        """Give what was read of the request so far, as it came: for whoever serves it instead."""
        return self._head_bytes + bytes(self._buffer)

    def begin_with(self, data: bytes) -> None:
        """Serve what another process had read already, before what comes."""
        self._buffer += data

    async def _read_head(self) -> bytes | None:
        buffer = self._buffer
        if buffer:  # the client has sent more than one request: others have their turn first
            await trio.lowlevel.checkpoint()
        self.phase = Phase.HEAD if buffer else Phase.IDLE
        self.deadline = trio.current_time() + (self.within.header_s if buffer else self.within.idle_s)
        while True:
            while buffer.startswith(b"\r\n"):
                del buffer[:2]
            end = buffer.find(b"\r\n\r\n")
            if end > MAX_HEAD_BYTES or (end < 0 and len(buffer) > MAX_HEAD_BYTES):
                await self.refuse(head_too_large(bytes(buffer)))
                return None
            if end >= 0:
                head_bytes = bytes(buffer[: end + 4])
                del buffer[: end + 4]
                return head_bytes
            if buffer:
                if not _REQUEST_START.match(buffer[:21]) and buffer != b"\r":
                    await self.refuse(Refused("request.malformed", "this is not an HTTP request"))
                    return None
                if b"\n\n" in buffer or b"\n\r\n" in buffer:
                    await self.refuse(Refused("request.malformed", "a line ends without a carriage return"))
                    return None
                if self.phase is Phase.IDLE:
                    self.phase = Phase.HEAD
                    self.deadline = trio.current_time() + self.within.header_s
            is_crowded = self._table.turns is not None and self._table.turns.is_crowded
            data = await self.stream.receive_some(HEAD_RECEIVE_BYTES if is_crowded else RECEIVE_BYTES)
            if not data:
                return None
            buffer += data

    def serves(self, path: str) -> bool:
        """Say that a path is this lane's own."""
        return self._table.lane(path) is Lane.EXPRESS

    async def answer(self, head: Head, request_id: str) -> bool:
        """Answer one request; False when the connection ends with it."""
        overload = overload_of(self._table, head)
        if overload is not None:
            return await self._turn_away(overload, head, request_id)
        self._wants_to_stay = head.keep_alive
        request = Request(
            head.method,
            head.path,
            head.query,
            head.headers,
            self.peer,
            request_id,
            partial(self.read_body, head),
            stream=self._stream,
            wait_left=self._wait_left,
            target=head.target,
        )
        try:
            response = await respond(self._table, request)
            streamed, self._streamed = self._streamed, None
            if streamed is not None and streamed.response is not None:
                return await streamed.end(response)
            self._skip_body(head)
            stays = self._stays_after(response)
            lines = lines_of(request.judgements) if request.judgements else b""
            is_head, is_large = head.method == "HEAD", len(response.body) > SEND_PIECE_BYTES
            is_short = is_head or is_large  # a large body is not copied behind its head
            await self._send(encode_response(response, request_id, stays=stays, head_only=is_short, lines=lines))
            if is_large and not is_head:
                await self._send(response.body)
        finally:
            request.end()
        if not stays and self._unread:
            await self._linger()
        return stays

    async def _turn_away(self, overload: Unavailable, head: Head, request_id: str) -> bool:
        """Tell a client to come back; False when the connection ends with it."""
        self._skip_body(head)
        stays = head.keep_alive and not self._unread and not self._is_draining()
        await self._send(encode_shed(self._table, overload, head, request_id, stays=stays))
        if not stays and self._unread:
            await self._linger()
        return stays

    async def _stream(self, request: Request, response: Response) -> SendPiece:
        self._streamed = StreamedAnswer(self._send)
        response.headers = {**request.told, **response.headers}
        is_old, lines = is_http_1_0(self._head_bytes), lines_of(request.judgements)
        stays = self._stays_after(response)
        return await self._streamed.begin(response, request.request_id, stays=stays, is_old=is_old, lines=lines)

    def _stays_after(self, response: Response) -> bool:
        return self._wants_to_stay and not response.close and not self._unread and not self._is_draining()

    def _skip_body(self, head: Head) -> None:
        """Throw away a body that nobody wanted, where it is here already: then the connection can stay."""
        if not self._unread or head.length is None:
            return
        missing = head.length - len(self._buffer)
        if missing > 0 and isinstance(self.stream, TcpStream):
            missing -= self.stream.discard_nowait(missing)
        if missing <= 0:
            del self._buffer[: head.length]
            self._unread = False

    async def _wait_left(self) -> None:
        """Wait until the client has left; one that has sent its next request already is taken for present."""
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):  # it broke: it has left as well
            if self._buffer or self._unread or await self._peek():
                await trio.sleep_forever()

    async def _peek(self) -> bytes:
        if isinstance(self.stream, TlsStream):
            return await self.stream.peek()
        return await self.stream.socket.recv(1, socket.MSG_PEEK)

    async def read_body(self, head: Head, limit_bytes: int) -> bytes:
        """Read a request's body, and wait for the turn to work on it.

        Raises:
            Refused: it is larger than the limit, or its framing is broken.
        """
        turns, length = self._table.turns, head.length or 0
        if turns is not None and not turns.has_room(length) and length <= limit_bytes and self._has_arrived(length):
            await turns.take(length)
            turns = None
        body = await self._read_whole(head, limit_bytes)
        if body and turns is not None:
            await turns.take(len(body))
        return body

    def _has_arrived(self, length: int) -> bool:
        """Say that a body is with the kernel, whole, and can be received when its turn has come."""
        missing = length - len(self._buffer)
        return missing > 0 and isinstance(self.stream, TcpStream) and self.stream.holds(missing)

    async def _read_whole(self, head: Head, limit_bytes: int) -> bytes:
        length = head.length
        if length == 0:
            return b""
        if length is not None and length > limit_bytes:
            raise Refused("request.too-large", f"the body has {length} bytes; the limit is {limit_bytes}")
        if "100-continue" in head.headers.get("expect", "").lower() and not self._buffer:
            await self._send(CONTINUE)
        self.phase = Phase.BODY
        received = 0
        buffer, stream = self._buffer, self.stream
        if length is not None:
            if isinstance(stream, TcpStream) and len(buffer) < length:
                buffer += stream.receive_nowait(length - len(buffer)) or b""
            started = trio.current_time() if len(buffer) < length else inf
            while len(buffer) < length:
                self.deadline = started + self.within.body_grace_s + len(buffer) / BODY_LEAST_BYTES_PER_S
                buffer += await self._receive_body()
            with memoryview(buffer) as view:
                body = bytes(view[:length])
            del buffer[:length]
        else:
            started = trio.current_time()
            decoder = ChunkedDecoder(limit_bytes)
            decoder.feed(bytes(buffer))
            buffer.clear()
            while not decoder.is_complete:
                self.deadline = started + self.within.body_grace_s + received / BODY_LEAST_BYTES_PER_S
                data = await self._receive_body()
                received += len(data)
                decoder.feed(data)
            body = decoder.content()
            buffer += decoder.rest()
        self._unread = False
        self.phase, self.deadline = Phase.BUSY, inf
        return body

    async def _receive_body(self) -> bytes:
        data = await self.stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise trio.BrokenResourceError("the client ended in the middle of a body")
        return bytes(data)

    async def _send(self, data: bytes) -> None:
        sent = self.stream.send_nowait(data) if isinstance(self.stream, TcpStream) else 0
        if sent == len(data):
            return  # as nearly always; the connection's next step is to wait for a request
        view = memoryview(data)
        for start in range(sent, len(data), SEND_PIECE_BYTES):  # a slow but reading client is not cut
            self.deadline = trio.current_time() + self.within.send_s
            await self.stream.send_all(view[start : start + SEND_PIECE_BYTES])
        self.deadline = inf

    async def refuse(self, refusal: Fault, instance: str = "") -> None:
        """Say why; the connection ends with it."""
        self.phase = Phase.BUSY
        request_id = request_id_of({})
        with trio.move_on_after(LINGER_S):
            response = problem_response(refusal, request_id, instance)
            await self._send(encode_response(response, request_id, stays=False, head_only=False))
            await self._linger()

    async def _linger(self) -> None:
        """Let the client read the answer before what it still sends makes the kernel reset the connection."""
        with trio.move_on_after(LINGER_S):
            await self.stream.send_eof()
            left = LINGER_BYTES
            while left > 0:
                data = await self.stream.receive_some(RECEIVE_BYTES)
                if not data:
                    return
                left -= len(data)
