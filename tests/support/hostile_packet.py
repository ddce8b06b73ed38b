"""What a hostile packet is: bytes, the lane they are aimed at, and what the gateway owes the sender.

Rules of the file:
- A packet says what a specification or RELIABILITY.md demands and no more: where either leaves the answer open,
  `statuses` is empty, and any answer or none will do, as long as nothing breaks.
"""

from dataclasses import dataclass

__all__ = [
    "ANYTHING",
    "EXPRESS",
    "HANDED_OVER",
    "HANDED_OVER_EXPRESS",
    "HOST",
    "LANES",
    "QUART",
    "REJECTED",
    "TOLERATED",
    "Lane",
    "Packet",
    "post",
    "refused",
    "request",
]

HOST = b"Host: gateway.test"

REJECTED = frozenset({400})
TOLERATED = frozenset({200, 400})  # a specification lets the recipient repair it or refuse it
ANYTHING: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Lane:
    """Where a packet is parsed, and the targets that lead there.

    Args:
        name: for the ids of the tests.
        path: answers 200 to GET.
        post_path: takes a body; `post_statuses` are its answers to one that cannot be read.
        prelude: a good request that goes before the packet on the same connection, answered first.
    """

    name: str
    path: bytes
    post_path: bytes
    post_statuses: frozenset[int]
    prelude: bytes = b""


VERSION_REQUEST = b"GET /version HTTP/1.1\r\n" + HOST + b"\r\n\r\n"
# GET /version takes no POST, and a route may say so before it has read a broken body.
EXPRESS = Lane("express", b"/healthz", b"/ingest", REJECTED)
QUART = Lane("quart", b"/version", b"/version", frozenset({400, 405}))
HANDED_OVER = Lane("handed-over", b"/version", b"/version", frozenset({400, 405}), VERSION_REQUEST)
HANDED_OVER_EXPRESS = Lane("handed-over-express-route", b"/healthz", b"/ingest", REJECTED, VERSION_REQUEST)
LANES = (EXPRESS, QUART, HANDED_OVER, HANDED_OVER_EXPRESS)


@dataclass(frozen=True)
class Packet:
    """Bytes to send, and what must come of them.

    Args:
        name: what is wrong with it.
        data: sent whole and in pieces.
        statuses: the first answer has one of these; empty when anything will do.
        closes: the gateway must close the connection, because nothing after this can be trusted.
        prelude: sent before it in one piece, and answered, on the same connection.
        close_codes: on a WebSocket, the gateway's close frame has one of these, or there is none where None is among
            them; empty when anything will do.
    """

    name: str
    data: bytes
    statuses: frozenset[int] = ANYTHING
    closes: bool = False
    prelude: bytes = b""
    close_codes: frozenset[int | None] = frozenset()


def request(
    target: bytes,
    *lines: bytes,
    method: bytes = b"GET",
    version: bytes = b"HTTP/1.1",
    host: bytes | None = HOST,
    body: bytes = b"",
) -> bytes:
    """The bytes of a request, right or wrong; `host=None` leaves the Host line out."""
    head = [method + b" " + target + b" " + version, *([] if host is None else [host]), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def refused(name: str, data: bytes, *statuses: int) -> Packet:
    """A packet of RELIABILITY.md 4.1 or 4.2, or against a MUST of RFC 9112: this status, and the connection is over."""
    return Packet(name, data, frozenset(statuses) or REJECTED, closes=True)


def post(lane: Lane, *lines: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    """The bytes of a POST to the lane's own route."""
    return request(lane.post_path, *lines, method=b"POST", body=body, version=version)
