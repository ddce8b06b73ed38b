"""`GET /metrics`: the counters as Prometheus text; `GET /api/v1/metrics`: the same as JSON, for dashboards.

Rules of the file:
- Base units, `headgate_` before every name; the library writes the text, the numbers are read when it asks.

Source: S1.28, S1.45, X4.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics

from edge.actor_metrics import actor_metrics
from edge.catalog import catalog_metrics
from edge.hash_metrics import hash_metrics
from edge.health_metrics import health_metrics
from edge.http import Request, Response, json_response
from edge.identity_metrics import audit_metrics, introspection_metric
from edge.limits_metrics import limit_metrics, turn_metrics
from edge.log_metrics import ask_consumers, consumer_metrics, log_metrics
from edge.merging import describe_families, merge_families
from edge.stream_metrics import stream_metrics
from engine.gaps import REASONS
from engine.metrics import HTTP2_EVENTS
from engine.placement import PARENT
from engine.scans import LIVE, ScanState

if TYPE_CHECKING:
    from edge.node import Node

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_NOT_MEASURED: Final = {
    "lucidLink": {"throughputMbps": 0, "timestamp": None},
    "s3Health": {
        "latency": None,
        "averageLatency": None,
        "isHealthy": None,
        "lastCheck": None,
        "checkCount": 0,
        "region": None,
    },
}
"""What nothing here looks at yet, in the shape that dashboards expect: the number is one, what is not known is null."""


async def get_metrics(node: "Node", request: Request) -> Response:
    """Give every metric, in OpenMetrics where the client asks for that."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(await gather(node)))
    if prefers_openmetrics(request.headers.get("accept", "")):
        text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # it publishes no types
        return Response(200, text, OPENMETRICS, {"Vary": "Accept"})
    return Response(200, generate_latest(registry), CONTENT_TYPE, {"Vary": "Accept"})


async def get_service_metrics(node: "Node", request: Request) -> Response:
    """Give them as JSON, and to a scraper, which says so in Accept, as `/metrics` does."""
    if is_scraper(request.headers.get("accept", "")):
        return await get_metrics(node, request)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    figures = [
        {"name": one.name, "labels": one.labels, "value": one.value}
        for family in await gather(node)
        for one in family.samples
        if "le" not in one.labels
    ]
    metrics = {**_NOT_MEASURED, "gateway": figures}
    return json_response({"success": True, "metrics": metrics, "timestamp": now}, headers={"Vary": "Accept"})


def is_scraper(accept: str) -> bool:
    """Say whether an Accept header is a scraper's: it names OpenMetrics, or the text format with its version.

    Plain text alone is named by clients that want JSON and take anything.
    """
    parts = accept.lower().split(",")
    return any(
        "application/openmetrics-text" in one or ("text/plain" in one and "version=0.0.4" in one) for one in parts
    )


async def gather(node: "Node") -> list[Metric]:
    """Give every metric as it is now, added up over the processes of this gateway.

    What the log says of its consumers is asked once, here.
    """
    own = list(NodeCollector(node, await ask_consumers(node)).collect())
    if node.mesh is None:
        return own
    others = await node.mesh.ask_all("metrics")
    count = 1 + len(others.keys() - {PARENT})
    workers = GaugeMetricFamily("headgate_workers", "Workers that answered this scrape.", value=count)
    return [*merge_families([describe_families(own), *map(orjson.loads, others.values())]), workers]


def collect(node: "Node") -> list[Metric]:
    """Give every metric of this process alone."""
    return list(NodeCollector(node, None).collect())


