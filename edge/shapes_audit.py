"""What `GET /audit` gives.

Rules of the file:
- A record's members are those of `engine/audit.py`; `tests/edge/test_wire_audit.py` holds the two together.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from edge.audit import NDJSON
from edge.http import JSON
from edge.shapes import Answer, Operation, Parameter, whole_number
from engine.audit import DEFAULT_RECORDS, MOST_CHARS, MOST_RECORDS


class AuditRecord(Struct):
    """One change, or the attempt at one."""

    seq: Annotated[int, Meta(description="its position in the log; it moves when the change ends")]
    time: Annotated[str, Meta(description="when it was stored last, by the log's clock")]
    id: str
    began: Annotated[str, Meta(description="by the clock of who made it")]
    action: Annotated[str, Meta(description="such as consumer.reset, key.revoke, token.issue")]
    target: str
    principal: str
    kind: Annotated[str, Meta(description="how they were recognised; local: a command on the gateway's data folder")]
    key_id: str
    address: str
    request_id: str
    trace_id: str | None
    route: str
    outcome: Annotated[
        Literal["done", "refused", "failed", "unknown"],
        Meta(description="unknown: it runs, or the gateway or the log died before it ended"),
    ]
    status: int | None
    code: str | None
    facts: dict[str, str | int | float | bool | None]


class AuditPage(Struct):
    """Some of the records."""

    records: list[AuditRecord]
    next: Annotated[int | None, Meta(description="`before` or `after` of the next page; null: that was all")]


_TIME: Final[dict[str, object]] = {"type": "string", "examples": ["2026-01-31T12:00:00Z"]}
_POSITION: Final = whole_number(0, 2**53)
_FAMILY: Final[dict[str, object]] = {"type": "string", "maxLength": MOST_CHARS, "examples": ["consumer.*"]}
OPERATIONS: Final[dict[str, Operation]] = {
    "GET /audit": Operation(
        "audit",
        "Newest first, or oldest first with `after`. A page looks at a bounded number of records, so it may hold fewer "
        'than `limit` and still name a next one, which `Link: rel="next"` says too.',
        {200: Answer("A page of them.", {JSON: AuditPage, NDJSON: {"type": "string"}})},
        parameters=(
            Parameter("principal", "Those of one name.", schema={"type": "string", "maxLength": MOST_CHARS}),
            Parameter("action", "Those of one action, or of a family.", schema=_FAMILY),
            Parameter("since", "Stored then or later: a time with its offset, or seconds since 1970.", schema=_TIME),
            Parameter("until", "Stored before.", schema=_TIME),
            Parameter("limit", "The most in a page.", schema=whole_number(1, MOST_RECORDS, DEFAULT_RECORDS)),
            Parameter("before", "Those below this position.", schema=_POSITION),
            Parameter("after", "Those above this position, oldest first.", schema=_POSITION),
        ),
        errors=("request.bad-parameter", "request.not-implemented", "log.down", "log.refused"),
    ),
}
