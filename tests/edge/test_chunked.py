"""The chunked coding: decoded strictly, in any cut, and what follows the body is kept."""

import itertools
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.chunked import ChunkedDecoder
from engine.errors import Refused

LIMIT = 4096

Result = tuple[str, bytes, bytes]


def decode(*pieces: bytes, limit: int = LIMIT) -> Result:
    """Feed these pieces: `complete` with content and rest, `more`, or the code of the refusal."""
    decoder = ChunkedDecoder(limit)
    try:
        for piece in pieces:
            decoder.feed(piece)
    except Refused as refusal:
        return refusal.kind.code, b"", b""
    if decoder.is_complete:
        return "complete", decoder.content(), decoder.rest()
    return "more", b"", b""


def one_by_one(data: bytes) -> list[bytes]:
    """Every byte by itself."""
    return [data[at : at + 1] for at in range(len(data))]


GOOD: dict[bytes, bytes] = {
    b"0\r\n\r\n": b"",
    b"000\r\n\r\n": b"",
    b"5\r\nhello\r\n0\r\n\r\n": b"hello",
    b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n": b"hello!",
    b"a\r\n0123456789\r\n0\r\n\r\n": b"0123456789",
    b"A\r\n0123456789\r\n0\r\n\r\n": b"0123456789",
    b"00005\r\nhello\r\n0\r\n\r\n": b"hello",
    b"2\r\n\r\n\r\n0\r\n\r\n": b"\r\n",
    b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n": b"0\r\n\r\n\r\n",
    b"5;name=value\r\nhello\r\n0;last\r\n\r\n": b"hello",
    b'5;a="b;c"\r\nhello\r\n0\r\n\r\n': b"hello",
    b"5 \t;x\r\nhello\r\n0\r\n\r\n": b"hello",
    b"5\r\nhello\r\n0\r\nA: 1\r\nB: 2\r\n\r\n": b"hello",
    b"5;" + b"x" * 250 + b"\r\nhello\r\n0\r\n\r\n": b"hello",
    b"1\r\nx\r\n0\r\nA: " + b"1" * 3000 + b"\r\n\r\n": b"x",
}


@pytest.mark.parametrize(("data", "content"), GOOD.items(), ids=lambda value: repr(value)[:40])
def test_a_good_body_is_decoded_whole_and_byte_by_byte(data: bytes, content: bytes) -> None:
    """Sizes in any case, extensions and trailers passed over, line ends in the content kept."""
    for rest in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n"):
        assert decode(data + rest) == ("complete", content, rest)
    assert decode(*one_by_one(data)) == ("complete", content, b"")


@pytest.mark.parametrize("data", GOOD, ids=lambda value: repr(value)[:40])
def test_a_body_is_complete_with_its_last_byte_and_not_before(data: bytes) -> None:
    """Every prefix is waited for."""
    for end in {*range(min(len(data), 40)), len(data) - 3, len(data) - 2, len(data) - 1}:
        assert decode(data[:end])[0] == "more"


BAD = [
    b"\r\n",
    b"\r\n\r\n",
    b";x\r\n",
    b" 5\r\nhello",
    b"x\r\n",
    b"5x\r\nhello",
    b"0x5\r\nhello",
    b"+5\r\nhello",
    b"-1\r\n",
    b"5 5\r\nhello",
    b"5_0\r\n",
    b"\xb2\r\n",
    b"1.0\r\n",
    b"5\nhello",
    b"5\rhello\r\n",
    b"5\n\r\nhello",
    b"5;a\nb\r\nhello",
    b"5;a\rb\r\nhello",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\rX0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"0\r\nA: 1\n\r\n",
    b"0\n\n",
    b"0\r\n\n",
    b"f" * 16 + b"\r\n",
    b"0" * 300 + b"\r\n",
    b"5;" + b"x" * 300 + b"\r\nhello\r\n0\r\n\r\n",
    b"0\r\nA: " + b"1" * 5000 + b"\r\n\r\n",
    b"0\r\n" + b"A: 1\r\n" * 2000 + b"\r\n",
]


