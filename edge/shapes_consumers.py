"""What `/consumers` and below take and give.

Rules of the file:
- Every route of these stands here once.
"""

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from edge.consumers import MOST_OFFSET
from edge.shapes import Operation, Parameter, json_answer, json_body, whole_number
from engine.positions import POSITION_WORDS

Count = Annotated[int, Meta(ge=0)]


class Place(Struct):
    """A place in the stream."""

    seq: Count
    deliveries: Annotated[int, Meta(ge=0, description="all that were made, repeats included")] | UnsetType = UNSET


class Moved(Struct):
    """Where a consumer was moved to."""

    to: str
    seq: Annotated[int, Meta(ge=0, description="the first message it gets")]
    in_place: Annotated[bool, Meta(description="false: it was made again")]


class ConsumerFacts(Struct):
    """One consumer."""

    durable: str
    ephemeral: bool
    subject: str
    filter: Annotated[str | None, Meta(description="the event types it wants")]
    created: str
    pending: Annotated[int, Meta(ge=0, description="messages that were not handed out yet")]
    ack_pending: Annotated[int, Meta(ge=0, description="handed out and not settled")]
    redelivered: Count
    waiting: Count
    ack_floor: Place
    delivered: Place
    lag_s: Annotated[float | None, Meta(description="age of the oldest that was not handed out; null: not known")]
    paused_until: str | None
    attached: Annotated[int, Meta(ge=0, description="sockets of this gateway")]
    reset: Moved | UnsetType = UNSET


class ConsumerPage(Struct):
    """Some of the consumers."""

    consumers: list[ConsumerFacts]
    next: Annotated[int | None, Meta(description="the offset of the next page; null: that was all")]


class Reset(Struct, forbid_unknown_fields=True):
    """Where to."""

    to: Annotated[str, Meta(description=POSITION_WORDS)]


class Pause(Struct, forbid_unknown_fields=True):
    """For how long."""

    for_s: Annotated[float, Meta(gt=0, description="seconds")]


class Nothing(Struct, forbid_unknown_fields=True):
    """Nothing needs to be said."""


class Deleted(Struct):
    """It is gone."""

    durable: str
    deleted: bool


_DURABLE: Final = Parameter("durable", "The consumer's name.", "path", {"type": "string", "minLength": 1}, True)
_ERRORS: Final = ("request.bad-parameter", "request.not-found", "log.down", "log.refused")
_BODY_ERRORS: Final = (
    "request.bad-json",
    "request.wrong-shape",
    "request.bad-encoding",
    "request.unknown-encoding",
    "request.too-large",
)

OPERATIONS: Final[dict[str, Operation]] = {
    "GET /consumers": Operation(
        "consumers",
        "",
        json_answer("A page of them.", ConsumerPage),
        parameters=(Parameter("offset", "Where the page begins.", schema=whole_number(0, MOST_OFFSET, 0)),),
        errors=("request.bad-parameter", "log.down", "log.refused"),
    ),
    "GET /consumers/{durable}": Operation(
        "consumers", "", json_answer("It.", ConsumerFacts), parameters=(_DURABLE,), errors=_ERRORS
    ),
    "DELETE /consumers/{durable}": Operation(
        "consumers",
        "",
        json_answer("It is gone.", Deleted),
        parameters=(
            _DURABLE,
            Parameter("force", "`1`: also while sockets are attached.", schema={"enum": ["0", "1", "true", "false"]}),
        ),
        errors=(*_ERRORS, "request.conflict"),
    ),
    "POST /consumers/{durable}/reset": Operation(
        "consumers",
        "What it holds unsettled is forgotten. Sockets stay attached.",
        json_answer("The consumer as it is now.", ConsumerFacts),
        json_body(Reset, {"to": "all"}),
        (_DURABLE,),
        (*_ERRORS, *_BODY_ERRORS, "request.conflict"),
    ),
    "POST /consumers/{durable}/pause": Operation(
        "consumers",
        "",
        json_answer("The consumer as it is now.", ConsumerFacts),
        json_body(Pause, {"for_s": 60}),
        (_DURABLE,),
        (*_ERRORS, *_BODY_ERRORS),
    ),
    "POST /consumers/{durable}/resume": Operation(
        "consumers",
        "",
        json_answer("The consumer as it is now.", ConsumerFacts),
        json_body(Nothing, is_required=False),
        (_DURABLE,),
        (*_ERRORS, *_BODY_ERRORS),
    ),
}
