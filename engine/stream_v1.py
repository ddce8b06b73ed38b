"""The frames of `headgate.stream.v1`: what the gateway says, and what an agent's words mean.

Rules of the file:
- No clock, no I/O.
- A frame that a gateway validated is spliced in as bytes, never parsed again.
- A bad frame is data (`BadFrame`): it changes nothing, whatever it says.

What must change with it: the wire reference in the README, and `edge/client_*.py`, which reads these frames.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

import orjson

from engine.credit import BATCHES_LIMIT, CREDIT_LIMIT, Amount, Credit, Mode
from engine.errors import Refused
from engine.event_filter import EventFilter
from engine.leases import Held, LeaseTerms
from engine.log import Delivery, published_ns
from engine.positions import Position, parse_position
from engine.settle_words import BadFrame, Settle, Span, read_settle
from engine.stalls import CREDIT_FORMS
from engine.stream import BATCH_BYTES, DEFAULT_BATCH, foreign_data

PROTOCOL: Final = "headgate.stream.v1"
MOST_BATCH: Final = 1000
"""The most messages in one batch."""
LEAST_LEASE_S: Final = 0.1


class Options(NamedTuple):
    """What an agent asks for when it attaches.

    Args:
        subject: what it listens to.
        durable: the consumer's name, None for one that is gone with the socket.
        start: where a consumer that is made now begins.
        filter: the events it wants.
        batch: the most messages in one batch.
        is_exclusive: nobody else may hold the durable.
        max_lease_s: longest time it wants to hold a batch, None for the gateway's.
    """

    subject: str
    durable: str | None
    start: Position
    filter: EventFilter
    batch: int
    is_exclusive: bool
    max_lease_s: float | None


class Ready(NamedTuple):
    """A message as it is sent.

    Args:
        delivery: what came.
        data: its JSON, thinned by the filter.
        held: its lease.
    """

    delivery: Delivery
    data: bytes
    held: Held


class Grant(NamedTuple):
    """`credit`: so much more, or a window of the gateway's when it is None."""

    amount: Amount | None


class Gap(NamedTuple):
    """Messages that are gone before this consumer saw them, both ends included."""

    first: int
    last: int
    reason: str


class Facts(NamedTuple):
    """What the log says about a stream and a consumer.

    Args:
        stream: its name.
        epoch: when it was made; another epoch is another stream of the same name.
        first: sequence of its first message.
        last: of its last.
        pending: messages that the consumer has not delivered yet.
        ack_wait_s: the consumer's lease.
    """

    stream: str
    epoch: str
    first: int
    last: int
    pending: int
    ack_wait_s: float


Words = Grant | Settle | str
"""What an agent may say; a plain `str` is the type of a frame without members: `status` or `ping`."""


def read_options(parameters: Mapping[str, str]) -> Options:
    """Read the query of an attachment; names of subject and durable are checked by the actor.

    Raises:
        Refused: a parameter is missing or wrong.
    """
    if not parameters.get("subject"):
        raise Refused("request.bad-parameter", "subject: missing from the query")
    try:
        wanted = EventFilter(parameters.get("filter", ""))
    except ValueError as problem:
        raise _wrong("filter", str(problem), parameters["filter"]) from None
    durable = parameters.get("durable") or None
    exclusive = parameters.get("exclusive", "")
    if exclusive not in {"", "0", "1"}:
        raise _wrong("exclusive", "expected 0 or 1", exclusive)
    return Options(
        parameters["subject"],
        durable,
        parse_position(parameters.get("from") or ("all" if durable else "new")),
        wanted,
        _read_batch(parameters.get("batch") or str(DEFAULT_BATCH)),
        exclusive == "1",
        _read_lease(parameters["max_lease_s"]) if "max_lease_s" in parameters else None,
    )


def read_words(text: str | bytes) -> Words | BadFrame:
    """Read one frame of an agent."""
    try:
        words = orjson.loads(text)
    except (orjson.JSONDecodeError, ValueError):
        return BadFrame("stream.bad-frame", "this is not JSON; expected an object with a type")
    if not isinstance(words, dict) or not isinstance(words.get("type"), str):
        return BadFrame("stream.bad-frame", 'expected an object with a type, such as {"type":"credit","messages":100}')
    kind: str = words["type"]
    if kind == "settle":
        return read_settle(words)
    if kind == "credit":
        return _read_grant(words)
    if kind in {"status", "ping"}:
        return kind
    return BadFrame("stream.bad-frame", f"type {kind[:40]!r} is not known; expected credit, settle, status or ping")


