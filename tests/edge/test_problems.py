"""Faults as problem+json: the standard's members, the documents' own, and nothing that breaks either."""

import orjson
import pytest

from edge.problems import PROBLEM, broken, problem_response
from engine.errors import KINDS, Broken, Fault, Refused, Situation, Unavailable, Unknown

CLASSES: dict[Situation, type[Fault]] = {
    Situation.REFUSED: Refused,
    Situation.UNAVAILABLE: Unavailable,
    Situation.UNKNOWN: Unknown,
    Situation.BROKEN: Broken,
}


@pytest.mark.parametrize("code", KINDS)
def test_every_kind_has_its_problem(code: str) -> None:
    """Exactly the members that are promised, for every row of the table."""
    kind = KINDS[code]
    response = problem_response(CLASSES[kind.situation](code, "why"), "id-1", "/ingest")
    assert (response.status, response.content_type) == (kind.status, PROBLEM)
    assert orjson.loads(response.body) == {
        "type": f"urn:headgate:error:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "why",
        "instance": "/ingest",
        "code": code,
        "outcome": kind.situation.value,
        "request_id": "id-1",
        "success": False,
        "error": "why",
    }
    can_be_repeated = kind.situation in {Situation.UNAVAILABLE, Situation.UNKNOWN}
    headers = dict(response.headers)
    assert headers.pop("WWW-Authenticate", "").startswith("Bearer " if kind.status in {401, 403} else "")
    assert headers == ({"Retry-After": "1"} if can_be_repeated else {})


@pytest.mark.parametrize(("retry_after_s", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (30.0, "30")])
def test_when_to_come_back_is_said_in_whole_seconds(retry_after_s: float, header: str) -> None:
    """Rounded up, and never zero: nobody is invited to hammer."""
    response = problem_response(Unavailable("log.down", "why", retry_after_s), "id-1")
    assert response.headers["Retry-After"] == header


def test_more_members_are_added_and_replace_none() -> None:
    """What a fault knows is in the body; the standard's members are not to be changed by it."""
    fault = Refused("request.wrong-shape", "why", errors=[{"index": 3}], status=200, request_id="other", offset=7)
    body = orjson.loads(problem_response(fault, "id-1").body)
    assert (body["errors"], body["offset"]) == ([{"index": 3}], 7)
    assert (body["status"], body["request_id"]) == (422, "id-1")


def test_what_is_allowed_is_a_header_too() -> None:
    """405 has Allow, as the standard asks; a wrong version of WebSocket is told the right one."""
    response = problem_response(Refused("request.wrong-method", "why", allow="GET, HEAD"), "id-1")
    assert response.headers == {"Allow": "GET, HEAD"}
    response = problem_response(Refused("request.upgrade-required", "why", websocket_version="13"), "id-1")
    assert response.headers == {"Sec-WebSocket-Version": "13"}


@pytest.mark.parametrize("text", ["é", "\x00", '"\\', "\u2028", "x" * 100_000, "\U0001f600"], ids=ascii)
def test_any_text_makes_a_body(text: str) -> None:
    """Whatever a client sent and is quoted back is JSON in the end."""
    body = orjson.loads(problem_response(Refused("request.malformed", text), "id-1", f"/{text}").body)
    assert (body["detail"], body["instance"]) == (text, f"/{text}")


def test_a_bug_tells_only_where_to_ask() -> None:
    """The text is the same for every bug."""
    body = orjson.loads(problem_response(broken(), "id-1").body)
    assert (body["status"], body["code"]) == (500, "server.broken")
    assert "request_id" in body["detail"]


@pytest.mark.parametrize(
    ("fault", "challenge"),
    [
        (Refused("identity.no-credentials", "x"), 'Bearer realm="headgate"'),
        (Refused("identity.bad-credentials", "x"), 'Bearer realm="headgate", error="invalid_token"'),
        (Refused("identity.expired", "x"), 'Bearer realm="headgate", error="invalid_token"'),
        (
            Refused("identity.missing-scope", "x", scope="query:sql"),
            'Bearer realm="headgate", error="insufficient_scope", scope="query:sql"',
        ),
    ],
)
def test_who_is_refused_learns_what_to_bring(fault: Fault, challenge: str) -> None:
    """RFC 6750: no error where there were no credentials, the scope where it is missing."""
    assert problem_response(fault, "id-1").headers["WWW-Authenticate"] == challenge
