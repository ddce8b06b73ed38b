"""Who is told at once to come back, and the cheapest way to say it.

Above capacity every answer of this kind is paid for by what is not stored meanwhile, and twice the load means as many
of them as of good ones. So they are decided on the head alone, before anything else of the request is looked at, and
all but the id is ready as bytes (`bench overload`).

Rules of the file:
- What is said is what `edge/problems.py` would say; a page's request, or one with a trace, takes the long way.
- It is counted like every answer. In the log the next line says how many had none.
"""

import time
from functools import lru_cache
from typing import Final, NamedTuple

from edge.normaliser import Head
from edge.problems import problem_response
from edge.responses import encode_response
from edge.routes import RouteTable
from engine.errors import Unavailable
from engine.trace import TRACE_HEADER

REMEMBERED_ANSWERS: Final = 256
_DETAIL: Final = "more comes than can be taken now; nothing was done with this request"
_STAND_IN: Final = "@"
"""Stands in an answer where the request's id goes, once for each of its characters; no id and no answer has one."""


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
        # Without its traceback: that names the frames that keep it, and such a ring waits for the cycle collector.
        return fault.with_traceback(None)
    return None


def encode_shed(table: RouteTable, fault: Unavailable, head: Head, request_id: str, *, stays: bool) -> bytes:
    """Give the answer's bytes, and count it."""
    table.metrics.count_request(head.path, head.method, fault.kind.status, 0.0)
    table.lines.left_out += 1
    key = _Key(int(time.time()), fault.kind.code, fault.retry_after_s, head.path, len(request_id), head.method, stays)
    return request_id.encode().join(_answer(key))


class _Key(NamedTuple):
    """All that an answer depends on but its request's id; codes and routes are few."""

    second: int
    code: str
    retry_after_s: float
    path: str
    id_length: int
    method: str
    stays: bool


@lru_cache(maxsize=REMEMBERED_ANSWERS)
def _answer(key: _Key) -> list[bytes]:
    """Give an answer, cut where the request's id goes."""
    stand_in = _STAND_IN * key.id_length
    response = problem_response(Unavailable(key.code, _DETAIL, key.retry_after_s), stand_in, key.path)
    return encode_response(response, stand_in, stays=key.stays, head_only=key.method == "HEAD").split(stand_in.encode())
