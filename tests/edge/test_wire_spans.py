"""Spans reach a real collector: of requests on both lanes, of the publish, of the delivery; nothing waits for it."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.agent import open_agent
from tests.support.agent_v1 import open_agent_v1
from tests.support.collector import Collector, open_collector
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.http import ask
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
BODY = b'{"events":[{"type":"note","data":{}}]}'


def traceparent(trace_id: str = TRACE_ID, flags: str = "01") -> dict[str, str]:
    """The header of a caller that traces."""
    return {"traceparent": f"00-{trace_id}-{PARENT}-{flags}"}


@asynccontextmanager
async def open_told(folder: Path, **env: str) -> AsyncIterator[tuple[Gateway, Collector]]:
    """A gateway that sends its spans to a collector, soon."""
    async with open_collector() as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50", **env}
        async with open_gateway(folder / "data", env=variables) as gateway:
            yield gateway, collector


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that several tests share, each with a collector of its own, and that knows every setting."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=seven",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_SERVICE_NAME": "door",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "HEADGATE_LOG_EXPRESS": "all",
    }
    with running_gateway(tmp_path_factory.mktemp("told") / "data", env=env) as running:
        yield running


def port_of(gateway: Gateway) -> int:
    """Where the gateway's collector has to be."""
    return int(gateway.env["OTEL_EXPORTER_OTLP_ENDPOINT"].rpartition(":")[2])


async def test_an_event_is_one_trace_from_its_request_to_its_agents(told: Gateway, own_subject: str) -> None:
    """The request continues its caller, the publish is its child, each delivery goes on from the request."""
    async with open_collector(port_of(told)) as collector:
        headers = {**traceparent(), "X-Request-Id": "told"}
        answer = await ask(told.url, "POST", f"/ingest?subject={own_subject}", headers, BODY)
        async with open_agent_v1(told.url, "new", subject=own_subject) as agent:
            await agent.credit()
            await agent.ack(await agent.receive())
            delivered = await collector.wait_span("deliver new")
        async with open_agent(told.url, "old", subject=own_subject) as old:
            await old.ack(await old.receive())
            delivered_old = await collector.wait_span("deliver old")
        pulled = await ask(told.url, "GET", f"/stream/pull?subject={own_subject}&durable=cron&from=all&wait=5")
        verdict = b'{"durable":"cron","batch":"%b","ack":[0]}' % pulled.json()["batch"].encode()
        await ask(told.url, "POST", "/stream/settle", {}, verdict)
        delivered_plain = await collector.wait_span("deliver cron")
        request = await collector.wait_span("POST /ingest", headgate__request_id="told")
        published = await collector.wait_span(f"publish {own_subject}")
    assert (request.kind, request.trace_id, request.parent_id) == ("SERVER", TRACE_ID, PARENT)
    assert (answer.header("traceparent") or "") == f"00-{TRACE_ID}-{request.span_id}-01"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["user.id"] == "anybody"
    assert (published.kind, published.trace_id, published.parent_id) == ("PRODUCER", TRACE_ID, request.span_id)
    assert published.attributes["headgate.sequence"] == answer.json()["seq"]
    assert published.attributes["headgate.outcome"] == "stored"
    assert 0 < published.took_s <= request.took_s
    for one in (delivered, delivered_old, delivered_plain):
        assert (one.kind, one.trace_id, one.parent_id) == ("CONSUMER", TRACE_ID, request.span_id)
        assert one.links == [(TRACE_ID, request.span_id)]
        assert one.attributes["headgate.outcome"] == "settled"
    assert (request.resource["service.name"], request.resource["deployment.environment.name"]) == ("door", "dev")
    assert set(collector.paths) == {"/v1/traces"}
    assert (collector.headers["x-tenant"], collector.headers["content-encoding"]) == ("seven", "gzip")


async def test_a_batch_of_several_traces_links_to_each(told: Gateway, own_subject: str) -> None:
    """It begins a trace of its own; whoever was not to be told is no link."""
    ids = [f"{number:032x}" for number in (1, 2, 3)]
    async with open_collector(port_of(told)) as collector:
        for trace_id, flags in zip(ids, ("01", "01", "00"), strict=True):
            await ask(told.url, "POST", f"/ingest?subject={own_subject}", traceparent(trace_id, flags), BODY)
        async with open_agent(told.url, "several", subject=own_subject) as agent:
            await agent.ack(await agent.receive())
        delivered = await collector.wait_span("deliver several")
    assert delivered.parent_id == ""
    assert delivered.trace_id not in ids
    assert sorted(trace_id for trace_id, _ in delivered.links) == ids[:2]
    assert ids[2] not in {one.trace_id for one in collector.spans}


