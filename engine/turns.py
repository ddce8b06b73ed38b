"""Whose body is worked on next, so that a pass of the loop stays short whatever has arrived.

One task at a time uses the processor. Where many bodies have arrived, working on all of them before the loop looks
around once would keep everybody waiting, probes as well. So a pass of the loop takes bodies up to `PASS_BYTES`; the
others wait in the order in which they came.

Rules of the file:
- No clock: `now` is given, in seconds. No I/O.
- First come, first served. Who has gone away leaves the queue.
- The sizes of bodies stand for the work they make; `REQUEST_BYTES` for what a request costs without one.

What must change with it: `actors/turns.py` carries out what is decided here. Source: RELIABILITY P5, T20.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

PASS_BYTES: Final = 256 * 1024
"""About 3 to 5 ms of work (`bench overload`): what a probe has to wait for, and an answer to come back."""
REQUEST_BYTES: Final = 8 * 1024


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in the queue.

    Args:
        work_bytes: what it stands for.
        since: when it came.
        is_over: its turn has come, or nobody waits for that any more.
    """

    work_bytes: int
    since: float
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class TurnStatistics:
    """Depths now, and totals since the start.

    Args:
        waiting: bodies that wait for their turn.
        waiting_bytes: the work they stand for.
        waited: bodies that had to wait, in all.
    """

    waiting: int
    waiting_bytes: int
    waited: int


class TurnQueue:
    """The bodies that have arrived and are not worked on yet."""

    def __init__(self) -> None:
        self.used_bytes = 0
        """Of this pass; whoever sees a new pass begin sets it to nothing."""
        self._queue: deque[Ticket] = deque()
        self._waiting_bytes = 0
        self._waited = 0

    def __len__(self) -> int:
        """Count who waits."""
        return len(self._queue)

    def statistics(self) -> TurnStatistics:
        """Give depths and totals."""
        return TurnStatistics(len(self._queue), self._waiting_bytes, self._waited)

    def oldest_s(self, now: float) -> float:
        """Say how long the first has waited, 0 where nobody waits."""
        return now - self._queue[0].since if self._queue else 0.0

    def has_room(self, work_bytes: int) -> bool:
        """Say that nobody waits and this pass takes so much more; the first of a pass always has room."""
        return not self._queue and (not self.used_bytes or self.used_bytes + work_bytes <= PASS_BYTES)

    def try_take(self, work_bytes: int) -> bool:
        """Take a turn in this pass, if there is room in it."""
        if not self.has_room(work_bytes):
            return False
        self.used_bytes += work_bytes
        return True

    def join(self, work_bytes: int, now: float) -> Ticket:
        """Stand at the queue's end."""
        ticket = Ticket(work_bytes, now)
        self._queue.append(ticket)
        self._waiting_bytes += work_bytes
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Go away before one's turn has come; afterwards it changes nothing."""
        if not ticket.is_over:
            self._queue.remove(ticket)
            self._end(ticket)

    def call(self) -> list[Ticket]:
        """Call those whose turn it is, at most what a pass takes and at least one; asked once a pass."""
        called: list[Ticket] = []
        room = PASS_BYTES
        while self._queue and (not called or self._queue[0].work_bytes <= room):
            ticket = self._queue.popleft()
            self._end(ticket)
            room -= ticket.work_bytes
            called.append(ticket)
        self._waited += len(called)
        return called

    def _end(self, ticket: Ticket) -> None:
        ticket.is_over = True
        self._waiting_bytes -= ticket.work_bytes