class _Collected:
    """Metrics that are there already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """Give them."""
        return self._metrics


def prefers_openmetrics(accept: str) -> bool:
    """Say whether an Accept header names OpenMetrics, and plain text no higher."""
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.lower().split(","):
        media, _, parameters = part.strip().partition(";")
        if media.strip() in weights:
            weights[media.strip()] = max(weights[media.strip()], _weight_of(parameters))
    return (
        weights["application/openmetrics-text"] > 0 and weights["application/openmetrics-text"] >= weights["text/plain"]
    )


def _weight_of(parameters: str) -> float:
    for one in parameters.split(";"):
        name, _, value = one.strip().partition("=")
        if name == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


class NodeCollector:
    """Reads the running gateway.

    Args:
        node: the gateway.
        consumers: of its stream, as the log describes them just now; None when it does not.
    """

    def __init__(self, node: "Node", consumers: list[dict[str, Any]] | None) -> None:
        self._node = node
        self._consumers = consumers

    def collect(self) -> Iterator[Metric]:
        """Give the metrics as they are now."""
        node = self._node
        requests = CounterMetricFamily(
            "headgate_http_requests", "Answers, by route, method and status.", labels=["route", "method", "code"]
        )
        for (route, method, code), count in node.metrics.requests.items():
            requests.add_metric([route, method, str(code)], count)
        yield requests
        durations = HistogramMetricFamily(
            "headgate_http_request_duration_seconds", "How long answers took, by route.", labels=["route"]
        )
        for route, histogram in node.metrics.durations.items():
            durations.add_metric([route], histogram.cumulated(), histogram.total)
        yield durations
        upgrades = CounterMetricFamily("headgate_websocket_sessions", "WebSocket sessions, by route.", labels=["route"])
        for route, count in node.metrics.upgrades.items():
            upgrades.add_metric([route], count)
        yield upgrades
        connections = CounterMetricFamily(
            "headgate_connections",
            "Connections at the door: accepted, and of these shed at once because too many were open.",
            labels=["outcome"],
        )
        for outcome in ("accepted", "shed"):
            connections.add_metric([outcome], node.metrics.connections[outcome])
        yield connections
        handshakes = CounterMetricFamily("headgate_tls_handshakes", "TLS handshakes, by outcome.", labels=["outcome"])
        for outcome, count in node.metrics.tls_handshakes.items():
            handshakes.add_metric([outcome], count)
        yield handshakes
        http2 = CounterMetricFamily("headgate_http2", "Of HTTP/2: what happened, by event.", labels=["event"])
        for event in HTTP2_EVENTS:
            http2.add_metric([event], node.metrics.http2[event])
        yield http2
        yield from log_metrics(node)
        yield from consumer_metrics(self._consumers)
        yield from hash_metrics(node.hashes)
        yield from catalog_metrics(node)
        if node.query is not None:
            yield GaugeMetricFamily("headgate_queries", "Queries that run or wait.", value=node.query.mailbox().depth)
        yield CounterMetricFamily("headgate_query_rows", "Rows that queries gave.", value=node.metrics.query_rows)
        yield CounterMetricFamily(
            "headgate_queries_shed",
            "Queries told to come back, too many were running.",
            value=node.metrics.queries_shed,
        )
        yield from _agents_metrics(node)
        yield from stream_metrics(node.stream_v1)
        gaps = CounterMetricFamily("headgate_gaps", "Gaps that were announced, by reason.", labels=["reason"])
        for reason in REASONS:
            gaps.add_metric([reason], node.gaps.announced[reason])
        yield gaps
        yield CounterMetricFamily("headgate_gap_messages", "Sequences that gaps named.", value=node.gaps.messages)
        letters = CounterMetricFamily(
            "headgate_dead_letters", "Dead letters, by what became of them.", labels=["outcome"]
        )
        for outcome in ("buried", "repeated", "failed", "gone", "replayed"):
            letters.add_metric([outcome], getattr(node.dead.counts, outcome))
        yield letters
        ready = node.health.state == "ready"
        yield GaugeMetricFamily("headgate_ready", "1 when requests should come here.", value=int(ready))
        durability = InfoMetricFamily("headgate_durability", "What an acknowledged event survives.")
        durability.add_metric([], {"class": node.health.durability})
        yield durability
        known = CounterMetricFamily(
            "headgate_identity_credentials", "Credentials that were looked at, by outcome.", labels=["outcome"]
        )
        known.add_metric(["recognised"], node.identity.counts.recognised)
        known.add_metric(["refused"], node.identity.counts.refused)
        yield known
        if (questions := node.identity.questions()) is not None:
            yield introspection_metric(questions)
        yield from limit_metrics(node.limits)
        yield from turn_metrics(node.turns)
        if node.spans is not None:
            told = CounterMetricFamily("headgate_spans", "Spans, by what became of them.", labels=["outcome"])
            for outcome in ("exported", "failed", "dropped"):
                told.add_metric([outcome], getattr(node.spans.counts, outcome))
            yield told
        if node.audit is not None:
            yield from audit_metrics(node.audit)
        yield from actor_metrics(node.root)
        yield from health_metrics(node)


def _agents_metrics(node: "Node") -> Iterator[Metric]:
    roster = node.agents.roster
    connected = sum(record.is_connected for record in roster.agents.values())
    yield GaugeMetricFamily("headgate_agents_connected", "Remote scanners that are connected.", value=connected)
    yield CounterMetricFamily(
        "headgate_agents_takeovers", "Connections that took over from an older one.", value=roster.takeovers
    )
    yield CounterMetricFamily(
        "headgate_agents_ignored_frames", "Frames of agents that changed nothing.", value=roster.ignored
    )
    live = GaugeMetricFamily("headgate_agents_live_scans", "Scans that are not over, by state.", labels=["state"])
    ended = CounterMetricFamily("headgate_agents_ended_scans", "Scans that are over, by how.", labels=["state"])
    for state in ScanState:
        if state in LIVE:
            live.add_metric([state.value], roster.count_live(state))
        else:
            ended.add_metric([state.value], roster.ended[state])
    yield live
    yield ended
