"""One answer of several processes: metrics that are added up, and the tree of actors put together.

Rules of the file:
- Counters and histograms add. A gauge adds unless it is named here: what all workers see of the same thing is not
  there twice.
- A process that does not answer is missing, and is said to be: `headgate_workers` counts those that did.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

GAUGES: Final[dict[str, Callable[[Iterable[float]], float]]] = {
    "headgate_ready": min,
    "headgate_dependency_up": min,
    "headgate_catalog_current": min,
    "headgate_catalog_lag_messages": max,
    "headgate_disk_free_bytes": min,
    "headgate_disk_limit_bytes": max,
    "headgate_limits_alone": max,
    "process_start_time_seconds": min,
    "headgate_tls_certificate_expires_timestamp_seconds": min,
    "headgate_consumers": max,
    "headgate_consumer_pending_messages": max,
    "headgate_consumer_in_flight_messages": max,
    "headgate_consumer_redelivered_messages": max,
    "headgate_consumer_lag_seconds": max,
}
_ONCE: Final = {"info", "stateset"}

Family = tuple[str, str, str, list[tuple[str, dict[str, str], float]]]
"""A metric as JSON: name, help, type, and its samples with their labels."""


def describe_families(metrics: Iterable[Metric]) -> list[Family]:
    """Give metrics as JSON values, to be sent to the process that was asked."""
    return [
        (one.name, one.documentation, one.type, [(sample.name, sample.labels, sample.value) for sample in one.samples])
        for one in metrics
    ]


def merge_families(parts: Iterable[Iterable[Family]]) -> list[Metric]:
    """Put the metrics of several processes together, in the order in which they are first named."""
    found: dict[str, tuple[Metric, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]]] = {}
    for part in parts:
        for name, documentation, kind, samples in part:
            _, values = found.setdefault(name, (Metric(name, documentation, kind), {}))
            for sample, labels, value in samples:
                values.setdefault((sample, tuple(labels.items())), []).append(value)
    return [_filled(metric, values) for metric, values in found.values()]


def _filled(metric: Metric, values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]) -> Metric:
    join = max if metric.type in _ONCE else GAUGES.get(metric.name, sum) if metric.type == "gauge" else sum
    for (name, labels), numbers in values.items():
        metric.samples.append(Sample(name, dict(labels), join(numbers)))
    return metric


def merge_trees(parent: dict[str, Any], workers: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Put the workers' trees under the parent's.

    Args:
        parent: the tree of the process that runs the engines and the workers.
        workers: each worker's tree, by its index.
    """
    for branch in parent["children"]:
        if branch["name"] != "workers":
            continue
        for worker in branch["children"]:
            index = int(worker["name"].rpartition("-")[2])
            if index in workers:
                worker["children"] = workers[index]["children"]
    return parent
