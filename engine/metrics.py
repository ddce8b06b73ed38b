"""Counters: plain numbers that the hot paths add to and a scrape reads.

Rules of the file:
- Labels come from closed sets: a route's template, a method, a status; never a raw path or an id.
- Counting costs one dictionary update; formatting is the scrape's work.

What must change with it: `edge/metrics.py` gives the names and the text.
"""

from collections import Counter
from dataclasses import dataclass, field

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(slots=True)
class Metrics:
    """What has been counted since the start.

    Args:
        requests: by route, method and status.
        upgrades: WebSocket sessions by route.
        query_rows: rows that queries gave.
        queries_shed: queries told to come back.
    """

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    upgrades: Counter[str] = field(default_factory=Counter)
    query_rows: int = 0
    queries_shed: int = 0

    def count_request(self, route: str, method: str, status: int) -> None:
        """Note an answer; a method that nobody knows counts as `other`."""
        self.requests[route, method if method in METHODS else "other", status] += 1
