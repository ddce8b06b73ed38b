"""The demo's books: which event was sent when, which agent had it when, and who acknowledged it.

Rules of the file:
- No clock: every time comes in, in seconds of one monotonic origin.
- An event counts once for each agent, however often it is delivered: at least once is the promise, all of them is
  the claim.
"""

from array import array
from collections.abc import Iterable, Sequence

import trio

from edge.client import Event

EventName = tuple[object, ...]


class Ledger:
    """What was sent, and what each agent has acknowledged of it.

    Args:
        durables: the agents.
    """

    def __init__(self, durables: Sequence[str]) -> None:
        self._open: dict[str, dict[EventName, float]] = {durable: {} for durable in durables}
        self._acked = dict.fromkeys(durables, 0)
        self._latencies_s = array("d")
        self._progress = trio.Event()

    def note_sent(self, events: Iterable[Event], now: float) -> None:
        """Write down that the POST of these events begins."""
        for event in events:
            name = _name_of(event)
            for waiting in self._open.values():
                waiting[name] = now

    def note_acked(self, durable: str, events: Iterable[Event], received_at: float) -> None:
        """Write down that an agent had these events at `received_at`, and has acknowledged them."""
        waiting = self._open[durable]
        for event in events:
            sent_at = waiting.pop(_name_of(event), None)
            if sent_at is not None:  # else it came again, or is not of this demo
                self._latencies_s.append(received_at - sent_at)
                self._acked[durable] += 1
        self._progress.set()
        self._progress = trio.Event()

    async def wait_all_acked(self, stall_s: float) -> bool:
        """Wait until every agent has acknowledged every event.

        Args:
            stall_s: give up when nobody acknowledges anything for so long.

        Returns:
            Whether they have.
        """
        while any(self._open.values()):
            with trio.move_on_after(stall_s) as patience:
                await self._progress.wait()
            if patience.cancelled_caught:
                return False
        return True

    def acked(self, durable: str) -> int:
        """Say how many different events an agent has acknowledged."""
        return self._acked[durable]

    def latency_ms(self, share: float) -> float:
        """Give the latency in milliseconds below which `share` of the deliveries were; 0 when there was none."""
        ordered = sorted(self._latencies_s)
        if not ordered:
            return 0.0
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def _name_of(event: Event) -> EventName:
    """Name an event so that no other of the same demo has the name."""
    data = event.data
    return data.get("scan_id"), event.type, data.get("path"), data.get("dev"), data.get("inode")
