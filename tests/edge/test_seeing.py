"""What a person and a machine can see of requests: log lines, histograms, both formats of the metrics."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from edge.metrics import OPENMETRICS, prefers_openmetrics
from tests.support.agent import open_agent
from tests.support.agent_v1 import open_agent_v1
from tests.support.command import run_command
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.http import ask, open_connection
from tests.support.redis_server import free_port
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


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("text/plain; version=0.0.4", "text/plain"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "application/openmetrics-text"),
    ],
)
async def test_dashboards_get_json_and_scrapers_get_text_from_one_path(
    gateway: Gateway, accept: str, media: str
) -> None:
    """X4, S1.28, S1.45: `/api/v1/metrics` is JSON, unless Accept says what a Prometheus scraper says."""
    answer = await ask(gateway.url, "GET", "/api/v1/metrics", {"Accept": accept} if accept else {})
    assert answer.status == 200
    assert (answer.header("content-type") or "").partition(";")[0] == media
    if media == "application/json":
        body = answer.json()
        assert body["success"] is True
        assert body["metrics"]["lucidLink"]["throughputMbps"] == 0
        assert body["metrics"]["s3Health"].keys() >= {"latency", "averageLatency", "isHealthy", "lastCheck", "region"}
        names = {one["name"] for one in body["metrics"]["gateway"]}
        assert {"headgate_ingest_events_total", "headgate_ready"} <= names
    else:
        assert b"headgate_ingest_events_total" in answer.body


async def test_the_second_port_is_the_same_gateway(tmp_path: Path) -> None:
    """X1: clients that know the gateway at another port find all of it there, and it is counted here."""
    port = free_port()
    async with open_gateway(tmp_path / "data", env={"API_GATEWAY_PORT": str(port)}) as gateway:
        other = f"http://{gateway.host}:{port}"
        health = await ask(other, "GET", "/api/v1/health")
        assert (health.status, health.json()["service"]) == (200, "api-gateway")
        stored = await ask(other, "POST", "/ingest", {}, b'{"events":[{"type":"note","data":{}}]}')
        assert stored.json()["received"] == 1
        assert b"headgate_ingest_events_total 1.0" in (await ask(gateway.url, "GET", "/metrics")).body
        assert [line for line in gateway.log_lines() if line.get("port") == port]
        env = {"API_GATEWAY_PORT": str(port), "HEADGATE_CATALOG": "off"}
        same = await run_command(tmp_path, "serve", "--port", "0", "--data", str(tmp_path / "b"), env=env)
        assert (same.code, f":{port}" in same.err) == (1, True)


async def test_a_quiet_connection_ends_at_the_time_that_was_set(tmp_path: Path) -> None:
    """S4.32: SERVER_IDLE_TIMEOUT and SERVER_READ_TIMEOUT hold on both ports."""
    env = {"SERVER_IDLE_TIMEOUT": "1", "SERVER_READ_TIMEOUT": "1"}
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        for sent in (b"", b"GET /heal", b"POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"):
            async with open_connection(gateway.url) as connection:
                await connection.send(sent)
                rest = await connection.read_to_end(timeout_s=8)
                assert (b" 408 " in rest) is bool(sent)


TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


async def test_a_trace_goes_through_the_log_to_the_agent(
    talkative: Gateway, own_subject: str, own_durable: str
) -> None:
    """W3C: the answer, the log line, the frame's header and the v1 message name the caller's trace."""
    headers = {"traceparent": TRACEPARENT, "X-Request-Id": "traced"}
    body = b'{"events":[{"type":"note","data":{}}]}'
    answer = await ask(talkative.url, "POST", f"/ingest?subject={own_subject}", headers, body)
    assert answer.status == 200, answer
    passed_on = answer.header("traceparent") or ""
    assert passed_on.startswith(f"00-{TRACE_ID}-")
    assert passed_on != TRACEPARENT
    assert (await line_of(talkative, "traced"))["trace_id"] == TRACE_ID
    untraced = await ask(talkative.url, "POST", f"/ingest?subject={own_subject}", {}, body)
    assert untraced.header("traceparent") is None
    async with open_agent_v1(talkative.url, own_durable, subject=own_subject) as agent:
        await agent.credit()
        messages: list[dict[str, Any]] = []
        while len(messages) < 2:
            batch = await agent.receive()
            messages += batch.messages
            await agent.ack(batch)
    assert messages[0]["trace"] == [passed_on]
    assert "trace" not in messages[1]


async def test_the_old_wire_stays_as_it_is(talkative: Gateway, own_subject: str, own_durable: str) -> None:
    """A traced event reaches an old agent in exactly the old shape, which its support checks."""
    body = b'{"events":[{"type":"note","data":{}}]}'
    await ask(talkative.url, "POST", f"/ingest?subject={own_subject}", {"traceparent": TRACEPARENT}, body)
    async with open_agent(talkative.url, own_durable, subject=own_subject) as agent:
        batch = await agent.receive()
        await agent.ack(batch)
    assert TRACE_ID not in batch.text


async def test_the_quart_lane_begins_a_trace_where_there_is_none(talkative: Gateway) -> None:
    """Its answer and its line name the same one; what is not valid is as good as none."""
    for request_id, headers in (("begun", {}), ("begun-anew", {"traceparent": "00-nonsense"})):
        answer = await ask(talkative.url, "GET", "/version", {"X-Request-Id": request_id, **headers})
        trace_id = (answer.header("traceparent") or "").split("-")[1]
        assert re.fullmatch(r"[0-9a-f]{32}", trace_id)
        assert (await line_of(talkative, request_id))["trace_id"] == trace_id
