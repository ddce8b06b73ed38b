"""What is spoken on `/stream` with the subprotocol `headgate.stream.v1`.

Rules of the file:
- The frames are those of `engine/stream_v1.py` and `engine/settle_words.py`, member for member.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct

from edge.shapes import Channel, Message, Parameter, one_of, whole_number
from edge.shapes_stream import SUBJECT
from engine.settle_words import MOST_DELAY_MS, MOST_REASON_CHARS
from engine.stream import DEFAULT_BATCH
from engine.stream_v1 import LEAST_LEASE_S, MOST_BATCH, PROTOCOL

Count = Annotated[int, Meta(ge=0)]
Span = Annotated[list[int], Meta(min_length=2, max_length=2, description="first and last index, both included")]


class Window(Struct):
    """How much may be out."""

    messages: Count
    bytes: Count
    mode: Literal["credit", "auto"]


class Limits(Struct):
    """What cannot be exceeded."""

    batch_messages: Count
    batch_bytes: Count
    credit_messages: Count
    credit_bytes: Count
    batches: Count


class HelloV1(Struct):
    """Always the first frame."""

    type: Literal["hello"]
    protocol: str
    stream: str
    subject: str
    durable: Annotated[str | None, Meta(description="null: the consumer is gone with the socket")]
    consumer: str
    created: Annotated[bool, Meta(description="false: `from` was ignored")]
    filter: str | None
    epoch: Annotated[str, Meta(description="another one is another stream of the same name")]
    first_seq: Count
    last_seq: Count
    pending: Count
    window: Window
    ack_wait_s: float
    max_lease_s: float
    max_deliver: int | None
    limits: Limits


class MessageV1(Struct):
    """One message of the log."""

    index: Annotated[int, Meta(ge=0, description="its place in the batch")]
    seq: Annotated[int, Meta(ge=1, description="its place in the stream")]
    delivered: Annotated[int, Meta(ge=1, description="above 1: it came before")]
    time: Annotated[str, Meta(description="when the log stored it")]
    data: Any
    trace: Annotated[list[str], Meta(description="W3C traceparents of the requests that brought one")] = []


class EventsV1(Struct):
    """A batch. Several may be outstanding."""

    type: Literal["events"]
    batch: str
    messages: list[MessageV1]


class SettledV1(Struct):
    """What became of a settle frame with `confirm`."""

    type: Literal["settled"]
    batch: str
    confirmed: Annotated[list[Span], Meta(description="the log said so, in time")]
    late: Annotated[list[Span], Meta(description="the lease had run out: they may come again")]
    failed: Annotated[list[Span], Meta(description="the log could not say")] | UnsetType = UNSET


GapV1 = defstruct(
    "GapV1",
    [("type", Literal["gap"]), ("from", Count), ("to", Count), ("reason", str)],  # `from` cannot be a field's name
    namespace={"__doc__": "Messages that are gone before this consumer saw them, both ends included."},
)


class LostV1(Struct):
    """Messages that were taken back from the agent."""

    type: Literal["lost"]
    batch: str
    messages: list[Span]
    reason: str


class Lag(Struct):
    """How far behind."""

    messages: Count
    seconds: float


class InFlight(Struct):
    """What is out."""

    batches: Count
    messages: Count
    bytes: Count


class Amount(Struct):
    """How much."""

    messages: Count
    bytes: Count


class StatusV1(Struct):
    """How the consumer stands."""

    type: Literal["status"]
    lag: Annotated[Lag | None, Meta(description="null: the log did not say")]
    in_flight: InFlight
    window: Window
    credit: Amount
    last_settle_s: float | None
    stalled: Annotated[str | None, Meta(description="why nothing comes, in words")]


class ErrorV1(Struct):
    """A frame that could not be followed and changed nothing; fatal: the session ends."""

    type: Literal["error"]
    code: str
    message: str
    fatal: bool
    batch: str | UnsetType = UNSET


class PongV1(Struct):
    """Somebody is there."""

    type: Literal["pong"]


class CreditV1(Struct):
    """So much more may be sent; or a window that the gateway keeps."""

    type: Literal["credit"]
    messages: Count | UnsetType = UNSET
    bytes: Count | UnsetType = UNSET
    mode: Literal["auto"] | UnsetType = UNSET


class Nak(Struct):
    """Again, please."""

    i: Annotated[int | Span, Meta(description="an index, or a range")]
    delay_ms: Annotated[int, Meta(ge=0, le=MOST_DELAY_MS)] | UnsetType = UNSET


class Term(Struct):
    """Never again, please."""

    i: Annotated[int | Span, Meta(description="an index, or a range")]
    reason: Annotated[str, Meta(max_length=MOST_REASON_CHARS)] | UnsetType = UNSET


class SettleV1(Struct):
    """Verdicts. An index that is named twice or is none changes nothing; one that was settled before is ignored."""

    type: Literal["settle"]
    batch: str
    ack: list[int | Span] | UnsetType = UNSET
    nak: list[Nak] | UnsetType = UNSET
    term: list[Term] | UnsetType = UNSET
    progress: Annotated[list[int | Span], Meta(description="still at it: their leases begin anew")] | UnsetType = UNSET
    confirm: bool | UnsetType = UNSET


class StatusAsked(Struct):
    """How do I stand?"""

    type: Literal["status"]


class PingV1(Struct):
    """Is somebody there?"""

    type: Literal["ping"]


CHANNELS: Final[tuple[Channel, ...]] = (
    Channel(
        "/stream",
        "Nothing is sent before the first credit. Verdicts are given one by one, mixed, and confirmed where asked for. "
        "A frame that cannot be followed is answered with an error and changes nothing.",
        (
            Message("hello", "The first frame.", HelloV1),
            Message(
                "events",
                "A batch.",
                EventsV1,
                {
                    "type": "events",
                    "batch": "b1",
                    "messages": [
                        {"index": 0, "seq": 7, "delivered": 1, "time": "2025-11-20T12:00:00.000000000Z", "data": {}}
                    ],
                },
            ),
            Message(
                "settled",
                "What became of the verdicts.",
                SettledV1,
                {"type": "settled", "batch": "b1", "confirmed": [[0, 99]], "late": []},
            ),
            Message(
                "gap",
                "Gone before it was seen, or `skipped` by the log.",
                GapV1,
                {"type": "gap", "from": 3, "to": 9, "reason": "retention"},
            ),
            Message("lost", "Taken back.", LostV1),
            Message("status_told", "How the consumer stands.", StatusV1),
            Message("error", "A frame that could not be followed.", ErrorV1),
            Message("pong", "The answer to a ping.", PongV1, {"type": "pong"}),
        ),
        (
            Message("credit", "So much more.", CreditV1, {"type": "credit", "messages": 1000, "bytes": 1048576}),
            Message(
                "settle",
                "Verdicts.",
                SettleV1,
                {
                    "type": "settle",
                    "batch": "b1",
                    "ack": [[0, 97]],
                    "nak": [{"i": 98, "delay_ms": 500}],
                    "term": [{"i": 99, "reason": "no such column"}],
                    "confirm": True,
                },
            ),
            Message("status", "Asks how the consumer stands.", StatusAsked, {"type": "status"}),
            Message("ping", "Is somebody there?", PingV1, {"type": "ping"}),
        ),
        (
            SUBJECT,
            Parameter("durable", "The name that remembers the position; without it the consumer ends with the socket."),
            Parameter("from", "Where a consumer that is made now begins: all, new, last, seq:N, time:ISO."),
            Parameter("filter", "Event types, by commas; `*` at the end of one."),
            Parameter("batch", "The most messages in a batch.", schema=whole_number(1, MOST_BATCH, DEFAULT_BATCH)),
            Parameter("exclusive", "`1`: nobody else may hold the durable.", schema=one_of("0", "1")),
            Parameter(
                "max_lease_s",
                "Longest time to hold a batch.",
                schema={"type": "number", "minimum": LEAST_LEASE_S, "maximum": 86_400},
            ),
        ),
        PROTOCOL,
        ("request.bad-parameter", "request.conflict", "ingest.wrong-subject", "log.down", "log.refused"),
    ),
)
