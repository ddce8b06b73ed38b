"""What a request's head must be (4.2): one length, one host, one way to read it, or a refusal."""

import pytest

from edge.normaliser import MAX_HEADERS, Head, check_head
from engine.errors import Refused

HOST = (b"Host", b"x")


def check(
    target: bytes = b"/", *pairs: tuple[bytes, bytes], method: bytes = b"GET", version: str = "1.1", host: bool = True
) -> Head:
    """Check a head with a Host header."""
    return check_head(method, target, version, [HOST, *pairs] if host else pairs)


def refusal(*args: object, **more: object) -> Refused:
    """The refusal of such a head."""
    with pytest.raises(Refused) as caught:
        check(*args, **more)  # type: ignore[arg-type]  # what `check` takes
    return caught.value


@pytest.mark.parametrize("method", [b"GET", b"POST", b"HEAD", b"OPTIONS", b"PROPFIND", b"A" * 20])
def test_a_method_is_a_word(method: bytes) -> None:
    """Known or not, an upper-case word passes: what a path takes is the route table's business."""
    assert check(method=method).method == method.decode()


@pytest.mark.parametrize(
    "method", [b"", b"get", b"Get", b"GET ", b"G3T", b"G-T", b"A" * 21, b"G\xc9T", b"G\x00"], ids=repr
)
def test_what_is_no_word_is_no_method(method: bytes) -> None:
    """Lower case, empty, or with anything but letters: 400."""
    assert refusal(method=method).kind.code == "request.malformed"


def test_connect_is_not_offered() -> None:
    """405, and what is offered."""
    caught = refusal(b"x:80", method=b"CONNECT")
    assert caught.kind.code == "request.wrong-method"
    assert "GET" in str(caught.members["allow"])


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0", "", "1"])
def test_only_http_1_is_spoken(version: str) -> None:
    """Another version is refused, not guessed at."""
    assert refusal(version=version).kind.code == "request.malformed"


LENGTHS: dict[str, tuple[list[tuple[bytes, bytes]], int | None]] = {
    "none": ([], 0),
    "zero": ([(b"Content-Length", b"0")], 0),
    "digits": ([(b"Content-Length", b"17")], 17),
    "leading zeros": ([(b"Content-Length", b"0017")], 17),
    "white space around": ([(b"Content-Length", b" 17\t")], 17),
    "in chunks": ([(b"Transfer-Encoding", b"chunked")], None),
    "in CHUNKS": ([(b"TRANSFER-ENCODING", b"Chunked")], None),
}


@pytest.mark.parametrize(("pairs", "length"), LENGTHS.values(), ids=LENGTHS.keys())
def test_a_body_has_one_length(pairs: list[tuple[bytes, bytes]], length: int | None) -> None:
    """A number, or chunks, or nothing."""
    assert check(b"/", *pairs, method=b"POST").length == length


