"""Requests that hide a second one: every known way to have two parsers disagree about where a request ends.

Each is an *outer* request whose bytes hold an *inner* one. A server that reads the outer one as RFC 9112 wants, or
refuses it and closes, never sees the inner one as a request of its own.

Rules of the file:
- A packet is what an attacker sends on one connection, whole. `most` says how many requests may reach a handler; where
  it is two, the second one is the attacker's own, said openly: the control that the recorder sees what gets through.
- A new trick is a new row.

Source: RFC 9112 sections 6 and 11.2; CL.TE, TE.CL, TE.TE, CL.0, 0.CL, TE.0 and the chunk-extension tricks as published.
"""

from dataclasses import dataclass

from tests.support.hostile_packet import HOST

__all__ = ["INNER_MARK", "Smuggle", "smuggles"]

INNER_MARK = b"smuggled"
CHUNKED = b"Transfer-Encoding: chunked"


@dataclass(frozen=True)
class Smuggle:
    """One packet.

    Args:
        name: of the trick.
        data: the bytes.
        most: requests that may reach a handler.
    """

    name: str
    data: bytes
    most: int = 1


def inner_request(target: bytes = b"/ingest?subject=snapfs.smuggled") -> bytes:
    """The request that must never be one."""
    body = b'{"events":[{"type":"' + INNER_MARK + b'","data":{"path":"/a"}}]}'
    lines = [b"POST " + target + b" HTTP/1.1", HOST, b"X-Request-Id: " + INNER_MARK]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]) + body


def smuggles(target: bytes) -> list[Smuggle]:
    """Every packet, its outer request aimed at one path that takes POST."""
    lane = _Lane(target, inner_request())
    parts = (_controls, _both_lengths, _codings, _lengths, _unread, _chunks, _lines, _forms, _upgrades, _connections)
    found = [each for part in parts for each in part(lane)]
    assert len({each.name for each in found}) == len(found), "two tricks of one name"
    return found


@dataclass(frozen=True)
class _Lane:
    """Where the outer request goes, and what it hides."""

    target: bytes
    inner: bytes

    def outer(self, *lines: bytes, body: bytes = b"", line: bytes | None = None, host: bytes = HOST) -> bytes:
        """An outer request: `line` replaces the request line."""
        first = line if line is not None else b"POST " + self.target + b" HTTP/1.1"
        return b"\r\n".join([first, host, b"X-Request-Id: outer", *lines, b"", b""]) + body

    @property
    def length(self) -> bytes:
        """The header that counts the inner request."""
        return b"Content-Length: %d" % len(self.inner)

    @property
    def chunk(self) -> bytes:
        """The inner request as one chunk, and the last one."""
        return b"%x\r\n" % len(self.inner) + self.inner + b"\r\n0\r\n\r\n"

    @property
    def ended(self) -> bytes:
        """The last chunk, and the inner request behind it."""
        return b"0\r\n\r\n" + self.inner


def _controls(lane: _Lane) -> list[Smuggle]:
    small = b'{"events":[]}'
    sized = lane.outer(b"Content-Length: %d" % len(small), body=small)
    chunked = lane.outer(CHUNKED, body=b"%x\r\n" % len(small) + small + b"\r\n0\r\n\r\n")
    return [
        Smuggle("control: two requests, one after the other", sized + lane.inner, most=2),
        Smuggle("control: the same, the first in chunks", chunked + lane.inner, most=2),
        Smuggle("control: a request in the body of another", lane.outer(lane.length, body=lane.inner)),
        Smuggle("control: the same in a chunk", lane.outer(CHUNKED, body=lane.chunk)),
    ]


def _both_lengths(lane: _Lane) -> list[Smuggle]:
    whole = b"Content-Length: %d" % len(lane.ended)
    short = b"Content-Length: %d" % lane.chunk.index(lane.inner)
    return [
        Smuggle("CL.TE", lane.outer(whole, CHUNKED, body=lane.ended)),
        Smuggle("CL.TE, the coding first", lane.outer(CHUNKED, whole, body=lane.ended)),
        Smuggle("TE.CL", lane.outer(short, CHUNKED, body=lane.chunk)),
        Smuggle("TE.CL, the coding first", lane.outer(CHUNKED, short, body=lane.chunk)),
        Smuggle("CL.TE, no length at all", lane.outer(b"Content-Length: 0", CHUNKED, body=lane.ended)),
        Smuggle(
            "CL.TE in HTTP/1.0", lane.outer(whole, CHUNKED, body=lane.ended, line=b"POST " + lane.target + b" HTTP/1.0")
        ),
    ]


