"""A server's WebSocket connection, stricter than the library's where RFC 6455 or our own bounds ask for it.

Rules of the file:
- A message's size is its bytes on the wire, and a fragment without content takes no memory: no run of frames costs more
  than `max_message_size`.
- Whoever breaks the protocol is told the code (1002, 1007, 1009) before the connection ends, and is left the time to
  read it: what it still sends would have the kernel throw the close frame away.
- After our close frame nothing more is sent, whatever still comes: not even a pong.

Source: RFC 6455 sections 5.5.1, 7.1.7 and 10.4; `tests/edge/test_wire_sockets.py`.
"""

from typing import Final

import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection, WebSocketRequest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

LINGER_S: Final = 1.0
"""After our close frame: time for the client to stop sending, before the kernel resets it."""
LINGER_BYTES: Final = 16 * 1024 * 1024
TOO_BIG: Final = 1009


class StrictSocket(WebSocketConnection):
    """The server's end of a WebSocket.

    Args:
        stream: the connection, with the upgrade request still to be received from it.
        most_bytes: of a message.
        receive_bytes: read at once.
    """

    def __init__(self, stream: trio.abc.Stream, most_bytes: int, receive_bytes: int) -> None:
        super().__init__(
            stream,
            WSConnection(ConnectionType.SERVER),
            message_queue_size=1,  # the session's reader takes messages at once; the socket itself is the queue
            max_message_size=most_bytes,
            receive_buffer_size=receive_bytes,
        )
        self._received_bytes = 0

    async def begin(self, nursery: trio.Nursery) -> WebSocketRequest:
        """Read the upgrade request, and go on reading in the nursery."""
        nursery.start_soon(self._reader_task)
        return await self._get_request()

    async def _handle_message_event(self, event: BytesMessage | TextMessage) -> None:
        data = event.data
        if not data and not event.message_finished:
            return
        self._received_bytes += len(data.encode()) if isinstance(data, str) and not data.isascii() else len(data)
        if self._received_bytes > self._max_message_size:
            self._message_parts = []
            await self._fail(TOO_BIG, f"the limit on a message is {self._max_message_size} bytes")
            return
        if event.message_finished:
            self._received_bytes = 0
        await super()._handle_message_event(event)

    async def _handle_ping_event(self, event: Ping) -> None:
        if self._wsproto.state is ConnectionState.OPEN:
            await super()._handle_ping_event(event)

    async def _handle_close_connection_event(self, event: CloseConnection) -> None:
        if self._wsproto.state is ConnectionState.OPEN:  # our parser's verdict: the client said no goodbye
            await self._fail(event.code, event.reason or "")
        else:
            await super()._handle_close_connection_event(event)

    async def _fail(self, code: int, reason: str) -> None:
        """Say what the client did wrong, let it read that, and end (RFC 6455 section 7.1.7)."""
        if self._wsproto.state is not ConnectionState.OPEN:
            return
        self._close_reason = CloseReason(code, reason)
        try:
            with trio.move_on_after(LINGER_S, shield=True):  # bounded by its own deadline
                await self._send(CloseConnection(code=code, reason=reason[:120]))
                await self._linger()
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is gone already
        await self._close_web_socket(code, reason)
        self._close_handshake.set()
        await self._close_stream()

    async def _linger(self) -> None:
        stream = self._stream
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        left = LINGER_BYTES
        while left > 0:
            data = await stream.receive_some(self._receive_buffer_size)
            if not data:
                return
            left -= len(data)

    async def _send(self, event: Event) -> None:
        try:
            await super()._send(event)
        except LocalProtocolError:  # the other task's close frame went out first
            raise ConnectionClosed(self._close_reason) from None
