"""What the log's answers mean: outcomes of a publish, messages of a pull, and what a pull asks."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.log import (
    Ambiguous,
    Delivery,
    Lost,
    NotStored,
    Outcome,
    PullRequest,
    PullStatus,
    Stored,
    Verdict,
    read_delivery,
    read_outcome,
)
from engine.nats_wire import Message, WireError

BARE = b"NATS/1.0\r\n\r\n"
FRAME = b"NATS/1.0\r\nHeadgate-Events: 2\r\n\r\n"


def reply_of(payload: bytes, header: bytes = b"") -> Message:
    """An answer to a publish."""
    return Message(1, "_INBOX.x.1", "", header, payload)


OUTCOMES: dict[str, tuple[Message | Lost, Outcome]] = {
    "stored": (reply_of(b'{"stream":"S","seq":7}'), Stored("S", 7, False)),
    "stored with a header block": (reply_of(b'{"stream":"S","seq":7}', BARE), Stored("S", 7, False)),
    "stored before": (reply_of(b'{"stream":"S","seq":7,"duplicate":true}'), Stored("S", 7, True)),
    "a batch": (reply_of(b'{"stream":"S","seq":9,"batch":"b","count":3}'), Stored("S", 9, False)),
    "refused": (
        reply_of(b'{"error":{"code":400,"err_code":10201,"description":"duplicate"},"stream":"S","seq":0}'),
        NotStored(10201, "duplicate"),
    ),
    "refused without a code": (reply_of(b'{"error":{}}'), NotStored(0, "")),
    "no responders": (
        reply_of(b"", b"NATS/1.0 503\r\n\r\n"),
        NotStored(503, "no stream takes this subject"),
    ),
    "a status with words": (reply_of(b"", b"NATS/1.0 400 Bad\r\n\r\n"), NotStored(400, "Bad")),
    "never left": (Lost.UNSENT, NotStored(0, "the log is not connected")),
    "lost": (Lost.LOST, Ambiguous("the connection to the log broke before it answered")),
}


@pytest.mark.parametrize(("reply", "outcome"), OUTCOMES.values(), ids=OUTCOMES.keys())
def test_an_answer_is_an_outcome(reply: Message | Lost, outcome: Outcome) -> None:
    """Stored is said only for an acknowledgement; refused and never sent are not stored; a broken wait is unknown."""
    assert read_outcome(reply) == outcome


UNREADABLE = [
    b"",
    b"+OK",
    b"{",
    b"[]",
    b"7",
    b"null",
    b"{}",
    b'{"stream":"S"}',
    b'{"seq":7}',
    b'{"stream":"S","seq":"x"}',
    b'{"stream":"S","seq":null}',
    b'{"error":"text"}',
    b'{"error":{"err_code":"x"}}',
    b'{"error":{"err_code":null}}',
    b'{"error":[]}',
    b"\xff",
]


@pytest.mark.parametrize("payload", UNREADABLE, ids=repr)
def test_an_answer_that_cannot_be_read_is_ambiguous(payload: bytes) -> None:
    """Whoever answers nonsense may still have stored the message: neither stored nor not stored is claimed."""
    assert isinstance(read_outcome(reply_of(payload)), Ambiguous)


@given(st.binary(max_size=40))
def test_any_answer_is_an_outcome(payload: bytes) -> None:
    """No answer raises in the reader's task."""
    read_outcome(reply_of(payload))
    assert isinstance(read_outcome(reply_of(b'{"stream":"S","seq":7}', b"?" + payload)), Ambiguous)


def delivery_of(reply: str, header: bytes = b"", payload: bytes = b"{}") -> Message:
    """A message of a pull's inbox."""
    return Message(5, "_INBOX.x-5", reply, header, payload)


OLD_ACK = "$JS.ACK.S.C.3.41.7.1700000000000000000.0"
NEW_ACK = "$JS.ACK.domain.account.S.C.3.41.7.1700000000000000000.0"
NEWER_ACK = NEW_ACK + ".token"

DELIVERIES: dict[str, tuple[Message, Delivery | PullStatus | None]] = {
    "nine tokens": (delivery_of(OLD_ACK), Delivery(OLD_ACK, b"{}", False, 41, 3)),
    "eleven tokens": (delivery_of(NEW_ACK), Delivery(NEW_ACK, b"{}", False, 41, 3)),
    "twelve tokens": (delivery_of(NEWER_ACK), Delivery(NEWER_ACK, b"{}", False, 41, 3)),
    "a frame": (delivery_of(OLD_ACK, FRAME), Delivery(OLD_ACK, b"{}", True, 41, 3)),
    "headers of somebody else": (
        delivery_of(OLD_ACK, b"NATS/1.0\r\nA: 1\r\n\r\n"),
        Delivery(OLD_ACK, b"{}", False, 41, 3),
    ),
    "a heartbeat": (delivery_of("", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", b""), None),
    "nothing there": (delivery_of("", b"NATS/1.0 404 No Messages\r\n\r\n", b""), PullStatus(404, "No Messages")),
    "expired": (delivery_of("", b"NATS/1.0 408 Request Timeout\r\n\r\n", b""), PullStatus(408, "Request Timeout")),
    "a limit": (
        delivery_of("", b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\n\r\n", b""),
        PullStatus(409, "Message Size Exceeds MaxBytes"),
    ),
    "nobody": (delivery_of("", b"NATS/1.0 503\r\n\r\n", b""), PullStatus(503, "")),
}


@pytest.mark.parametrize(("message", "item"), DELIVERIES.values(), ids=DELIVERIES.keys())
def test_a_message_of_a_pull_is_a_delivery_or_its_end(message: Message, item: Delivery | PullStatus | None) -> None:
    """Sequence and count of deliveries stand in the acknowledgement's subject, old form and new."""
    assert read_delivery(message) == item


NOT_A_DELIVERY = [
    delivery_of(""),
    delivery_of("somewhere"),
    delivery_of("$JS.ACK.S.C.3.41.7.17"),
    delivery_of("$JS.NAK.S.C.3.41.7.1700000000000000000.0"),
    delivery_of("$JS.ACK.S.C.x.y.7.1700000000000000000.0"),
    delivery_of("$JS.ACK.d.a.S.C...7.1700000000000000000.0"),
    delivery_of(OLD_ACK, b"not a header block"),
]


@pytest.mark.parametrize("message", NOT_A_DELIVERY, ids=lambda message: f"{message.reply}/{message.header!r}")
def test_what_is_not_the_logs_is_refused(message: Message) -> None:
    """Somebody who guesses an inbox gets no further than `WireError`."""
    with pytest.raises(WireError):
        read_delivery(message)


def test_a_pull_asks_exactly_what_it_says() -> None:
    """Without a time it is a sweep, with one a wait in nanoseconds; a limit in bytes only where one is set."""
    assert orjson.loads(PullRequest(5).encode()) == {"batch": 5, "no_wait": True}
    assert orjson.loads(PullRequest(5, 900).encode()) == {"batch": 5, "max_bytes": 900, "no_wait": True}
    assert orjson.loads(PullRequest(1, expires_s=1.5).encode()) == {"batch": 1, "expires": 1_500_000_000}


def test_verdicts_are_the_words_of_the_protocol() -> None:
    """Each verdict's value is what goes over the wire."""
    assert {one.name: one.value for one in Verdict} == {
        "ACK": b"+ACK",
        "NAK": b"-NAK",
        "PROGRESS": b"+WPI",
        "TERM": b"+TERM",
    }
