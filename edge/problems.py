"""Faults as problem+json bodies (RFC 9457), with the members that the documents add.

Rules of the file:
- Every answer of 400 and above on the gateway's own paths has this body.
"""

from math import ceil
from typing import Final

import orjson

from edge.http import Response
from engine.errors import Broken, Fault

PROBLEM: Final = "application/problem+json"
TYPES: Final = "urn:headgate:error:"


def problem_response(fault: Fault, request_id: str, instance: str = "") -> Response:
    """Turn a fault into its answer.

    Args:
        fault: what went wrong.
        request_id: finds the request in the log.
        instance: the path it went wrong on.
    """
    kind = fault.kind
    body: dict[str, object] = {
        "type": TYPES + kind.code,
        "title": kind.title,
        "status": kind.status,
        "detail": fault.detail,
        "instance": instance,
        "code": kind.code,
        "outcome": kind.situation.value,
        "request_id": request_id,
        "success": False,
        "error": fault.detail,
    }
    for name, value in fault.members.items():
        body.setdefault(name, value)
    headers = dict(fault.headers)
    retry_after_s = getattr(fault, "retry_after_s", None)
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, ceil(retry_after_s)))
    if kind.status in {401, 403}:
        headers["WWW-Authenticate"] = _challenge(fault)
    if "websocket_version" in fault.members:
        headers["Sec-WebSocket-Version"] = str(fault.members["websocket_version"])
    if "allow" in fault.members:
        headers["Allow"] = str(fault.members["allow"])
    return Response(kind.status, orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS), PROBLEM, headers)


def _challenge(fault: Fault) -> str:
    """Say what is wanted, as RFC 6750 has it: no error where there were no credentials."""
    if fault.kind.code == "identity.no-credentials":
        return 'Bearer realm="headgate"'
    if fault.kind.status == 401:
        return 'Bearer realm="headgate", error="invalid_token"'
    scope = f', scope="{fault.members["scope"]}"' if "scope" in fault.members else ""
    return f'Bearer realm="headgate", error="insufficient_scope"{scope}'


def broken() -> Broken:
    """Give the fault that a client sees of our bug; the log has the rest."""
    return Broken("server.broken", "the gateway failed on this request; the request_id finds it in its log")
