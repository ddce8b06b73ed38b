"""How much may be sent to an agent, in messages and in bytes, and what to ask the log for.

In *credit* mode the agent grants messages and bytes; each message that is sent consumes both. In *auto* mode there is a
window: what is sent and unsettled stays below twice the measured drain rate times the shortest round trip of a batch.

Rules of the file:
- No clock, no I/O.
- Both dimensions bind. What is asked of the log and what waits here counts as spent, so that credit is never exceeded,
  but for one case: when nothing is in the agent's hands and it has any byte credit left, one message that is larger
  than the credit is sent alone, because nothing would ever move otherwise. The credit is below nothing after it.
- Whatever is granted, what waits here is bounded by `PREFETCH_*` and what is unsettled by `LIMITS`.

What must change with it: `bench/scenarios/memory.py` pays for the bounds; the limits stand in every hello.
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum
from math import inf
from typing import Final, NamedTuple

from engine.log import PullRequest
from engine.stream import BATCH_BYTES


class Amount(NamedTuple):
    """Messages and their bytes."""

    messages: int
    bytes: int

    def less(self, other: "Amount") -> "Amount":
        """Take another amount away; may go below nothing."""
        return Amount(self.messages - other.messages, self.bytes - other.bytes)

    def at_most(self, other: "Amount") -> "Amount":
        """Give the smaller one in each dimension."""
        return Amount(min(self.messages, other.messages), min(self.bytes, other.bytes))


NOTHING: Final = Amount(0, 0)
CREDIT_LIMIT: Final = Amount(10_000, 64 * 1024 * 1024)
"""The most credit that an agent may have, and the most messages that it may hold unsettled."""
BATCHES_LIMIT: Final = 1000
"""The most batches that an agent may hold unsettled."""
PREFETCH: Final = Amount(2_000, 2 * 1024 * 1024)
"""The most that waits here for an agent beside the batch that is being sent: two batches, so that one is on its way
from the log while one is written."""
WINDOW_FLOOR: Final = Amount(16, 64 * 1024)
WINDOW_START: Final = Amount(100, BATCH_BYTES)
WINDOW_CEILING: Final = Amount(10_000, 16 * 1024 * 1024)
SAMPLES: Final = 10
"""Batches over which the highest rate is taken."""
PROBE_EVERY: Final = 64
PROBE_FOR: Final = 8
"""Every so many batches, the window is small for so many, to see the round trip without what waits in the agent."""


class Mode(Enum):
    """How the agent wants its credit."""

    NONE = "none"
    CREDIT = "credit"
    AUTO = "auto"


class AutoWindow:
    """A window from what was measured: twice the highest drain rate of late times the shortest round trip.

    While the window is what limits the agent, each round trip doubles it; when the agent is the limit, it rests at two
    round trips' worth of work. What waits in the agent makes every round trip longer, so now and then the window is
    small for some batches and the shortest round trip is measured anew. (BBR's idea, Cardwell et al. 2016.)
    """

    def __init__(self) -> None:
        self.size = WINDOW_START
        self._settled = NOTHING
        self._rates: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self._round_trip_s = inf
        self._measured = 0

    def mark(self) -> Amount:
        """Give what has been settled so far, to be handed to `measure` when a batch that is sent now is settled."""
        return self._settled

    def settle(self, amount: Amount) -> None:
        """Note that so much was settled."""
        self._settled = Amount(self._settled.messages + amount.messages, self._settled.bytes + amount.bytes)

    def measure(self, mark: Amount, took_s: float) -> None:
        """Note that a batch is settled whole, so long after it was sent."""
        took_s = max(took_s, 1e-4)
        done = self._settled.less(mark)
        self._rates.append((done.messages / took_s, done.bytes / took_s))
        self._measured += 1
        if self._measured % PROBE_EVERY == 0:
            self._round_trip_s = inf
        self._round_trip_s = min(self._round_trip_s, took_s)
        is_probing = self._measured >= PROBE_EVERY and self._measured % PROBE_EVERY < PROBE_FOR
        times = self._round_trip_s * (0.5 if is_probing else 2.0)
        messages = int(times * max(one[0] for one in self._rates))
        size = int(times * max(one[1] for one in self._rates))
        self.size = Amount(
            min(max(messages, WINDOW_FLOOR.messages), WINDOW_CEILING.messages),
            min(max(size, WINDOW_FLOOR.bytes), WINDOW_CEILING.bytes),
        )


class Credit:
    """What an agent may still be sent."""

    def __init__(self) -> None:
        self.mode = Mode.NONE
        self.granted = NOTHING
        self.window = AutoWindow()

    def grant(self, amount: Amount) -> None:
        """Add credit, up to the limit."""
        self.mode = Mode.CREDIT
        self.granted = Amount(self.granted.messages + amount.messages, self.granted.bytes + amount.bytes).at_most(
            CREDIT_LIMIT
        )

    def automate(self) -> None:
        """Let the gateway keep a window from now on; credit that was granted is forgotten."""
        self.mode = Mode.AUTO
        self.granted = NOTHING

    def room(self, in_flight: Amount) -> Amount:
        """Say how much more may be sent while so much is unsettled."""
        room = self.granted if self.mode is Mode.CREDIT else self.window.size.less(in_flight)
        if self.mode is Mode.NONE:
            return NOTHING
        return Amount(min(room.messages, CREDIT_LIMIT.messages - in_flight.messages), room.bytes)

    def spend(self, amount: Amount) -> None:
        """Note that so much is sent."""
        if self.mode is Mode.CREDIT:
            self.granted = self.granted.less(amount)

    def shown(self, in_flight: Amount) -> Amount:
        """Give what a person is told: never below nothing."""
        room = self.room(in_flight)
        return Amount(max(0, room.messages), max(0, room.bytes))


class Reserve(NamedTuple):
    """What of the credit is on its way.

    Args:
        waiting: arrived, and not sent yet.
        asked: still to come from open pulls.
        pulls: how many pulls are open.
        too_large_for: the next message is larger than so many bytes, 0 when nothing is known of it.
    """

    waiting: Amount
    asked: Amount
    pulls: int
    too_large_for: int


PULLS_AT_ONCE: Final = 2


def next_pull(room: Amount, in_flight: Amount, reserve: Reserve, batch: int, wait_s: float) -> PullRequest | None:
    """Say what to ask the log for now, None for nothing.

    Args:
        room: what may be sent.
        in_flight: what the agent holds.
        reserve: what is on its way.
        batch: the most messages in one batch.
        wait_s: how long a pull may wait.
    """
    spent = Amount(reserve.waiting.messages + reserve.asked.messages, reserve.waiting.bytes + reserve.asked.bytes)
    prefetch = Amount(min(2 * batch, PREFETCH.messages), PREFETCH.bytes)
    free = room.at_most(prefetch).less(spent).at_most(Amount(batch, BATCH_BYTES))
    is_idle = not reserve.pulls and not reserve.waiting.messages
    if reserve.too_large_for:
        if not is_idle or room.messages <= 0 or room.bytes <= 0:
            return None
        if room.bytes > reserve.too_large_for and free.bytes <= reserve.too_large_for:
            return PullRequest(1, room.bytes, wait_s)  # larger than what is kept here, and covered by the credit
        if free.bytes <= reserve.too_large_for:
            return PullRequest(1, 0, wait_s) if not in_flight.messages else None
    if free.messages <= 0 or free.bytes <= 0 or reserve.pulls >= PULLS_AT_ONCE:
        return None
    if reserve.pulls and (free.messages < batch or free.bytes < BATCH_BYTES):
        return None  # a second pull is for a second batch; crumbs wait until the first has ended
    return PullRequest(free.messages, free.bytes, wait_s)


def portion(sizes: Iterable[int], room: Amount, in_flight: Amount, batch: int) -> int:
    """Say how many of the waiting messages make the next batch, 0 when the credit covers none.

    Args:
        sizes: of the waiting messages, in order.
        room: what may be sent.
        in_flight: what the agent holds.
        batch: the most messages in one batch.
    """
    if room.messages <= 0 or room.bytes <= 0:
        return 0
    most = min(batch, room.messages)
    left = min(BATCH_BYTES, room.bytes)
    count = 0
    for size in sizes:
        if count == most or size > left:
            if not count and (size <= room.bytes or not in_flight.messages):
                return 1  # larger than a batch, or than the credit: alone
            break
        count += 1
        left -= size
    return count
