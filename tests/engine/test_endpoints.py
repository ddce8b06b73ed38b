"""Where a log's servers are, as `NATS_URL` says it."""

import pytest

from engine.endpoints import Endpoint, endpoints_of

ENDPOINTS: dict[str, list[Endpoint]] = {
    "": [],
    " , ,": [],
    "nats://log": [Endpoint("log", 4222, {})],
    "nats://10.0.0.1:4333": [Endpoint("10.0.0.1", 4333, {})],
    "nats://[::1]:4333": [Endpoint("::1", 4333, {})],
    "tls://log": [Endpoint("log", 4222, {}, tls=True)],
    "nats://u:p@log": [Endpoint("log", 4222, {"user": "u", "pass": "p"})],
    "nats://token@log": [Endpoint("log", 4222, {"auth_token": "token"})],
    "nats://a:1, tls://b:2": [Endpoint("a", 1, {}), Endpoint("b", 2, {}, tls=True)],
    "nats://u:p%40ss%3Aw%2Frd@log": [Endpoint("log", 4222, {"user": "u", "pass": "p@ss:w/rd"})],
    "nats://t%2Foken@log": [Endpoint("log", 4222, {"auth_token": "t/oken"})],
}


@pytest.mark.parametrize(("urls", "endpoints"), ENDPOINTS.items(), ids=repr)
def test_addresses_are_read(urls: str, endpoints: list[Endpoint]) -> None:
    """Host, port, credentials and TLS of each; percent-encoded credentials are decoded."""
    assert endpoints_of(urls) == endpoints