async def test_everything_that_begins_here_is_told_by_default(told: Gateway) -> None:
    """Both lanes, but no probes; the ids are those of the answers and of the log lines."""
    async with open_collector(port_of(told)) as collector:
        await ask(told.url, "GET", "/healthz")
        stored = await ask(told.url, "POST", "/ingest", {"X-Request-Id": "begun"}, BODY)
        seen = await ask(told.url, "GET", "/version")
        for answer, name in ((stored, "POST /ingest"), (seen, "GET /version")):
            trace_id = (answer.header("traceparent") or "").split("-")[1]
            [one] = await collector.wait_trace(trace_id, name)
            assert answer.header("traceparent") == f"00-{trace_id}-{one.span_id}-01"
            assert one.parent_id == ""
            assert [line for line in told.log_lines() if line.get("trace_id") == trace_id]
        assert "GET /healthz" not in {one.name for one in collector.spans}


async def test_what_an_agent_never_answered_for_is_told_when_it_is_gone(tmp_path: Path) -> None:
    """On both wires; what the end of the gateway takes back is sent before it ends."""
    async with open_told(tmp_path) as (gateway, collector):
        await ask(gateway.url, "POST", "/ingest", traceparent(), BODY)
        async with open_agent_v1(gateway.url, "new", subject="snapfs.files") as agent:
            await agent.credit()
            await agent.receive()
        assert (await collector.wait_span("deliver new")).attributes["headgate.outcome"] == "given back"
        async with open_agent(gateway.url, "old") as old:
            await old.receive()
            assert await gateway.terminate() == 0
        assert (await collector.wait_span("deliver old")).attributes["headgate.outcome"] == "given back"


async def test_the_callers_decision_comes_first_and_the_ratio_for_the_rest(tmp_path: Path) -> None:
    """Of what begins here nothing is told at ratio 0, on either lane; probes are told of only where their caller is."""
    env = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    async with open_told(tmp_path, **env) as (gateway, collector):
        untold = await ask(gateway.url, "GET", "/version")
        assert (untold.header("traceparent") or "").endswith("-00")
        assert (await ask(gateway.url, "POST", "/ingest", {}, BODY)).header("traceparent") is None
        await ask(gateway.url, "GET", "/version", traceparent(flags="00"))
        await ask(gateway.url, "GET", "/healthz", traceparent())
        await ask(gateway.url, "GET", "/consumers/nobody", traceparent())
        refused = await collector.wait_span("GET /consumers/{durable}")
        assert (refused.attributes["http.response.status_code"], refused.is_error) == (404, False)
        assert {one.name for one in collector.spans} == {"GET /healthz", "GET /consumers/{durable}"}


async def read_counts(gateway: Gateway) -> dict[str, float]:
    """What became of spans, from the metrics."""
    text = (await ask(gateway.url, "GET", "/metrics")).body.decode()
    lines = [line for line in text.splitlines() if line.startswith("headgate_spans_total{")]
    return {line.partition('"')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize(
    "trouble",
    ["deaf", pytest.param("away", marks=pytest.mark.long), pytest.param("refusing", marks=pytest.mark.long)],
)
async def test_a_collector_that_takes_nothing_costs_only_spans(tmp_path: Path, trouble: str) -> None:
    """Requests are answered as before, the queue is bounded, what was not told is counted, the end is not held up."""
    env = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    if trouble == "away":
        env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = "http://127.0.0.1:9/v1/traces"
    async with open_told(tmp_path, **env) as (gateway, collector):
        collector.is_deaf = trouble == "deaf"
        collector.status = 503 if trouble == "refusing" else 200
        for _ in range(60):
            assert (await ask(gateway.url, "POST", "/ingest", {}, BODY)).status == 200

        async def is_counted() -> bool:
            counts = await read_counts(gateway)
            return counts["dropped"] > 0 and counts["failed"] > 0 and counts["exported"] == 0

        await wait_until(is_counted, "spans were counted as lost", timeout_s=20)
        [actor] = [
            one
            for one in (await ask(gateway.url, "GET", "/actors")).json()["actors"]["children"]
            if one["name"] == "spans"
        ]
        assert actor["mailbox"]["depth"] <= actor["mailbox"]["bound"] == 16
        said = [line for line in gateway.log_lines() if "does not take spans" in str(line.get("message"))]
        assert len(said) == 1
        assert await gateway.terminate() == 0


async def test_without_the_extra_the_gateway_says_so_and_serves(tmp_path: Path) -> None:
    """What is not installed is named once, with what to install."""
    hidden = tmp_path / "hidden" / "opentelemetry"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('no opentelemetry here')\n")
    path = os.pathsep.join(filter(None, [str(hidden.parent), os.environ.get("PYTHONPATH", "")]))
    async with open_told(tmp_path, PYTHONPATH=path) as (gateway, collector):
        assert (await ask(gateway.url, "POST", "/ingest", {}, BODY)).status == 200
        [line] = [line for line in gateway.log_lines() if line.get("expected") == "headgate[otlp]"]
        assert line["level"] == "warning"
        assert collector.paths == []
