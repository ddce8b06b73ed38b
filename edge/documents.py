"""The route table as OpenAPI 3.1 and AsyncAPI 3.0.

What a route is, the table says: method, path, summary, scope. What it takes and gives, `edge/shapes_*.py` say. Here the
two are joined, and nothing is said a second time.

Rules of the file:
- No I/O: routes in, JSON values out.
- A route that nobody described is in the document all the same, with its summary alone; `tests/edge/test_documents.py`
  fails then and says what to add.
- Errors come from the table in `engine/errors.py`: a code has one status, everywhere.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec

from edge import (
    shapes_audit,
    shapes_consumers,
    shapes_core,
    shapes_dead,
    shapes_documents,
    shapes_health,
    shapes_identity,
    shapes_pulls,
    shapes_query,
    shapes_scanners,
    shapes_stream,
    shapes_stream_v1,
)
from edge.problems import PROBLEM, TYPES
from edge.routes import Route, SocketRoute
from edge.shapes import Answer, Body, Channel, Operation, Parameter, Shape
from engine.errors import KINDS, Situation
from engine.identity import Scope
from engine.limits import policy_names

TWINS: Final = "twins under /api"
ALIAS: Final = "/api"
"""Paths below it are twins of those without it (S0.27)."""
OPERATIONS: Final[dict[str, Operation]] = {
    **shapes_core.OPERATIONS,
    **shapes_health.OPERATIONS,
    **shapes_query.OPERATIONS,
    **shapes_consumers.OPERATIONS,
    **shapes_dead.OPERATIONS,
    **shapes_pulls.OPERATIONS,
    **shapes_scanners.OPERATIONS,
    **shapes_identity.OPERATIONS,
    **shapes_audit.OPERATIONS,
    **shapes_documents.OPERATIONS,
}
CHANNELS: Final[tuple[Channel, ...]] = (
    *shapes_stream.CHANNELS,
    *shapes_stream_v1.CHANNELS,
    *shapes_scanners.CHANNELS,
)
EVERY_ROUTE: Final = ("request.malformed", "request.target-too-long", "request.headers-too-large", "request.too-slow")
"""What any request may be refused with before its route is looked at."""
ANY_TIME: Final = ("server.broken", "server.too-many-connections", "server.draining")
_SOCKET_ERRORS: Final = ("identity.bad-origin",)
_COME_BACK: Final = frozenset({Situation.UNAVAILABLE, Situation.UNKNOWN})
_RETRY_AFTER: Final = {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}
_LIMIT_HEADERS: Final = {
    "RateLimit-Policy": {
        "description": "the policies that hold here: quota, window in seconds or `qu`",
        "schema": {"type": "string"},
    },
    "RateLimit": {"description": "what is left of them, and seconds until all is", "schema": {"type": "string"}},
}
_REFERENCE: Final = "#/components/schemas/{name}"
_TEXT: Final = """One listener, two lanes, one table of routes: this document and the gateway's answers come from it.