def _codings(lane: _Lane) -> list[Smuggle]:
    whole = b"Content-Length: %d" % len(lane.ended)
    short = b"Content-Length: %d" % lane.chunk.index(lane.inner)
    odd = {
        "a wrong word": b"Transfer-Encoding: xchunked",
        "a space before the colon": b"Transfer-Encoding : chunked",
        "a tab before the colon": b"Transfer-Encoding\t: chunked",
        "a tab behind the colon": b"Transfer-Encoding:\tchunked",
        "a vertical tab": b"Transfer-Encoding: \x0bchunked",
        "a form feed": b"Transfer-Encoding: chunked\x0c",
        "a NUL behind": b"Transfer-Encoding: chunked\x00",
        "a hard space": b"Transfer-Encoding: \xa0chunked",
        "quotes": b'Transfer-Encoding: "chunked"',
        "a parameter": b"Transfer-Encoding: chunked;q=0.1",
        "a list that ends with identity": b"Transfer-Encoding: chunked, identity",
        "a list that ends with chunked": b"Transfer-Encoding: identity, chunked",
        "a list with an empty element": b"Transfer-Encoding: , chunked",
        "twice in one line": b"Transfer-Encoding: chunked, chunked",
        "a second line": CHUNKED + b"\r\nTransfer-Encoding: x",
        "a second line first": b"Transfer-Encoding: x\r\n" + CHUNKED,
        "a second line, the same": CHUNKED + b"\r\n" + CHUNKED,
        "a second line in other letters": b"Transfer-Encoding: identity\r\ntRANSFER-eNCODING: chunked",
        "a fold": b"Transfer-Encoding:\r\n chunked",
        "a fold with a tab": b"Transfer-Encoding:\r\n\tchunked",
        "a fold in front of the colon": b"Transfer-Encoding\r\n : chunked",
        "a bare LF in front": b"X: y\nTransfer-Encoding: chunked",
        "a bare CR in front": b"X: y\rTransfer-Encoding: chunked",
        "an underscore": b"Transfer_Encoding: chunked",
        "a space in front": b" Transfer-Encoding: chunked",
        "NULs in the name": b"Transfer\x00-Encoding: chunked",
        "another header": b"TE: chunked",
        "a content coding": b"Content-Encoding: chunked",
        "a value that is empty": b"Transfer-Encoding:",
        "a value that is a letter longer": b"Transfer-Encoding: chunkedx",
        "a Kelvin sign": "Transfer-Encoding: chun\u212aed".encode(),
    }
    return [
        *(
            Smuggle(f"TE.TE with a length: {name}", lane.outer(whole, lines, body=lane.ended))
            for name, lines in odd.items()
        ),
        *(
            # What is no Transfer-Encoding says nothing about a body: then the length holds, and what is behind it is
            # the attacker's own second request, said openly.
            Smuggle(
                f"TE.TE with a short length: {name}",
                lane.outer(lines, short, body=lane.chunk),
                most=2 if name in {"another header", "a content coding"} else 1,
            )
            for name, lines in odd.items()
        ),
        *(Smuggle(f"TE.TE alone: {name}", lane.outer(lines, body=lane.chunk)) for name, lines in odd.items()),
    ]


