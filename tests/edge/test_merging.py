"""One `/metrics` of several processes: what adds up, and what all of them see of one thing."""

import re
from pathlib import Path

import orjson
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest as generate_text
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from edge.merging import GAUGES, describe_families, merge_families, merge_trees
from tests.support.gateway import Gateway
from tests.support.http import ask, post_json

EDGE = Path(__file__).parents[2] / "edge"
ADDED = {
    "headgate_actors",
    "headgate_agents_connected",
    "headgate_agents_live_scans",
    "headgate_hashes_entries",
    "headgate_ingest_in_flight_frames",
    "headgate_ingest_waiting_bytes",
    "headgate_ingest_waiting_events",
    "headgate_limits_slots",
    "headgate_limits_slots_in_use",
    "headgate_limits_table_entries",
    "headgate_queries",
    "headgate_stream_in_flight_bytes",
    "headgate_stream_in_flight_messages",
    "headgate_turns_waiting",
    "headgate_turns_waiting_bytes",
    "headgate_mailbox_bound",
    "headgate_mailbox_depth",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
}
"""Gauges of which each process has its own part: the whole is their sum. A new one makes somebody decide."""

MADE_AFTERWARDS = {"headgate_workers"}
"""Of the answers themselves."""


def merged(*values: float, kind: type[CounterMetricFamily | GaugeMetricFamily], name: str) -> float:
    """What two processes that say these are said to be."""
    parts: list[list[Metric]] = [[kind(name, "A metric.", value=value)] for value in values]
    (family,) = merge_families([describe_families(part) for part in parts])
    (sample,) = family.samples
    return float(sample.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("headgate_ready", 0),
        ("headgate_dependency_up", 0),
        ("headgate_disk_free_bytes", 0),
        ("headgate_disk_limit_bytes", 7),
        ("headgate_consumer_lag_seconds", 7),
        ("headgate_consumer_pending_messages", 7),
        ("headgate_ingest_waiting_events", 7 + 7),
        ("process_resident_memory_bytes", 7 + 7),
    ],
)
def test_what_all_see_of_one_thing_is_not_there_twice(name: str, expected: float) -> None:
    """The worst of what they say where it is one thing, the sum where each has its own."""
    values = (7.0, 0.0) if expected == 0 else (7.0, 7.0)
    assert merged(*values, kind=GaugeMetricFamily, name=name) == expected


def test_counters_add_up() -> None:
    """Each has counted its own."""
    assert merged(3, 4, kind=CounterMetricFamily, name="headgate_ingest_events") == 7


async def test_somebody_has_decided_about_every_gauge(gateway: Gateway) -> None:
    """Those of a real scrape, and those that the code names but that this gateway has no reason to show."""
    families = list(parse_text((await ask(gateway.url, "GET", "/metrics")).body.decode()))
    shown = {one.name for one in families if one.type == "gauge" and not one.name.endswith("_info")}
    named = {
        name
        for path in EDGE.glob("*.py")
        for name in re.findall(r"GaugeMetricFamily\(\s*\"([a-z0-9_]+)\"", path.read_text())
    }
    assert len(shown) > 10
    assert len(named) > 20
    decided = GAUGES.keys() | ADDED
    assert shown | named <= decided | MADE_AFTERWARDS
    assert not GAUGES.keys() & ADDED
    derived = {"headgate_disk_free_bytes", "headgate_disk_limit_bytes"}
    processes = {name for name in decided if name.startswith("process_")}
    assert decided - derived - processes <= named, "one that nobody shows any more"


async def test_what_is_put_together_is_what_prometheus_takes(gateway: Gateway) -> None:
    """A real scrape, three times, through JSON: both formats parse; what counts is three times as much."""
    for _ in range(3):
        await post_json(gateway.url, "/ingest", {"events": [{"type": "scan.started", "data": {}}]})
    text = (await ask(gateway.url, "GET", "/metrics")).body.decode()
    own = [one for one in parse_text(text) if one.name not in MADE_AFTERWARDS]
    for one in own:
        if one.type == "counter":
            one.name = one.name.removesuffix("_total")
    parts = [orjson.loads(orjson.dumps(describe_families(own))) for _ in range(3)]
    registry = CollectorRegistry()
    registry.register(_Collected(merge_families(parts)))
    before = samples_of(own)
    for found in (
        samples_of(list(parse_text(generate_text(registry).decode()))),
        samples_of(list(parse_openmetrics(generate_openmetrics(registry).decode()))),  # type: ignore[no-untyped-call]
    ):
        assert found.keys() == before.keys()
        for key, (kind, value) in before.items():
            family = key[0]
            is_once = kind in {"info", "stateset"} or family in GAUGES or family.endswith("_info")
            assert found[key][1] == pytest.approx(value if is_once else 3 * value), key


def test_histograms_add_up() -> None:
    """Bucket by bucket, count and sum; a route that one process never served is the other's alone."""
    parts: list[list[Metric]] = []
    for routes in (["/a"], ["/a", "/b"]):
        family = HistogramMetricFamily("headgate_seconds", "A time.", labels=["route"])
        for route in routes:
            family.add_metric([route], [("0.1", 1), ("+Inf", 3)], 2.5)
        parts.append([family])
    (merged_family,) = merge_families(map(describe_families, parts))
    values = {(one.name, one.labels["route"], one.labels.get("le", "")): one.value for one in merged_family.samples}
    assert values["headgate_seconds_bucket", "/a", "0.1"] == 2
    assert values["headgate_seconds_bucket", "/a", "+Inf"] == values["headgate_seconds_count", "/a", ""] == 6
    assert values["headgate_seconds_sum", "/a", ""] == 5
    assert values["headgate_seconds_count", "/b", ""] == 3


def test_trees_are_put_under_their_worker() -> None:
    """A worker that did not answer stands there with what the parent knows of it."""
    places = [{"name": f"worker-{index}", "children": []} for index in (1, 2)]
    parent = {
        "name": "headgate",
        "children": [{"name": "nats", "children": []}, {"name": "workers", "children": places}],
    }
    own = {"name": "headgate", "children": [{"name": "ingest", "children": []}]}
    found = merge_trees(parent, {2: own})["children"][1]["children"]
    assert [one["children"] for one in found] == [[], [{"name": "ingest", "children": []}]]


class _Collected:
    """Metrics that are there already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """Give them."""
        return self._metrics


def samples_of(families: list[Metric]) -> dict[tuple[str, str, tuple[tuple[str, str], ...]], tuple[str, float]]:
    """Every sample by its family, name and labels, with the family's type."""
    return {
        (family.name.removesuffix("_total").removesuffix("_info"), one.name, tuple(sorted(one.labels.items()))): (
            family.type,
            float(one.value),
        )
        for family in families
        for one in family.samples
    }
