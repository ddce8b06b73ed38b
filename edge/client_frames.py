"""The frames of `headgate.stream.v1` as an agent reads and writes them, and the notices it is given.

Rules of the file:
- The fields are the wire's, name for name; a field that an older gateway leaves out has a default.
- A frame of a type that is not known here is passed over; one that cannot be read is the gateway's bug.

What must change with it: the wire of `/stream` (README, "Wire reference").
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from edge.client_retry import GatewayBroken, GatewayError
from edge.client_values import Message

SUBPROTOCOL: Final = "headgate.stream.v1"

Ranges = list[list[int] | int]
"""Inclusive ranges, or bare indexes."""


class Window(msgspec.Struct, frozen=True):
    """How much the gateway lets an agent hold: `mode` is credit or auto."""

    messages: int = 0
    bytes: int = 0
    mode: str = ""


class Limits(msgspec.Struct, frozen=True):
    """What a gateway never goes above; 0 where it did not say."""

    batch_messages: int = 0
    batch_bytes: int = 0
    credit_messages: int = 0
    credit_bytes: int = 0
    batches: int = 0


class Hello(msgspec.Struct, frozen=True, tag="hello", tag_field="type"):
    """The gateway's first word on a connection.

    Args:
        epoch: which life of the log this is; positions of another one mean nothing.
        durable: None for a consumer that is gone with the connection.
        created: whether the consumer was made for this connection.
    """

    protocol: str = SUBPROTOCOL
    stream: str = ""
    subject: str = ""
    durable: str | None = None
    created: bool = False
    epoch: str = ""
    first_seq: int = 0
    last_seq: int = 0
    pending: int = 0
    window: Window = Window()
    ack_wait_s: float = 0.0
    max_lease_s: float = 0.0
    max_deliver: int = 0
    limits: Limits = Limits()


class EventsFrame(msgspec.Struct, frozen=True, tag="events", tag_field="type"):
    """A batch."""

    batch: str
    messages: list[Message]


class SettledFrame(msgspec.Struct, frozen=True, tag="settled", tag_field="type"):
    """What became of verdicts that were to be confirmed; `failed` is what the log could not say."""

    batch: str
    confirmed: Ranges = []
    late: Ranges = []
    failed: Ranges = []


class Gap(msgspec.Struct, frozen=True, tag="gap", tag_field="type", rename={"first": "from", "last": "to"}):
    """Positions, both inclusive, that this consumer will not see: removed from the log before, or passed over by it."""

    first: int
    last: int
    reason: str = ""

    @property
    def count(self) -> int:
        """How many positions it spans."""
        return self.last - self.first + 1


class Lag(msgspec.Struct, frozen=True):
    """What the consumer has before it: messages, and the age of the oldest of them."""

    messages: int = 0
    seconds: float | None = None


class InFlight(msgspec.Struct, frozen=True):
    """What was sent and not answered yet."""

    batches: int = 0
    messages: int = 0
    bytes: int = 0


class Credit(msgspec.Struct, frozen=True):
    """How much may be sent to this agent: both numbers bind."""

    messages: int
    bytes: int


class Status(msgspec.Struct, frozen=True, tag="status", tag_field="type"):
    """How a consumer stands; `stalled` says in words why nothing comes, None while all is well."""

    lag: Lag = Lag()
    in_flight: InFlight = InFlight()
    window: Window = Window()
    credit: Credit = Credit(0, 0)
    last_settle_s: float | None = None
    stalled: str | None = None


class LostFrame(msgspec.Struct, frozen=True, tag="lost", tag_field="type"):
    """Leases that have run out: these messages were given back."""

    batch: str
    messages: Ranges
    reason: str = ""


class ErrorFrame(msgspec.Struct, frozen=True, tag="error", tag_field="type"):
    """What the gateway could not do; a fatal one is followed by a close."""

    message: str = ""
    code: str = ""
    fatal: bool = False
    batch: str = ""


class Pong(msgspec.Struct, frozen=True, tag="pong", tag_field="type"):
    """The answer to a ping."""


Frame = Hello | EventsFrame | SettledFrame | Gap | Status | LostFrame | ErrorFrame | Pong


@dataclass(frozen=True, slots=True)
class Attached:
    """The gateway has let this agent in, for the first time or again."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class EpochChanged:
    """The log was made anew since the last connection: positions that were kept from before mean nothing now."""

    before: str
    now: str


@dataclass(frozen=True, slots=True)
class LeasesLost:
    """Messages that were held for too long: the gateway has given them back, and they will come again."""

    batch: str
    indexes: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Complaint:
    """The gateway did not understand, or could not do, something that was said on the stream."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """The connection was lost, or did not come about; the next try is in `delay_s` seconds."""

    error: GatewayError
    delay_s: float


Notice = Attached | EpochChanged | Gap | LeasesLost | Complaint | Trouble

_DECODER: Final[msgspec.json.Decoder[Frame]] = msgspec.json.Decoder(Frame)


class _AnyFrame(msgspec.Struct):
    type: str


def read_frame(text: str | bytes) -> Frame | None:
    """Read what the gateway said; None for a type that is not known here.

    Raises:
        GatewayBroken: it is no frame.
    """
    try:
        return _DECODER.decode(text)
    except msgspec.MsgspecError as error:
        try:
            kind = msgspec.json.decode(text, type=_AnyFrame).type
        except msgspec.MsgspecError:
            kind = "events"
        if kind not in _KNOWN:
            return None
        raise GatewayBroken(f"the gateway said something that is no frame of {SUBPROTOCOL}: {error}") from error


_KNOWN: Final = frozenset({"hello", "events", "settled", "gap", "status", "lost", "error", "pong"})