def _lengths(lane: _Lane) -> list[Smuggle]:
    size = b"%d" % len(lane.inner)
    odd = {
        "zero, then the truth": b"Content-Length: 0\r\nContent-Length: " + size,
        "the truth, then zero": b"Content-Length: " + size + b"\r\nContent-Length: 0",
        "in other letters": b"Content-Length: " + size + b"\r\ncontent-length: 0",
        "a list": b"Content-Length: 0, " + size,
        "a list of the same": b"Content-Length: " + size + b"," + size,
        "a sign": b"Content-Length: +" + size,
        "minus": b"Content-Length: -" + size,
        "hexadecimal": b"Content-Length: 0x%x" % len(lane.inner),
        "an underscore": b"Content-Length: 1_0",
        "a space inside": b"Content-Length: 1 0",
        "a NUL behind": b"Content-Length: 0\x00",
        "a vertical tab": b"Content-Length: \x0b0",
        "an exponent": b"Content-Length: 1e2",
        "past 64 bits, where it wraps to zero": b"Content-Length: 18446744073709551616",
        "past 32 bits, where it wraps to zero": b"Content-Length: 4294967296",
        "nothing": b"Content-Length:",
        "a space before the colon": b"Content-Length : " + size,
        "an underscore in the name": b"Content_Length: " + size,
        "a fold": b"Content-Length: 0\r\n " + size,
        "a bare LF in front": b"X: y\nContent-Length: " + size,
        "a bare CR in front": b"X: y\rContent-Length: " + size,
        "a space in front": b" Content-Length: " + size,
        "named by Connection": lane.length + b"\r\nConnection: Content-Length",
        "Arabic digits": "Content-Length: \u0665".encode(),
        "superscript digits": "Content-Length: \u00b2".encode("latin-1"),
    }
    return [Smuggle(f"CL: {name}", lane.outer(lines, body=lane.inner)) for name, lines in odd.items()]


def _unread(lane: _Lane) -> list[Smuggle]:
    lines: dict[str, bytes] = {
        "GET": b"GET " + lane.target + b" HTTP/1.1",
        "HEAD": b"HEAD " + lane.target + b" HTTP/1.1",
        "OPTIONS": b"OPTIONS " + lane.target + b" HTTP/1.1",
        "DELETE": b"DELETE " + lane.target + b" HTTP/1.1",
        "an unknown method": b"BREW " + lane.target + b" HTTP/1.1",
        "an unknown path": b"POST /nothing/here HTTP/1.1",
        "a path on the other lane": b"POST /version HTTP/1.1",
        "a path that takes no body": b"GET /healthz HTTP/1.1",
        "a WebSocket path": b"GET /stream HTTP/1.1",
        "a WebSocket path by POST": b"POST /stream HTTP/1.1",
        "a path with an error of its own": b"POST " + lane.target.partition(b"?")[0] + b"?subject=*.> HTTP/1.1",
    }
    chunked = {f"TE.0: {name}": lane.outer(CHUNKED, body=lane.chunk, line=line) for name, line in lines.items()}
    sized = {f"CL.0: {name}": lane.outer(lane.length, body=lane.inner, line=line) for name, line in lines.items()}
    coded = {
        "CL.0: a content coding that nobody knows": lane.outer(lane.length, b"Content-Encoding: br", body=lane.inner),
        "CL.0: a credential that is none": lane.outer(lane.length, b"Authorization: Basic eDp5", body=lane.inner),
        "CL.0: a key that is too long": lane.outer(lane.length, b"Idempotency-Key: " + b"k" * 300, body=lane.inner),
        "0.CL: expects 100": lane.outer(lane.length, b"Expect: 100-continue", body=lane.inner),
        "0.CL: expects something else": lane.outer(lane.length, b"Expect: y 100-continue", body=lane.inner),
        "0.CL: expects and closes": lane.outer(
            lane.length, b"Expect: 100-continue", b"Connection: close", body=lane.inner
        ),
        "0.CL: a length past every limit": lane.outer(b"Content-Length: 99999999999", body=lane.inner),
        "TE.0: a chunk past every limit": lane.outer(CHUNKED, body=b"fffffffff\r\n" + lane.inner),
    }
    return [Smuggle(name, data) for name, data in {**chunked, **sized, **coded}.items()]


