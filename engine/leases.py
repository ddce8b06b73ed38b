"""How long a delivery certainly stays with the one who holds it.

The log gives a delivery to somebody else when its lease has run out. Its clock starts when it sends the delivery, which
nobody here sees; what is known here is a time before which that cannot have happened. Everything is counted from there.

Rules of the file:
- No clock, no I/O: `now` is a parameter (seconds, any monotonic origin).
- `until` is a lower bound: before it, the log has certainly not given the delivery to another. It is counted from when
  the pull was *sent*, because a delivery may lie anywhere for a while before it is seen; and moved by an extension only
  when the log answered that extension before `until`, and then from when the extension was *sent*.
- In doubt the lease is over. A server that was started again may have forgotten its leases: all of them are in doubt;
  and a delivery that comes again puts the one before it in doubt (`engine/settle_book.py`).
- Nothing in doubt is given back (`-NAK`): the log knows a message by its sequence, so it would take it from whoever
  holds it now.

What must change with it: `engine/settle.py` confirms by `until`; T7, and the table in the README.
"""

from collections.abc import Iterable
from math import inf
from typing import Final, NamedTuple

EXTEND_BELOW: Final = 2 / 3
"""An extension is asked for when less than this part of the lease is left."""
LOOKS_PER_LEASE: Final = 6
"""So that an extension is asked for while at least half of the lease is left."""
PULL_PART: Final = 1 / 3
"""A waiting pull lives for this part of a lease: whatever it brings has at least the rest of the lease before it."""
MOST_PULL_S: Final = 30.0
LEAST_PULL_S: Final = 0.1


class Held:
    """One delivery in somebody's hands; its payload is not kept.

    Args:
        reply: where its verdict goes.
        sequence: its position in the stream.
        delivered: how often it was delivered, this time included.
        size_bytes: what it took of the byte credit.
        until: see the head of the file.
    """

    __slots__ = ("__weakref__", "delivered", "reply", "sequence", "size_bytes", "until")

    def __init__(self, reply: str, sequence: int, delivered: int, size_bytes: int, until: float) -> None:
        self.reply = reply
        self.sequence = sequence
        self.delivered = delivered
        self.size_bytes = size_bytes
        self.until = until

    def is_certain(self, now: float) -> bool:
        """Say that nobody else can have it."""
        return now < self.until


class LeaseTerms(NamedTuple):
    """What was agreed on about leases.

    Args:
        ack_wait_s: what the log gives, and gives again for each extension.
        max_lease_s: longest time that a batch may be held, extensions included.
    """

    ack_wait_s: float
    max_lease_s: float

    @property
    def pull_s(self) -> float:
        """How long a pull may wait at the log."""
        return min(MOST_PULL_S, max(LEAST_PULL_S, self.ack_wait_s * PULL_PART))

    @property
    def look_s(self) -> float:
        """How often to look at the leases."""
        return self.ack_wait_s / LOOKS_PER_LEASE

    def due(self, held: Iterable[Held], now: float) -> list[Held]:
        """Give those for which more time is to be asked; one in doubt too, because it may still be there."""
        limit = now + self.ack_wait_s * EXTEND_BELOW
        return [one for one in held if one.until < limit]

    def extended(self, held: Iterable[Held], sent_at: float, answered_at: float) -> None:
        """Note that the log answered an extension."""
        until = sent_at + self.ack_wait_s
        for one in held:
            if one.is_certain(answered_at) and one.until < until:
                one.until = until


def put_in_doubt(held: Iterable[Held]) -> None:
    """Note that the log may have forgotten these leases."""
    for one in held:
        one.until = -inf
