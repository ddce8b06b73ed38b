"""Limits on the wire: what is refused, what is told, on both lanes."""

from collections.abc import Iterator

import pytest

from tests.support.gateway import Gateway, running_gateway
from tests.support.http import ask, open_connection

KEY, OTHER = "secret-of-the-scanner-1", "secret-of-the-agent-22"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with tight limits."""
    env = {
        "AUTH": "on",
        "HEADGATE_API_KEYS": f"one={KEY};scopes=admin,two={OTHER};scopes=admin",
        "RATE_LIMIT": "5",
        "HEADGATE_REQUEST_LIMIT": "10",
        "TRUSTED_PROXIES": "127.0.0.1",
    }
    with running_gateway(tmp_path_factory.mktemp("limits") / "data", env=env) as running:
        yield running


def of(key: str, address: str = "192.0.2.1") -> dict[str, str]:
    """The headers of a client behind the proxy."""
    return {"X-API-Key": key, "X-Forwarded-For": address}


async def test_a_principal_has_its_quota_on_both_lanes(limited: Gateway) -> None:
    """Ten of any kind, whichever connection and lane; another principal has ten of its own."""
    async with open_connection(limited.url) as express, open_connection(limited.url) as quart:
        for number in range(10):
            if number % 2:
                answer = await express.request("POST", "/cache/batch", of(KEY), b"[]")
            else:
                answer = await quart.request("GET", "/actors", of(KEY, f"192.0.2.{number}"))
            assert answer.status == 200
            assert answer.header("ratelimit-policy") == '"requests";q=10;w=60'
            assert str(answer.header("ratelimit")).startswith(f'"requests";r={9 - number};t=')
            assert answer.header("x-ratelimit-remaining") == str(9 - number)
        for connection, method, target in ((express, "POST", "/cache/batch"), (quart, "GET", "/actors")):
            answer = await connection.request(method, target, of(KEY), b"[]" if method == "POST" else None)
            problem = answer.problem(429)
            assert problem["violated-policies"] == ["requests"]
            assert 1 <= int(str(answer.header("retry-after"))) <= 6
            assert str(answer.header("ratelimit")).startswith('"requests";r=0;')
    assert (await ask(limited.url, "POST", "/cache/batch", of(OTHER), b"[]")).status == 200


@pytest.mark.parametrize(("target", "last_octet"), [("/auth/token", 2), ("/ingest", 3)])
async def test_guessing_is_slowed_down(limited: Gateway, target: str, last_octet: int) -> None:
    """Five wrong keys a minute and address; what the client says of its address counts for a proxy alone."""
    headers = {"Authorization": "Bearer not-the-key-of-anybody", "X-Forwarded-For": f"9.9.9.9, 192.0.2.{last_octet}"}
    statuses = [(await ask(limited.url, "POST", target, headers, b"{}")).status for _ in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    headers["X-Forwarded-For"] = "192.0.2.99"
    if target == "/ingest":
        assert (await ask(limited.url, "POST", target, headers, b"{}")).status == 401


async def test_probes_are_not_limited(limited: Gateway) -> None:
    """However often it is asked whether the gateway is well."""
    async with open_connection(limited.url) as connection:
        for _ in range(50):
            answer = await connection.request("GET", "/healthz")
            assert (answer.status, answer.header("ratelimit")) == (200, None)


async def test_an_open_gateway_has_no_limits_unless_told(gateway: Gateway) -> None:
    """On one's own machine nobody counts."""
    async with open_connection(gateway.url) as connection:
        answer = await connection.request("POST", "/cache/batch", (), b"[]")
        assert (answer.status, answer.header("ratelimit")) == (200, None)