BAD_HEADERS: dict[str, list[tuple[bytes, bytes]]] = {
    "both lengths": [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")],
    "both, the other way": [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"1")],
    "two lengths": [(b"Content-Length", b"1"), (b"Content-Length", b"2")],
    "two lengths alike": [(b"Content-Length", b"1"), (b"content-length", b"1")],
    "a list of lengths": [(b"Content-Length", b"1, 1")],
    "a length with a sign": [(b"Content-Length", b"+1")],
    "a negative length": [(b"Content-Length", b"-1")],
    "a hexadecimal length": [(b"Content-Length", b"0x1")],
    "a length with a separator": [(b"Content-Length", b"1_0")],
    "a length with a space": [(b"Content-Length", b"1 0")],
    "a length with a control": [(b"Content-Length", b"\x0b1")],
    "an empty length": [(b"Content-Length", b"")],
    "a length of other digits": [(b"Content-Length", b"\xb2")],
    "an absurd length": [(b"Content-Length", b"1" * 19)],
    "another coding": [(b"Transfer-Encoding", b"gzip")],
    "two codings": [(b"Transfer-Encoding", b"gzip, chunked")],
    "chunked twice": [(b"Transfer-Encoding", b"chunked, chunked")],
    "chunked in two headers": [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
    "chunked with a parameter": [(b"Transfer-Encoding", b"chunked;q=1")],
    "chunked in quotes": [(b"Transfer-Encoding", b'"chunked"')],
    "chunked with a control": [(b"Transfer-Encoding", b"\x0bchunked")],
    "xchunked": [(b"Transfer-Encoding", b"xchunked")],
    "identity": [(b"Transfer-Encoding", b"identity")],
    "an empty coding": [(b"Transfer-Encoding", b"")],
    "a second host": [(b"Host", b"y")],
    "the same host again": [(b"HOST", b"x")],
    "two authorizations": [(b"Authorization", b"a"), (b"authorization", b"b")],
    "two content types": [(b"Content-Type", b"a"), (b"Content-Type", b"b")],
    "two content encodings": [(b"Content-Encoding", b"gzip"), (b"Content-Encoding", b"gzip")],
    "two keys": [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b")],
    "two upgrades": [(b"Upgrade", b"websocket"), (b"Upgrade", b"h2c")],
    "two expectations": [(b"Expect", b"100-continue"), (b"Expect", b"100-continue")],
    "an underscore": [(b"Content_Length", b"1")],
    "a space in a name": [(b"Content-Length ", b"1")],
    "a folded name": [(b" X", b"1")],
    "a colon in a name": [(b"A:B", b"1")],
    "an empty name": [(b"", b"1")],
    "a control in a name": [(b"A\x0b", b"1")],
    "a name that is not ASCII": [(b"\xc3\xa9", b"1")],
    "a carriage return in a value": [(b"A", b"1\rB: 2")],
    "a line feed in a value": [(b"A", b"1\nB: 2")],
    "a NUL in a value": [(b"A", b"1\x00")],
}


@pytest.mark.parametrize("pairs", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_head_that_can_be_read_in_two_ways_is_refused(pairs: list[tuple[bytes, bytes]]) -> None:
    """Clashing and repeated framing, hosts and names that others read otherwise: 400."""
    assert refusal(b"/", *pairs, method=b"POST").kind.code == "request.malformed"


def test_http_1_0_has_no_chunks_and_needs_no_host() -> None:
    """1.0 with a transfer coding is refused; 1.1 without a host is."""
    assert refusal(b"/", (b"Transfer-Encoding", b"chunked"), version="1.0").kind.code == "request.malformed"
    assert refusal(host=False).kind.code == "request.malformed"
    assert check(version="1.0", host=False).headers == {}


def test_other_headers_are_joined_as_the_standard_says() -> None:
    """A repeated header that may be a list is one; names are in lower case, values without white space around them."""
    head = check(b"/", (b"Accept", b" a\t"), (b"ACCEPT", b"b"), (b"X-Y", b""), (b"Z", "é".encode("latin-1")))
    assert head.headers == {"host": "x", "accept": "a, b", "x-y": "", "z": "é"}


def test_the_number_of_headers_is_bounded() -> None:
    """A hundred are taken; one more is 431."""
    check(b"/", *[(b"X-%d" % number, b"1") for number in range(MAX_HEADERS - 1)])
    caught = refusal(b"/", *[(b"X", b"1")] * MAX_HEADERS)
    assert caught.kind.code == "request.headers-too-large"


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        ("1.1", None, True),
        ("1.1", b"keep-alive", True),
        ("1.1", b"close", False),
        ("1.1", b"Close", False),
        ("1.1", b"x, close", False),
        ("1.1", b"closed", True),
        ("1.0", None, False),
        ("1.0", b"keep-alive", True),
        ("1.0", b"Keep-Alive", True),
        ("1.0", b"close, keep-alive", False),
    ],
)
def test_a_connection_stays_as_the_version_and_the_client_say(
    version: str, connection: bytes | None, *, keep_alive: bool
) -> None:
    """1.1 stays unless told otherwise, 1.0 goes unless asked to stay."""
    pairs = [] if connection is None else [(b"Connection", connection)]
    assert check(b"/", *pairs, version=version).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("method", "version", "connection", "upgrade", "websocket"),
    [
        (b"GET", "1.1", b"Upgrade", b"websocket", True),
        (b"GET", "1.1", b"keep-alive, Upgrade", b"WebSocket", True),
        (b"POST", "1.1", b"Upgrade", b"websocket", False),
        (b"HEAD", "1.1", b"Upgrade", b"websocket", False),
        (b"GET", "1.0", b"Upgrade", b"websocket", False),
        (b"GET", "1.1", b"keep-alive", b"websocket", False),
        (b"GET", "1.1", b"Upgrade", b"h2c", False),
        (b"GET", "1.1", b"Upgrade", b"websocket, h2c", False),
        (b"GET", "1.1", b"Upgrades", b"websocket", False),
    ],
)
def test_a_websocket_is_asked_for_by_all_its_signs(
    method: bytes, version: str, connection: bytes, upgrade: bytes, *, websocket: bool
) -> None:
    """GET, 1.1, and both headers; anything less is a request like any other."""
    head = check(b"/stream", (b"Connection", connection), (b"Upgrade", upgrade), method=method, version=version)
    assert head.websocket is websocket
