"""What a person and a machine can see of requests: log lines, histograms, both formats of the metrics."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from edge.metrics import OPENMETRICS, prefers_openmetrics
from tests.support.gateway import Gateway, running_gateway
from tests.support.http import ask
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that logs every request of the express lane."""
    env = {"HEADGATE_LOG_EXPRESS": "all"}
    with running_gateway(tmp_path_factory.mktemp("seeing") / "data", env=env) as running:
        yield running


async def line_of(gateway: Gateway, request_id: str) -> dict[str, Any]:
    """Wait for the log line of a request."""

    def find() -> dict[str, Any] | None:
        found = [line for line in gateway.log_lines() if line.get("request_id") == request_id]
        return found[0] if found else None

    line: dict[str, Any] | None = await wait_until(find, "the request's line is there")
    assert line is not None
    return line


@pytest.mark.parametrize(
    ("method", "target", "route", "status"),
    [
        ("GET", "/version?token=a-secret", "/version", 200),
        ("GET", "/consumers/nobody", "/consumers/{durable}", 404),
        ("POST", "/cache/batch", "/cache/batch", 400),
        ("GET", "/nothing/at/all", "unknown", 404),
    ],
)
async def test_each_request_has_a_line(talkative: Gateway, method: str, target: str, route: str, status: int) -> None:
    """Request id, principal, route, status and duration, on both lanes; never the query."""
    request_id = f"seen-{route.strip('/').replace('/', '-').replace('{', '').replace('}', '')}"
    answer = await ask(talkative.url, method, target, {"X-Request-Id": request_id}, b"" if method == "POST" else None)
    assert answer.status == status, answer
    line = await line_of(talkative, request_id)
    assert (line["message"], line["level"]) == ("request", "info")
    assert (line["route"], line["method"], line["status"]) == (route, method, status)
    assert line["path"] == target.partition("?")[0]
    assert line["principal"] == "anybody" or route == "unknown"
    assert 0 <= line["duration_ms"] < 10_000
    assert "a-secret" not in talkative.log_text()


async def test_by_default_the_express_lane_says_nothing_of_what_is_well(gateway: Gateway) -> None:
    """The Quart lane has its line, the express lane and the probes have none."""
    for target in ("/healthz", "/readyz", "/metrics", "/nothing"):
        await ask(gateway.url, "GET", target, {"X-Request-Id": "quiet"})
    await ask(gateway.url, "GET", "/version", {"X-Request-Id": "loud"})
    await line_of(gateway, "loud")
    assert not [line for line in gateway.log_lines() if line.get("request_id") == "quiet"]


async def test_every_route_that_was_asked_has_a_histogram(gateway: Gateway) -> None:
    """Buckets add up to the count, by the route's template, in Prometheus text and in OpenMetrics."""
    for _ in range(3):
        await ask(gateway.url, "GET", "/consumers/somebody")
        await ask(gateway.url, "GET", "/healthz")
    plain = await ask(gateway.url, "GET", "/metrics")
    newer = await ask(gateway.url, "GET", "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert (plain.header("content-type") or "").startswith("text/plain; version=0.0.4")
    assert newer.header("content-type") == OPENMETRICS
    assert newer.body.endswith(b"# EOF\n")
    parsed = parse_openmetrics(newer.body.decode())  # type: ignore[no-untyped-call]  # it publishes no types
    for families in (parse_text(plain.body.decode()), parsed):
        [family] = [one for one in families if one.name == "headgate_http_request_duration_seconds"]
        for route in ("/consumers/{durable}", "/healthz"):
            samples = [one for one in family.samples if one.labels["route"] == route]
            last = [one.value for one in samples if one.labels.get("le") == "+Inf"]
            counts = [one.value for one in samples if one.name.endswith("_count")]
            assert last == counts
            assert counts[0] >= 3
    assert not re.search(rb"somebody", plain.body)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", True),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        (",;,;q=1,,", False),
    ],
)
def test_the_format_is_what_the_client_asks_for(accept: str, expected: bool) -> None:
    """By the weights of Accept; plain text when nothing is said."""
    assert prefers_openmetrics(accept) is expected
