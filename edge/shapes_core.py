"""What `/ingest` and `/cache/batch` take and give.

Rules of the file:
- Every route of these stands here once; its twin under `/api` is the same and is not repeated.
- An answer's struct names every member that the handler writes: `tests/edge/test_documents_gateway.py` finds others.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from edge.http import JSON
from edge.ingest import MAX_KEY_CHARS
from edge.shapes import Body, Operation, Parameter, json_answer, json_body
from engine.events import MAX_EVENTS, FileEvent
from engine.hashes import MAX_PROBES, Probe


class Events(Struct):
    """The events of one request."""

    events: Annotated[list[FileEvent], Meta(max_length=MAX_EVENTS)]


class Stored(Struct):
    """The gateway's word that the log has the events."""

    status: Literal["ok"]
    received: Annotated[int, Meta(ge=0, description="how many events")]
    subject: Annotated[str, Meta(description="what they were published on")]
    stream: Annotated[str, Meta(description="the log's stream that holds them")]
    seq: Annotated[int | None, Meta(description="their position in it; null when there were no events")]
    duplicate: Annotated[bool, Meta(description="the same key had stored them before; nothing was stored again")]
    durability: Annotated[str, Meta(description="what the word is worth: fsync, replicated or buffered")]


class HashAnswer(Struct):
    """What the cache knows of one file."""

    status: Literal["HIT", "MISS"]
    algo: str | None
    hash: str | None


_EVENT: Final[dict[str, Any]] = {
    "type": "file.upsert",
    "data": {"path": "/show/a.exr", "size": 4096, "mtime": 1763640000, "algo": "xxh64", "hash": "6ad9a3b5b0c1d2e3"},
}
_KEY: Final = Parameter(
    "Idempotency-Key",
    "Makes a retry safe for ten minutes: the same key with the same body gives the first answer. Quoted or bare.",
    "header",
    {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": r"^[A-Za-z0-9._\-]+$"},
)
_SUBJECT: Final = Parameter("subject", "What the events are published on; the gateway's default when not given.")
_BODY_ERRORS: Final = (
    "request.bad-json",
    "request.bad-encoding",
    "request.unknown-encoding",
    "request.wrong-shape",
    "request.too-large",
)

OPERATIONS: Final[dict[str, Operation]] = {
    "POST /ingest": Operation(
        "ingest",
        f"Answers when the log has stored them all. At most 8 MiB after decoding, {MAX_EVENTS:,} events, 32 levels. "
        "`Content-Encoding: gzip` is taken. The paths of `file.*` events become canonical; everything else keeps its "
        "bytes.",
        json_answer("The log has them.", Stored),
        Body(
            {JSON: Events, "application/x-ndjson": {"type": "string", "description": "one event a line"}},
            {"events": [_EVENT]},
        ),
        (_SUBJECT, _KEY),
        (
            *_BODY_ERRORS,
            "request.bad-parameter",
            "ingest.wrong-subject",
            "ingest.key-conflict",
            "ingest.full",
            "ingest.outcome-unknown",
            "log.down",
            "log.refused",
        ),
    ),
    "POST /cache/batch": Operation(
        "hashes",
        f"At most {MAX_PROBES:,} probes. A file is (dev, inode, size, whole seconds of mtime) when dev and inode are "
        "both set, else (path, size, whole seconds of mtime). What is not known for certain is a miss.",
        json_answer("One answer a probe, in their order.", list[HashAnswer]),
        json_body(
            Annotated[list[Probe], Meta(max_length=MAX_PROBES)],
            [{"path": "/show/a.exr", "size": 4096, "mtime": 1763640000}],
        ),
        errors=(*_BODY_ERRORS, "hashes.tier-down"),
    ),
}
