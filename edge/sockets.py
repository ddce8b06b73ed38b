"""WebSocket sessions on connections that the express lane gives up.

Rules of the file:
- Parameters are refused before the upgrade, with an HTTP answer.
- No compression is negotiated; messages are bounded; a peer that answers no ping is gone.
- The close code says whether to come back (`engine/errors.py`).
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from edge.handover import ReplayStream
from edge.http import Request
from edge.strict_socket import StrictSocket
from edge.tls_stream import ClientStream
from engine.errors import Fault, Refused

MAX_MESSAGE_BYTES: Final = 1024 * 1024
RECEIVE_BYTES: Final = 16 * 1024
PING_EVERY_S: Final = 20.0
PONG_WITHIN_S: Final = 20.0
HANDSHAKE_WITHIN_S: Final = 5.0
CLOSE_WITHIN_S: Final = 2.0

_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==\Z")

Session = Callable[[WebSocketConnection], Awaitable[None]]


class Negotiated(NamedTuple):
    """A session in a subprotocol that the client offered."""

    session: Session
    subprotocol: str


async def serve_socket(
    stream: ClientStream,
    key: str,
    rest: bytes,
    session: Session,
    subprotocol: str | None = None,
    watch: Session | None = None,
) -> None:
    """Upgrade a connection and run a session on it.

    Args:
        stream: the connection.
        key: the upgrade request's, checked.
        rest: what came after the request's head.
        session: talks to the client; when it returns, the socket is closed normally.
        subprotocol: what was chosen of what the client offered.
        watch: runs beside it, and closes the socket when it has to end.
    """
    replay = ReplayStream(stream, _upgrade_head(key, subprotocol), rest)
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(HANDSHAKE_WITHIN_S):
                request = await StrictSocket(replay, MAX_MESSAGE_BYTES, RECEIVE_BYTES).begin(nursery)
                socket = await request.accept(subprotocol=subprotocol)
                replay.release()
            nursery.start_soon(_ping, socket)
            if watch is not None:
                nursery.start_soon(watch, socket)
            try:
                await session(socket)
                await close_socket(socket, 1000, "")
            except Fault as fault:
                await close_socket(socket, fault.kind.close_code, fault.kind.title)
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        pass  # the client is gone, or never finished its handshake


async def close_socket(socket: WebSocketConnection, code: int, reason: str) -> None:
    """Say goodbye, within a deadline."""
    with trio.move_on_after(CLOSE_WITHIN_S, shield=True):  # bounded by its own deadline
        await socket.aclose(code, reason[:120])


def check_upgrade(request: Request) -> None:
    """Refuse an upgrade that cannot work, before it.

    Raises:
        Refused: it is not version 13, or has no key.
    """
    if request.headers.get("sec-websocket-version") != "13":
        raise Refused("request.malformed", "Sec-WebSocket-Version must be 13", websocket_version=13)
    if not _KEY.match(request.headers.get("sec-websocket-key", "")):
        raise Refused("request.malformed", "Sec-WebSocket-Key must be 16 bytes in base64")


def _upgrade_head(key: str, subprotocol: str | None) -> bytes:
    """Write the request anew: the library's parser sees nothing of a client's that was not checked here.

    No extension is in it, so none is negotiated.
    """
    lines = ["GET / HTTP/1.1", "host: gateway", "connection: upgrade", "upgrade: websocket"]
    lines += ["sec-websocket-version: 13", f"sec-websocket-key: {key}"]
    if subprotocol is not None:
        lines.append(f"sec-websocket-protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode()


async def _ping(socket: WebSocketConnection) -> None:
    """Find out that a peer is gone when its network does not say so."""
    while True:
        await trio.sleep(PING_EVERY_S)
        with trio.move_on_after(PONG_WITHIN_S) as patience:
            await socket.ping()
        if patience.cancelled_caught:
            raise trio.TooSlowError(f"no pong within {PONG_WITHIN_S:g} s")
