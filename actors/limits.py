"""Holds requests to their limits, together with other gateways where there is a Redis.

Rules of the file:
- A limit is exact across gateways while Redis answers. While it does not, each gateway counts by itself: G gateways
  then allow at most G times the quota, and no request waits for Redis longer than its time-out.
- After a failure Redis is left alone for `REST_S`, so that its absence costs one slow request a second and gateway.

Back-pressure: sheds, 429 with when to come back.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog
import trio

from actors.tree import Mailbox
from engine.errors import Unavailable
from engine.identity import Scope
from engine.limits import MICROS, MOST_BUCKETS, POLICY_OF_SCOPE, Buckets, Judgement, Policy, headers_of
from engine.limits_redis import SharedBuckets

log = structlog.get_logger("limits")
REST_S: Final = 1.0


class Limiter:
    """Counts requests.

    Args:
        policies: by name.
        shared: buckets of all gateways, None where each counts by itself.
    """

    def __init__(self, policies: dict[str, Policy], shared: SharedBuckets | None) -> None:
        self.refused: Counter[str] = Counter()
        self.error: str | None = None
        self._policies = policies
        self._shared = shared
        self._buckets = Buckets()
        self._rests_until = -1.0
        self._found: dict[tuple[str, ...], list[Policy]] = {}
        self._found_for: dict[tuple[Scope | None, tuple[str, ...]], list[Policy]] = {}

    def mailbox(self) -> Mailbox:
        """Say how many buckets are in memory."""
        return Mailbox(len(self._buckets), MOST_BUCKETS)

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
            implied = () if scope is None else ("requests", POLICY_OF_SCOPE.get(scope, ""))
            found = self._found_for[scope, names] = self.find((*names, *implied))
        return found

    async def take(self, policies: Sequence[Policy], who: str) -> list[Judgement]:
        """Count a request, and say how much is left.

        Raises:
            Unavailable: it is over a limit; it carries when to come back, and the headers that say how much is left.
        """
        if not policies:
            return []
        now = trio.current_time()
        judgements: list[Judgement] | None = None
        if self._shared is not None and now >= self._rests_until:
            judgements = await self._judge_together(self._shared, policies, who)
        if judgements is None:
            judgements = self._buckets.take(policies, who, int(now * MICROS))
        for one in judgements:
            if not one.is_allowed:
                raise self._refusal(judgements)
        return judgements

    def _refusal(self, judgements: Sequence[Judgement]) -> Unavailable:
        refusing = [one for one in judgements if not one.is_allowed]
        for one in refusing:
            self.refused[one.policy.name] += 1
        names = [one.policy.name for one in refusing]
        wait_s = max(one.retry_us for one in refusing) / MICROS
        fault = Unavailable(
            "limits.exceeded",
            f"over the limit {' and '.join(str(one.policy) for one in refusing)}; come back in {wait_s:.3g} s",
            wait_s,
            **{"violated-policies": names},
        )
        fault.headers.update(headers_of(judgements))
        return fault

    async def _judge_together(
        self, shared: SharedBuckets, policies: Sequence[Policy], who: str
    ) -> list[Judgement] | None:
        """Ask Redis; None when it does not answer, which it is left alone for."""
        try:
            found = await shared.take(policies, who)
        except Unavailable as problem:
            if self.error is None:
                log.warning("Redis does not answer: each gateway counts by itself", error=problem.detail)
            self.error = problem.detail
            self._rests_until = trio.current_time() + REST_S
            return None
        self.error = None
        return found