@pytest.mark.parametrize("data", BAD, ids=lambda value: repr(value)[:40])
def test_a_broken_body_is_refused_whole_and_byte_by_byte(data: bytes) -> None:
    """Whatever another server would read otherwise ends here, however it is cut."""
    assert decode(data)[0] == "request.malformed"
    assert decode(*one_by_one(data))[0] == "request.malformed"


def test_the_content_is_bounded_before_it_is_read() -> None:
    """A chunk that would pass the limit is refused by its size line, whatever came before it."""
    full = b"a" * LIMIT
    assert decode(b"1000\r\n" + full + b"\r\n0\r\n\r\n") == ("complete", full, b"")
    assert decode(b"1001\r\n")[0] == "request.too-large"
    assert decode(b"1000\r\n" + full + b"\r\n1\r\n")[0] == "request.too-large"
    assert decode(b"f" * 15 + b"\r\n")[0] == "request.too-large"
    assert decode(b"1\r\n", limit=0)[0] == "request.too-large"


def test_nothing_is_held_that_is_not_content() -> None:
    """A sender of endless extensions, zeros or trailers is cut before it costs memory."""
    for start, more in ((b"", b"0" * 64), (b"5;", b"x" * 64), (b"0\r\n", b"A: 1\r\n" * 16), (b"0\r\n", b"x" * 64)):
        decoder = ChunkedDecoder(LIMIT)
        decoder.feed(start)
        with pytest.raises(Refused):  # noqa: PT012  # at one of them
            for _ in range(1000):
                decoder.feed(more)
        assert len(decoder.rest()) < 8192


@st.composite
def encoded(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body, and one of the ways to send it."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    size: Callable[[int], bytes] = draw(
        st.sampled_from([lambda n: b"%x" % n, lambda n: b"%X" % n, lambda n: b"%04x" % n])
    )
    extension = draw(st.sampled_from([b"", b"", b";x", b" ;a=b", b';a="b"']))
    trailers = draw(st.sampled_from([b"", b"", b"A: 1\r\n", b"A: 1\r\nB:\r\n"]))
    parts = [size(len(chunk)) + extension + b"\r\n" + chunk + b"\r\n" for chunk in chunks]
    return b"".join(chunks), b"".join(parts) + b"0" + extension + b"\r\n" + trailers + b"\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces that end at these places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(encoded(), st.lists(st.integers(0, 400), max_size=8), st.binary(max_size=10))
def test_what_any_encoder_sends_is_decoded_in_any_cut(
    body: tuple[bytes, bytes], places: list[int], rest: bytes
) -> None:
    """The content is the same for every spelling and every cut, and what follows is the next request's."""
    content, data = body
    assert decode(*cut(data + rest, places)) == ("complete", content, rest)


tokens = st.sampled_from(
    [b"0", b"5", b"a", b"\r\n", b"\r", b"\n", b";", b"x", b" ", b"hello", b"hello\r\n0\r\n\r\n", b"A: 1"]
)


@given(st.lists(tokens, max_size=12).map(b"".join), st.lists(st.integers(0, 60), max_size=6))
@example(b"0\r\nA: 1\nB: 2\r\n\r\n", [5, 8, 9])
@example(b"5\r\nhello\r\n0\r\n\n\r\n\r\n", [12, 13, 14])
def test_no_cut_changes_what_is_taken_or_refused(data: bytes, places: list[int]) -> None:
    """Whether a body is good depends on its bytes alone, not on how the network cut them."""
    whole = decode(data)
    assert decode(*one_by_one(data)) == whole
    assert decode(*cut(data, places)) == whole


def test_a_body_takes_its_own_size_however_small_its_chunks_are() -> None:
    """A quarter of a million chunks of two bytes cost little more than their half a MiB: nothing is kept of each."""
    decoder = ChunkedDecoder(1 << 20)
    piece = b"2\r\nab\r\n" * 1024
    tracemalloc.start()
    try:
        for _ in range(256):
            decoder.feed(piece)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    decoder.feed(b"0\r\n\r\n")
    assert decoder.content() == b"ab" * (256 * 1024)
    assert held < 2 << 20, f"{held >> 10} KiB for half a MiB"