def encode_events(batch: str, messages: list[Ready]) -> str:
    """Give the text frame of a batch."""
    parts = [
        b'{"index":%d,"seq":%d,"delivered":%d,"time":"%s",%b"data":%s}'
        % (
            index,
            one.delivery.sequence,
            one.delivery.delivered,
            moment(published_ns(one.delivery.reply)),
            b'"trace":%b,' % orjson.dumps(one.delivery.traces) if one.delivery.traces else b"",
            one.data,
        )
        for index, one in enumerate(messages)
    ]
    return (b'{"type":"events","batch":"%s","messages":[' % batch.encode() + b",".join(parts) + b"]}").decode()


def data_of(delivery: Delivery) -> bytes:
    """Give a delivery's JSON."""
    return delivery.payload if delivery.is_frame else foreign_data(delivery.payload)


def encode_settled(batch: str, confirmed: list[Span], late: list[Span], failed: list[Span]) -> str:
    """Give the answer to a settle frame that was to be confirmed."""
    fields: dict[str, object] = {"type": "settled", "batch": batch, "confirmed": confirmed, "late": late}
    if failed:
        fields["failed"] = failed
    return orjson.dumps(fields).decode()


def encode_lost(batch: str, spans: list[Span], reason: str) -> str:
    """Say that messages were taken back from the agent."""
    return orjson.dumps({"type": "lost", "batch": batch, "messages": spans, "reason": reason}).decode()


def encode_gap(gap: Gap) -> str:
    """Say that messages are gone."""
    return orjson.dumps({"type": "gap", "from": gap.first, "to": gap.last, "reason": gap.reason}).decode()


def encode_error(problem: BadFrame, *, is_fatal: bool) -> str:
    """Say what was wrong with a frame, or why the session ends."""
    fields: dict[str, object] = {
        "type": "error",
        "code": problem.code,
        "message": problem.message,
        "fatal": is_fatal,
    }
    if problem.batch:
        fields["batch"] = problem.batch
    return orjson.dumps(fields).decode()


def encode_hello(
    options: Options, facts: Facts, name: str, terms: LeaseTerms, credit: Credit, max_deliver: int | None, *, made: bool
) -> str:
    """Give the first frame of a session."""
    fields = {
        "type": "hello",
        "protocol": PROTOCOL,
        "stream": facts.stream,
        "subject": options.subject,
        "durable": options.durable,
        "consumer": name,
        "created": made,
        "filter": options.filter.text or None,
        "epoch": facts.epoch,
        "first_seq": facts.first,
        "last_seq": facts.last,
        "pending": facts.pending,
        "window": window_of(credit),
        "ack_wait_s": terms.ack_wait_s,
        "max_lease_s": terms.max_lease_s,
        "max_deliver": max_deliver,
        "limits": {
            "batch_messages": options.batch,
            "batch_bytes": BATCH_BYTES,
            "credit_messages": CREDIT_LIMIT.messages,
            "credit_bytes": CREDIT_LIMIT.bytes,
            "batches": BATCHES_LIMIT,
        },
    }
    return orjson.dumps(fields).decode()


def window_of(credit: Credit) -> dict[str, object]:
    """Give the window as hello and status show it."""
    size = credit.window.size if credit.mode is Mode.AUTO else credit.granted
    return {"messages": max(0, size.messages), "bytes": max(0, size.bytes), "mode": credit.mode.value}


_seconds: dict[int, bytes] = {}


def moment(ns: int) -> bytes:
    """Give a time as ISO text with nanoseconds, UTC."""
    seconds, rest = divmod(ns, 1_000_000_000)
    text = _seconds.get(seconds)
    if text is None:
        if len(_seconds) > 1000:
            _seconds.clear()
        day = datetime.fromtimestamp(min(seconds, 253_402_300_799), UTC)
        text = _seconds[seconds] = day.strftime("%Y-%m-%dT%H:%M:%S").encode()
    return b"%s.%09dZ" % (text, rest)


def _read_grant(words: dict[str, object]) -> Grant | BadFrame:
    if words.get("mode") == "auto":
        return Grant(None)
    values = words.get("messages", 0), words.get("bytes", 0)
    if "mode" in words or any(type(one) is not int or not 0 <= one < 2**63 for one in values) or not any(values):
        return BadFrame(
            "stream.bad-frame",
            f"credit: expected {CREDIT_FORMS}; numbers from 0 on, and not both 0",
        )
    messages, size = values
    return Grant(Amount(int(str(messages)), int(str(size))))


def _read_batch(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= MOST_BATCH:
        raise _wrong("batch", f"expected 1 to {MOST_BATCH}", text)
    return int(text)


def _read_lease(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not LEAST_LEASE_S <= value <= 86_400:
        raise _wrong("max_lease_s", f"expected {LEAST_LEASE_S:g} to 86400 seconds", text)
    return value


def _wrong(name: str, expected: str, text: str) -> Refused:
    return Refused("request.bad-parameter", f"{name}: {expected} (it is {text[:80]!r})")
