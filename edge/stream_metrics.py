"""The counters of `headgate.stream.v1`, for `edge/metrics.py`.

Rules of the file:
- Labels come from closed sets: a verdict, an outcome.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from actors.stream_v1 import LeasedStreams

VERDICTS: Final = ("ack", "nak", "term", "progress", "filtered")


def stream_metrics(streams: LeasedStreams) -> Iterator[Metric]:
    """Give them as they are now."""
    book, held = streams.book, streams.in_flight
    settled = CounterMetricFamily("headgate_stream_settled", "Messages settled, by verdict.", labels=["verdict"])
    for verdict in VERDICTS:
        settled.add_metric([verdict], book.verdicts[verdict])
    yield settled
    outcomes = CounterMetricFamily("headgate_stream_confirmations", "Confirmations, by outcome.", labels=["outcome"])
    for outcome, count in (("confirmed", book.confirmed), ("late", book.late), ("failed", book.failed)):
        outcomes.add_metric([outcome], count)
    yield outcomes
    yield CounterMetricFamily("headgate_stream_leases_extended", "Leases that were extended.", value=book.extended)
    yield CounterMetricFamily("headgate_stream_leases_lost", "Messages taken back from agents.", value=book.lost)
    yield CounterMetricFamily(
        "headgate_stream_forgotten_by_log",
        "Confirmed messages that the log forgot and was told of again.",
        value=book.repeated,
    )
    yield GaugeMetricFamily("headgate_stream_in_flight_messages", "Messages in agents' hands.", value=held.messages)
    yield GaugeMetricFamily("headgate_stream_in_flight_bytes", "Their bytes.", value=held.bytes)
