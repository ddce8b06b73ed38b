"""Heads that no well-behaved HTTP/1.1 client sends: framing, header lines, targets and request lines.

Rules of the file:
- What RELIABILITY.md 4.1 and 4.2 demand and what RFC 9112 says with MUST is `refused`: exactly that status, and the
  connection is over. Everything else is a packet that any answer will do for.
"""

from tests.support.hostile_packet import HOST, TOLERATED, Lane, Packet, post, refused, request

__all__ = ["head_packets"]


def head_packets(lane: Lane) -> list[Packet]:
    """Every hostile head, aimed at one lane."""
    return [*_framing(lane), *_headers(lane), *_targets(lane), *_request_lines(lane)]


def _framing(lane: Lane) -> list[Packet]:
    cl, te, chunks = b"Content-Length: 5", b"Transfer-Encoding: chunked", b"0\r\n\r\n"
    lengths = {
        "negative": b"-1",
        "signed": b"+5",
        "hexadecimal": b"0x5",
        "spaced": b"1 0",
        "a list": b"5, 5",
        "a clashing list": b"5, 6",
        "empty": b"",
        "not a number": b"five",
        "a fraction": b"5.0",
        "Arabic digits": "\u0665".encode(),
    }
    codings = {
        "gzip, chunked": b"gzip, chunked",
        "chunked, identity": b"chunked, identity",
        "chunked twice in one line": b"chunked, chunked",
        "almost chunked": b"xchunked",
        "chunked with a vertical tab": b"\x0bchunked",
        "chunked with a parameter": b"chunked;q=1",
        "quoted": b'"chunked"',
        "identity": b"identity",
        "empty": b"",
    }
    return [
        refused("length and chunked", post(lane, cl, te, body=chunks)),
        refused("chunked and length", post(lane, te, cl, body=chunks)),
        refused("length and chunked on GET", request(lane.path, cl, te, body=chunks)),
        refused("length and an unknown coding", post(lane, cl, b"Transfer-Encoding: cow", body=b"hello")),
        refused("chunked twice", post(lane, te, te, body=chunks)),
        refused("chunked in HTTP/1.0", post(lane, te, body=chunks, version=b"HTTP/1.0")),
        refused("length twice, the same", post(lane, cl, cl, body=b"hello")),
        refused("length twice, clashing", post(lane, cl, b"Content-Length: 6", body=b"hello!")),
        refused("a length past 64 bits", post(lane, b"Content-Length: 99999999999999999999"), 400, 413),
        refused(
            "a length past every limit", post(lane, b"Content-Length: 9000000000"), 413, *(lane.post_statuses - {400})
        ),
        *(refused(f"length {name}", post(lane, b"Content-Length: " + v, body=b"hello")) for name, v in lengths.items()),
        *(
            refused(f"coding {name}", post(lane, b"Transfer-Encoding: " + v, body=chunks))
            for name, v in codings.items()
        ),
    ]


