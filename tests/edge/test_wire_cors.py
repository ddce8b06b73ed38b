"""S4.9, S4.23: what pages of other origins may do, and what a crash of the guard looks like."""

import random
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import structlog.testing

from actors.identity import Authenticator
from edge.guard import Guard
from edge.http import Request, Response
from edge.routes import Lane, Route, RouteTable, respond
from engine.keys import KeyRing
from engine.keys_file import KeysFile
from engine.metrics import Metrics
from tests.support.gateway import Gateway, running_gateway
from tests.support.http import ask, open_connection

APP = {"Origin": "https://app.example"}
EVIL = {"Origin": "https://evil.example"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that pages of one origin may use."""
    env = {"AUTH": "on", "CORS_ORIGINS": "https://app.example", "API_GATEWAY_KEY": "secret-0123456789"}
    with running_gateway(tmp_path_factory.mktemp("cors") / "data", env=env) as running:
        yield running


def asking(method: str = "POST") -> dict[str, str]:
    """A browser's question."""
    return {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize(("target", "methods"), [("/ingest", "POST"), ("/consumers/x", "GET, HEAD, DELETE")])
async def test_a_browser_is_told_what_a_page_may_send(shared: Gateway, target: str, methods: str) -> None:
    """On both lanes, without credentials, which a browser does not send with its question."""
    answer = await ask(shared.url, "OPTIONS", target, APP | asking())
    assert (answer.status, answer.body) == (200, b"")
    assert answer.header("access-control-allow-origin") == "https://app.example"
    assert answer.header("access-control-allow-methods") == methods
    assert "authorization" in str(answer.header("access-control-allow-headers")).lower()
    assert answer.header("access-control-allow-credentials") is None
    assert "Origin" in str(answer.header("vary"))
    refused = await ask(shared.url, "OPTIONS", target, EVIL | asking())
    assert refused.problem(403)["code"] == "identity.bad-origin"
    assert refused.header("access-control-allow-origin") is None
    (await ask(shared.url, "OPTIONS", "/nothing/here", APP | asking())).problem(404)
    (await ask(shared.url, "OPTIONS", target, APP)).problem(405)


@pytest.mark.parametrize("body", [None, b"{}"])
@pytest.mark.parametrize("target", ["/cache/batch", "/consumers/x/pause"])
async def test_a_page_may_read_every_answer(shared: Gateway, target: str, body: bytes | None) -> None:
    """Refusals too, on both lanes, or its author would not know why; other pages may read none."""
    for key in ("secret-0123456789", "wrong-wrong-wrong-wrong"):
        answer = await ask(shared.url, "POST", target, APP | {"X-API-Key": key}, body)
        assert answer.status >= 400
        assert answer.header("access-control-allow-origin") == "https://app.example"
        assert "WWW-Authenticate" in str(answer.header("access-control-expose-headers"))
        other = await ask(shared.url, "POST", target, EVIL | {"X-API-Key": key}, body)
        assert other.header("access-control-allow-origin") is None


async def test_every_answer_has_the_security_headers(shared: Gateway) -> None:
    """On both lanes, whatever the status."""
    async with open_connection(shared.url) as connection:
        for target in ("/healthz", "/nothing", "/version", "/actors"):
            answer = await connection.request("GET", target)
            assert answer.header("x-content-type-options") == "nosniff"
            assert answer.header("x-frame-options") == "DENY"
            assert answer.header("referrer-policy") == "no-referrer"
            assert answer.header("server") is None


async def test_a_crash_of_the_guard_is_one_logged_500(tmp_path: Path) -> None:
    """S4.23: recovery stands before security: it is answered as JSON, with the id that the one line has."""

    def broken_clock() -> float:
        raise ZeroDivisionError("secret of the house")

    async def handle(_: Request) -> Response:
        raise AssertionError("it was let in")

    async def read(_: int) -> bytes:
        raise AssertionError("the body was read")

    authenticator = Authenticator(KeyRing(), KeyRing(), KeysFile(tmp_path), b"s" * 32, 900, broken_clock)
    guard = Guard(authenticator, is_open=False, origins=frozenset())
    route = Route("POST", "/a", handle, Lane.EXPRESS, "words", scope="ingest:write")
    table = RouteTable([route], Metrics(), guard=guard)
    request = Request("POST", "/a", "", {"x-api-key": "secret-0123456789"}, "127.0.0.1", "id-1", read)
    with structlog.testing.capture_logs() as lines:
        response = await respond(table, request)
    assert (response.status, orjson.loads(response.body)["request_id"]) == (500, "id-1")
    assert b"secret" not in response.body
    assert [line["request_id"] for line in lines if line["log_level"] == "error"] == ["id-1"]


async def test_hostile_questions_break_nothing(shared: Gateway, chance: random.Random) -> None:
    """Origins and methods of any kind are 204, 403, 404 or 405, never a 500."""
    async with open_connection(shared.url) as connection:
        for _ in range(60):
            odd = "".join(chance.choice("abc:/.[]*,;%é \\\"'") for _ in range(chance.randrange(30))).strip()
            headers = {"Origin": odd} | asking(odd or "x")
            answer = await connection.request("OPTIONS", "/ingest", headers)
            assert answer.status in {200, 403, 404, 405}
