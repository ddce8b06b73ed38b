"""One stream of HTTP/2: one request, answered by the route table as on the lanes.

Rules of the file:
- The answer is the one that HTTP/1.1 would give: its head is taken apart, not made anew.
- Every wait for the client has a deadline of its own; what is late ends its stream and no other.
- A body is held whole, as on the lanes; one longer than a stream's first window needs a place, so that a connection
  holds few of them.

What must change with it: `edge/http2_session.py` begins streams and tells them what came.
"""

from collections.abc import Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio
from h2.connection import H2Connection
from h2.exceptions import H2Error

from edge.bodies import SMALL_BODY_BYTES
from edge.express import BODY_LEAST_BYTES_PER_S
from edge.http import Request, Response, SendPiece
from edge.http2_elsewhere import Elsewhere
from edge.http2_head import head_of_stream
from edge.normaliser import Head
from edge.problems import problem_response
from edge.responses import encode_response, encode_streamed_head, request_id_of
from edge.routes import respond
from edge.shed import encode_shed, overload_of
from engine.errors import Fault, Refused, Unavailable
from engine.limits import lines_of

if TYPE_CHECKING:
    from edge.http2_session import Session
    from edge.passing import Passing

log = structlog.get_logger("http2")

FIRST_WINDOW_BYTES: Final = 65_535
"""What a client may send of a body before anybody has asked for it: the protocol's default."""
PLACE_FROM_BYTES: Final = FIRST_WINDOW_BYTES // 2
"""A body whose size is not said needs a place from here on."""
FRAME_BYTES: Final = 16 * 1024
"""Of a body is sent at once, and must be taken within the deadline of a piece."""
DRIBBLE_BYTES: Final = 256
_NOT_SENT: Final = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_NO_ERROR, _INTERNAL_ERROR, _CANCEL = 0x0, 0x2, 0x8


