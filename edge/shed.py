"""Who is told at once to come back, and the cheapest way to say it.

Above capacity every answer of this kind is paid for by what is not stored meanwhile, and twice the load means as many
of them as of good ones. So they are decided on the head alone, before anything else of the request is looked at, and
all but the id and the date is ready as bytes (`bench overload`).

Rules of the file:
- What is said is what `edge/problems.py` would say; a page's request, or one with a trace, takes the long way.
- It is counted like every answer. In the log the next line says how many had none.
"""

from typing import Final

from edge.http import Response
from edge.normaliser import Head
from edge.problems import PROBLEM, problem_response
from edge.responses import encode_response
from edge.routes import RouteTable
from engine.errors import Unavailable
from engine.trace import TRACE_HEADER

_ID: Final = "@request-id@"
_DETAIL: Final = "more comes than can be taken now; nothing was done with this request"
_bodies: Final[dict[tuple[str, str], tuple[bytes, bytes]]] = {}
"""By code and path: what stands before the request's id and after it. Codes and routes are few."""


def overload_of(table: RouteTable, head: Head) -> Unavailable | None:
    """Give the reason to turn a request away before anything is done for it, None where there is none.

    What has no scope is not turned away: probes, and what a client needs to come in.
    """
    route = table.route_of(head.method, head.path)
    if route is None or route.scope is None or "origin" in head.headers or TRACE_HEADER in head.headers:
        return None
    try:
        if table.turns is not None:
            table.turns.check_room()
        if route.is_early and route.admit is not None:
            route.admit()
    except Unavailable as fault:
        return fault
    return None


def encode_shed(table: RouteTable, fault: Unavailable, head: Head, request_id: str, *, stays: bool) -> bytes:
    """Give the answer's bytes, and count it."""
    kind = fault.kind
    key = kind.code, head.path
    if key not in _bodies:
        whole = problem_response(Unavailable(kind.code, _DETAIL, fault.retry_after_s), _ID, head.path).body
        before, _, after = whole.partition(_ID.encode())
        _bodies[key] = before, after
    before, after = _bodies[key]
    body = b"%b%b%b" % (before, request_id.encode(), after)
    table.metrics.count_request(head.path, head.method, kind.status, 0.0)
    table.lines.left_out += 1
    response = Response(kind.status, body, PROBLEM, {"Retry-After": "1"})
    return encode_response(response, request_id, stays=stays, head_only=head.method == "HEAD")
