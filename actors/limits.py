"""Holds requests to their limits, together with other gateways where there is a Redis.

Rules of the file:
- A limit is exact across gateways while Redis answers. While it does not, what was chosen happens: each gateway counts
  by itself (G gateways then allow at most G times the quota), or every request passes, or none does. No request waits
  for Redis longer than its time-out.
- Slots of requests at once are each gateway's own. They are taken before anything is counted, and given back when what
  follows refuses.
- After a failure Redis is left alone for `REST_S`, so that its absence costs one slow request a second and gateway.

Back-pressure: sheds, 429 with when to come back.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import structlog
import trio

from actors.tree import Mailbox
from engine.errors import Unavailable
from engine.identity import Scope
from engine.limits import MICROS, MOST_BUCKETS, Buckets, Judgement, Policy, headers_of, policy_names
from engine.slots import RETRY_AFTER_S, Hold, SlotPolicy, Slots

if TYPE_CHECKING:
    from engine.limits_redis import SharedBuckets  # its library is not imported where there is no Redis

log = structlog.get_logger("limits")
REST_S: Final = 1.0

Fallback = Literal["local", "open", "closed"]
"""What happens while Redis does not answer."""
_CONSEQUENCES: Final[dict[Fallback, str]] = {
    "local": "each gateway counts by itself",
    "open": "requests pass uncounted",
    "closed": "what has a limit is refused",
}


@dataclass(frozen=True, slots=True)
class LimitStatistics:
    """What the limits have done, and how large they are now.

    Args:
        refused: requests over the limit, by policy; every policy is in it.
        slots: how many are in use and how many there are, by policy; where each has its own, the most are one's.
        buckets: in memory.
        holders: who holds a slot.
        is_alone: Redis does not answer, and this gateway does without.
        alone_requests: requests that were judged without it.
        failures: times that it did not answer.
    """

    refused: dict[str, int]
    slots: dict[str, tuple[int, int]]
    buckets: int
    holders: int
    is_alone: bool
    alone_requests: int
    failures: int


class Limiter:
    """Counts requests.

    Args:
        policies: by name.
        shared: buckets of all gateways, None where each counts by itself.
        slots: policies of requests at once.
        fallback: what happens while the shared buckets are away.
    """

    def __init__(
        self,
        policies: dict[str, Policy],
        shared: "SharedBuckets | None",
        slots: Iterable[SlotPolicy] = (),
        fallback: Fallback = "local",
    ) -> None:
        self.refused: Counter[str] = Counter()
        self.error: str | None = None
        self._policies = policies
        self._slots = {one.name: Slots(one) for one in slots}
        self._shared = shared
        self._fallback = fallback
        self._buckets = Buckets()
        self._rests_until = -1.0
        self._alone_requests = 0
        self._failures = 0
        self._found_slots: dict[tuple[str, ...], list[Slots]] = {}
        self._found: dict[tuple[str, ...], list[Policy]] = {}
        self._found_for: dict[tuple[Scope | None, tuple[str, ...]], list[Policy]] = {}

    def mailbox(self) -> Mailbox:
        """Say how many buckets are in memory."""
        return Mailbox(len(self._buckets), MOST_BUCKETS)

    def statistics(self) -> LimitStatistics:
        """Give totals and sizes."""
        return LimitStatistics(
            {name: self.refused[name] for name in (*self._policies, *self._slots)},
            {name: (one.in_use, one.policy.most) for name, one in self._slots.items()},
            len(self._buckets),
            sum(map(len, self._slots.values())),
            self.error is not None,
            self._alone_requests,
            self._failures,
        )

    def find(self, names: tuple[str, ...]) -> list[Policy]:
        """Give those of these policies that are active; asked for by the few that routes name, so it is remembered."""
        found = self._found.get(names)
        if found is None:
            found = self._found[names] = [self._policies[name] for name in names if name in self._policies]
        return found

    def find_for(self, scope: Scope | None, names: tuple[str, ...]) -> list[Policy]:
        """Give the active policies of a route.

        Args:
            scope: what it asks for, None when it is public.
            names: those that it names itself.
        """
        found = self._found_for.get((scope, names))
        if found is None:
            found = self._found_for[scope, names] = self.find(policy_names(scope, names))
        return found

    def find_slots(self, names: tuple[str, ...]) -> list[Slots]:
        """Give the slots of the policies that a route names."""
        found = self._found_slots.get(names)
        if found is None:
            found = self._found_slots[names] = [self._slots[name] for name in names if name in self._slots]
        return found

    async def take_slots(
        self, slots: Sequence[Slots], policies: Sequence[Policy], who: str
    ) -> tuple[Sequence[Judgement], Hold]:
        """Take a slot of each, then count the request; whoever asks gives the hold back when the request is over.

        Raises:
            Unavailable: there is no slot, or it is over a limit; nothing is held.

        Cancellation: it may be counted; no slot is held.
        """
        hold = Hold(slots, who)
        if hold.refusing:
            over = [one.policy for one in hold.refusing]
            headers = headers_of((), hold.states)
            headers["RateLimit-Policy"] = ", ".join(
                [*(one.text for one in policies), *(one.policy.text for one in slots)]
            )
            raise self._refused(over, RETRY_AFTER_S, headers)
        is_taken = False
        try:
            judgements = await self.take(policies, who)
            is_taken = True
        finally:
            if not is_taken:
                hold.release()
        return judgements, hold

    async def take(self, policies: Sequence[Policy], who: str) -> list[Judgement]:
        """Count a request, and say how much is left.

        Raises:
            Unavailable: it is over a limit; it carries when to come back, and the headers that say how much is left.
        """
        if not policies:
            return []
        now = trio.current_time()
        judgements: list[Judgement] | None = None
        if self._shared is not None:
            if now >= self._rests_until:
                judgements = await self._judge_together(self._shared, policies, who)
            if judgements is None:
                self._alone_requests += 1
                if self._fallback == "closed":
                    raise Unavailable("limits.away", "the limits cannot be counted: Redis does not answer", REST_S)
                if self._fallback == "open":
                    return []
        if judgements is None:
            judgements = self._buckets.take(policies, who, int(now * MICROS))
        for one in judgements:
            if not one.is_allowed:
                raise self._refusal(judgements)
        return judgements

    def _refusal(self, judgements: Sequence[Judgement]) -> Unavailable:
        refusing = [one for one in judgements if not one.is_allowed]
        wait_s = max(one.retry_us for one in refusing) / MICROS
        return self._refused([one.policy for one in refusing], wait_s, headers_of(judgements))

    def _refused(self, over: Sequence[Policy | SlotPolicy], wait_s: float, headers: dict[str, str]) -> Unavailable:
        for one in over:
            self.refused[one.name] += 1
        fault = Unavailable(
            "limits.exceeded",
            f"over the limit {' and '.join(one.text for one in over)}; come back in {wait_s:.3g} s",
            wait_s,
            **{"violated-policies": [one.name for one in over]},
        )
        fault.headers.update(headers)
        return fault

    async def _judge_together(
        self, shared: "SharedBuckets", policies: Sequence[Policy], who: str
    ) -> list[Judgement] | None:
        """Ask Redis; None when it does not answer, which it is left alone for."""
        try:
            found = await shared.take(policies, who)
        except Unavailable as problem:
            if self.error is None:
                log.warning("Redis does not answer", so=_CONSEQUENCES[self._fallback], error=problem.detail)
            self.error = problem.detail
            self._failures += 1
            self._rests_until = trio.current_time() + REST_S
            return None
        if self.error is not None:
            log.info("Redis answers again: gateways count together")
        self.error = None
        return found
