"""Clients that take their time: they drip, they do not read, they stay silent, on plain TCP and on TLS.

Rules of the file:
- A client stays as long as the gateway lets it; it never ends by itself, and never reads.
- It sleeps between two bytes: that is what it is for.
- Its receive buffer is small, so that what it does not read is soon the gateway's problem.
"""

import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
import trio

__all__ = ["KINDS", "MORE_KINDS", "TLS_KINDS", "Kind", "stay"]

BUFFER_BYTES = 4096
DRIP_EVERY_S = 1.0
HOST = b" HTTP/1.1\r\nHost: gateway.test\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@dataclass(frozen=True)
class Kind:
    """What a client does.

    Args:
        name: of the kind.
        first: sent at once; `%d` is the client's number.
        drip: sent byte by byte afterwards, again and again; empty for a client that falls silent.
        repeats: `first` is sent again and again instead, for as long as the gateway takes it.
        shakes_hands: over TLS, the handshake is finished before.
    """

    name: str
    first: bytes = b""
    drip: bytes = b""
    repeats: bool = False
    shakes_hands: bool = True


def _post(target: bytes, body: bytes, *lines: bytes) -> bytes:
    return (
        b"POST "
        + target
        + HOST
        + b"".join(one + b"\r\n" for one in lines)
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )


_PROBES = _post(b"/cache/batch", orjson.dumps([{"path": "/a", "size": 1, "mtime": 1}] * 500))
_BUNDLE = b"GET /docs/swagger-ui-bundle.js" + HOST + b"\r\n"
KINDS = {
    kind.name: kind
    for kind in (
        Kind("silent"),
        Kind("drips a head", b"GET /healthz" + HOST + b"X-Slow: ", b"a"),
        Kind("drips a head line by line", b"GET /healthz" + HOST, b"X: 1\r\n"),
        Kind("drips a head on the Quart lane", b"GET /version" + HOST + b"\r\nGET /version" + HOST + b"X-Slow: ", b"a"),
        Kind("drips empty lines", b"\r\n", b"\r\n"),
        Kind("drips a body", b"POST /ingest" + HOST + b"Content-Length: 100000\r\n\r\n", b"a"),
        Kind("drips chunks", b"POST /ingest" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        Kind("drips a body on the Quart lane", b"POST /auth/token" + HOST + b"Content-Length: 1000\r\n\r\n", b"a"),
        Kind("does not read small answers", _PROBES, repeats=True),
        Kind("does not read small answers of the Quart lane", b"GET /actors" + HOST + b"\r\n", repeats=True),
        Kind("does not read a large answer", _BUNDLE),
        Kind("does not read large answers", _BUNDLE, repeats=True),
        Kind(
            "an agent that does not read", b"GET /stream?subject=snapfs.slow&durable=slow-%d" + HOST + UPGRADE + b"\r\n"
        ),
        Kind(
            "an agent that floods pings and does not read",
            b"GET /stream?subject=snapfs.none&durable=slow-%d" + HOST + UPGRADE + b"\r\n",
            b"\x89\xfd\0\0\0\0" + b"p" * 125,
            repeats=True,
        ),
        Kind("a scanner that says nothing", b"GET /agents" + HOST + UPGRADE + b"\r\n"),
        Kind("a WebSocket that never ends its head", b"GET /agents" + HOST + UPGRADE),
    )
}
TLS_KINDS = {
    kind.name: kind
    for kind in (
        Kind("TLS, nothing said", shakes_hands=False),
        Kind("TLS, a handshake begun", b"\x16\x03\x01", shakes_hands=False),
        Kind("TLS, silent after its handshake"),
        *(
            Kind(f"TLS, {name}", kind.first, kind.drip, kind.repeats)
            for name, kind in KINDS.items()
            if name != "silent"
        ),
    )
}


def _credit() -> bytes:
    """A frame that gives much credit."""
    payload = orjson.dumps({"type": "credit", "messages": 1000, "bytes": 100_000_000})
    return b"\x81" + bytes([0x80 | len(payload)]) + bytes(4) + payload


_V1 = b"Sec-WebSocket-Protocol: headgate.stream.v1\r\n"
_SQL = b'{"sql":"select repeat(\'x\', 100000) as a from generate_series(1,10000)"}'
MORE_KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "an agent of the new wire that does not read",
            b"GET /stream?subject=snapfs.slow&durable=slow-v1-%d" + HOST + UPGRADE + _V1 + b"\r\n" + _credit(),
        ),
        Kind("waits in a pull", b"GET /stream/pull?subject=snapfs.none&durable=pull-%d&wait=60" + HOST + b"\r\n"),
        Kind("does not read what it pulled", b"GET /stream/pull?subject=snapfs.slow&durable=p-%d" + HOST + b"\r\n"),
        Kind("does not read a stream of rows", _post(b"/query/sql", _SQL, b"Accept: application/x-ndjson")),
        Kind("does not read rows in one piece", _post(b"/query/sql", _SQL)),
    )
}
"""What takes a log with something in it, or a catalog."""


async def stay(url: str, kind: Kind, number: int, context: ssl.SSLContext | None = None) -> None:
    """Be one such client until the gateway's end of it is gone, or for ever."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    sock = trio.socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        await sock.connect((parts.hostname, parts.port))
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = trio.SocketStream(sock)
        if context is not None and kind.shakes_hands:
            stream = trio.SSLStream(trio.SocketStream(sock), context, server_hostname=parts.hostname)
            await stream.do_handshake()
        first = kind.first.replace(b"%d", b"%d" % number)
        await stream.send_all(first)
        while kind.repeats:
            await stream.send_all(kind.drip or first)
        while kind.drip:
            await trio.sleep(DRIP_EVERY_S)
            await stream.send_all(kind.drip)
        await trio.sleep_forever()
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the gateway has ended it
    finally:
        sock.close()
