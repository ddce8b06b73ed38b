"""Who asks and what they changed: parts of `GET /metrics`."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from actors.audit import AuditLog


def audit_metrics(log: AuditLog) -> Iterator[Metric]:
    """Give the metrics as they are now."""
    counts = log.counts
    records = CounterMetricFamily(
        "headgate_audit_records", "Changes that were recorded, by how they ended.", labels=["outcome"]
    )
    for outcome, count in counts.ended.items():
        records.add_metric([outcome], count)
    yield records
    yield CounterMetricFamily("headgate_audit_shed", "Changes refused for want of a record.", value=counts.shed)
    yield CounterMetricFamily("headgate_audit_open", "Records whose end could not be stored.", value=counts.open)


def introspection_metric(questions: dict[str, int]) -> Metric:
    """Give the metric of questions about opaque tokens."""
    family = CounterMetricFamily(
        "headgate_introspection_requests",
        "Questions about opaque tokens: asked, those of them that failed, and requests shed without one.",
        labels=["outcome"],
    )
    for outcome, count in questions.items():
        family.add_metric([outcome], count)
    return family
