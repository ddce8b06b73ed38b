"""A stream's header block as the head of a request, checked by the rules of HTTP/1.1 and those that HTTP/2 adds.

Rules of the file:
- Pairs in, `Head` or `Refused` out; no I/O.
- What HTTP/2 forbids is refused, not repaired: a request that is passed on in another version of HTTP must not be
  able to become another one.
- What is left goes through `check_head`, so that a request means the same whichever way it came.

Source: RFC 9113 sections 8.2 and 8.3; RFC 8441 is not offered.
"""

from collections.abc import Iterable
from typing import Final

from edge.normaliser import MAX_HEAD_BYTES, MAX_TARGET_BYTES, Head, check_head, head_too_large
from engine.errors import Refused

_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_NEEDED: Final = (b":method", b":scheme", b":path")
_OF_A_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
_SCHEMES: Final = frozenset({b"http", b"https"})
_BLANK: Final = frozenset({b" ", b"\t"})
_LINE_BYTES: Final = len(" HTTP/1.1\r\n") + 1
_FIELD_BYTES: Final = len(": \r\n")


def head_of_stream(pairs: Iterable[tuple[bytes, bytes]], *, has_body: bool) -> Head:
    """Check what a stream began with.

    Args:
        pairs: names and values as unpacked, in their order.
        has_body: the stream did not end with it.

    Returns:
        The head; its length is None where a body follows and its size is not said.

    Raises:
        Refused: it is ambiguous or breaks a limit; the text says how.
    """
    pseudo: dict[bytes, bytes] = {}
    fields: list[tuple[bytes, bytes]] = []
    cookies: list[bytes] = []
    size = _LINE_BYTES
    for name, value in pairs:
        size += len(name) + len(value) + _FIELD_BYTES
        if name[:1] == b":":
            _check_pseudo(name, pseudo, is_late=bool(fields or cookies))
            pseudo[name] = value
            continue
        if name != name.lower():
            raise _malformed("a header's name holds upper-case letters")
        if name in _OF_A_CONNECTION:
            raise _malformed(f"the header {name.decode('latin-1')!r} belongs to HTTP/1.1's connections")
        if name == b"te" and value.lower() != b"trailers":
            raise _malformed("the header 'te' says more than `trailers`")
        if value[:1] in _BLANK or value[-1:] in _BLANK:
            raise _malformed(f"the header {name[:40].decode('latin-1')!r} begins or ends with a blank")
        if name == b"cookie":
            cookies.append(value)  # the one header that may come in parts
        else:
            fields.append((name, value))
    if cookies:
        fields.append((b"cookie", b"; ".join(cookies)))
    target = pseudo.get(b":path", b"")
    if size > MAX_HEAD_BYTES or len(target) > MAX_TARGET_BYTES:
        raise head_too_large(target)
    if pseudo.get(b":method") != b"CONNECT":  # which is refused as what it is
        _check_whole(pseudo)
    _add_host(pseudo.get(b":authority"), fields)
    head = check_head(pseudo.get(b":method", b""), target or b"/", "1.1", fields)
    if not has_body:
        if head.length:
            raise _malformed(f"Content-Length is {head.length}, and there is no body")
        return head
    return head if "content-length" in head.headers else head._replace(length=None)


def _check_pseudo(name: bytes, pseudo: dict[bytes, bytes], *, is_late: bool) -> None:
    if name not in _PSEUDO:
        raise _malformed(f"{name[:40].decode('latin-1')!r} is no pseudo-header of a request")
    if is_late:
        raise _malformed(f"the pseudo-header {name.decode()!r} comes after headers")
    if name in pseudo:
        raise _malformed(f"the pseudo-header {name.decode()!r} is repeated")


def _check_whole(pseudo: dict[bytes, bytes]) -> None:
    for name in _NEEDED:
        if not pseudo.get(name):
            raise _malformed(f"the pseudo-header {name.decode()!r} is missing or empty")
    if pseudo[b":scheme"].lower() not in _SCHEMES:
        raise _malformed("the scheme is neither http nor https")


def _add_host(authority: bytes | None, fields: list[tuple[bytes, bytes]]) -> None:
    hosts = [value for name, value in fields if name == b"host"]
    if authority is None:
        return
    if not authority or b"@" in authority:
        raise _malformed("the pseudo-header ':authority' is no host")
    if not hosts:
        fields.insert(0, (b"host", authority))
    elif [host.lower() for host in hosts] != [authority.lower()]:
        raise _malformed("Host is not what ':authority' says")


def _malformed(detail: str) -> Refused:
    return Refused("request.malformed", detail)
