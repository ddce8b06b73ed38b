"""How much somebody may ask: the generic cell rate algorithm, named policies, and tables that stay small.

A bucket is one number, the *theoretical arrival time*: when it would be empty if nobody asked any more. All times here
are whole microseconds, so that what a limit allows is exact, here and in the Redis script (`engine/limits_redis.py`),
which does the same sums.

Rules of the file:
- No clock: `now_us` is given, of any origin. A clock that jumps back costs nobody more than one window.
- Policies are judged together: a request that one of them refuses uses up nothing of the others.
- The tables are bounded: what is forgotten under pressure is a bucket that was not used for longest.

Source: X6, S1.3, S3.4, S4.8; draft-ietf-httpapi-ratelimit-headers; T19.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil
from typing import Final, NamedTuple

from engine.identity import Scope
from engine.slots import SlotState

MICROS: Final = 1_000_000
MOST_BUCKETS: Final = 100_000
"""About 20 MiB at the most."""


@dataclass(frozen=True, slots=True)
class Policy:
    """So many requests in a window.

    Args:
        name: in headers, problems and metrics.
        quota_count: how many.
        window_s: seconds.
    """

    name: str
    quota_count: int
    window_s: int

    interval_us: int = field(init=False)
    burst_us: int = field(init=False)
    text: str = field(init=False)
    lines: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Work out what a request costs, what a full bucket holds, and what of its headers never changes."""
        interval_us = ceil(self.window_s * MICROS / self.quota_count)
        object.__setattr__(self, "interval_us", interval_us)
        object.__setattr__(self, "burst_us", interval_us * self.quota_count)
        object.__setattr__(self, "text", f'"{self.name}";q={self.quota_count};w={self.window_s}')
        told = _told(self, self.text, f'"{self.name}";r=%d;t=%d', "%d", "%d")
        object.__setattr__(self, "lines", "".join([f"{name}: {value}\r\n" for name, value in told.items()]).encode())

    def __str__(self) -> str:
        """Give it as `RateLimit-Policy` has it."""
        return self.text


class Judgement(NamedTuple):
    """What a policy says of one request.

    Args:
        policy: which.
        is_allowed: whether there was room.
        remaining_count: how many more there is room for now.
        reset_us: when there is room for all again, from now.
        retry_us: when there is room for one, from now; 0 when there was.
    """

    policy: Policy
    is_allowed: bool
    remaining_count: int
    reset_us: int
    retry_us: int


def ahead_of(arrival_us: int | None, now_us: int, policy: Policy) -> int:
    """Give how far a bucket's theoretical arrival lies ahead: from 0, empty, to all that it holds."""
    if arrival_us is None or arrival_us <= now_us:
        return 0
    return min(arrival_us - now_us, policy.burst_us)


