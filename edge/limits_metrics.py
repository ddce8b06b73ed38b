"""The figures of the limits and of the queue of bodies, for `edge/metrics.py`.

Rules of the file:
- Labels come from closed sets: the policies that the settings switch on, and the names of the tables.
- Of several workers they are added up, for slots are each one's own; not so `headgate_limits_alone`.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from actors.limits import Limiter
from actors.turns import Turns


def limit_metrics(limiter: Limiter | None) -> Iterator[Metric]:
    """Give them as they are now; without limits there are no policies to name, and nothing is alone."""
    found = None if limiter is None else limiter.statistics()
    refused = CounterMetricFamily("headgate_limits_refused", "Requests over a limit, by policy.", labels=["policy"])
    in_use = GaugeMetricFamily(
        "headgate_limits_slots_in_use", "Requests that run under a policy of requests at once.", labels=["policy"]
    )
    slots = GaugeMetricFamily("headgate_limits_slots", "How many may, together or a principal.", labels=["policy"])
    tables = GaugeMetricFamily(
        "headgate_limits_table_entries", "Entries in memory: buckets, and who holds a slot.", labels=["table"]
    )
    if found is not None:
        for policy, count in found.refused.items():
            refused.add_metric([policy], count)
        for policy, (taken, most) in found.slots.items():
            in_use.add_metric([policy], taken)
            slots.add_metric([policy], most)
        tables.add_metric(["buckets"], found.buckets)
        tables.add_metric(["holders"], found.holders)
    yield from (refused, in_use, slots, tables)
    yield GaugeMetricFamily(
        "headgate_limits_alone",
        "1 while Redis does not answer and a process does without.",
        value=int(found is not None and found.is_alone),
    )
    yield CounterMetricFamily(
        "headgate_limits_alone_requests",
        "Requests that were judged while Redis was away.",
        value=0 if found is None else found.alone_requests,
    )
    yield CounterMetricFamily(
        "headgate_limits_redis_failures",
        "Times that Redis was asked and did not answer.",
        value=0 if found is None else found.failures,
    )


def turn_metrics(turns: Turns) -> Iterator[Metric]:
    """Give them as they are now."""
    found = turns.statistics()
    yield GaugeMetricFamily("headgate_turns_waiting", "Bodies that wait to be worked on.", value=found.waiting)
    yield GaugeMetricFamily("headgate_turns_waiting_bytes", "The work they stand for.", value=found.waiting_bytes)
    yield CounterMetricFamily("headgate_turns_waited", "Bodies that had to wait.", value=found.waited)
    yield CounterMetricFamily(
        "headgate_turns_shed", "Requests told to come back, too many were waiting.", value=turns.patience.shed
    )
