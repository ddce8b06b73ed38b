"""Lets bodies be worked on one after the other, so that a pass of the loop stays short whatever has arrived.

Rules of the file:
- Where nobody waits, a turn costs two comparisons and no pass of the loop.
- Whoever waits leaves the queue when cancelled, in whatever state that is.

Back-pressure: waits, in order; sheds with `server.busy` once the wait is too long. `engine/turns.py` and
`engine/patience.py` hold the bounds.
"""

from collections.abc import Callable
from typing import Final

import trio

from actors.tree import Actor, Mailbox
from engine.errors import Unavailable
from engine.patience import RETRY_AFTER_S, Patience
from engine.turns import REQUEST_BYTES, Ticket, TurnQueue, TurnStatistics

MOST_WAITING: Final = 4096
"""For the tree: a connection waits for one body, and so many connections there are by default."""


class Turns:
    """What the lanes hold of the queue of bodies."""

    def __init__(self) -> None:
        self.patience = Patience()
        self._queue = TurnQueue()
        self._waiting: dict[Ticket, trio.Event] = {}
        self._is_wanted = trio.Event()

    def mailbox(self) -> Mailbox:
        """How many bodies wait, and how many may."""
        return Mailbox(len(self._queue), MOST_WAITING)

    def has_room(self, size_bytes: int) -> bool:
        """Say that a turn can be had at once."""
        return self._queue.has_room(size_bytes + REQUEST_BYTES)

    @property
    def is_crowded(self) -> bool:
        """Whether somebody waits, or did so a moment ago for longer than is good."""
        return bool(self._waiting) or not self.patience.is_calm

    def statistics(self) -> TurnStatistics:
        """Give depths and totals."""
        return self._queue.statistics()

    def check_room(self) -> None:
        """Refuse at once, before a body is read, what would wait too long.

        Raises:
            Unavailable: more comes than can be taken.
        """
        if not self._waiting and self.patience.is_calm:
            return  # as nearly always, and asked by every request
        now = trio.current_time()
        oldest_s = self._queue.oldest_s(now)
        if not self.patience.may_come(oldest_s, now):
            raise Unavailable(
                "server.busy",
                f"{len(self._queue)} bodies wait to be read, the first for {oldest_s:.3f} s; nothing was done",
                RETRY_AFTER_S,
            )

    async def take(self, size_bytes: int) -> None:
        """Wait for one's turn to work on a body.

        Cancellation: somebody else gets the turn.
        """
        work_bytes = size_bytes + REQUEST_BYTES
        if self._queue.try_take(work_bytes):
            return
        ticket = self._queue.join(work_bytes, trio.current_time())
        called = self._waiting[ticket] = trio.Event()
        self._is_wanted.set()
        try:
            await called.wait()
        finally:
            self._queue.leave(ticket)
            self._waiting.pop(ticket, None)

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Call those whose turn it is, once a pass, for ever."""
        passes = _Passes(self._queue)
        trio.lowlevel.add_instrument(passes)
        try:
            ready()
            while True:
                if not self._waiting:
                    self._is_wanted = trio.Event()
                    await self._is_wanted.wait()
                for ticket in self._queue.call():
                    self._waiting.pop(ticket).set()
                await trio.lowlevel.checkpoint()
        finally:
            trio.lowlevel.remove_instrument(passes)


class _Passes(trio.abc.Instrument):
    """Sees each pass of the loop end."""

    def __init__(self, queue: TurnQueue) -> None:
        self._queue = queue

    def before_io_wait(self, timeout: float) -> None:  # trio's signature
        """Begin a new pass."""
        self._queue.used_bytes = 0
