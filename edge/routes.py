"""Every route, once: method, path, handler, lane, scope.

Rules of the file:
- A path belongs to one lane; the lane is one word here.
- A path may be a template: `/consumers/{durable}` stands for any one segment, decoded once with the path. Exact paths
  are looked up first and win whole; no path fits two templates, so the order of the table means nothing.
- What is counted and logged of a request is its route's path as it stands here, never what the client sent.
- Every route says which scope it asks for, None when it is public; a table without a guard serves public routes alone.
- What changes something says so (`change`), and is in the audit log before and after it happens; a path whose method is
  not safe and that changes nothing is named in `tests/edge/test_wire_audit.py`, with the reason.
- A path that names a consumer (`{durable}`) is held to the principal's allow list here, not in its handler.
- Handlers know no framework; `edge/express.py` and `edge/quart_lane.py` both serve this table.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from secrets import token_hex
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
import trio

from actors.audit import AuditLog
from actors.spans import Spans
from actors.turns import Turns
from edge.changes import Change, make_change
from edge.cors import answer_preflight, cors_headers, is_preflight
from edge.guard import Guard, Passed
from edge.http import Handler, Request, Response
from edge.problems import broken, problem_response
from edge.sockets import Negotiated, Session
from engine.deadlines import Deadlines
from engine.errors import Fault, Refused
from engine.identity import NOBODY, Scope
from engine.limits import headers_of
from engine.metrics import Metrics
from engine.request_log import PROBES, RequestLog
from engine.spans import Attribute
from engine.trace import NEW_DIGITS, TRACE_HEADER, trace_of

if TYPE_CHECKING:
    from engine.signing import Signed

log = structlog.get_logger("routes")


class Lane(Enum):
    """Who serves a path."""

    EXPRESS = "express"
    QUART = "quart"


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    Args:
        method: upper case; GET also answers HEAD.
        path: canonical path; `{name}` in place of a segment takes any text that is not empty.
        handler: answers it; finds what a template took in `request.path_parameters`.
        lane: who serves it.
        summary: one line for the documents.
        admit: refuses before the body is read, None when everything is admitted.
        scope: what a caller needs, None when the route is public.
        limits: names of policies that hold here, beside those of the scope: of requests a window, or at once.
        change: what a request changes, None when it changes nothing that is recorded.
        is_early: `admit` says whether there is room, which may be asked before it is known who asks.
    """

    method: str
    path: str
    handler: Handler
    lane: Lane
    summary: str
    admit: Callable[[], None] | None = None
    scope: Scope | None = field(kw_only=True)
    limits: tuple[str, ...] = ()
    change: Change | None = None
    is_early: bool = False

    def parameters_of(self, path: str) -> dict[str, str]:
        """Give what a path that fits holds where the template has names."""
        pairs = zip(self.path.split("/"), path.split("/"), strict=True)
        return {name[1:-1]: text for name, text in pairs if name.startswith("{")}


@dataclass(frozen=True, slots=True)
class SocketRoute:
    """One WebSocket path.

    Args:
        path: canonical path.
        open: checks the request and gives the session to run after the upgrade; raises to refuse it.
        summary: one line for the documents.
        scope: what a caller needs, None when the route is public.
    """

    path: str
    open: Callable[[Request], Awaitable[Session | Negotiated]]
    summary: str
    scope: Scope | None = field(kw_only=True)


