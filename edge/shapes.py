"""The words in which a route's requests and answers are described.

Rules of the file:
- Only words: nothing here knows a path. `edge/shapes_*.py` describe the routes with them, one file a capability, and
  `edge/documents.py` turns them into `/openapi.json` and `/asyncapi.json`.
- A type that decodes is its own description; what is written by hand in a handler is described by a struct beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edge.http import JSON

Shape = Any
"""A type that msgspec knows, or a JSON Schema as a dict."""
FREE_OBJECT: Final[dict[str, object]] = {"type": "object"}
TEXT: Final = "text/plain"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the query, the path or the head.

    Args:
        name: as it is sent.
        text: what it is for.
        place: `query`, `path` or `header`.
        schema: its JSON Schema.
        is_required: the request is refused without it.
    """

    name: str
    text: str
    place: str = "query"
    schema: Mapping[str, object] = field(default_factory=lambda: {"type": "string"})
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body.

    Args:
        shapes: by media type.
        example: one that works, where it stands in JSON.
        is_required: the request is refused without it.
    """

    shapes: Mapping[str, Shape]
    example: object = None
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no error.

    Args:
        text: what it means.
        shapes: by media type; empty when there is no body.
        example: one, where it stands in JSON.
    """

    text: str
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    example: object = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Args:
        tag: the capability it belongs to.
        text: what a caller should know beyond the route's summary, Markdown.
        answers: by status.
        body: None when none is taken.
        parameters: of query, path and head; a path parameter that is not named here is any text.
        errors: codes of `engine/errors.py` beyond those that every route may answer with.
    """

    tag: str
    text: str
    answers: Mapping[int, Answer]
    body: Body | None = None
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One message on a channel.

    Args:
        name: unique on its channel.
        text: what it means.
        shape: of its payload.
        example: one.
    """

    name: str
    text: str
    shape: Shape
    example: object = None


@dataclass(frozen=True, slots=True)
class Channel:
    """What is spoken on a WebSocket path, or one of its subprotocols.

    Args:
        path: the route's.
        text: what a client should know, Markdown.
        sends: what the gateway says.
        takes: what a client says.
        parameters: of the upgrade's query and head.
        subprotocol: what `Sec-WebSocket-Protocol` asks for, empty for none.
        errors: codes that the upgrade is refused with, beyond those of every route.
    """

    path: str
    text: str
    sends: tuple[Message, ...]
    takes: tuple[Message, ...]
    parameters: tuple[Parameter, ...] = ()
    subprotocol: str = ""
    errors: tuple[str, ...] = ()


def json_answer(text: str, shape: Shape, example: object = None) -> Mapping[int, Answer]:
    """Give the usual answers: 200 with a JSON body."""
    return {200: Answer(text, {JSON: shape}, example)}


def json_body(shape: Shape, example: object = None, *, is_required: bool = True) -> Body:
    """Give a JSON body."""
    return Body({JSON: shape}, example, is_required)


def whole_number(least: int, most: int | None = None, default: int | None = None) -> dict[str, object]:
    """Give the schema of a whole number."""
    schema: dict[str, object] = {"type": "integer", "minimum": least}
    if most is not None:
        schema["maximum"] = most
    if default is not None:
        schema["default"] = default
    return schema


def one_of(*words: str) -> dict[str, object]:
    """Give the schema of one of these words."""
    return {"type": "string", "enum": list(words)}
