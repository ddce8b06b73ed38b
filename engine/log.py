"""What the log says, as values: outcomes of a publish, deliveries of a pull, verdicts about them.

Rules of the file:
- Stored is said only for what the stream acknowledged; everything else is not stored, or ambiguous.
- Bytes in, values out; no I/O. `engine/jetstream.py` carries them.

Source: the client protocol facts E2 and E3.
"""

from base64 import b64decode
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import orjson

from engine import nats_wire
from engine.nats_wire import Message
from engine.positions import Position
from engine.trace import TRACE_HEADER, read_traces

DUPLICATE_IN_BATCH: Final = 10201
"""Error code: an atomic batch holds a message id that is already stored."""
EVENTS_HEADER: Final = "Headgate-Events"
"""How many events a frame holds; a message with this header was validated by a gateway."""
DIGEST_HEADER: Final = "Headgate-Digest"
"""xxh3_128 of the events' bytes of a frame that has a message id."""


class Stored(NamedTuple):
    """The stream has it.

    Args:
        stream: the stream's name.
        sequence: its position there, of the last message where there were several.
        duplicate: the same message id had stored it before.
    """

    stream: str
    sequence: int
    duplicate: bool


class NotStored(NamedTuple):
    """The stream does not have it.

    Args:
        code: JetStream's error code, 0 when it never left this process, 503 when no stream listens.
        reason: for a person.
    """

    code: int
    reason: str


class Ambiguous(NamedTuple):
    """It may or may not be stored.

    Args:
        reason: for a person.
    """

    reason: str


Outcome = Stored | NotStored | Ambiguous


class Lost(Enum):
    """Why a request will never have an answer."""

    UNSENT = "unsent"
    """Its bytes never left: it did not happen."""
    LOST = "lost"
    """Its bytes may have arrived: it may have happened."""


Reply = Message | Lost


class Verdict(Enum):
    """What to tell the log about a delivery; the value is what goes over the wire."""

    ACK = b"+ACK"
    NAK = b"-NAK"
    PROGRESS = b"+WPI"
    TERM = b"+TERM"


class Delivery(NamedTuple):
    """One message in a consumer's hands.

    Args:
        reply: where its verdict goes.
        payload: its bytes.
        is_frame: a gateway validated it, so the bytes are `{"events":[…]}`.
        sequence: its position in the stream.
        delivered: how often it was delivered, this time included.
        traces: of the requests whose events it holds, where they asked for it.
    """

    reply: str
    payload: bytes
    is_frame: bool
    sequence: int
    delivered: int
    traces: tuple[str, ...] = ()


class PullStatus(NamedTuple):
    """The end of a pull: 404 nothing there, 408 expired, 409 a limit or a deleted consumer, 503 no consumer."""

    status: int
    description: str


def read_outcome(reply: Reply) -> Outcome:
    """Turn the answer to a publish into its outcome."""
    if isinstance(reply, Lost):
        if reply is Lost.UNSENT:
            return NotStored(0, "the log is not connected")
        return Ambiguous("the connection to the log broke before it answered")
    try:
        headers = nats_wire.read_headers(reply.header) if reply.header else None
        if headers is not None and headers.status is not None:
            return NotStored(headers.status, headers.description or "no stream takes this subject")
        fields = orjson.loads(reply.payload)
        error = fields.get("error")
        if error is not None:
            return NotStored(int(error.get("err_code", 0)), str(error.get("description", "")))
        return Stored(str(fields["stream"]), int(fields["seq"]), bool(fields.get("duplicate", False)))
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError, nats_wire.WireError):
        return Ambiguous(f"the log's answer is not a publish acknowledgement: {reply.payload[:80]!r}")


def read_delivery(message: Message) -> Delivery | PullStatus | None:
    """Turn a message of a pull's inbox into a delivery or the pull's end; None for a heartbeat.

    Raises:
        WireError: it is neither.
    """
    is_frame = False
    traces: tuple[str, ...] = ()
    if message.header:
        headers = nats_wire.read_headers(message.header)
        if headers.status is not None:
            return None if headers.status == 100 else PullStatus(headers.status, headers.description)
        is_frame = EVENTS_HEADER.lower() in headers.fields
        field = headers.fields.get(TRACE_HEADER)
        traces = read_traces(field) if field is not None else ()
    tokens = message.reply.split(".")
    if len(tokens) < 9 or tokens[1] != "ACK":
        raise nats_wire.WireError(f"a delivery without an acknowledgement subject: {message.reply!r}")
    at = 4 if len(tokens) == 9 else 6  # since server 2.14 a domain and an account stand before the stream
    if not (tokens[at].isdecimal() and tokens[at + 1].isdecimal()):
        raise nats_wire.WireError(f"not an acknowledgement subject: {message.reply!r}")
    return Delivery(message.reply, message.payload, is_frame, int(tokens[at + 1]), int(tokens[at]), traces)


