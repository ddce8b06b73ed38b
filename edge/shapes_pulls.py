"""What `/stream/pull` and `/stream/settle` take and give.

Rules of the file:
- Every route of these stands here once.
"""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct

from edge.pulls import MOST_BYTES, MOST_WAIT_S
from edge.shapes import Operation, Parameter, json_answer, json_body, whole_number
from edge.shapes_stream import DURABLE, SUBJECT
from edge.shapes_stream_v1 import Count, MessageV1, Nak, SettledV1, Span, Term
from engine.stream import BATCH_BYTES, DEFAULT_BATCH
from engine.stream_v1 import LEAST_LEASE_S, MOST_BATCH

GapBeside = defstruct(
    "GapBeside",
    [("from", Count), ("to", Count), ("reason", str)],  # `from` cannot be a field's name
    namespace={"__doc__": "Messages that are gone before this consumer saw them, both ends included."},
)


class Pulled(Struct):
    """A batch, or nothing."""

    type: Literal["events"]
    batch: Annotated[str | None, Meta(description="null: nothing came")]
    lease_s: Annotated[float, Meta(ge=0, description="how long it certainly stays with who pulled it")]
    gaps: list[GapBeside]  # type: ignore[valid-type]  # made at run time
    pending: Count
    messages: list[MessageV1]


class PulledSettle(Struct):
    """Verdicts about a pulled batch."""

    durable: str
    batch: str
    type: Literal["settle"] | UnsetType = UNSET
    ack: list[int | Span] | UnsetType = UNSET
    nak: list[Nak] | UnsetType = UNSET
    term: list[Term] | UnsetType = UNSET
    progress: Annotated[list[int | Span], Meta(description="still at it: their leases begin anew")] | UnsetType = UNSET
    confirm: Annotated[bool, Meta(description="true when it is not said")] | UnsetType = UNSET


OPERATIONS: Final[dict[str, Operation]] = {
    "GET /stream/pull": Operation(
        "stream",
        "The same durables and cursor as the sockets. Who leaves while it waits gives back what came.",
        json_answer("A batch; `batch` is null when nothing came in time.", Pulled),
        parameters=(
            SUBJECT,
            DURABLE,
            Parameter("batch", "The most messages.", schema=whole_number(1, MOST_BATCH, DEFAULT_BATCH)),
            Parameter("max_bytes", "The most bytes.", schema=whole_number(1, MOST_BYTES, BATCH_BYTES)),
            Parameter(
                "wait",
                "Seconds to wait for the first message.",
                schema={"type": "number", "minimum": 0, "maximum": MOST_WAIT_S, "default": 0},
            ),
            Parameter("from", "Where a durable that is made now begins: all, new, last, seq:N or time:ISO."),
            Parameter("filter", "Event types, separated by commas; a `*` at the end stands for anything."),
            Parameter(
                "max_lease_s",
                "The longest that a message may be held.",
                schema={"type": "number", "minimum": LEAST_LEASE_S, "maximum": 86_400},
            ),
        ),
        errors=("request.bad-parameter", "request.conflict", "stream.too-many-pulls", "log.down", "log.refused"),
    ),
    "POST /stream/settle": Operation(
        "stream",
        "A batch that is not outstanding here is late, never confirmed. Safe to repeat.",
        json_answer("What became of them.", SettledV1),
        json_body(PulledSettle, {"durable": "cron", "batch": "5f0c-1", "ack": [[0, 9]]}),
        errors=("request.bad-json", "request.wrong-shape", "request.too-large", "request.bad-encoding"),
    ),
}