`GET` answers `HEAD` as well. Errors are `application/problem+json` (RFC 9457) with a stable `code`, an `outcome`
(`refused`: change something; `unavailable`: nothing happened, try again; `unknown`: it may or may not have happened;
`broken`: our bug) and the `request_id`, which every answer carries as `X-Request-Id`; a client's own is kept.
`x-headgate-limits` names the policies that hold for an operation where they are switched on; answers that were counted
carry `RateLimit-Policy` and `RateLimit`.
WebSockets are described in `/asyncapi.json`."""


def describe_route(method: str, path: str) -> Operation | None:
    """Give the description of a route, which its twin shares; None when there is none."""
    own = OPERATIONS.get(f"{method} {path}")
    if own is None and path.startswith(ALIAS + "/"):
        return OPERATIONS.get(f"{method} {path.removeprefix(ALIAS)}")
    return own


def describe_socket(path: str) -> list[Channel]:
    """Give what is spoken on a WebSocket path, which its twin shares."""
    own = [one for one in CHANNELS if one.path == path]
    if not own and path.startswith(ALIAS + "/"):
        return [one for one in CHANNELS if one.path == path.removeprefix(ALIAS)]
    return own


def openapi_of(routes: Sequence[Route]) -> dict[str, Any]:
    """Give the OpenAPI document of the routes."""
    described = [(route, describe_route(route.method, route.path)) for route in routes]
    schemas = _Schemas(_shapes_of(one for _, one in described if one is not None))
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in described:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": _info("headgate", _TEXT),
        "servers": [{"url": "/"}],
        "paths": paths,
        "tags": [{"name": name} for name in _tags(described)],
        "components": {
            "schemas": {**schemas.components, "Problem": _problem()},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def asyncapi_of(sockets: Iterable[SocketRoute]) -> dict[str, Any]:
    """Give the AsyncAPI document of the WebSocket paths."""
    described = [(route, channel) for route in sockets for channel in describe_socket(route.path)]
    schemas = _Schemas(
        [message.shape for _, channel in described for message in (*channel.sends, *channel.takes)]
        + [parameter.schema for _, channel in described for parameter in channel.parameters]
    )
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for route, channel in described:
        name = _identifier(route.path, channel.subprotocol)
        channels[name] = _channel(route, channel, schemas)
        for action, messages in (("send", channel.sends), ("receive", channel.takes)):
            if messages:
                operations[f"{action}_{name}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{name}"},
                    "messages": [{"$ref": f"#/channels/{name}/messages/{one.name}"} for one in messages],
                }
    return {
        "asyncapi": "3.0.0",
        "info": _info(
            "headgate's WebSockets",
            "What can be refused is refused before the upgrade, by an HTTP answer as in `/openapi.json`. Close codes: "
            "1001, 1012 and 4000 to 4499 mean come back; 4500 to 4999 mean do not. `send` is what the gateway says.",
        ),
        "servers": {
            "gateway": {
                "host": "{host}",
                "protocol": "ws",
                "variables": {"host": {"default": "127.0.0.1:8000", "description": "where the gateway listens"}},
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas.components},
    }


class _Schemas:
    """The JSON Schemas of the shapes: components for those with a name, references to them."""

    def __init__(self, shapes: Iterable[Shape]) -> None:
        types = [one for one in shapes if not isinstance(one, Mapping)]
        made, self.components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
        self._made = [(one, schema) for one, schema in zip(types, made, strict=True)]

    def of(self, shape: Shape) -> Mapping[str, Any]:
        """Give the schema of a shape."""
        if isinstance(shape, Mapping):
            return shape
        return next(schema for one, schema in self._made if one is shape)


def _shapes_of(operations: Iterable[Operation]) -> list[Shape]:
    shapes: list[Shape] = []
    for operation in operations:
        if operation.body is not None:
            shapes += operation.body.shapes.values()
        for answer in operation.answers.values():
            shapes += answer.shapes.values()
    return shapes


def _tags(described: Iterable[tuple[Route, Operation | None]]) -> list[str]:
    """Give the tags in the table's order, that of the twins last."""
    return [*dict.fromkeys(one.tag for _, one in described if one is not None), TWINS]


def _operation(route: Route, operation: Operation | None, schemas: _Schemas) -> dict[str, Any]:
    is_twin = f"{route.method} {route.path}" not in OPERATIONS
    value: dict[str, Any] = {"operationId": _identifier(route.method.lower(), route.path), "summary": route.summary}
    scope = route.scope
    if operation is None:
        return value | {"responses": {"default": _problem_answer("Whatever went wrong.", [])}}
    text = operation.text
    if is_twin:
        text = f"The same as `{route.method} {route.path.removeprefix(ALIAS)}`. {text}"
    value |= {"tags": [TWINS if is_twin else operation.tag], "description": text.strip()}
    parameters = _parameters(route.path, operation.parameters)
    if parameters:
        value["parameters"] = parameters
    if operation.body is not None:
        value["requestBody"] = _body(operation.body, schemas)
    value["responses"] = {str(status): _answer(answer, schemas) for status, answer in operation.answers.items()}
    unknown = ["request.no-such-path"] if "{" in route.path else []  # a segment that no route takes
    for status, answer in _refusals(
        (*EVERY_ROUTE, *unknown, *operation.errors, *_guard_errors(scope, route.limits, route.method), *ANY_TIME)
    ).items():
        if status in value["responses"]:
            value["responses"][status]["description"] += f" Or: {answer['description']}"
            value["responses"][status].setdefault("content", {}).update(answer["content"])
            value["responses"][status].setdefault("headers", {}).update(answer.get("headers", {}))
        else:
            value["responses"][status] = answer
    if scope is not None:
        value["security"] = [{"key": []}, {"bearer": []}]
        value["x-headgate-scope"] = scope
    if policies := policy_names(scope, route.limits):
        value["x-headgate-limits"] = list(policies)
    return value


def _guard_errors(scope: Scope | None, limits: Sequence[str], method: str) -> list[str]:
    """Give the codes of the guard: who may, and how much; pages of other origins may change nothing anywhere."""
    if scope is not None:
        return [code for code in KINDS if code.startswith(("identity.", "limits.")) or code == "server.busy"]
    own = ["limits.exceeded", "limits.away"] if limits else []
    return own if method == "GET" else [*own, "identity.bad-origin"]


