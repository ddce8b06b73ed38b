"""Header blocks of NATS messages: decoded leniently, encoded so that nothing can break out of them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.nats_wire import Headers, WireError, read_headers, write_headers


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"NATS/1.0\r\n\r\n", Headers(None, "", {})),
        (b"NATS/1.0 404 No Messages\r\n\r\n", Headers(404, "No Messages", {})),
        (b"NATS/1.0 503\r\n\r\n", Headers(503, "", {})),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\n\r\n",
            Headers(100, "Idle Heartbeat", {"nats-last-consumer": "5"}),
        ),
        (b"NATS/1.0\r\nA: 1\r\nb:2\r\nC :  3 \r\n\r\n", Headers(None, "", {"a": "1", "b": "2", "c": "3"})),
        (b"NATS/1.0\r\nA: 1\r\na: 2\r\n\r\n", Headers(None, "", {"a": "2"})),
        (b"NATS/1.0\r\nUrl: http://x:1/\r\n\r\n", Headers(None, "", {"url": "http://x:1/"})),
        (b"NATS/1.0\r\nno colon\r\nA: 1\r\n\r\n", Headers(None, "", {"a": "1"})),
        (b"NATS/1.0\r\nA: \xff\r\n\r\n", Headers(None, "", {"a": "\ufffd"})),
        (b"NATS/1.0 x 404\r\n\r\n", Headers(None, "404", {})),
        ("NATS/1.0 ²\r\n\r\n".encode(), Headers(None, "", {})),
        (b"NATS/1.0 " + b"9" * 5000 + b"\r\n\r\n", Headers(None, "", {})),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_block_is_decoded(block: bytes, headers: Headers) -> None:
    """Status, description and fields of each block; a status that is no number is none."""
    assert read_headers(block) == headers


@pytest.mark.parametrize("block", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"nats/1.0\r\n\r\n", b"\xff\xfe"], ids=repr)
def test_what_is_no_header_block_is_refused(block: bytes) -> None:
    """A block must begin with the protocol's own words."""
    with pytest.raises(WireError):
        read_headers(block)


@given(st.binary(max_size=60))
def test_any_block_is_headers_or_the_wires_error(tail: bytes) -> None:
    """Headers come from whoever may publish: they never raise anything else."""
    read_headers(b"NATS/1.0" + tail)
    with contextlib.suppress(WireError):
        read_headers(tail)


names = st.text("ABCXYZabcxyz0189-_", min_size=1, max_size=16)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FFF), max_size=30)


@given(st.dictionaries(names, values, max_size=5))
def test_what_is_written_is_read_again_or_refused(fields: dict[str, str]) -> None:
    """A block that can be written says exactly its fields; what would break it raises."""
    try:
        block = write_headers(fields)
    except ValueError:
        assert any(not value.isprintable() for value in fields.values())
        return
    assert block.endswith(b"\r\n\r\n")
    assert block.count(b"\r\n") == len(fields) + 2
    headers = read_headers(block)
    assert headers.status is None
    assert headers.fields == {name.lower(): value.strip() for name, value in fields.items()}


@pytest.mark.parametrize(
    ("name", "value"),
    [("A", "1\r\nB: 2"), ("A\r\nB", "1"), ("A:B", "1"), ("A", "1\n"), ("A", "\x00"), ("A", "\x7f"), ("A", "\u2028")],
    ids=repr,
)
def test_nothing_breaks_out_of_a_block(name: str, value: str) -> None:
    """Names and values from outside cannot add a header or end the block."""
    with pytest.raises(ValueError, match="not a header"):
        write_headers({name: value})
