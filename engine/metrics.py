"""Counters: plain numbers that the hot paths add to and a scrape reads.

Rules of the file:
- Labels come from closed sets: a route's template, a method, a status; never a raw path or an id.
- Counting costs one dictionary update; formatting is the scrape's work.

What must change with it: `edge/metrics.py` gives the names and the text.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

HTTP2_EVENTS: Final = ("connections", "requests", "reset", "refused", "broken", "calmed")
"""Connections and streams that began, streams reset and refused, connections ended for what is no HTTP/2 and for a
flood."""

BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From what the express lane takes to what nobody waits for."""


AGE_BOUNDS_S: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.1,
    0.5,
    1.0,
    5.0,
    10.0,
    60.0,
    300.0,
    3600.0,
    21600.0,
    86400.0,
)
"""From an agent that waits for the event to one that was away for a day."""
COUNT_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Of what is put together."""


@dataclass(slots=True)
class Histogram:
    """How long things took, or how many there were: counts between bounds, and their sum.

    Args:
        bounds: ascending; two histograms of the same figure have the same.
        counts: one for each bound, and one for what is beyond the last.
        total: of all that was observed, in the unit of the bounds.
    """

    bounds: tuple[float, ...] = BOUNDS_S
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        """Begin at nothing."""
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulated(self) -> list[tuple[str, int]]:
        """Give the bounds, as text, with how many took no longer."""
        total, found = 0, list[tuple[str, int]]()
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            found.append((bound, total))
        return found


@dataclass(slots=True)
class Metrics:
    """What has been counted since the start.

    Args:
        requests: by route, method and status.
        durations: how long answers took, by route.
        upgrades: WebSocket sessions by route.
        connections: by what became of them at the door, `accepted` or `shed`.
        tls_handshakes: by outcome, `done` or `failed`; one that goes on counts as failed.
        http2: of connections that speak HTTP/2, by event: see `HTTP2_EVENTS`.
        query_rows: rows that queries gave.
        queries_shed: queries told to come back.
        certificate_expires_at: gives the end of the certificate's life, a Unix time; None where no TLS is spoken.
    """

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    durations: dict[str, Histogram] = field(default_factory=dict)
    upgrades: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    tls_handshakes: Counter[str] = field(default_factory=Counter)
    http2: Counter[str] = field(default_factory=Counter)
    query_rows: int = 0
    queries_shed: int = 0
    certificate_expires_at: Callable[[], float] | None = None

    def count_request(self, route: str, method: str, status: int, took_s: float | None = None) -> None:
        """Note an answer; a method that nobody knows counts as `other`.

        Args:
            took_s: from its head to its last byte handed over, None where that says nothing.
        """
        self.requests[route, method if method in METHODS else "other", status] += 1
        if took_s is not None:
            histogram = self.durations.get(route)
            if histogram is None:
                histogram = self.durations[route] = Histogram()
            histogram.observe(took_s)
