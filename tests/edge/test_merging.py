"""One `/metrics` of several processes: what adds up, and what all of them see of one thing."""

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from edge.merging import describe_families, merge_families


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
