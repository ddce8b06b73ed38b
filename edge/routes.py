"""Every route, once: method, path, handler, lane.

Rules of the file:
- A path belongs to one lane; the lane is one word here.
- Handlers know no framework; `edge/express.py` and `edge/quart_lane.py` both serve this table.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

import structlog
import trio
from trio_websocket import WebSocketConnection

from edge.http import Handler, Request, Response
from edge.problems import broken, problem_response
from engine.errors import Fault, Refused
from engine.metrics import Metrics

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
        path: canonical path.
        handler: answers it.
        lane: who serves it.
        summary: one line for the documents.
        admit: refuses before the body is read, None when everything is admitted.
    """

    method: str
    path: str
    handler: Handler
    lane: Lane
    summary: str
    admit: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class SocketRoute:
    """One WebSocket path.

    Args:
        path: canonical path.
        open: checks the request and gives the session to run after the upgrade; raises to refuse it.
        summary: one line for the documents.
    """

    path: str
    open: Callable[[Request], Awaitable[Callable[[WebSocketConnection], Awaitable[None]]]]
    summary: str


@dataclass(slots=True)
class RouteTable:
    """Finds the route of a request."""

    routes: list[Route]
    metrics: Metrics
    sockets: dict[str, SocketRoute] = field(default_factory=dict)
    _found: dict[tuple[str, str], Route] = field(default_factory=dict)
    _allowed: dict[str, list[str]] = field(default_factory=dict)
    _lanes: dict[str, Lane] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Index the routes; a path on two lanes or a repeated route is our bug."""
        for route in self.routes:
            if self._lanes.setdefault(route.path, route.lane) is not route.lane:
                raise ValueError(f"{route.path} is on two lanes")
            methods = [route.method, "HEAD"] if route.method == "GET" else [route.method]
            for method in methods:
                if (method, route.path) in self._found:
                    raise ValueError(f"{method} {route.path} is there twice")
                self._found[method, route.path] = route
                self._allowed.setdefault(route.path, []).append(method)

    def lane(self, path: str) -> Lane:
        """Give the lane of a path; what nobody knows is answered by the express lane."""
        return self._lanes.get(path, Lane.EXPRESS)

    def find(self, method: str, path: str) -> Route:
        """Give the route.

        Raises:
            Refused: unknown path (404), wrong method (405, with what is allowed), or a WebSocket path (426).
        """
        route = self._found.get((method, path))
        if route is not None:
            return route
        if path in self._allowed:
            allow = ", ".join(self._allowed[path])
            raise Refused("request.wrong-method", f"{path} takes {allow}, not {method}", allow=allow)
        if path in self.sockets:
            if method != "GET":
                raise Refused("request.wrong-method", f"{path} takes a WebSocket upgrade by GET", allow="GET")
            raise Refused("request.upgrade-required", f"{path} speaks WebSocket: connect with ws://…{path}")
        raise Refused("request.no-such-path", f"there is nothing at {path}")


async def respond(table: RouteTable, request: Request) -> Response:
    """Answer a request, whatever happens: a fault is its problem body, a bug is a 500 that names the request."""
    label = "unknown"
    try:
        route = table.find(request.method, request.path)
        label = route.path
        if route.admit is not None:
            route.admit()
        response = await route.handler(request)
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
    table.metrics.count_request(label, request.method, response.status)
    return response