def _parameters(path: str, named: tuple[Parameter, ...]) -> list[dict[str, Any]]:
    by_name = {one.name: one for one in named if one.place == "path"}
    in_path = [
        by_name.get(name, Parameter(name, "", "path", {"type": "string", "minLength": 1}, True))
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    return [
        {
            "name": one.name,
            "in": one.place,
            "required": one.is_required,
            "description": one.text,
            "schema": dict(one.schema),
        }
        for one in (*in_path, *(one for one in named if one.place != "path"))
    ]


def _body(body: Body, schemas: _Schemas) -> dict[str, Any]:
    return {"required": body.is_required, "content": _content(body.shapes, body.example, schemas)}


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    value: dict[str, Any] = {"description": answer.text}
    if answer.shapes:
        value["content"] = _content(answer.shapes, answer.example, schemas)
    return value


def _content(shapes: Mapping[str, Shape], example: object, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {media: {"schema": dict(schemas.of(shape))} for media, shape in shapes.items()}
    if example is not None and "application/json" in content:
        content["application/json"]["example"] = example
    return content


def _refusals(codes: Iterable[str]) -> dict[str, Any]:
    """Give the problem answers for these codes, by status."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(KINDS[code].status, []).append(code)
    return {
        str(status): _problem_answer(". ".join(f"`{one}`: {KINDS[one].title}" for one in listed) + ".", listed)
        for status, listed in sorted(by_status.items())
    }


def _problem_answer(text: str, codes: Sequence[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"$ref": _REFERENCE.format(name="Problem")}
    if codes:
        schema["properties"] = {"code": {"enum": list(codes)}}
    answer: dict[str, Any] = {"description": text, "content": {PROBLEM: {"schema": schema}}}
    if any(KINDS[one].situation in _COME_BACK for one in codes):
        answer["headers"] = {"Retry-After": _RETRY_AFTER}
    if "limits.exceeded" in codes:
        answer["headers"] |= _LIMIT_HEADERS
    return answer


def _problem() -> dict[str, Any]:
    texts = ("type", "title", "detail", "instance", "code", "outcome", "request_id", "error")
    properties: dict[str, Any] = {name: {"type": "string"} for name in texts}
    properties["type"] = {"type": "string", "pattern": f"^{re.escape(TYPES)}", "description": "the code as a URN"}
    properties["code"] = {"type": "string", "enum": list(KINDS)}
    properties["outcome"] = {"type": "string", "enum": [one.value for one in Situation]}
    properties["status"] = {"type": "integer", "minimum": 400, "maximum": 599}
    properties["success"] = {"const": False}
    properties["detail"] = {"type": "string", "description": "what was wrong, what was expected, the limit"}
    properties["error"] = {"type": "string", "description": "the same as `detail`"}
    return {
        "type": "object",
        "title": "Problem",
        "description": "What went wrong (RFC 9457); some codes add members.",
        "properties": properties,
        "required": list(properties),
    }


def _channel(route: SocketRoute, channel: Channel, schemas: _Schemas) -> dict[str, Any]:
    messages = {
        one.name: {
            "name": one.name,
            "summary": one.text,
            "contentType": "application/json",
            "payload": dict(schemas.of(one.shape)),
            **({} if one.example is None else {"examples": [{"payload": one.example}]}),
        }
        for one in (*channel.sends, *channel.takes)
    }
    binding: dict[str, Any] = {"method": "GET", "bindingVersion": "0.1.0"}
    headers: dict[str, Any] = {}
    if channel.subprotocol:
        headers["Sec-WebSocket-Protocol"] = {"const": channel.subprotocol}
    for place in ("query", "header"):
        named = {one.name: one for one in channel.parameters if one.place == place}
        properties = {name: {**one.schema, "description": one.text} for name, one in named.items()}
        properties |= headers if place == "header" else {}
        if properties:
            required = [name for name, one in named.items() if one.is_required] + list(
                headers if place == "header" else ()
            )
            binding["query" if place == "query" else "headers"] = {
                "type": "object",
                "properties": properties,
                **({"required": required} if required else {}),
            }
    refused = _refusals(
        (*EVERY_ROUTE, *channel.errors, *_guard_errors(route.scope, (), "GET"), *_SOCKET_ERRORS, *ANY_TIME)
    )
    listed = "\n".join(f"- {status}: {answer['description']}" for status, answer in refused.items())
    return {
        "address": route.path,
        "title": f"{route.summary}{f' ({channel.subprotocol})' if channel.subprotocol else ''}",
        "description": f"{channel.text}\n\nRefused before the upgrade:\n\n{listed}",
        "messages": messages,
        "bindings": {"ws": binding},
    }


def _info(title: str, text: str) -> dict[str, Any]:
    return {
        "title": title,
        "version": version("headgate"),
        "description": text,
        "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
    }


def _identifier(*parts: str) -> str:
    return re.sub(r"[\W_]+", "_", "_".join(filter(None, parts))).strip("_")
