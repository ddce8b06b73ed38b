"""The guard holds over HTTP/2: the matrix of T32 in short, the limits, and streamed answers from behind them."""

from collections.abc import Iterator

import orjson
import pytest

from tests.edge.test_wire_authorisation import GUARDED, key_of, some_keys
from tests.support.gateway import Gateway, running_gateway
from tests.support.http import ask
from tests.support.http2 import Http2Client, StreamAnswer, open_http2
from tests.support.waiting import wait_until

KEY = "secret-of-the-scanner-1"
HTTP = [route for route in GUARDED if route[3] is not None]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that asks everybody who they are."""
    env = {"AUTH": "on", "HEADGATE_API_KEYS": some_keys(), "HTTP2": "on", "HEADGATE_LIMITS": "off"}
    with running_gateway(tmp_path_factory.mktemp("guarded") / "data", env=env) as running:
        yield running


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with tight limits and a catalog."""
    env = {
        "AUTH": "on",
        "HEADGATE_API_KEYS": f"one={KEY};scopes=admin,two={KEY}-2;scopes=admin",
        "HEADGATE_REQUEST_LIMIT": "10",
        "HEADGATE_CATALOG": "on",
        "HTTP2": "on",
    }
    with running_gateway(tmp_path_factory.mktemp("limits") / "data", env=env) as running:
        yield running


async def test_every_route_is_guarded_as_over_http_1(guarded: Gateway) -> None:
    """T32 over HTTP/2: nobody is 401, a wrong scope 403, the right one gets what it gets over HTTP/1.1."""
    async with open_http2(guarded.url) as client:
        for method, template, scope, _ in HTTP:
            path = "/".join("x" if part.startswith("{") else part for part in template.split("/"))
            body = b"{}" if method in {"POST", "PUT", "PATCH"} else None
            name = f"{method} {path}"
            nobody = await client.ask(method, path, {}, body)
            assert (nobody.status, nobody.json()["code"]) == (401, "identity.no-credentials"), name
            assert nobody.header("www-authenticate") == 'Bearer realm="headgate"', name
            wrong = await client.ask(method, path, {"x-api-key": key_of("but", str(scope))}, body)
            assert (wrong.status, wrong.json()["scope"]) == (403, scope), name
            right = {"x-api-key": key_of("only", str(scope))}
            new = await client.ask(method, path, right, body)
            old = await ask(guarded.url, method, path, right, body)
            assert new.status == old.status, name
            assert new.status not in {401, 403, 500}, name
        assert not client.goaways


async def test_a_body_is_not_waited_for_before_the_guard_says_no(guarded: Gateway) -> None:
    """401 comes before the first byte of a body, and the rest of it is told to stay away."""
    async with open_http2(guarded.url) as client:
        for path in ("/ingest", "/consumers/x/pause"):
            number = await client.begin("POST", path, {"content-length": "5000"}, ends=False)
            answer = await client.answer(number)
            assert answer.status == 401
            while answer.reset is None:
                await client.pump()
            assert answer.reset == 0


async def test_a_quota_is_one_over_both_versions(limited: Gateway) -> None:
    """Ten requests, some over each: the eleventh is 429 over HTTP/2 too, and the answers say what is left."""
    async with open_http2(limited.url) as client:
        for number in range(10):
            if number % 2:
                left = (await ask(limited.url, "GET", "/actors", {"X-API-Key": KEY})).header("x-ratelimit-remaining")
            else:
                answer = await client.ask("POST", "/cache/batch", {"x-api-key": KEY}, b"[]")
                assert answer.header("ratelimit-policy") == '"requests";q=10;w=60'
                left = answer.header("x-ratelimit-remaining")
            assert left == str(9 - number)
        for method, path, body in (("POST", "/cache/batch", b"[]"), ("GET", "/actors", None)):
            answer = await client.ask(method, path, {"x-api-key": KEY}, body)
            assert answer.status == 429
            assert int(answer.header("retry-after") or 0) >= 1


async def test_rows_are_streamed(limited: Gateway) -> None:
    """`/query/sql` as NDJSON: every row, more of them than a window holds, and slow readers get them all."""
    async with open_http2(limited.url) as client:

        async def is_ready() -> bool:
            return (await ask(limited.url, "GET", "/readyz")).status == 200

        await wait_until(is_ready, "the catalog is there", timeout_s=20)
        answer = await _query(client, "select n, repeat('x', 100) as x from generate_series(1, 3000) as n")
        assert answer.status == 200
        assert answer.header("content-type") == "application/x-ndjson"
        assert answer.header("transfer-encoding") is None
        lines = bytes(answer.body).splitlines()
        assert [orjson.loads(line)["n"] for line in lines if b'"n"' in line] == list(range(1, 3001))
        assert answer.reset is None
        broken = await _query(client, "select 1 / (3000 - n) as n from generate_series(1, 3000) as n")
        assert broken.reset is not None or broken.status >= 400


async def _query(client: Http2Client, sql: str) -> StreamAnswer:
    headers = {"x-api-key": f"{KEY}-2", "accept": "application/x-ndjson", "content-type": "application/json"}
    return await client.ask("POST", "/query/sql", headers, orjson.dumps({"sql": sql}))
