"""The codec of the NATS client protocol: whole, byte by byte, cut at random, with trailing bytes, and broken."""

import itertools

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.nats_wire import (
    MAX_LINE_BYTES,
    MAX_MESSAGE_BYTES,
    PING,
    PONG,
    Event,
    Info,
    Message,
    Parser,
    Ping,
    Pong,
    ServerError,
    WireError,
    write_connect,
    write_publish,
    write_subscribe,
    write_unsubscribe,
)

CONVERSATION = (
    b'INFO {"server_id":"X","max_payload":1048576,"headers":true}\r\n'
    b"PING\r\n"
    b"MSG in.1 7 5\r\nhello\r\n"
    b"+OK\r\n"
    b"MSG in.2 7 $JS.ACK.s.c.1.2.3.4.5 0\r\n\r\n"
    b"HMSG in.3 8 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    b"HMSG in.4 8 reply.to 12 17\r\nNATS/1.0\r\n\r\n\r\n\r\nX\r\n"
    b"MSG in.5 9 12\r\nPING\r\nMSG \r\n\r\n"
    b"-ERR 'Authorization Violation'\r\n"
    b"PONG\r\n"
)
EVENTS: list[Event] = [
    Info({"server_id": "X", "max_payload": 1048576, "headers": True}),
    Ping(),
    Message(7, "in.1", "", b"", b"hello"),
    Message(7, "in.2", "$JS.ACK.s.c.1.2.3.4.5", b"", b""),
    Message(8, "in.3", "", b"NATS/1.0\r\n\r\n", b""),
    Message(8, "in.4", "reply.to", b"NATS/1.0\r\n\r\n", b"\r\n\r\nX"),
    Message(9, "in.5", "", b"", b"PING\r\nMSG \r\n"),
    ServerError("Authorization Violation"),
    Pong(),
]


def parse(*pieces: bytes) -> list[Event]:
    """Every event that a fresh parser finds in these pieces."""
    parser = Parser()
    return [event for piece in pieces for event in parser.feed(piece)]


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces that end at these places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def test_a_conversation_fed_whole_gives_its_events() -> None:
    """Every kind of event comes out of one piece, and what stands inside a payload is not a command."""
    assert parse(CONVERSATION) == EVENTS


def test_a_conversation_fed_byte_by_byte_gives_the_same_events() -> None:
    """No cut changes what is said, and each event comes out with its last byte, not later."""
    parser = Parser()
    found: list[Event] = []
    for code in CONVERSATION:
        found += parser.feed(bytes([code]))
    assert found == EVENTS
    assert len(parse(CONVERSATION[:-1])) == len(EVENTS) - 1


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=12))
def test_any_cut_gives_the_same_events(places: list[int]) -> None:
    """Where the network cuts the stream means nothing."""
    assert parse(*cut_at(CONVERSATION, places)) == EVENTS


messages = st.builds(
    Message,
    st.integers(1, 2**40),
    st.text("abcXYZ019._-$", min_size=1, max_size=20),
    st.text("abc.$", max_size=20),
    st.sampled_from([b"", b"NATS/1.0\r\n\r\n", b"NATS/1.0 404 No Messages\r\n\r\n"]),
    st.binary(max_size=64) | st.sampled_from([b"\r\n", b"PING\r\n", b"MSG a 1 9\r\n"]),
)


@given(st.lists(messages, max_size=6), st.lists(st.integers(0, 4096), max_size=6), st.binary(max_size=8))
@example([Message(1, "a", "", b"", b"\r\n")], [0, 1, 2, 9, 10, 11], b"MS")
def test_messages_of_any_content_survive_any_cut(sent: list[Message], places: list[int], rest: bytes) -> None:
    """Payloads may hold anything, line ends and commands included, and bytes that follow disturb nothing."""
    rest = rest.replace(b"\n", b"")  # not a whole line: only the beginning of one
    parts: list[bytes] = []
    for one in sent:
        words = f"{one.subject} {one.sid} {one.reply}".strip()
        total = len(one.header) + len(one.payload)
        line = f"HMSG {words} {len(one.header)} {total}" if one.header else f"MSG {words} {total}"
        parts.append(line.encode() + b"\r\n" + one.header + one.payload + b"\r\n")
    assert parse(*cut_at(b"".join(parts) + rest, places)) == sent


def test_trailing_bytes_wait_for_their_end() -> None:
    """The beginning of a next message is kept, not lost and not reported."""
    parser = Parser()
    assert parser.feed(b"PING\r\nMSG a 1 3\r\nab") == [Ping()]
    assert parser.feed(b"") == []
    assert parser.feed(b"c") == []
    assert parser.feed(b"\r") == []
    assert parser.feed(b"\nPONG\r\n") == [Message(1, "a", "", b"", b"abc"), Pong()]


