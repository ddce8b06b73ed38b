"""Reads a request's head: the parser's findings, held to the rules of `edge/normaliser.py`.

Rules of the file:
- Bytes in, `Head` or `Refused` out; no I/O.
"""

from functools import lru_cache
from typing import Final

import httptools

from edge.normaliser import Head, check_head
from engine.errors import Refused

REMEMBERED_HEADS: Final = 512
REMEMBERED_BYTES: Final = 1024


class _HeadCatcher:
    """Collects what the parser finds."""

    __slots__ = ("pairs", "target")

    def __init__(self) -> None:
        self.target = b""
        self.pairs: list[tuple[bytes, bytes]] = []

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value))


def read_head(head_bytes: bytes) -> Head:
    """Parse and check a request's head, blank line included.

    A client that keeps its connection sends the same head again and again, so short ones are remembered; what a head
    means depends on nothing else (`bench/scenarios/express.py`).

    Raises:
        Refused: it is not HTTP, or it is ambiguous.
    """
    return _remembered_head(head_bytes) if len(head_bytes) <= REMEMBERED_BYTES else _parse_head(head_bytes)


@lru_cache(maxsize=REMEMBERED_HEADS)
def _remembered_head(head_bytes: bytes) -> Head:
    return _parse_head(head_bytes)


def _parse_head(head_bytes: bytes) -> Head:
    if not head_bytes[: head_bytes.index(b"\r\n")].endswith((b" HTTP/1.1", b" HTTP/1.0")):
        raise Refused("request.malformed", "the request line does not end with HTTP/1.1")  # the parser knows others
    catcher = _HeadCatcher()
    parser = httptools.HttpRequestParser(catcher)
    try:
        parser.feed_data(head_bytes)
    except httptools.HttpParserUpgrade:
        pass  # the parser's way to say that the head asks for an upgrade
    except httptools.HttpParserError as problem:
        raise Refused("request.malformed", f"this is not HTTP/1.1: {str(problem) or type(problem).__name__}") from None
    return check_head(parser.get_method(), catcher.target, parser.get_http_version(), catcher.pairs)