def judge(ahead_us: int, policy: Policy) -> Judgement:
    """Judge one more request on a bucket that is so full."""
    after_us = ahead_us + policy.interval_us
    if after_us > policy.burst_us:
        return Judgement(policy, False, 0, ahead_us, after_us - policy.burst_us)
    return Judgement(policy, True, (policy.burst_us - after_us) // policy.interval_us, after_us, 0)


class Buckets:
    """Buckets in memory.

    Two generations: what is used moves into the young one; when that is full it becomes the old one, and the old one
    is forgotten. So the memory is bounded whoever asks, at one dictionary update a request.

    Args:
        most: how many buckets at once.
    """

    def __init__(self, most: int = MOST_BUCKETS) -> None:
        self._most_young = max(1, most // 2)
        self._young: dict[tuple[str, str], int] = {}
        self._old: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        """Count the buckets."""
        return len(self._young) + len(self._old)

    def take(self, policies: Sequence[Policy], who: str, now_us: int) -> list[Judgement]:
        """Judge a request by all policies, and count it if all allow it."""
        if len(policies) == 1:  # the usual case, and a hot path: `bench/scenarios/guard.py`
            return [self._take_one(policies[0], who, now_us)]
        aheads = [ahead_of(self._find((policy.name, who)), now_us, policy) for policy in policies]
        judgements = [judge(ahead, policy) for ahead, policy in zip(aheads, policies, strict=True)]
        is_allowed = all(one.is_allowed for one in judgements)
        for one, ahead in zip(judgements, aheads, strict=True):
            if is_allowed or ahead:  # whoever is refused is not forgotten for it
                self._put((one.policy.name, who), now_us + (one.reset_us if is_allowed else ahead))
        return judgements

    def _take_one(self, policy: Policy, who: str, now_us: int) -> Judgement:
        key = (policy.name, who)
        young_us = self._young.get(key)
        ahead_us = ahead_of(self._old.get(key) if young_us is None else young_us, now_us, policy)
        judgement = judge(ahead_us, policy)
        arrival_us = now_us + (judgement.reset_us if judgement.is_allowed else ahead_us)
        if young_us is None or self._old:
            self._put(key, arrival_us)
        else:
            self._young[key] = arrival_us  # it is there already: nothing grows, and nothing is to be forgotten
        return judgement

    def _find(self, key: tuple[str, str]) -> int | None:
        found = self._young.get(key)
        return found if found is not None else self._old.get(key)

    def _put(self, key: tuple[str, str], arrival_us: int) -> None:
        if len(self._young) >= self._most_young and key not in self._young:
            self._old, self._young = self._young, {}
        self._young[key] = arrival_us
        if self._old:
            self._old.pop(key, None)


POLICY_OF_SCOPE: Final[dict[Scope, str]] = {"query:sql": "queries", "jobs:write": "cache-jobs"}
"""The policy of the routes that ask for a scope, beside `requests`, which holds wherever there is one."""


def policy_names(scope: Scope | None, own: tuple[str, ...]) -> tuple[str, ...]:
    """Give the names of the policies that hold for a route, whether they are active or not.

    Args:
        scope: what it asks for, None when it is public.
        own: those that it names itself.
    """
    if scope is None:
        return own
    of_scope = POLICY_OF_SCOPE.get(scope)
    return (*own, "requests") if of_scope is None else (*own, "requests", of_scope)


def headers_of(judgements: Sequence[Judgement], slots: Sequence[SlotState] = ()) -> dict[str, str]:
    """Give what a client is told: the draft's two fields for every policy, the old ones for the tightest.

    Args:
        judgements: of the policies that count requests.
        slots: of those that count requests at once.
    """
    if slots:
        return _headers_with_slots(judgements, slots)
    if not judgements:
        return {}
    tightest = min(judgements, key=lambda one: (one.is_allowed, one.remaining_count, -one.reset_us))
    policies, states = ", ".join(one.policy.text for one in judgements), ", ".join(map(_state_of, judgements))
    reset = str(-(-tightest.reset_us // MICROS))
    return _told(tightest.policy, policies, states, str(tightest.remaining_count), reset)


def lines_of(judgements: Sequence[Judgement]) -> bytes:
    """Give the same as lines of an answer's head."""
    if len(judgements) == 1:  # the usual case, and a hot path: `bench/scenarios/guard.py`
        policy, _, remaining_count, reset_us, _ = judgements[0]
        reset_s = -(-reset_us // MICROS)
        return policy.lines % (remaining_count, reset_s, remaining_count, reset_s)
    return "".join([f"{name}: {value}\r\n" for name, value in headers_of(judgements).items()]).encode()


def _headers_with_slots(judgements: Sequence[Judgement], slots: Sequence[SlotState]) -> dict[str, str]:
    headers = headers_of(judgements)
    policies = [headers.get("RateLimit-Policy", ""), *(policy.text for policy, _ in slots)]
    states = [headers.get("RateLimit", ""), *(f'"{policy.name}";r={left_count}' for policy, left_count in slots)]
    headers["RateLimit-Policy"] = ", ".join(filter(None, policies))
    headers["RateLimit"] = ", ".join(filter(None, states))
    if not judgements:  # the old fields know windows alone, and what has no reset is read as a quota all the same
        policy, left_count = min(slots, key=lambda one: one.left_count)
        headers |= {"X-RateLimit-Limit": str(policy.most), "X-RateLimit-Remaining": str(left_count)}
    return headers


def _told(policy: Policy, policies: str, states: str, remaining: str, reset: str) -> dict[str, str]:
    return {
        "RateLimit-Policy": policies,
        "RateLimit": states,
        "X-RateLimit-Limit": str(policy.quota_count),
        "X-RateLimit-Remaining": remaining,
        "X-RateLimit-Reset": reset,
    }


def _state_of(one: Judgement) -> str:
    return f'"{one.policy.name}";r={one.remaining_count};t={-(-one.reset_us // MICROS)}'


def address_of(peer: str, forwarded: str, trusted: Sequence[str]) -> str:
    """Give the client's address, one text for all that is surely one client.

    Args:
        peer: the connection's other end.
        forwarded: `X-Forwarded-For` as it came.
        trusted: networks whose proxies are believed; the last address that is not one of theirs counts.
    """
    found = peer
    if _is_in(peer, trusted):
        for one in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
            if not _is_address(one):
                break  # beyond this nobody can be believed
            found = one
            if not _is_in(one, trusted):
                break
    try:
        address = ip_address(found.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
    return str(address)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(address: str, networks: Sequence[str]) -> bool:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(found in ip_network(network) for network in networks)