class StoredMessage(NamedTuple):
    """One message as it lies in a stream.

    Args:
        subject: where it was published.
        sequence: its position.
        time: when it was stored, RFC 3339.
        fields: its own header fields, names in lower case; what the log added is left out.
        payload: its bytes.
    """

    subject: str
    sequence: int
    time: str
    fields: dict[str, str]
    payload: bytes


def read_direct(message: Message) -> StoredMessage | None:
    """Turn the answer to a direct read into the message; None when there is none.

    Raises:
        WireError: it is no such answer.
    """
    headers = nats_wire.read_headers(message.header) if message.header else None
    if headers is None or headers.status is not None:
        return None
    fields = headers.fields
    own = {name: text for name, text in fields.items() if not name.startswith("nats-")}
    try:
        return StoredMessage(
            fields["nats-subject"], int(fields["nats-sequence"]), fields["nats-time-stamp"], own, message.payload
        )
    except (KeyError, ValueError) as problem:
        raise nats_wire.WireError(f"not a stored message: {problem}") from problem


def read_stored(answer: bytes) -> StoredMessage | None:
    """Turn the answer to `STREAM.MSG.GET` into the message; None when there is none.

    Raises:
        WireError: it is no such answer.
    """
    try:
        fields = orjson.loads(answer)
        if "error" in fields:
            return None
        one = fields["message"]
        header = b64decode(one.get("hdrs", ""))
        read = nats_wire.read_headers(header).fields if header else {}
        own = {name: text for name, text in read.items() if not name.startswith("nats-")}
        return StoredMessage(
            str(one["subject"]), int(one["seq"]), str(one["time"]), own, b64decode(one.get("data", ""))
        )
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as problem:
        raise nats_wire.WireError(f"not a stored message: {problem}") from problem


def published_ns(reply: str) -> int:
    """Give when a delivery was stored, nanoseconds since 1970, from its reply subject; 0 when it does not say."""
    tokens = reply.split(".")
    at = 7 if len(tokens) == 9 else 9
    return int(tokens[at]) if len(tokens) > at and tokens[at].isdecimal() else 0


def consumer_sequence(reply: str) -> int:
    """Give which delivery of its consumer this is, counted from 1, from its reply subject; 0 when it does not say."""
    tokens = reply.split(".")
    at = 6 if len(tokens) == 9 else 8
    return int(tokens[at]) if len(tokens) > at and tokens[at].isdecimal() else 0


def pending_after(reply: str) -> int:
    """Give how many messages its consumer had left after a delivery, from its reply subject; 0 when it does not say."""
    tokens = reply.split(".")
    at = 8 if len(tokens) == 9 else 10
    return int(tokens[at]) if len(tokens) > at and tokens[at].isdecimal() else 0


def is_heard(answer: Reply) -> bool:
    """Say that an answer to a verdict means that a consumer heard it."""
    if not isinstance(answer, Message):
        return False
    if answer.header and nats_wire.read_headers(answer.header).status is not None:
        return False  # 503: nobody listens any more
    return not answer.payload.startswith(b"-ERR")


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What to ask a consumer for.

    Args:
        count: at most so many messages.
        most_bytes: at most so many bytes, the server's count with subjects and headers; 0 means no limit.
        expires_s: how long to wait for messages; 0 means answer with what is there now.
    """

    count: int
    most_bytes: int = 0
    expires_s: float = 0.0

    def encode(self) -> bytes:
        """Give the JSON body of `CONSUMER.MSG.NEXT`."""
        fields: dict[str, object] = {"batch": self.count}
        if self.most_bytes:
            fields["max_bytes"] = self.most_bytes
        if self.expires_s:
            fields["expires"] = int(self.expires_s * 1e9)
        else:
            fields["no_wait"] = True
        return orjson.dumps(fields)


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What the stream is.

    Args:
        name: the stream.
        atomic: takes atomic batches.
        replicas: how many servers keep it.
    """

    name: str
    atomic: bool
    replicas: int


@dataclass(frozen=True, slots=True)
class ConsumerPlan:
    """How a consumer is to be made where there is none.

    Args:
        name: its name, a token.
        subject: what it hears.
        ack_wait_s: lease of a delivery.
        start: where it begins.
        filter: event types, as in the query; kept with the consumer so that all its agents have the same.
        forgets_after_s: it is deleted after so long without an agent; None for a durable.
    """

    name: str
    subject: str
    ack_wait_s: float
    start: Position
    filter: str = ""
    forgets_after_s: float | None = None
