"""When a fallen actor is started again.

Rules of the file:
- No clock, no random numbers: both come in.
- Restarting never ends: a budget that is spent makes the gateway unready, not dead, and the pauses grow.
"""

from collections import deque
from typing import Final

BUDGET_COUNT: Final = 5
BUDGET_WINDOW_S: Final = 60.0
FIRST_PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 10.0


class RestartBudget:
    """At most `BUDGET_COUNT` falls a minute; more is a fault that a person must see."""

    def __init__(self) -> None:
        self._falls: deque[float] = deque()
        self.count = 0

    def fell(self, now: float, jitter: float) -> float:
        """Note a fall and give the pause before the next start, seconds.

        Args:
            now: seconds, any monotonic origin.
            jitter: a number from 0 to 1, fresh for every call.
        """
        self.count += 1
        self._falls.append(now)
        self._forget(now)
        pause_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (len(self._falls) - 1))
        return pause_s * (0.5 + jitter / 2)

    def is_spent(self, now: float) -> bool:
        """Say that it fell too often within the window."""
        self._forget(now)
        return len(self._falls) > BUDGET_COUNT

    def _forget(self, now: float) -> None:
        while self._falls and self._falls[0] <= now - BUDGET_WINDOW_S:
            self._falls.popleft()