def test_a_long_payload_in_many_pieces_is_joined_once() -> None:
    """A payload of some MiB in small pieces is whole at the end; its pieces are not joined again and again."""
    payload = bytes(range(256)) * 16 * 1024
    data = b"MSG a 1 %d\r\n" % len(payload) + payload + b"\r\nPING\r\n"
    parser = Parser()
    found: list[Event] = []
    for start in range(0, len(data), 1000):
        found += parser.feed(data[start : start + 1000])
    assert found == [Message(1, "a", "", b"", payload), Ping()]


BROKEN = {
    "an unknown word": b"HELLO\r\n",
    "an empty line": b"\r\n",
    "a command in lower case": b"ping\r\n",
    "words after PING": b"PING now\r\n",
    "no numbers": b"MSG\r\n",
    "no length": b"MSG a 1\r\n",
    "a length that is no number": b"MSG a 1 x\r\n",
    "a negative length": b"MSG a 1 -1\r\nx\r\n",
    "a subscription that is no number": b"MSG a b 1\r\nx\r\n",
    "one field too many": b"MSG a 1 r more 1\r\nx\r\n",
    "a payload longer than said": b"MSG a 1 1\r\nxy\r\n",
    "a payload that ends in a bare line feed": b"MSG a 1 1\r\nx\nPING\r\n",
    "a header longer than the message": b"HMSG a 1 5 4\r\nabcd\r\n",
    "a header of negative length": b"HMSG a 1 -1 4\r\nabcd\r\n",
    "HMSG with one length": b"HMSG a 1 4\r\nabcd\r\n",
    "a length beyond what a server may send": b"MSG a 1 %d\r\n" % (MAX_MESSAGE_BYTES + 1),
    "a length of thousands of digits": b"MSG a 1 " + b"9" * 5000 + b"\r\n",
    "a subject that is not UTF-8": b"MSG \xff 1 1\r\nx\r\n",
    "INFO that is not JSON": b"INFO {\r\n",
    "INFO that is not an object": b"INFO []\r\n",
    "INFO without a value": b"INFO \r\n",
    "an endless control line": b"x" * (MAX_LINE_BYTES + 1),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_not_the_protocol_is_refused(data: bytes) -> None:
    """A broken stream raises, fed whole or byte by byte, also after something good."""
    for pieces in (
        [data],
        [b"PING\r\n" + data],
        [data[at : at + 1] for at in range(min(len(data), 300))] + [data[300:]],
    ):
        with pytest.raises(WireError):
            parse(*pieces)


def test_the_longest_control_line_is_taken() -> None:
    """The limit of a control line is a limit, not one less."""
    text = "x" * (MAX_LINE_BYTES - len('INFO {"a":""}'))
    line = b"INFO " + orjson.dumps({"a": text})
    assert len(line) == MAX_LINE_BYTES
    assert parse(line, b"\r\n") == [Info({"a": text})]


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"MSG ", b"HMSG ", b"a 1 3", b"\r\n", b"INFO ", b"{}"])))
def test_no_bytes_raise_anything_but_the_wires_error(pieces: list[bytes]) -> None:
    """Whatever comes, it is events or `WireError`: nothing else may reach the reader's task."""
    parser = Parser()
    try:
        for piece in pieces:
            parser.feed(piece)
    except WireError:
        pass


def test_info_says_the_longest_message() -> None:
    """`max_payload` is what the server says, and NATS's own default where it says nothing usable."""
    assert Info({"max_payload": 4096}).max_payload_bytes == 4096
    for fields in ({}, {"max_payload": "4096"}, {"max_payload": None}):
        assert Info(dict(fields)).max_payload_bytes == 1024 * 1024


def test_commands_are_written_as_the_server_reads_them() -> None:
    """Each command's bytes, exactly."""
    assert write_publish("a.b", b"xy") == b"PUB a.b 2\r\nxy\r\n"
    assert write_publish("a.b", b"", "in.1") == b"PUB a.b in.1 0\r\n\r\n"
    header = b"NATS/1.0\r\n\r\n"
    assert write_publish("a", b"xy", "", header) == b"HPUB a 12 14\r\n" + header + b"xy\r\n"
    assert write_publish("a", "é".encode(), "r", header) == b"HPUB a r 12 14\r\n" + header + "é".encode() + b"\r\n"
    assert write_subscribe("in.*", 3) == b"SUB in.* 3\r\n"
    assert write_unsubscribe(3) == b"UNSUB 3\r\n"
    assert (PING, PONG) == (b"PING\r\n", b"PONG\r\n")


def test_connect_asks_for_headers_and_no_echo() -> None:
    """CONNECT is one line of JSON that turns on what the driver relies on, and carries the credentials."""
    line = write_connect("me", {"user": "u", "pass": 'p"\r\nPUB x 0'})
    assert line.startswith(b"CONNECT {")
    assert line.count(b"\r\n") == 1
    fields = orjson.loads(line[len(b"CONNECT ") :])
    assert {name: fields[name] for name in ("verbose", "pedantic", "headers", "no_responders", "echo")} == {
        "verbose": False,
        "pedantic": False,
        "headers": True,
        "no_responders": True,
        "echo": False,
    }
    assert (fields["name"], fields["user"], fields["pass"]) == ("me", "u", 'p"\r\nPUB x 0')
