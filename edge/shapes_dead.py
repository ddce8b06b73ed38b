"""What `/stream/dead` and below take and give.

Rules of the file:
- Every route of these stands here once.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from edge.dead import DEFAULT_LETTERS, MOST_ID, MOST_LETTERS
from edge.shapes import Operation, Parameter, json_answer, whole_number

Count = Annotated[int, Meta(ge=0)]


class Letter(Struct):
    """A message that agents gave up on."""

    id: Count
    time: str
    durable: str
    subject: str
    stream: str
    seq: Count
    published: Annotated[str, Meta(description="when the log had it first")]
    delivered: Annotated[int, Meta(ge=0, description="how often it was handed out")]
    reason: str
    data: Any


class LetterPage(Struct):
    """Some of the letters, oldest first."""

    dead: list[Letter]
    next: Annotated[int | None, Meta(description="`after` of the next page; null: that was all")]


class Replayed(Struct):
    """The message is on its subject again."""

    id: Count
    replayed: Literal[True]
    stream: str
    seq: Count
    removed: Annotated[bool, Meta(description="the letter is gone")]


OPERATIONS: Final[dict[str, Operation]] = {
    "GET /stream/dead": Operation(
        "dead letters",
        "",
        json_answer("A page of them.", LetterPage),
        parameters=(
            Parameter("durable", "Those of one consumer."),
            Parameter("after", "Those above this id.", schema=whole_number(0, MOST_ID, 0)),
            Parameter("limit", "The most in a page.", schema=whole_number(1, MOST_LETTERS, DEFAULT_LETTERS)),
        ),
        errors=("request.bad-parameter", "log.down", "log.refused"),
    ),
    "POST /stream/dead/{id}/replay": Operation(
        "dead letters",
        "Every durable of its subject gets it again, as a new message. Safe to repeat.",
        json_answer("It is published again.", Replayed),
        parameters=(Parameter("id", "The letter's id.", "path", whole_number(1, MOST_ID), True),),
        errors=(
            "request.bad-parameter",
            "request.not-found",
            "request.conflict",
            "ingest.outcome-unknown",
            "log.down",
            "log.refused",
        ),
    ),
}