@dataclass(slots=True)
class RouteTable:
    """Finds the route of a request."""

    routes: list[Route]
    metrics: Metrics
    sockets: dict[str, SocketRoute] = field(default_factory=dict)
    guard: Guard | None = None
    lines: RequestLog = field(default_factory=RequestLog)
    deadlines: Deadlines = field(default_factory=Deadlines)
    spans: Spans | None = None
    audit: AuditLog | None = None
    turns: Turns | None = None
    _found: dict[tuple[str, str], Route] = field(default_factory=dict)
    _allowed: dict[str, list[str]] = field(default_factory=dict)
    _lanes: dict[str, Lane] = field(default_factory=dict)
    _templates: dict[int, list[tuple[str, list[str]]]] = field(default_factory=dict)
    """By their number of segments: a template and its segments."""

    def __post_init__(self) -> None:
        """Index the routes; a path on two lanes or for two templates, or a repeated route, is our bug."""
        for route in self.routes:
            if self._lanes.setdefault(route.path, route.lane) is not route.lane:
                raise ValueError(f"{route.path} is on two lanes")
            methods = [route.method, "HEAD"] if route.method == "GET" else [route.method]
            for method in methods:
                if (method, route.path) in self._found:
                    raise ValueError(f"{method} {route.path} is there twice")
                self._found[method, route.path] = route
                self._allowed.setdefault(route.path, []).append(method)
        for path in self._allowed:
            if "{" in path:
                self._index_template(path)

    def lane(self, path: str) -> Lane:
        """Give the lane of a path; what nobody knows is answered by the express lane."""
        lane = self._lanes.get(path)
        return lane if lane is not None else self._lanes.get(self._path_in_table(path), Lane.EXPRESS)

    def route_of(self, method: str, path: str) -> Route | None:
        """Give the route of an exact path, None for what is not one."""
        return self._found.get((method, path))

    def find(self, method: str, path: str) -> Route:
        """Give the route.

        Raises:
            Refused: unknown path (404), wrong method (405, with what is allowed), or a WebSocket path (426).
        """
        route = self._found.get((method, path))
        if route is not None and "{" not in path:
            return route
        known = self._path_in_table(path)
        if known in self._allowed:
            route = self._found.get((method, known))
            if route is not None:
                return route
            allow = ", ".join(self._allowed[known])
            raise Refused("request.wrong-method", f"{path} takes {allow}, not {method}", allow=allow)
        if path in self.sockets:
            if method != "GET":
                raise Refused("request.wrong-method", f"{path} takes a WebSocket upgrade by GET", allow="GET")
            raise Refused("request.upgrade-required", f"{path} speaks WebSocket: connect with ws://…{path}")
        raise Refused("request.no-such-path", f"there is nothing at {path}")

    @property
    def origins(self) -> frozenset[str]:
        """The origins whose pages may talk to the gateway."""
        return self.guard.origins if self.guard is not None else frozenset()

    def cors(self, headers: dict[str, str]) -> dict[str, str]:
        """Give the headers that let a page read the answer."""
        return cors_headers(headers, self.origins)

    def answer_options(self, request: Request) -> Response | None:
        """Answer a browser that asks whether a page may send something; None when this is not such a question.

        Raises:
            Refused: pages of its origin may not, or there is nothing at the path.
        """
        if not is_preflight(request.method, request.headers):
            return None
        known = self._path_in_table(request.path)
        if not known:
            raise Refused("request.no-such-path", f"there is nothing at {request.path}")
        return answer_preflight(request.headers, self._allowed[known], self.origins)

    def admit(self, method: str, headers: dict[str, str], peer: str, route: Route, target: str) -> Awaitable[Passed]:
        """Say who asks, if they may ask this, now.

        Raises:
            Refused: they may not.
            Unavailable: they ask too much, or everybody together does.
        """
        if self.turns is not None and route.scope is not None:
            self.turns.check_room()
        if self.guard is not None:
            return self.guard.admit(method, headers, peer, route.scope, route.limits, target)
        if route.scope is not None:
            raise RuntimeError(f"{route.path} asks for a scope, and nobody looks")
        return _let_pass()

    def _path_in_table(self, path: str) -> str:
        """Give a path as the table writes it: itself, the template that it fits, or nothing."""
        if path in self._allowed and "{" not in path:
            return path
        segments = path.split("/")
        for template, names in self._templates.get(len(segments), ()):
            if _fits(segments, names):
                return template
        return ""

    def _index_template(self, path: str) -> None:
        segments = path.split("/")
        beside = self._templates.setdefault(len(segments), [])
        for other, names in beside:
            if all(a == b or a[:1] == "{" or b[:1] == "{" for a, b in zip(segments, names, strict=True)):
                raise ValueError(f"{path} and {other} fit the same paths")
        beside.append((path, segments))


async def _let_pass() -> Passed:
    return Passed(NOBODY)


def _fits(segments: list[str], names: list[str]) -> bool:
    pairs = zip(segments, names, strict=True)
    return all(text == name or (text != "" and name[:1] == "{") for text, name in pairs)


