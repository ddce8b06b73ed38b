"""Spans: what a trace is told of a request, of its publish to the log, and of the delivery to an agent.

A request's span continues the caller's trace or begins one. The publish is a child of it. The log message carries the
request's `traceparent`, and a delivery links to all that its messages carry; where that is one trace alone, it goes on
in it, otherwise it begins one.

Rules of the file:
- No clock, no randomness, no I/O: times and new ids come in.
- Nothing of a body, a query or a credential goes into a span; what goes in is bounded.
- A sampler decides by the trace's id alone, so that every gateway decides alike.

What must change with it: `engine/spans_otlp.py` sends them.
Source: the OpenTelemetry trace specification and its conventions for HTTP and messaging.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Final, NamedTuple

from engine.trace import Trace, is_sampled

LINKS_MOST: Final = 32
"""Of a delivery: a batch may hold thousands of traces, and a collector takes 128."""
_RATIO_BITS: Final = 64

Attribute = str | int | float | bool


class SpanKind(Enum):
    """What a span is to others."""

    SERVER = "server"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span(NamedTuple):
    """Something that is over.

    Args:
        name: low in variety: a route, never a path.
        kind: what it is to others.
        trace_id: of the trace.
        span_id: its own.
        parent_id: empty when it began the trace.
        began_ns: time of day, nanoseconds since 1970.
        ended_ns: likewise.
        attributes: by their conventional names.
        links: traceparents of what it goes on from.
        error: why it counts as failed, empty when it does not.
    """

    name: str
    kind: SpanKind
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Attribute]
    links: tuple[str, ...] = ()
    error: str = ""


class Sampling(NamedTuple):
    """Which traces are told.

    Args:
        ratio: of those that begin here, 0 to 1.
        follows_parent: a trace that a caller began is told if the caller says so; otherwise the ratio holds for it too.
    """

    ratio: float = 1.0
    follows_parent: bool = True

    def takes(self, trace: Trace) -> bool:
        """Say whether a request's trace is told."""
        if trace.is_brought and self.follows_parent:
            return is_sampled(trace.text)
        return self.begins(trace.trace_id)

    def begins(self, trace_id: str) -> bool:
        """Say whether a trace that begins here with this id is told."""
        return int(trace_id[16:32], 16) < self.ratio * (1 << _RATIO_BITS)


SAMPLERS: Final[dict[str, tuple[float | None, bool]]] = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}
"""OpenTelemetry's names: the ratio, None where it is to be said; and whether the caller's word comes first."""


def sampling_of(name: str, ratio: float) -> Sampling:
    """Give what a sampler of this name does."""
    given, follows_parent = SAMPLERS[name]
    return Sampling(ratio if given is None else given, follows_parent)


def request_span(
    trace: Trace, route: str, method: str, status: int, began_ns: int, ended_ns: int, facts: dict[str, Attribute]
) -> Span:
    """Tell of an answered request."""
    attributes: dict[str, Attribute] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        **facts,
    }
    error = str(status) if status >= 500 else ""
    if error:
        attributes["error.type"] = error
    return Span(
        f"{method} {route}",
        SpanKind.SERVER,
        trace.trace_id,
        trace.span_id,
        trace.parent_id,
        began_ns,
        ended_ns,
        attributes,
        error=error,
    )


def publish_span(
    trace: Trace, span_id: str, subject: str, count: int, began_ns: int, ended_ns: int, outcome: str, sequence: int
) -> Span:
    """Tell of a request's events on their way to the log.

    Args:
        trace: the request's.
        span_id: the span's own.
        subject: where they were published.
        count: how many.
        began_ns: when they were offered.
        ended_ns: when the log had answered.
        outcome: `stored`, `duplicate`, or the code of what went wrong.
        sequence: of the frame that holds them, 0 when there is none.
    """
    is_stored = outcome in {"stored", "duplicate"}
    attributes: dict[str, Attribute] = {
        "messaging.system": "nats",
        "messaging.operation.type": "send",
        "messaging.destination.name": subject,
        "messaging.batch.message_count": count,
        "headgate.outcome": outcome,
    }
    if is_stored:
        attributes["headgate.sequence"] = sequence
    else:
        attributes["error.type"] = outcome
    return Span(
        f"publish {subject}",
        SpanKind.PRODUCER,
        trace.trace_id,
        span_id,
        trace.span_id,
        began_ns,
        ended_ns,
        attributes,
        error="" if is_stored else outcome,
    )


class Handed(NamedTuple):
    """A traced batch in an agent's hands.

    Args:
        durable: its consumer.
        messages: how many.
        traces: traceparents that its messages carry, sampled ones, each once.
        began_ns: when it was handed over, time of day.
        outcome: how it ended, empty while it has not.
        ended_ns: when that was.
    """

    durable: str
    messages: int
    traces: tuple[str, ...]
    began_ns: int
    outcome: str = ""
    ended_ns: int = 0


def sampled_of(traces: Iterable[str]) -> tuple[str, ...]:
    """Give the traceparents whose traces are told, each once, at most `LINKS_MOST`."""
    return tuple(dict.fromkeys(one for one in traces if is_sampled(one)))[:LINKS_MOST]


TellDelivery = Callable[[Handed], None]
"""Takes a traced batch that is out of an agent's hands; never waits."""


class TracedBatches:
    """The traced batches in one agent's hands.

    Args:
        durable: its consumer.
        tell: takes those that are over.
    """

    MOST: Final = 1000
    """More than an agent may hold: a batch whose end nobody noticed makes room for those after it."""

    def __init__(self, durable: str, tell: TellDelivery) -> None:
        self._durable = durable
        self._tell = tell
        self._held: dict[str, Handed] = {}

    def hand_over(self, batch_id: str, traces: Sequence[Iterable[str]], now_ns: int) -> None:
        """Note that a batch goes to the agent; one that nobody traces is passed over.

        Args:
            batch_id: its name.
            traces: of each of its messages.
            now_ns: time of day.
        """
        named = sampled_of(one for of_message in traces for one in of_message)
        if not named:
            return
        if len(self._held) >= self.MOST:
            self.end(next(iter(self._held)), "lost", now_ns)
        self._held[batch_id] = Handed(self._durable, len(traces), named, now_ns)

    def end(self, batch_id: str, outcome: str, now_ns: int) -> None:
        """Note that a batch is over; one that nobody traces, or that is over already, is passed over."""
        handed = self._held.pop(batch_id, None)
        if handed is not None:
            self._tell(handed._replace(outcome=outcome, ended_ns=now_ns))

    def end_all(self, outcome: str, now_ns: int) -> None:
        """Note that the agent holds nothing any more."""
        for batch_id in list(self._held):
            self.end(batch_id, outcome, now_ns)


def delivery_span(handed: Handed, new_hex: str) -> Span:
    """Tell of a batch that was in an agent's hands.

    Args:
        handed: the batch; it has at least one trace.
        new_hex: forty-eight random digits.
    """
    ids = {one.split("-")[1] for one in handed.traces}
    is_one = len(ids) == 1
    _, trace_id, parent_id, _ = handed.traces[0].split("-", 3)
    return Span(
        f"deliver {handed.durable}",
        SpanKind.CONSUMER,
        trace_id if is_one else new_hex[:32],
        new_hex[32:48],
        parent_id if is_one else "",
        handed.began_ns,
        handed.ended_ns,
        {
            "messaging.system": "nats",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": handed.durable,
            "messaging.batch.message_count": handed.messages,
            "headgate.outcome": handed.outcome,
        },
        handed.traces,
    )
