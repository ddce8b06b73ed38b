"""When a queue sheds: not for being long for a moment, but for never becoming short.

A burst may wait for `BURST_S`. A queue whose first has waited longer than `TARGET_S` for `STANDING_S` without a pause
is no burst: more comes than can be taken. From then on whoever comes while the first has waited so long is told so at
once, until it was calm for `CALM_S`. So what is taken is taken soon, whoever works on the queue hardly ever runs dry,
and it stays short however much comes (the idea of CoDel, RFC 8289, for requests).

Rules of the file:
- No clock: `now` is given, in seconds, of any origin.
- What counts is how long the first has waited, which needs no guess of how fast the queue moves.

Source: RELIABILITY P5, T20; `bench overload` pays for the numbers.
"""

from typing import Final

TARGET_S: Final = 0.1
"""Longer than 64 clients make each other wait, who each ask again when they have their answer; with twice as much,
what waits is no longer in the processor's caches, and all of it costs more."""
STANDING_S: Final = 0.5
BURST_S: Final = 1.0
"""About a second's work, as the bounds of `engine/ingest.py` are."""
CALM_S: Final = 2.0
RETRY_AFTER_S: Final = 1.0


class Patience:
    """Says of one queue whether another may come."""

    def __init__(self) -> None:
        self.shed = 0
        """How often it said no."""
        self._above_since: float | None = None
        self._last_above = 0.0
        self._is_standing = False

    @property
    def is_calm(self) -> bool:
        """Whether an empty queue may be taken for what it is, without asking."""
        return self._above_since is None

    def may_come(self, oldest_s: float, now: float) -> bool:
        """Say whether another may stand in the queue; no is counted.

        Args:
            oldest_s: how long the first has waited, 0 where nobody waits.
            now: the time.
        """
        if oldest_s > TARGET_S:
            if self._above_since is None:
                self._above_since = now
            self._last_above = now
            self._is_standing = self._is_standing or now - self._above_since > STANDING_S
        elif not self._is_standing:
            self._above_since = None
        elif now - self._last_above > CALM_S:
            self._is_standing, self._above_since = False, None
        if oldest_s <= (TARGET_S if self._is_standing else BURST_S):
            return True
        self.shed += 1
        return False