async def respond(table: RouteTable, request: Request, admitted: Passed | None = None) -> Response:
    """Answer a request, whatever happens: a fault is its problem body, a bug is a 500 that names the request.

    Args:
        table: the routes.
        request: its body not read yet.
        admitted: who asks, where the guard has let them pass already.
    """
    label, lane, began_s = "unknown", Lane.EXPRESS, perf_counter()
    try:
        if "origin" in request.headers and (shared := table.cors(request.headers)):
            request.told |= shared
        preflight = table.answer_options(request) if request.method == "OPTIONS" else None
        if preflight is not None:
            response = preflight
        else:
            route = table.find(request.method, request.path)
            label, lane = route.path, route.lane
            response = await _handle(table, route, request, admitted)
    except Fault as fault:
        response = problem_response(fault, request.request_id, request.path)
        response.close = fault.kind.code == "request.malformed"
    except OSError:
        raise  # the client's connection broke while its body was read: nobody is left to answer
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise  # the same
    except Exception as fault:  # our bug: the client gets a 500 with the id, the log gets the rest
        log.error("handler failed", path=request.path, request_id=request.request_id, exc_info=fault)
        response = problem_response(broken(), request.request_id, request.path)
    if request.told:
        response.headers = {**request.told, **response.headers}
    ended_s = perf_counter()
    table.metrics.count_request(label, request.method, response.status, ended_s - began_s)
    if table.spans is not None and request.is_told and request.trace is not None:
        facts: dict[str, Attribute] = {"headgate.lane": lane.value, "headgate.request_id": request.request_id}
        facts["user.id"] = request.principal.subject
        table.spans.tell_request(request.trace, label, request.method, response.status, ended_s - began_s, facts)
    if table.lines.wants(label, response.status, is_express=lane is Lane.EXPRESS, second=int(ended_s)):
        _write_line(table.lines, label, request, response.status, ended_s - began_s)
    return response


async def _handle(table: RouteTable, route: Route, request: Request, admitted: Passed | None) -> Response:
    """Have a route's handler answer, once the guard lets the request pass."""
    brought = request.headers.get(TRACE_HEADER)
    if brought is not None or route.lane is Lane.QUART or table.spans is not None:
        _trace(table, request, route, brought)
    passed = admitted or await table.admit(request.method, request.headers, request.peer, route, request.target)
    request.principal, request.judgements, request.hold, signed = passed
    if signed is not None:
        request.read_body = partial(_read_signed, request.read_body, signed)
    if request.hold is not None:  # what is told of slots goes with the headers, and the rest with it
        request.told |= headers_of(request.judgements, request.hold.states)
        request.judgements = ()
    if "{" in route.path:
        request.path_parameters = route.parameters_of(request.path)
        if (durable := request.path_parameters.get("durable")) is not None:
            request.principal.check_durable(durable)
    if route.admit is not None:
        route.admit()
    if route.change is None or table.audit is None:
        return await route.handler(request)
    address = request.peer if table.guard is None else table.guard.address(request.headers, request.peer)
    return await make_change(table.audit, route.change, request, address, route.path, route.handler)


async def _read_signed(read_body: Callable[[int], Awaitable[bytes]], signed: "Signed", limit_bytes: int) -> bytes:
    """Read a body and hold it to what was signed, before anybody looks at it."""
    from engine.signing import check_content  # noqa: PLC0415  # with its libraries

    body = await read_body(limit_bytes)
    check_content(signed, body)
    return body


def _trace(table: RouteTable, request: Request, route: Route, brought: str | None) -> None:
    """Continue the caller's trace or begin one, and decide whether a collector hears of it.

    On the express lane a trace begins only where somebody hears of it; of probes nobody does, unless their caller does.
    """
    new_hex = token_hex(NEW_DIGITS // 2)
    if brought is None and route.lane is Lane.EXPRESS and table.spans is not None:
        is_told = route.path not in PROBES and table.spans.sampling.begins(new_hex)
        if not is_told:
            return  # most requests where few are told: nothing more is made of them
    trace = trace_of(brought, new_hex)
    if table.spans is not None:
        is_wanted = trace.is_brought or route.path not in PROBES
        request.is_told = is_wanted and table.spans.sampling.takes(trace)
        trace = trace.marked(is_told=request.is_told)
    if brought is not None or route.lane is Lane.QUART or request.is_told:
        request.trace = trace
        request.told[TRACE_HEADER] = trace.text


def _write_line(lines: RequestLog, label: str, request: Request, status: int, took_s: float) -> None:
    """Write a request's line; the query is left out, because people put secrets there."""
    left_out, lines.left_out = lines.left_out, 0
    more = {"left_out": left_out} if left_out else {}
    log.info(
        "request",
        request_id=request.request_id,
        trace_id=request.trace.trace_id if request.trace is not None else None,
        principal=request.principal.subject,
        route=label,
        method=request.method,
        path=request.path,
        status=status,
        duration_ms=round(took_s * 1000, 3),
        **more,
    )