def _chunks(lane: _Lane) -> list[Smuggle]:
    inner, size = lane.inner, b"%x" % len(lane.inner)
    bodies = {
        "an extension": size + b";a=b\r\n" + inner + b"\r\n0\r\n\r\n",
        "an extension with a quoted CRLF": size + b';a="\r\n' + inner + b"\r\n0\r\n\r\n",
        "an extension that a bare LF ends": b"2;\n"
        + b"xx\r\n%x\r\n" % (len(inner) + 7)
        + b"0\r\n\r\n"
        + inner
        + b"\r\n0\r\n\r\n",
        "an extension that a bare CR ends": b"2;\rxx\r\n0\r\n\r\n" + inner,
        "an extension with NUL": b"2;\x00\r\nxx\r\n" + lane.ended,
        "a size that a bare LF ends": b"5\nhello\r\n" + lane.ended,
        "a size that a bare CR ends": b"5\rhello\r\n" + lane.ended,
        "a size with a space in front": b" 5\r\nhello\r\n" + lane.ended,
        "a size with a space behind": b"5 \r\nhello\r\n" + lane.ended,
        "a size with a tab behind": b"5\t\r\nhello\r\n" + lane.ended,
        "a size with 0x": b"0x5\r\nhello\r\n" + lane.ended,
        "a size with a plus": b"+5\r\nhello\r\n" + lane.ended,
        "a size with a minus": b"-5\r\nhello\r\n" + lane.ended,
        "a size with an underscore": b"0_5\r\nhello\r\n" + lane.ended,
        "a size past 64 bits": b"10000000000000005\r\nhello\r\n" + lane.ended,
        "a size past 32 bits": b"100000005\r\nhello\r\n" + lane.ended,
        "a size of many zeros": b"0" * 200 + b"5\r\nhello\r\n" + lane.ended,
        "a size that is empty": b"\r\nhello\r\n" + lane.ended,
        "data that is longer than its size": b"3\r\nhello\r\n" + lane.ended,
        "data that a bare LF ends": b"5\r\nhello\n" + lane.ended,
        "data that two other bytes end": b"5\r\nhelloXX" + lane.ended,
        "data that nothing ends": b"5\r\nhello" + lane.ended,
        "the last chunk with a bare LF": b"0\n\n" + inner,
        "the last chunk ended by LF": b"0\r\n\n" + inner,
        "the last chunk ended by CR": b"0\r\n\r" + inner,
        "the last chunk without an end": b"0\r\n" + inner,
        "trailers with a length": b"0\r\nContent-Length: " + size + b"\r\n\r\n" + b"x",
        "trailers with a bare LF": b"0\r\nX: y\n\r\n" + inner,
        "trailers that a bare LF ends": b"0\r\nX: y\r\n\n" + inner,
        "a negative last chunk": b"-0\r\n\r\n" + inner,
    }
    return [Smuggle(f"chunk: {name}", lane.outer(CHUNKED, body=body)) for name, body in bodies.items()]


def _lines(lane: _Lane) -> list[Smuggle]:
    post = b"POST " + lane.target + b" HTTP/1.1"
    inner = lane.inner
    empty = b"Content-Length: 0"
    bare = lane.outer(empty).replace(b"\r\n", b"\n")
    return [
        Smuggle("lines: all with bare LF", bare + inner),
        Smuggle("lines: all with bare CR", lane.outer(empty).replace(b"\r\n", b"\r") + inner),
        Smuggle("lines: the head ended by two LF", lane.outer(empty)[:-4] + b"\n\n" + inner),
        Smuggle("lines: the head ended by LF CRLF", lane.outer(empty)[:-4] + b"\n\r\n" + inner),
        Smuggle("lines: the head ended by CR CRLF", lane.outer(empty)[:-4] + b"\r\r\n" + inner),
        Smuggle("lines: a line that is CR alone", lane.outer(b"X: y\r\n\r", empty) + inner),
        Smuggle("lines: a fold of the whole inner request", lane.outer(b"X: y\r\n " + inner, empty)),
        Smuggle("lines: a header without a colon", lane.outer(b"X", lane.length, body=inner)),
        Smuggle("lines: a request line in a header", lane.outer(b"GET /admin HTTP/1.1", lane.length, body=inner)),
        Smuggle("lines: NUL in a value", lane.outer(b"X: a\x00b", lane.length, body=inner)),
        Smuggle("lines: a CR in the target", lane.outer(empty, line=post.replace(b" HTTP", b"\rX: HTTP")) + inner),
        Smuggle("lines: three words and one more", lane.outer(empty, line=post + b" HTTP/1.1") + inner),
        Smuggle(
            "lines: an encoded CRLF in the target",
            lane.outer(lane.length, body=inner, line=b"POST " + lane.target.partition(b"?")[0] + b"%0d%0aX:y HTTP/1.1"),
        ),
        Smuggle("lines: HTTP/0.9", b"GET " + lane.target + b"\r\n\r\n" + inner),
        Smuggle("lines: version 1.10", lane.outer(empty, line=post + b"0") + inner),
        Smuggle("lines: version with NUL", lane.outer(empty, line=post + b"\x00") + inner),
        Smuggle(
            "lines: 101 headers, the length last",
            lane.outer(*[b"X-%d: y" % n for n in range(101)], lane.length, body=inner),
        ),
        Smuggle("lines: a header block past its limit", lane.outer(b"X: " + b"y" * 17_000, lane.length, body=inner)),
    ]


