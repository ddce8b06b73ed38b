"""What a request must be before anything is decided about it; the same rules on both lanes.

Two parsers that disagree about where a request ends, or which path it names, are how requests are smuggled. So what
is ambiguous is refused, and one canonical path is used for everything that follows.

Rules of the file:
- Bytes in, `Head` or `Refused` out; no I/O.
- Refusing ends the connection: after an ambiguous request nothing on it can be trusted.

Source: `RELIABILITY.md` 4.1 and 4.2; `tests/faults/test_hostile.py`.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from engine.errors import Refused

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100
MAX_TARGET_BYTES: Final = 8 * 1024
_ONCE: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "authorization", "content-type", "content-encoding", "expect",
     "idempotency-key", "upgrade", "sec-websocket-key", "sec-websocket-version"}
)  # fmt: skip
_NAME: Final = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+\Z")
_PLAIN_PATH: Final = re.compile(rb"(?:/[A-Za-z0-9_~\-]+(?:\.[A-Za-z0-9_~\-]+)*)+\Z|/\Z")
_PATH_CHARS: Final = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*\Z")
_QUERY_CHARS: Final = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/%?\[\]{}|^`\"<>]*\Z")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN_ESCAPES: Final = (b"%00", b"%2f", b"%5c")
_METHOD: Final = re.compile(rb"[A-Z]{1,20}\Z")


class Head(NamedTuple):
    """A request's head, checked; shared between requests, so nobody may change its headers.

    Args:
        method: upper case.
        target: path and query as sent, ASCII.
        path: canonical and decoded.
        query: raw, without `?`.
        headers: names in lower case to values.
        length: of the body in bytes; None when it comes in chunks.
        keep_alive: the client wants the connection to stay.
        websocket: it asks for an upgrade to WebSocket.
    """

    method: str
    target: str
    path: str
    query: str
    headers: dict[str, str]
    length: int | None
    keep_alive: bool
    websocket: bool


def check_head(method: bytes, target: bytes, version: str, pairs: Iterable[tuple[bytes, bytes]]) -> Head:
    """Check a request's head.

    Args:
        method: as sent.
        target: as sent.
        version: `1.0` or `1.1`.
        pairs: header names and values, as sent.

    Raises:
        Refused: it is ambiguous or breaks a limit; the text says how.
    """
    if not _METHOD.match(method):
        raise _malformed("the method is not a word of upper-case letters")
    if method == b"CONNECT":
        raise Refused("request.wrong-method", "CONNECT is not offered here", allow="GET, HEAD, POST")
    if version not in {"1.0", "1.1"}:
        raise _malformed(f"HTTP/{version} is not spoken here, only HTTP/1.1")
    path, query = _check_target(target)
    headers = _check_headers(pairs)
    connection = headers.get("connection", "").lower()
    tokens = [token.strip() for token in connection.split(",")]
    if version == "1.1" and "host" not in headers:
        raise _malformed("the Host header is missing")
    websocket = (method, version) == (b"GET", "1.1") and "upgrade" in tokens and _is_websocket(headers)
    keep_alive = "close" not in tokens and (version == "1.1" or "keep-alive" in tokens)
    return Head(
        method.decode(),
        target.decode(),
        path,
        query,
        headers,
        _body_length(version, headers),
        keep_alive,
        websocket,
    )


def _is_websocket(headers: dict[str, str]) -> bool:
    return headers.get("upgrade", "").lower() == "websocket"


def _check_headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for count, (raw_name, raw_value) in enumerate(pairs, 1):
        if count > MAX_HEADERS:
            raise Refused("request.headers-too-large", f"more than {MAX_HEADERS} headers")
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1").strip(" \t")
        if not _NAME.match(name):
            raise _malformed("a header's name holds a character that is not allowed")
        if "_" in name:
            raise _malformed(f"the header {name!r} has an underscore in its name")
        if "\r" in value or "\n" in value or "\0" in value:
            raise _malformed(f"the header {name!r} holds a control character")
        if name in headers:
            if name in _ONCE:
                raise _malformed(f"the header {name!r} is repeated")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _body_length(version: str, headers: dict[str, str]) -> int | None:
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise _malformed("Content-Length and Transfer-Encoding are both there")
        if version == "1.0":
            raise _malformed("HTTP/1.0 has no Transfer-Encoding")
        if coding.lower() != "chunked":
            raise _malformed(f"Transfer-Encoding is {coding!r}; only `chunked` is taken")
        return None
    if length is None:
        return 0
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise _malformed(f"Content-Length is {length[:40]!r}; expected digits")
    return int(length)


def _check_target(target: bytes) -> tuple[str, str]:
    if len(target) > MAX_TARGET_BYTES:
        raise _target_too_long()
    raw_path, _, raw_query = target.partition(b"?")
    if not raw_path.startswith(b"/"):
        raise _malformed("the target is not a path that begins with `/`")
    if not raw_query and _PLAIN_PATH.match(raw_path):
        return raw_path.decode(), ""
    if not _QUERY_CHARS.match(raw_query):
        raise _malformed("the query holds a character that must be percent-encoded")
    if not _PATH_CHARS.match(raw_path):
        raise _malformed("the path holds a character that must be percent-encoded")
    if _BAD_ESCAPE.search(raw_path) or _BAD_ESCAPE.search(raw_query):
        raise _malformed("the target holds a broken percent-encoding")
    lower = raw_path.lower()
    if any(escape in lower for escape in _FORBIDDEN_ESCAPES):
        raise _malformed("the path encodes a slash, a backslash or a NUL")
    decoded = unquote_to_bytes(raw_path)
    if any(segment in {b".", b".."} for segment in decoded.split(b"/")):
        raise _malformed("the path holds a dot segment")
    if any(code < 0x20 or code == 0x7F for code in decoded):
        raise _malformed("the path encodes a control character")
    try:
        return decoded.decode(), raw_query.decode()
    except UnicodeDecodeError:
        raise _malformed("the path is not UTF-8 once decoded") from None


def head_too_large(start: bytes) -> Refused:
    """Give the refusal of a head that is larger than `MAX_HEAD_BYTES`: its first line is why, or the whole of it."""
    line, _, _ = start.partition(b"\r\n")
    if len(line) > MAX_TARGET_BYTES:
        return _target_too_long()
    return Refused("request.headers-too-large", f"the limit on a header block is {MAX_HEAD_BYTES} bytes")


def _target_too_long() -> Refused:
    return Refused("request.target-too-long", f"the limit on a request's target is {MAX_TARGET_BYTES} bytes")


def _malformed(detail: str) -> Refused:
    return Refused("request.malformed", detail)
