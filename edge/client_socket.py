"""One WebSocket to a gateway: opened within a deadline, kept alive, closed politely.

Rules of the file:
- Whatever goes wrong leaves as one `GatewayError`, never as a group and never as a foreign exception.
- A connection that ends during the handshake is noticed at once, not when the handshake's time is up: that is what
  clients meet while a gateway restarts.
- The reader outlives a cancellation of its owner for as long as the closing handshake may take, so that an agent that
  stops says goodbye and the gateway gives its batch to another at once.

What must change with it: `edge/client_stream.py` says what travels on it.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from edge.client_retry import (
    GatewayError,
    GatewayUnavailable,
    GatewayUnreachable,
    explain_close,
    explain_refused_upgrade,
)
from edge.nursery import leaves

CONNECT_TIMEOUT_S: Final = 5.0
HANDSHAKE_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
SEND_TIMEOUT_S: Final = 5.0
"""What an agent says is small: a gateway that does not take it for so long reads nothing any more."""
PING_EVERY_S: Final = 20.0
PONG_TIMEOUT_S: Final = 20.0
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""100 messages (the default batch) of half a MiB, the largest frame that group commit makes, and room for more."""
RECEIVE_BYTES: Final = 64 * 1024
"""trio-websocket's own 4 KiB costs a scheduler pass for each 4 KiB of a batch: `bench/scenarios/stream.py`."""


class Socket:
    """An open WebSocket. Made by `open_socket`."""

    def __init__(self, connection: WebSocketConnection, stream: trio.abc.Stream) -> None:
        self._connection = connection
        self._stream = stream

    @property
    def subprotocol(self) -> str | None:
        """What the gateway chose of the subprotocols that it was offered."""
        return self._connection.subprotocol

    async def receive(self) -> str | bytes:
        """Wait for the next message.

        Raises:
            GatewayUnavailable, GatewayRefused: the connection has ended, and the close code means this.
        """
        try:
            return await self._connection.get_message()
        except ConnectionClosed as closed:
            reason = closed.reason
            raise (explain_close(1006) if reason is None else explain_close(reason.code, reason.reason or "")) from None

    async def send(self, text: str) -> bool:
        """Send a message; False means that the connection is gone, and nobody will act on it.

        Cancellation: what has begun is sent whole, within `SEND_TIMEOUT_S`; a gateway that reads nothing for so long
        has lost its connection. Half a message would break whatever comes after it.
        """
        with trio.move_on_after(SEND_TIMEOUT_S, shield=True):  # bounded: see above
            try:
                await self._connection.send_message(text)
            except ConnectionClosed:
                return False
            return True
        await trio.aclose_forcefully(self._stream)
        return False


@asynccontextmanager
async def open_socket(
    base_url: str,
    resource: str,
    headers: Sequence[tuple[bytes, bytes]],
    tls: ssl.SSLContext,
    subprotocols: Sequence[str] = (),
) -> AsyncIterator[Socket]:
    """Open a WebSocket for the length of the block.

    Args:
        base_url: the gateway's, with http or https.
        resource: the request target.
        tls: used where `base_url` has https.
        subprotocols: offered to the gateway, the best first.

    Raises:
        GatewayRefused: the upgrade was refused for good.
        GatewayUnavailable: it may work later; `GatewayUnreachable` when there was nobody to ask.

    Closes: the connection, on leaving, with a closing handshake of at most `CLOSE_TIMEOUT_S`.
    """
    failure: GatewayError
    stream = _WatchedStream(await _connect(base_url, tls))
    try:
        async with trio.open_nursery() as nursery:
            host = urlsplit(base_url).netloc.rpartition("@")[2]
            connection: WebSocketConnection = await nursery.start(
                _run_reader, stream, host, resource, headers, subprotocols
            )
            nursery.start_soon(_keep_alive, connection)
            try:
                yield Socket(connection, stream)
            finally:
                with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):  # bounded: a goodbye, said also when cancelled
                    await connection.aclose()
                await trio.aclose_forcefully(stream)  # ends the reader
                nursery.cancel_scope.cancel()
    except* ConnectionRejected as group:
        failure = _explain_rejection(leaves(group)[0])
    except* GatewayError as group:
        failure = leaves(group)[0]
    else:
        return
    finally:
        await trio.aclose_forcefully(stream)
    raise failure


async def _connect(base_url: str, tls: ssl.SSLContext) -> trio.abc.Stream:
    parts = urlsplit(base_url)
    is_tls = parts.scheme == "https"
    host = parts.hostname or ""
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            stream = await trio.open_tcp_stream(host, parts.port or (443 if is_tls else 80))
            if not is_tls:
                return stream
            secured = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
            try:
                await secured.do_handshake()
            except BaseException:  # raised again: a stream that nobody gets is closed, also when cancelled
                await trio.aclose_forcefully(stream)
                raise
            return secured
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        why = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
        raise GatewayUnreachable(f"no gateway answers at {base_url}: {str(why) or type(why).__name__}") from error


async def _run_reader(
    stream: "_WatchedStream",
    host: str,
    resource: str,
    headers: Sequence[tuple[bytes, bytes]],
    subprotocols: Sequence[str],
    *,
    task_status: trio.TaskStatus[WebSocketConnection],
) -> None:
    """Do the opening handshake, then read until the stream ends. Ready = the handshake is done."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(HANDSHAKE_TIMEOUT_S) as handshake:
                stream.on_end = handshake.cancel
                connection = await wrap_client_stream(
                    nursery,
                    stream,  # type: ignore[arg-type]  # it takes any Stream; its annotation names two
                    host,
                    resource,
                    subprotocols=list(subprotocols) or None,
                    extra_headers=list(headers),
                    max_message_size=MAX_MESSAGE_BYTES,
                    receive_buffer_size=RECEIVE_BYTES,
                )
                stream.on_end = None
                scope.shield = True  # bounded: `open_socket` ends the stream, and with it the reader
                task_status.started(connection)
            if handshake.cancelled_caught:
                raise GatewayUnavailable("the connection ended before the gateway had answered the upgrade")


async def _keep_alive(connection: WebSocketConnection) -> None:
    """Ping, and give the connection up when no answer comes."""
    while True:
        await trio.sleep(PING_EVERY_S)
        try:
            with trio.fail_after(PONG_TIMEOUT_S):
                await connection.ping()
        except trio.TooSlowError:
            raise GatewayUnavailable(f"the gateway left a ping unanswered for {PONG_TIMEOUT_S:g} s") from None
        except ConnectionClosed:
            return


def _explain_rejection(rejection: ConnectionRejected) -> GatewayError:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in rejection.headers}
    return explain_refused_upgrade(rejection.status_code, headers, rejection.body or b"")


class _WatchedStream(trio.abc.Stream):
    """A stream that calls `on_end` when it turns out to have ended.

    trio-websocket's opening handshake waits for an answer and is not woken when the connection ends instead.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.on_end: Callable[[], object] | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end()
            raise
        if not data:
            self._end()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _end(self) -> None:
        if self.on_end is not None:
            self.on_end()