def _forms(lane: _Lane) -> list[Smuggle]:
    inner = lane.inner
    return [
        Smuggle(
            "target: absolute form",
            lane.outer(lane.length, body=inner, line=b"POST http://gateway.test" + lane.target + b" HTTP/1.1"),
        ),
        Smuggle(
            "target: absolute form of another host",
            lane.outer(lane.length, body=inner, line=b"POST http://other.test" + lane.target + b" HTTP/1.1"),
        ),
        Smuggle(
            "target: authority form", lane.outer(lane.length, body=inner, line=b"CONNECT gateway.test:80 HTTP/1.1")
        ),
        Smuggle(
            "target: two slashes and a host",
            lane.outer(lane.length, body=inner, line=b"POST //other.test" + lane.target + b" HTTP/1.1"),
        ),
        Smuggle(
            "target: a fragment", lane.outer(lane.length, body=inner, line=b"POST " + lane.target + b"#x HTTP/1.1")
        ),
        Smuggle("host: two", lane.outer(lane.length, b"Host: other.test", body=inner)),
        Smuggle("host: a space before the colon", lane.outer(lane.length, b"Host : other.test", body=inner)),
        Smuggle("host: none", lane.outer(lane.length, host=b"X: y", body=inner)),
        Smuggle("host: a fold", lane.outer(lane.length, host=b"Host: gateway.test\r\n other.test", body=inner)),
        Smuggle("host: a list", lane.outer(lane.length, host=b"Host: gateway.test, other.test", body=inner)),
    ]


def _upgrades(lane: _Lane) -> list[Smuggle]:
    inner = lane.inner
    socket = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    get = b"GET " + lane.target + b" HTTP/1.1"
    stream = b"GET /stream?subject=snapfs.files&durable=smuggle HTTP/1.1"
    h2c = (b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    return [
        Smuggle("upgrade: h2c, the inner request as its body", lane.outer(*h2c, lane.length, body=inner)),
        Smuggle(
            "upgrade: h2c, and a preface",
            lane.outer(*h2c, lane.length, body=inner) + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        ),
        Smuggle(
            "upgrade: a WebSocket, refused for its version",
            lane.outer(*socket[:2], b"Sec-WebSocket-Version: 777", key, line=stream) + inner,
        ),
        Smuggle("upgrade: a WebSocket, refused for its key", lane.outer(*socket, line=stream) + inner),
        Smuggle(
            "upgrade: a WebSocket, refused for its query",
            lane.outer(*socket, key, line=b"GET /stream HTTP/1.1") + inner,
        ),
        Smuggle("upgrade: a WebSocket that is accepted", lane.outer(*socket, key, line=stream) + inner),
        Smuggle("upgrade: a WebSocket with a length", lane.outer(*socket, key, lane.length, line=stream, body=inner)),
        Smuggle(
            "upgrade: a WebSocket where there is none, with a length",
            lane.outer(*socket, key, lane.length, line=get, body=inner),
        ),
    ]


def _connections(lane: _Lane) -> list[Smuggle]:
    inner = lane.inner
    empty = b"Content-Length: 0"
    old = b"POST " + lane.target + b" HTTP/1.0"
    return [
        Smuggle("connection: close, and a request behind it", lane.outer(empty, b"Connection: close") + inner),
        Smuggle("connection: close in a list", lane.outer(empty, b"Connection: x, CLOSE") + inner),
        Smuggle(
            "connection: close in a second line", lane.outer(empty, b"Connection: x", b"Connection: close") + inner
        ),
        Smuggle("connection: HTTP/1.0, and a request behind it", lane.outer(empty, line=old) + inner),
        Smuggle("connection: HTTP/1.0 with a coding", lane.outer(CHUNKED, line=old, body=lane.ended)),
        Smuggle(
            "connection: a hidden header",
            lane.outer(lane.length, b"Connection: Transfer-Encoding, X-Request-Id", body=inner),
        ),
    ]
