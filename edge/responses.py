"""Responses as bytes, and the headers that every one of them carries.

Rules of the file:
- Framing is built here alone: one Content-Length or chunks, no header from outside but the request's id.
"""

import itertools
import re
import secrets
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from edge.http import Response

SECURITY: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}
"""On every answer of both lanes; a handler's own header of the same name wins."""
_STATUS_LINES: Final = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in HTTPStatus}
_GOOD_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,128}\Z")
_PREFIX: Final = secrets.token_hex(6)
_NUMBERS: Final = itertools.count(1)


MOST_BEGINNINGS: Final = 256
_NOTHING: Final[frozenset[str]] = frozenset()


class _Always:
    """How long the names of `SECURITY` are: other names need no closer look."""

    lengths = frozenset(map(len, SECURITY))


def send_always(name: str, value: str) -> None:
    """Put one more header on every answer of both lanes; said once, before anything is answered.

    Args:
        name: lower case.
        value: ASCII.
    """
    SECURITY[name] = value
    _Always.lengths = frozenset(map(len, SECURITY))
    _beginning.cache_clear()


def request_id_of(headers: dict[str, str]) -> str:
    """Give a request's id: the client's where it is harmless, else a new one."""
    given = headers.get("x-request-id")
    if given is not None and _GOOD_ID.match(given):
        return given
    return f"{_PREFIX}-{next(_NUMBERS):x}"


def encode_response(response: Response, request_id: str, *, stays: bool, head_only: bool, lines: bytes = b"") -> bytes:
    """Give a response's bytes.

    Args:
        response: what to say.
        request_id: goes into its header.
        stays: the connection stays open after it.
        head_only: the request was HEAD: the length is said, the body is not.
        lines: more lines of the head, each with its end.
    """
    body = response.body
    head = _encode_head(response, b"content-length: %d" % len(body), request_id, lines, stays=stays)
    return head if head_only else head + body


def encode_streamed_head(response: Response, request_id: str, *, stays: bool, lines: bytes = b"") -> bytes:
    """Give the head of a response whose body comes in chunks."""
    return _encode_head(response, b"transfer-encoding: chunked", request_id, lines, stays=stays)


def encode_chunk(piece: bytes) -> bytes:
    """Give a piece of a body as a chunk; the empty one is the body's end."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _encode_head(response: Response, framing: bytes, request_id: str, lines: bytes, *, stays: bool) -> bytes:
    own = response.headers
    if own:
        lines += "".join([f"{name}: {value}\r\n" for name, value in own.items()]).encode("latin-1")
    beginning = _beginning(response.status, response.content_type, _replaced_by(own) if own else _NOTHING)
    return b"%b%b\r\nx-request-id: %b\r\ndate: %b\r\n%b%b" % (
        beginning,
        framing,
        request_id.encode(),
        _date(),
        lines,
        b"\r\n" if stays else b"connection: close\r\n\r\n",
    )


@lru_cache(maxsize=MOST_BEGINNINGS)
def _beginning(status: int, content_type: str, replaced: frozenset[str]) -> bytes:
    """Give what all answers of one kind begin with; few kinds there are (`bench/scenarios/express.py` pays for it)."""
    always = "".join([f"{name}: {value}\r\n" for name, value in SECURITY.items() if name not in replaced])
    return _STATUS_LINES[status] + f"content-type: {content_type}\r\n{always}".encode()


def _replaced_by(own: dict[str, str]) -> frozenset[str]:
    return frozenset([name.lower() for name in own if len(name) in _Always.lengths]).intersection(SECURITY)


class _DateCache:
    second = 0
    text = b""


def _date() -> bytes:
    """Give the Date header's value, formatted once a second."""
    now = int(time.time())
    if now != _DateCache.second:
        _DateCache.second = now
        _DateCache.text = formatdate(now, usegmt=True).encode()
    return _DateCache.text
