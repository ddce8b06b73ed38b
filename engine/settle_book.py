"""What the desks of a gateway have settled: counters, and what was confirmed lately.

A log server that is killed forgets acknowledgements that it has answered: it writes a consumer's state a little later.
What it forgot it delivers again, and what was called confirmed would not have been. So the confirmations of the last
seconds before a connection broke are remembered, and a message among them that comes again from another server is
acknowledged again instead of being handed out.

Rules of the file:
- No clock, no I/O.
- A message is recognised by its sequence *and* the nanosecond at which it was stored: another log's message of the same
  sequence is another message, and is never passed over.
- A delivery of a message that somebody here holds already puts the earlier lease in doubt, whatever brought it. The log
  sends it before it answers what the earlier holder says later, so no such answer is taken for a confirmation.
- Bounded: by time, by messages a consumer, and by consumers; leases are known for as long as somebody holds them.

What must change with it: whoever hands out deliveries asks `was_confirmed`: `actors/puller.py`, `actors/stream.py`.
"""

from collections import Counter, OrderedDict
from math import inf
from typing import Final
from weakref import WeakValueDictionary

from engine.leases import Held, put_in_doubt
from engine.log import Delivery, published_ns
from engine.metrics import AGE_BOUNDS_S, Histogram

WIRES: Final = ("old", "v1", "http")
REMEMBERED_S: Final = 10.0
"""Far above the time after which a server has written a consumer's state (about 0.1 s; seen to be below 1 s)."""
REMEMBERED_MESSAGES: Final = 20_000
REMEMBERED_CONSUMERS: Final = 1_000
DOUBTED_S: Final = 600.0
"""How long after a restart a forgotten message may come again: when a lease has ended and somebody pulls."""


class SettleBook:
    """One for all desks of a gateway."""

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.ages = {wire: Histogram(AGE_BOUNDS_S) for wire in WIRES}
        """How old batches' first messages were when they were handed over."""
        self.confirmed = 0
        self.late = 0
        self.failed = 0
        self.extended = 0
        self.lost = 0
        self.repeated = 0
        """Acknowledged again, because the log had forgotten."""
        self._lately: OrderedDict[str, OrderedDict[int, tuple[int, float]]] = OrderedDict()
        self._doubted: dict[str, dict[int, int]] = {}
        self._doubted_until = -inf
        self._holders: WeakValueDictionary[tuple[str, int], Held] = WeakValueDictionary()

    def note_age(self, wire: str, reply: str, now_ns: int) -> None:
        """Note how old a batch is that is handed over.

        Args:
            wire: one of `WIRES`.
            reply: its first message's reply subject.
            now_ns: time of day.
        """
        stored_ns = published_ns(reply)
        if stored_ns:
            self.ages[wire].observe(max(0.0, (now_ns - stored_ns) / 1e9))

    def remember(self, consumer: str, sequence: int, reply: str, now: float) -> None:
        """Note that a message is confirmed."""
        lately = self._lately.setdefault(consumer, OrderedDict())
        lately[sequence] = (published_ns(reply), now)
        lately.move_to_end(sequence)
        while len(lately) > REMEMBERED_MESSAGES or next(iter(lately.values()))[1] < now - REMEMBERED_S:
            lately.popitem(last=False)
        if len(self._lately) > REMEMBERED_CONSUMERS:
            self._lately.popitem(last=False)

    def went_down(self, now: float) -> None:
        """Note that the connection to the log broke: what was confirmed just before may be forgotten."""
        for consumer, lately in self._lately.items():
            doubted = self._doubted.setdefault(consumer, {})
            for sequence, (stored_ns, at) in lately.items():
                if at >= now - REMEMBERED_S:
                    doubted[sequence] = stored_ns
        self._lately.clear()
        self._doubted_until = inf

    def came_up(self, now: float, *, is_same_server: bool) -> None:
        """Note that there is a log again; the same server has forgotten nothing."""
        if is_same_server:
            self._doubted.clear()
        self._doubted_until = now + DOUBTED_S

    def forget(self, consumer: str) -> None:
        """Note that a consumer was moved: it is to deliver again what it delivered."""
        self._lately.pop(consumer, None)
        self._doubted.pop(consumer, None)

    def was_confirmed(self, consumer: str, delivery: Delivery, now: float, held: Held | None) -> bool:
        """Take note of a delivery, and say whether it was confirmed and the log forgot it.

        Args:
            consumer: whose.
            delivery: what came.
            now: when.
            held: its lease, None on the old wire, where nothing is confirmed.
        """
        before = self._holders.get((consumer, delivery.sequence))
        if before is not None:
            put_in_doubt([before])
        if held is not None:
            self._holders[consumer, delivery.sequence] = held
        if not self._doubted:
            return False
        if now > self._doubted_until:
            self._doubted.clear()
            return False
        stored_ns = self._doubted.get(consumer, {}).get(delivery.sequence)
        if stored_ns is None or stored_ns != published_ns(delivery.reply):
            return False
        self.repeated += 1
        return True
