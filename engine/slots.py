"""How many requests may run at once: named policies whose slots are held for the life of a request.

Rules of the file:
- No clock and no I/O. A slot that is taken is given back exactly once; whoever holds several gives all back together.
- The tables are bounded: only who holds a slot is in one, and requests are bounded by connections.

Source: X6, S4.8 (all uploads together), S4.26; draft-ietf-httpapi-ratelimit-headers, `qu="concurrent-requests"`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

RETRY_AFTER_S: Final = 1.0
"""When a slot becomes free, nobody knows; sooner than this, asking again is only load."""


@dataclass(frozen=True, slots=True)
class SlotPolicy:
    """So many requests at once.

    Args:
        name: in headers, problems and metrics.
        most: how many.
        is_each: every principal (or address) may have so many, instead of all together.
    """

    name: str
    most: int
    is_each: bool = False

    text: str = field(init=False)

    def __post_init__(self) -> None:
        """Work out how `RateLimit-Policy` has it."""
        object.__setattr__(self, "text", f'"{self.name}";q={self.most};qu="concurrent-requests"')

    def __str__(self) -> str:
        """Give it as `RateLimit-Policy` has it."""
        return self.text


class SlotState(NamedTuple):
    """How many slots somebody has left.

    Args:
        policy: of which policy.
        left_count: how many.
    """

    policy: SlotPolicy
    left_count: int


class Slots:
    """The slots of one policy.

    Args:
        policy: how many there are, and for whom.
    """

    def __init__(self, policy: SlotPolicy) -> None:
        self.policy = policy
        self._taken: Counter[str] = Counter()

    def __len__(self) -> int:
        """Count who holds one, which is what the table costs."""
        return len(self._taken)

    @property
    def in_use(self) -> int:
        """How many are held, by all together."""
        return self._taken.total()

    def state(self, who: str) -> SlotState:
        """Say how many are left for somebody."""
        return SlotState(self.policy, self.policy.most - self._taken[self._key(who)])

    def try_take(self, who: str) -> bool:
        """Take a slot if there is one; whoever took it gives it back."""
        key = self._key(who)
        if self._taken[key] >= self.policy.most:
            return False
        self._taken[key] += 1
        return True

    def give_back(self, who: str) -> None:
        """Give a slot back."""
        key = self._key(who)
        if self._taken[key] <= 0:
            raise ValueError("a slot is given back that nobody took")
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]

    def _key(self, who: str) -> str:
        return who if self.policy.is_each else ""


class Hold:
    """The slots that one request holds.

    Args:
        slots: those to take one of each from.
        who: who asks.

    `states` says how many are left of each, `refusing` which had none: then none is held.
    """

    def __init__(self, slots: Sequence[Slots], who: str) -> None:
        self._who = who
        self._slots: Sequence[Slots] = slots
        self.refusing = [one for one in slots if not one.try_take(who)]
        self.states = [one.state(who) for one in slots]
        if self.refusing:  # all or none: what one policy refuses uses up nothing of the others
            self._slots = [one for one in slots if one not in self.refusing]
            self.release()
            self.states = [one.state(who) for one in slots]

    def release(self) -> None:
        """Give all of them back; a second time changes nothing."""
        slots, self._slots = self._slots, ()
        for one in slots:
            one.give_back(self._who)
