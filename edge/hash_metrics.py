"""The hash cache as `/metrics` shows it, tier by tier.

Rules of the file:
- The tiers are a closed set, and each has its figures from the start, whether it is there or not.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from actors.hashes import TIERS, HashCache


def hash_metrics(cache: HashCache) -> Iterator[Metric]:
    """Give them as they are now."""
    table = cache.table
    yield CounterMetricFamily("headgate_hashes_hits", "Probes answered with a hash.", value=table.hits)
    yield CounterMetricFamily("headgate_hashes_misses", "Probes answered with a miss.", value=table.misses)
    yield GaugeMetricFamily("headgate_hashes_entries", "Entries of the in-process tier.", value=len(table))
    hits = CounterMetricFamily(
        "headgate_hashes_tier_hits", "Probes that this tier answered and none before it.", labels=["tier"]
    )
    took = HistogramMetricFamily(
        "headgate_hashes_tier_seconds",
        "How long a tier took for what a request asked it: one round trip, whatever the number of probes.",
        labels=["tier"],
    )
    for tier in TIERS:
        hits.add_metric([tier], cache.tier_hits[tier])
        took.add_metric([tier], cache.tier_took[tier].cumulated(), cache.tier_took[tier].total)
    yield from (hits, took)
