"""What a browser lets pages of other origins do: answers to its questions, and headers on every answer.

Rules of the file:
- Only origins of `CORS_ORIGINS` are named; a page of another learns nothing, not even from a refusal.
- Credentials of the browser's own (cookies) are never asked for, so that a page sends what its author gave it.

Source: the Fetch standard; S4.9.
"""

from collections.abc import Sequence
from typing import Final

from edge.http import Response
from engine.errors import Refused

MAX_AGE_S: Final = 600
_EXPOSED: Final = (
    "Location, RateLimit, RateLimit-Policy, Retry-After, Traceparent, WWW-Authenticate, X-RateLimit-Limit, "
    "X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-Id"
)
_TAKEN: Final = "Authorization, Content-Type, Content-Encoding, Idempotency-Key, Traceparent, X-API-Key, X-Request-Id"


def cors_headers(headers: dict[str, str], origins: frozenset[str]) -> dict[str, str]:
    """Give the headers that let a page read the answer; none where its origin is not named."""
    origin = headers.get("origin")
    if origin is None or not origins:
        return {}
    if "*" in origins:
        return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": _EXPOSED}
    if origin.lower() not in origins:
        return {"Vary": "Origin"}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": _EXPOSED,
        "Vary": "Origin",
    }


def is_preflight(method: str, headers: dict[str, str]) -> bool:
    """Say that a browser asks whether a page may send something."""
    return method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def answer_preflight(headers: dict[str, str], methods: Sequence[str], origins: frozenset[str]) -> Response:
    """Say what a page may send.

    Args:
        headers: of the question.
        methods: what the path takes.
        origins: whose pages may.

    Raises:
        Refused: pages of this origin may not.
    """
    if "Access-Control-Allow-Origin" not in cors_headers(headers, origins):
        raise Refused("identity.bad-origin", "the page's origin is not in CORS_ORIGINS")
    return Response(
        200,
        headers={
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": _TAKEN,
            "Access-Control-Max-Age": str(MAX_AGE_S),
        },
    )