class Stream:
    """One request.

    Args:
        session: its connection.
        number: its number there.
        pairs: its header block.
        is_whole: no body follows.
    """

    def __init__(
        self, session: "Session", number: int, pairs: Iterable[tuple[bytes, bytes]], *, is_whole: bool
    ) -> None:
        self.number = number
        self.window_opened = trio.Event()
        self._session = session
        self._pairs = pairs
        self._body = bytearray()
        self._received = 0
        self._granted = FIRST_WINDOW_BYTES
        self._has_body = not is_whole
        self._is_whole = is_whole
        self._more = trio.Event()
        self._has_place = False
        self._has_left = trio.Event()
        self._is_watched = False
        self._head_only = False
        self._streamed: Response | None = None
        self._request_id = ""
        self._scope = trio.CancelScope()

    # What the session says.

    def arrived(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._body += data
        self._received += len(data)
        self._more.set()

    def arrived_whole(self) -> None:
        """Note that the body is complete."""
        self._is_whole = True
        self._more.set()

    def leave(self) -> None:
        """Note that the client does not want the answer any more; who watches for that ends by itself."""
        self._has_left.set()
        if not self._is_watched:
            self._scope.cancel()

    # The request.

    async def run(self) -> None:
        """Answer; nothing is raised but cancellation from outside."""
        try:
            with self._scope:
                await trio.lowlevel.checkpoint_if_cancelled()
                await self._answer()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._reset(_CANCEL)  # the client went away, or takes nothing
        except Exception as fault:  # one stream's failure is its own
            log.error("stream failed", peer=self._session.peer, request_id=self._request_id, exc_info=fault)
            self._reset(_INTERNAL_ERROR)
        finally:
            if self._has_place:
                self._session.large_bodies.release()
            self._session.ended(self)

    async def _answer(self) -> None:
        session = self._session
        try:
            head = head_of_stream(self._pairs, has_body=self._has_body)
        except Refused as refusal:
            self._request_id = request_id_of({})
            await self._send(problem_response(refusal, self._request_id))
            return
        self._request_id = request_id_of(head.headers)
        self._head_only = head.method == "HEAD"

        if session.passing is not None and (home := session.passing.find_home(head)) is not None:
            await self._answer_elsewhere(session.passing, home, head)
            return
        overload = overload_of(session.table, head)
        if overload is not None:
            shed = encode_shed(session.table, overload, head, self._request_id, stays=True)
            before, end, body = shed.partition(b"\r\n\r\n")
            await self._send_whole(before + end, body)
            return
        request = Request(
            head.method,
            head.path,
            head.query,
            head.headers,
            session.peer,
            self._request_id,
            partial(self._read_body, head),
            stream=self._stream,
            wait_left=self._wait_left,
            target=head.target,
        )
        try:
            response = await respond(session.table, request)
            if self._streamed is None:
                await self._send(response, lines_of(request.judgements))
            elif response is self._streamed:
                await self._send_body(b"", ends=True)
            else:
                self._reset(_INTERNAL_ERROR)  # so that nobody takes a part for the whole
        finally:
            request.end()

    async def _answer_elsewhere(self, passing: "Passing", home: int, head: Head) -> None:
        """Have another worker answer."""
        try:
            body = b"" if head.length == 0 else await self._read_body(head, SMALL_BODY_BYTES)
            request = Elsewhere(head, body)
            other = passing.open_to(home, self._session.peer, request.head)
            if other is None:
                raise Unavailable("server.draining", "the worker that this request belongs to takes none now")
        except Fault as fault:
            await self._send(problem_response(fault, self._request_id, head.path))
            return
        async with other, aclosing(request.answer(other)) as answer:
            async for piece in answer:
                if isinstance(piece, bytes):
                    await self._send_piece(piece)
                else:
                    pairs = [(b":status", b"%d" % piece.status_code), *piece.headers]
                    self._send_pairs(pairs, ends=self._head_only)
            if not self._head_only:
                await self._send_body(b"", ends=True)

    async def _wait_left(self) -> None:
        self._is_watched = True
        await self._has_left.wait()

    # Its body.

    async def _read_body(self, head: Head, limit_bytes: int) -> bytes:
        """Read the request's body; raises Refused when it is larger than the limit, or late."""
        length = head.length
        if length is not None and length > limit_bytes:
            raise Refused("request.too-large", f"the body has {length} bytes; the limit is {limit_bytes}")
        if "100-continue" in head.headers.get("expect", "").lower() and not self._received and not self._is_whole:
            with self._library() as library:
                library.send_headers(self.number, [(b":status", b"100")])
        began, waited_for = trio.current_time(), 0.0
        while not self._is_whole and self._received <= limit_bytes:
            if not self._has_place and (length or self._received) > (
                FIRST_WINDOW_BYTES if length is not None else PLACE_FROM_BYTES
            ):
                asked = trio.current_time()
                await self._session.large_bodies.acquire()
                self._has_place = True
                waited_for = trio.current_time() - asked
            if self._has_place:
                self._grant(length if length is not None else self._received + 2 * FIRST_WINDOW_BYTES)
            self._more = trio.Event()
            with trio.move_on_at(
                began + waited_for + self._session.within.body_grace_s + self._received / BODY_LEAST_BYTES_PER_S
            ) as patience:
                await self._more.wait()
            if patience.cancelled_caught:
                raise Refused("request.too-slow", "the request took too long to arrive")
        if self._received > limit_bytes:
            raise Refused("request.too-large", f"the body is larger than the limit of {limit_bytes} bytes")
        body, self._body = bytes(self._body), bytearray()
        if body and self._session.table.turns is not None:
            await self._session.table.turns.take(len(body))
        return body

    def _grant(self, most: int) -> None:
        """Let the client send so much of the body in all."""
        more = most - self._granted
        if more >= FIRST_WINDOW_BYTES or (more > 0 and self._granted <= self._received + PLACE_FROM_BYTES):
            with self._library() as library:
                library.increment_flow_control_window(more, self.number)
            self._granted += more

    # Its answer.

    async def _stream(self, request: Request, response: Response) -> SendPiece:
        self._streamed = response
        response.headers = {**request.told, **response.headers}
        lines = lines_of(request.judgements)
        self._send_head(encode_streamed_head(response, self._request_id, stays=True, lines=lines), ends=False)
        return self._send_piece

    async def _send_piece(self, piece: bytes) -> None:
        if piece and not self._head_only:
            await self._send_body(piece, ends=False)

    async def _send(self, response: Response, lines: bytes = b"") -> None:
        """Send an answer, and end the stream."""
        head = encode_response(response, self._request_id, stays=True, head_only=True, lines=lines)
        await self._send_whole(head, b"" if self._head_only else response.body)

    async def _send_whole(self, head: bytes, body: bytes) -> None:
        await self._session.wait_room()
        self._send_head(head, ends=not body)
        if body:
            await self._send_body(body, ends=True)

    def _send_head(self, head: bytes, *, ends: bool) -> None:
        first, *lines = head.split(b"\r\n")[:-2]
        pairs = [(b":status", first[9:12])]
        for line in lines:
            name, _, value = line.partition(b": ")
            pairs.append((name.lower(), value))
        self._send_pairs(pairs, ends=ends)

    def _send_pairs(self, pairs: list[tuple[bytes, bytes]], *, ends: bool) -> None:
        with self._library() as library:
            library.send_headers(self.number, [one for one in pairs if one[0] not in _NOT_SENT], end_stream=ends)
            if ends:
                self._finish()

    async def _send_body(self, data: bytes, *, ends: bool) -> None:
        """Send a piece of the body, as the client's windows allow.

        Raises:
            trio.BrokenResourceError: the client took too little for too long.
        """
        at = 0
        while True:
            until = min(at + FRAME_BYTES, len(data))
            with trio.move_on_after(self._session.within.send_s) as patience:
                await self._send_part(data, at, until, ends=ends and until == len(data))
            if patience.cancelled_caught:
                raise trio.BrokenResourceError(f"the client took too little for {self._session.within.send_s:g} s")
            at = until
            if at == len(data):
                return

    async def _send_part(self, data: bytes, at: int, until: int, *, ends: bool) -> None:
        session = self._session
        while at < until or ends:
            await session.wait_room()
            room = self._window() if at < until else 0
            while at < until and room <= 0:
                self.window_opened = trio.Event()
                await self.window_opened.wait()
                room = self._window()
            upto = min(until, at + room)
            is_last = ends and upto == until
            with self._library() as library:
                library.send_data(self.number, data[at:upto], end_stream=is_last)
                if is_last:
                    self._finish()
            session.count_sent(is_dribble=upto < until and upto - at < DRIBBLE_BYTES)
            at = upto
            if is_last:
                return

    def _window(self) -> int:
        with self._library() as library:
            return library.local_flow_control_window(self.number)

    def _finish(self) -> None:
        """The answer is complete; a body that nobody wants is told to stop."""
        if not self._is_whole:
            self._reset(_NO_ERROR)
        self._session.forget(self)

    def _reset(self, code: int) -> None:
        with suppress(trio.BrokenResourceError), self._library() as library:  # it is over already
            library.reset_stream(self.number, code)

    @contextmanager
    def _library(self) -> Iterator[H2Connection]:
        """Have the library do something, and write what comes of it; raises when the stream or connection is over."""
        try:
            yield self._session.h2
        except (H2Error, KeyError) as problem:  # KeyError: it has forgotten the stream
            raise trio.BrokenResourceError(f"the stream is over: {problem}") from problem
        finally:
            self._session.flush()
