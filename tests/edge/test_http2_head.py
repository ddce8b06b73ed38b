"""A header block of HTTP/2 becomes the head that HTTP/1.1 would have given, or is refused with its reason."""

import pytest

from edge.http2_head import head_of_stream
from engine.errors import Refused

Pairs = list[tuple[bytes, bytes]]
GET: Pairs = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"h:1"), (b":path", b"/a?b=c")]
POST: Pairs = [(b":method", b"POST"), *GET[1:]]


def test_a_head_is_that_of_http_1() -> None:
    """The authority is the host, parts of a cookie are one, and everything else is as it came."""
    head = head_of_stream(
        [*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"te", b"trailers")], has_body=False
    )
    assert (head.method, head.path, head.query, head.length, head.websocket) == ("GET", "/a", "b=c", 0, False)
    assert head.headers == {"host": "h:1", "x": "y", "cookie": "a=1; b=2", "te": "trailers"}
    assert head_of_stream([*GET[:2], GET[3], (b"host", b"H:1")], has_body=False).headers["host"] == "H:1"
    assert head_of_stream([*GET, (b"host", b"H:1")], has_body=False).headers["host"] == "H:1"


def test_the_length_is_what_was_said_or_nothing() -> None:
    """A body without a length may have any; one with a length has that; no body has none."""
    assert head_of_stream(POST, has_body=True).length is None
    assert head_of_stream([*POST, (b"content-length", b"7")], has_body=True).length == 7
    assert head_of_stream([*POST, (b"content-length", b"0")], has_body=False).length == 0


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        (GET[1:], "':method' is missing"),
        ([GET[0], *GET[2:]], "':scheme' is missing"),
        (GET[:3], "':path' is missing"),
        ([*GET[:3], (b":path", b"")], "':path' is missing or empty"),
        ([*GET[:3], (b":path", b"*")], "begins with `/`"),
        ([*GET[:3], (b":path", b"https://h/a")], "begins with `/`"),
        ([*GET[:3], (b":path", b"/../a")], "dot segment"),
        ([*GET[:3], (b":path", b"/a b")], "percent-encoded"),
        ([*GET[:3], (b":path", b"/a\r\nx: y")], "percent-encoded"),
        ([*GET, GET[0]], "':method' is repeated"),
        ([*GET[:1], (b"x", b"y"), *GET[1:]], "comes after headers"),
        ([*GET[:1], (b"cookie", b"y"), *GET[1:]], "comes after headers"),
        ([*GET, (b":status", b"200")], "no pseudo-header"),
        ([*GET, (b":protocol", b"websocket")], "no pseudo-header"),
        ([GET[0], (b":scheme", b"ftp"), *GET[2:]], "neither http nor https"),
        ([(b":method", b"get"), *GET[1:]], "upper-case letters"),
        ([(b":method", b"CONNECT"), *GET[1:]], "CONNECT"),
        ([*GET[:2], (b":authority", b""), GET[3]], "is no host"),
        ([*GET[:2], (b":authority", b"u@h"), GET[3]], "is no host"),
        ([*GET, (b"host", b"other")], "Host is not what"),
        ([*GET, (b"host", b"h:1"), (b"host", b"h:1")], "Host is not what"),
        ([*GET[:2], GET[3]], "Host header is missing"),
        ([*GET, (b"connection", b"close")], "'connection' belongs"),
        ([*GET, (b"keep-alive", b"5")], "'keep-alive' belongs"),
        ([*GET, (b"proxy-connection", b"x")], "'proxy-connection' belongs"),
        ([*GET, (b"transfer-encoding", b"chunked")], "'transfer-encoding' belongs"),
        ([*GET, (b"upgrade", b"websocket")], "'upgrade' belongs"),
        ([*GET, (b"http2-settings", b"x")], "'http2-settings' belongs"),
        ([*GET, (b"te", b"gzip")], "'te' says more"),
        ([*GET, (b"X-Upper", b"y")], "upper-case letters"),
        ([*GET, (b"", b"y")], "character that is not allowed"),
        ([*GET, (b"a b", b"y")], "character that is not allowed"),
        ([*GET, (b"a\r\nb", b"y")], "character that is not allowed"),
        ([*GET, (b"a_b", b"y")], "character that is not allowed"),
        ([*GET, (b"x", b"a\r\nb: c")], "control character"),
        ([*GET, (b"x", b"a\0b")], "control character"),
        ([*GET, (b"x", b" a")], "blank"),
        ([*GET, (b"x", b"a\t")], "blank"),
        ([*POST, (b"content-length", b"5")], "there is no body"),
        ([*POST, (b"content-length", b"+5")], "expected digits"),
        ([*POST, (b"content-length", b"5"), (b"content-length", b"5")], "repeated"),
        ([*GET, *[(b"x", b"y")] * 101], "more than 100 headers"),
        ([*GET, (b"x", b"y" * 16_384)], "16384 bytes"),
        ([*GET[:3], (b":path", b"/" + b"x" * 8192)], "8192 bytes"),
    ],
)
def test_what_is_ambiguous_is_refused(pairs: Pairs, why: str) -> None:
    """Each rule of RFC 9113 8.2 and 8.3, and those of HTTP/1.1, with its reason."""
    with pytest.raises(Refused) as refused:
        head_of_stream(pairs, has_body=False)
    assert why in refused.value.detail
