"""The log as `/metrics` shows it: what is put on it, how soon it answers, and how far its consumers are.

Rules of the file:
- The consumers are asked for when somebody scrapes, within `ASK_WITHIN_S`; while the log is away they have no figures,
  which is better than old ones.
- A durable's name is its operator's: at most `NAMED` of them become labels, those with most to do, and the rest one.
  An ephemeral consumer's name is nobody's, and becomes none.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import trio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from engine.errors import Fault

if TYPE_CHECKING:
    from edge.node import Node

ASK_WITHIN_S: Final = 1.0
NAMED: Final = 100
REST: Final = "*"
"""No durable can be called so."""


def log_metrics(node: "Node") -> Iterator[Metric]:
    """Give what this process knows by itself."""
    ingest = node.ingest.commit.statistics()
    yield CounterMetricFamily("headgate_ingest_events", "Events stored on the log.", value=ingest.events_stored)
    yield CounterMetricFamily(
        "headgate_ingest_frames",
        "Frames sent to the log: messages that hold the events of one request or of several.",
        value=ingest.frames,
    )
    yield CounterMetricFamily(
        "headgate_ingest_refused",
        "Requests refused because too much was waiting.",
        value=ingest.requests_refused + node.ingest.patience.shed,
    )
    yield GaugeMetricFamily(
        "headgate_ingest_waiting_events", "Events that wait for a frame.", value=ingest.waiting_events
    )
    yield GaugeMetricFamily("headgate_ingest_waiting_bytes", "Bytes that wait for a frame.", value=ingest.waiting_bytes)
    yield GaugeMetricFamily(
        "headgate_ingest_in_flight_frames", "Frames that the log has not answered yet.", value=ingest.in_flight_frames
    )
    acks = node.ingest.ack_took
    yield HistogramMetricFamily(
        "headgate_log_ack_seconds",
        "How long the log took to answer a frame, its sync included: what a slow disk or a slow network shows first.",
        buckets=acks.cumulated(),
        sum_value=acks.total,
    )
    sizes = node.ingest.frame_events
    yield HistogramMetricFamily(
        "headgate_log_frame_events",
        "Events of a stored frame: one sync answers so many, and near 1 under load means that merging does not help.",
        buckets=sizes.cumulated(),
        sum_value=sizes.total,
    )
    ages = HistogramMetricFamily(
        "headgate_stream_age_seconds",
        "How old a batch's first message was when it was handed over, by wire: the lag that agents see. "
        "A message that comes again counts with its whole age.",
        labels=["wire"],
    )
    for wire, histogram in node.stream_v1.book.ages.items():
        ages.add_metric([wire], histogram.cumulated(), histogram.total)
    yield ages


async def ask_consumers(node: "Node") -> list[dict[str, Any]] | None:
    """Ask the log about its consumers; None when it does not answer in time."""
    with trio.move_on_after(ASK_WITHIN_S):
        if node.health.dependencies()["log"].state == "up":
            try:
                found, _ = await node.consumers.list_all(0)
            except Fault:
                return None
            return found
    return None


def consumer_metrics(consumers: list[dict[str, Any]] | None) -> Iterator[Metric]:
    """Give how far the consumers are; nothing when nothing is known of them."""
    if consumers is None:
        return
    durables = [one for one in consumers if not one["ephemeral"]]
    counts = GaugeMetricFamily("headgate_consumers", "Consumers of the stream, by kind.", labels=["kind"])
    counts.add_metric(["durable"], len(durables))
    counts.add_metric(["ephemeral"], len(consumers) - len(durables))
    pending = GaugeMetricFamily(
        "headgate_consumer_pending_messages",
        "Messages that a durable was not handed yet; `*` is all beyond the hundred with most. Growing: too few agents.",
        labels=["durable"],
    )
    held = GaugeMetricFamily(
        "headgate_consumer_in_flight_messages",
        "Messages that agents of a durable hold, on every gateway.",
        labels=["durable"],
    )
    again = GaugeMetricFamily(
        "headgate_consumer_redelivered_messages",
        "Of these, messages that came more than once. Not falling: an agent gives up on something.",
        labels=["durable"],
    )
    lag = GaugeMetricFamily(
        "headgate_consumer_lag_seconds",
        "Age of the oldest message that a durable was not handed yet, 0 when there is none.",
        labels=["durable"],
    )
    ordered = sorted(durables, key=lambda one: (-one["pending"], one["durable"]))
    for one in ordered[:NAMED]:
        pending.add_metric([one["durable"]], one["pending"])
        held.add_metric([one["durable"]], one["ack_pending"])
        again.add_metric([one["durable"]], one["redelivered"])
        if one["lag_s"] is not None:
            lag.add_metric([one["durable"]], one["lag_s"])
    if rest := ordered[NAMED:]:
        pending.add_metric([REST], sum(one["pending"] for one in rest))
        held.add_metric([REST], sum(one["ack_pending"] for one in rest))
        again.add_metric([REST], sum(one["redelivered"] for one in rest))
    yield from (counts, pending, held, again, lag)
