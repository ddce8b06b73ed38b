"""The gate between a client's connection and the Quart lane: one checked request at a time.

Hypercorn reads requests with a parser of its own, and what two parsers understand differently is how requests are
smuggled. So it never sees a client's bytes: each request is read and checked as on the express lane, with the same
limits and deadlines, and written anew. The next one waits until the answer is complete, because pipelined bytes stop
Hypercorn's reader where nothing wakes it when the client leaves.

Rules of the file:
- What goes through is canonical: one Content-Length, no other framing, nothing that asks for another protocol.
- What the express lane owns is answered by it, between Hypercorn's requests: not every answer of it can go through a
  framework.
- A refused request is answered here, and ends the connection.
- Every send has a deadline: Hypercorn shields its sends, so without one a client that stops reading would hold a task
  that cannot be cancelled, and shutdown with it.
- Ending has no checkpoint: the framework ends an answer in a task that it has cancelled already.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from edge.express import Connection
from edge.guard import Passed
from edge.handover import send_in_pieces
from edge.normaliser import Head
from edge.responses import request_id_of
from engine.errors import Fault, Refused
from engine.slots import Hold

ADMITTED: Final = "headgate.admitted"
"""Where the application finds who asks, in the state of its request."""
GATE: Final = "headgate.gate"
"""Where it finds the gate that its request came through, in the same state."""
MOST_BODY_BYTES: Final = 8 * 1024 * 1024
_NOT_PASSED_ON: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Gate(trio.abc.HalfCloseableStream):
    """Hypercorn's end of a connection.

    Args:
        connection: the client's connection; whoever accepted it closes it.
        head: the first request's head, already read.
        admit: says who asks, or refuses; asked before a body is read.
    """

    def __init__(self, connection: Connection, head: Head, admit: Callable[[Head, str], Awaitable[Passed]]) -> None:
        self.state: dict[str, Any] = {GATE: self}
        self._hold: Hold | None = None
        self._admit = admit
        self.socket = connection.stream.socket
        self._connection = connection
        self._head: Head | None = head
        self._pending = b""
        self._answered = trio.Event()
        self._answered.set()
        self._is_closed = False
        self._is_last = False

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._connection.peer

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Give the next request's bytes, once the one before is answered; empty when no more will come."""
        if not self._pending:
            await self._answered.wait()
            self._pending = await self._next_request()
        taken = self._pending[:max_bytes]
        self._pending = self._pending[len(taken) :]
        return taken

    def answered(self) -> None:
        """Note that the answer is complete."""
        self._release()
        self._answered.set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, a piece at a time; raises trio.BrokenResourceError when the client takes nothing."""
        if self._is_closed:
            raise trio.ClosedResourceError("the connection has ended")
        try:
            await send_in_pieces(self._connection.stream, data, self._connection.within.send_s)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end()  # Hypercorn would wait for the rest of an answer that nobody takes
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not block."""
        await self._connection.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Take no notice: the connection's owner ends it."""

    async def aclose(self) -> None:
        """Take no more requests; the connection's owner closes it."""
        self._end()

    def _end(self) -> None:
        self._release()
        self._is_closed = True
        self._answered.set()

    def begin(self) -> None:
        """Note that the request has reached the application, which holds from now on what it holds."""
        self._hold = None

    def end(self, hold: Hold | None) -> None:
        """Note that the application has its answer: what it held is given back when that is out, or its client gone."""
        self._hold = hold
        if self._is_closed:
            self._release()

    def _release(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    async def _next_request(self) -> bytes:
        if self._is_closed or self._is_last:
            return b""
        connection = self._connection
        head = self._head or await connection.next_head()
        self._head = None
        while head is not None and not head.websocket and connection.serves(head.path):
            head = await connection.next_head() if await connection.answer(head, request_id_of(head.headers)) else None
        if head is None:
            return b""
        if head.websocket:
            await connection.refuse(Refused("request.wrong-lane", "this connection is in use for requests already"))
            return b""
        self.state.pop(ADMITTED, None)
        try:
            if head.length != 0:
                passed = self.state[ADMITTED] = await self._admit(head, connection.peer)
                self._hold = passed.hold
            body = await connection.read_body(head, MOST_BODY_BYTES)
        except Fault as fault:
            self._release()
            await connection.refuse(fault, head.path)
            return b""
        self._answered = trio.Event()
        self._is_last = not head.keep_alive
        return _encode(head, body)


def _encode(head: Head, body: bytes) -> bytes:
    lines = [f"{head.method} {head.target} HTTP/1.1", f"host: {head.headers.get('host', '')}"]
    lines += [f"{name}: {value}" for name, value in head.headers.items() if name not in _NOT_PASSED_ON]
    if body or head.method in {"POST", "PUT", "PATCH"}:
        lines.append(f"content-length: {len(body)}")
    if not head.keep_alive:
        lines.append("connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