def _headers(lane: Lane) -> list[Packet]:
    path = lane.path
    many = [b"X-%d: 1" % number for number in range(100)]
    return [
        refused("host twice", request(path, HOST)),
        refused("host clashing", request(path, b"Host: other.test")),
        refused("no host", request(path, host=None)),
        refused("authorization twice", request(path, b"Authorization: Basic YQ==", b"Authorization: Basic Yg==")),
        refused("underscore in a name", request(path, b"X_Forwarded_For: 127.0.0.1")),
        refused("underscored length", post(lane, b"Content_Length: 5", b"Content-Length: 5", body=b"hello")),
        refused("space before the colon", request(path, b"X-Name : 1")),
        refused("tab before the colon", request(path, b"Transfer-Encoding\t: chunked")),
        refused("empty name", request(path, b": 1")),
        refused("no colon", request(path, b"X-Name")),
        refused("non-ASCII name", request(path, "X-Näme: 1".encode())),
        refused("control byte in a name", request(path, b"X-\x01Name: 1")),
        Packet("NUL in a value", request(path, b"X-Name: a\x00b"), TOLERATED),
        Packet("bare CR in a value", request(path, b"X-Name: a\rb"), TOLERATED),
        Packet("other control bytes in a value", request(path, b"X-Name: a\x01\x08\x7fb")),
        Packet("non-ASCII value", request(path, "X-Name: ä\u2028".encode())),
        Packet("invalid UTF-8 value", request(path, b"X-Name: \xff\xfe\xc0\x80")),
        Packet("folded line", request(path, b"X-Name: a\r\n  b"), TOLERATED),
        Packet("folded first line", request(path, host=b" " + HOST), TOLERATED),
        Packet("folded coding", post(lane, b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n")),
        Packet("bare LF line ends", request(path).replace(b"\r\n", b"\n"), TOLERATED),
        Packet("bare LF before the end", request(path, b"X-Name: 1\nX-Other: 2"), TOLERATED),
        Packet("bare CR line ends", request(path).replace(b"\r\n", b"\r")),
        Packet("host with a path", request(path, host=b"Host: gateway.test/admin")),
        Packet("host with user information", request(path, host=b"Host: user@gateway.test")),
        Packet("empty host", request(path, host=b"Host:")),
        refused("a header block past 16 KiB", request(path, b"X-Name: " + b"a" * 17_000), 431),
        refused("a header name past 16 KiB", request(path, b"X-" + b"a" * 17_000 + b": 1"), 431),
        refused("a header block past 16 KiB that never ends", request(path)[:-2] + b"X-Name: 1234567\r\n" * 1100, 431),
        refused("101 headers", request(path, *many), 431),
        Packet("100 headers", request(path, *many[:99]), frozenset({200})),
    ]


def _targets(lane: Lane) -> list[Packet]:
    hostile = {
        "absolute form": b"http://gateway.test" + lane.path,
        "absolute form with TLS": b"https://gateway.test" + lane.path,
        "absolute form of an internal address": b"http://169.254.169.254/latest/meta-data",
        "authority form": b"gateway.test:80",
        "fragment": lane.path + b"#x",
        "control byte": lane.path + b"\x01",
        "DEL": lane.path + b"\x7f",
        "tab": lane.path + b"\tx",
        "NUL": lane.path + b"\x00",
        "raw UTF-8": lane.path + "/é".encode(),
        "raw Latin-1": lane.path + b"/\xe9",
        "backslash": b"\\" + lane.path[1:],
        "encoded NUL": lane.path + b"/%00",
        "invalid percent": lane.path + b"/%zz",
        "half a percent": lane.path + b"/%4",
        "percent at the end": lane.path + b"%",
        "percent u": lane.path + b"/%u002e",
        "encoded slash": b"/%2f" + lane.path[1:],
        "encoded slash in capitals": b"/a%2Fb",
        "encoded backslash": b"/a%5cb",
        "encoded backslash in capitals": b"/a%5Cb",
        "dot segment": b"/." + lane.path,
        "dot segments": b"/a/.." + lane.path,
        "dot segments above the root": b"/../../etc/passwd",
        "dot segments at the end": lane.path + b"/..",
        "encoded dot segments": b"/%2e%2e/etc/passwd",
        "half-encoded dot segments": b"/a/.%2E" + lane.path,
        "encoded dot segment": b"/%2e" + lane.path,
        "no slash": lane.path[1:],
        "empty": b"",
        "space": lane.path + b" x",
    }
    open_ended = {
        "two slashes": b"/" + lane.path,
        "dot segment with a parameter": b"/a/..;" + lane.path,
        "twice encoded dots": b"/%252e%252e" + lane.path,
        "overlong UTF-8": b"/%c0%ae%c0%ae/etc/passwd",
        "invalid percent in the query": lane.path + b"?a=%zz",
        "NUL in the query": lane.path + b"?a=%00",
        "brackets in the query": lane.path + b"?a[]=<script>{}|^`",
        "300 parameters": lane.path + b"?" + b"&".join(b"a=%d" % number for number in range(300)),
    }
    return [
        *(refused(f"target: {name}", request(target)) for name, target in hostile.items()),
        *(Packet(f"target: {name}", request(target)) for name, target in open_ended.items()),
        refused("target past 8 KiB", request(lane.path + b"?" + b"a" * 8200), 414),
        refused("target past 16 KiB", request(lane.path + b"?" + b"a" * 17_000), 414),
        refused("CONNECT to an authority", request(b"gateway.test:443", method=b"CONNECT"), 405),
        refused("CONNECT to a path", request(lane.path, method=b"CONNECT"), 400, 405),
        refused("asterisk with GET", request(b"*")),
        Packet("asterisk with OPTIONS", request(b"*", method=b"OPTIONS")),
    ]


def _request_lines(lane: Lane) -> list[Packet]:
    path = lane.path
    return [
        Packet("version 2.0", request(path, version=b"HTTP/2.0"), frozenset({400, 505})),
        Packet("version 3.0", request(path, version=b"HTTP/3.0"), frozenset({400, 505})),
        Packet("version 0.9", b"GET " + path + b"\r\n"),
        Packet("version 1.2", request(path, version=b"HTTP/1.2"), frozenset({200, 400, 505})),
        refused("version in small letters", request(path, version=b"http/1.1")),
        refused("version of three parts", request(path, version=b"HTTP/1.1.1")),
        refused("version of another protocol", request(path, version=b"RTSP/1.0"), 400, 505),
        Packet("method in small letters", request(path, method=b"get"), frozenset({400, 405, 501})),
        refused("method with a slash", request(path, method=b"GE/T")),
        refused("non-ASCII method", request(path, method="GÉT".encode())),
        Packet("unknown method", request(path, method=b"BREW"), frozenset({400, 405, 501})),
        Packet("giant method", request(path, method=b"A" * 20_000), frozenset({400, 405, 414, 431, 501}), closes=True),
        Packet("TRACE", request(path, method=b"TRACE"), frozenset({400, 405, 501})),
        Packet("empty lines first", b"\r\n\r\n" + request(path), TOLERATED),
        Packet("1000 empty lines first", b"\r\n" * 1000 + request(path)),
        Packet("two spaces", b"GET  " + path + b"  HTTP/1.1\r\n" + HOST + b"\r\n\r\n", TOLERATED),
        Packet("space first", b" " + request(path), TOLERATED),
    ]
