"""The catalog as `/metrics` shows it.

Rules of the file:
- Base units, `headgate_catalog_` before every name.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from edge.node import Node


def catalog_metrics(node: "Node") -> Iterator[Metric]:
    """Give the catalog's metrics as they are now; none where there is no catalog."""
    if node.catalog is None:
        return
    counts = node.catalog.counts
    for name, text, value in (
        ("events", "Events taken from the log.", counts.events),
        ("rows", "Rows of files written: events newer than what was known.", counts.rows),
        ("batches", "Transactions committed.", counts.batches),
        ("refused", "Events that cannot be stored.", counts.refused),
        ("ignored", "Events of types that the catalog does not know.", counts.ignored),
        ("retries", "Tries that PostgreSQL did not answer.", counts.retries),
        ("tier_hits", "Probes that only the catalog knew.", node.hashes.catalog_hits),
        ("tier_failures", "Requests that the catalog's tier did not answer in time.", node.hashes.catalog_failures),
    ):
        yield CounterMetricFamily(f"headgate_catalog_{name}", text, value=value)
    yield GaugeMetricFamily("headgate_catalog_lag_messages", "Messages not in the catalog yet.", value=counts.waiting)
    current = int(node.catalog.is_current)
    yield GaugeMetricFamily("headgate_catalog_current", "1 once the cache may believe the catalog.", value=current)
