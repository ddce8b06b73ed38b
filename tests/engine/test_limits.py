"""T19: the limits against an exact model, through clock jumps, and with a million addresses."""

import random
import tracemalloc
from fractions import Fraction

import pytest

from engine.limits import MICROS, MOST_BUCKETS, Buckets, Policy, address_of, headers_of, lines_of


class LeakyBucket:
    """The exact model: a level that sinks by one an interval, and never holds more than the quota."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.level = Fraction(0)
        self.at_us = 0

    def take(self, now_us: int) -> bool:
        """Whether one more fits now."""
        sunk = Fraction(now_us - self.at_us, self.policy.interval_us)
        self.level, self.at_us = max(Fraction(0), self.level - sunk), now_us
        if self.level + 1 > self.policy.quota_count:
            return False
        self.level += 1
        return True


@pytest.mark.parametrize(("quota", "window_s"), [(1, 1), (1, 60), (7, 60), (10, 60), (1000, 60), (999, 7), (3, 1)])
def test_what_is_allowed_is_exactly_what_the_model_allows(chance: random.Random, quota: int, window_s: int) -> None:
    """Whenever requests come: bursts, trickles, the very microsecond at which there is room again."""
    policy = Policy("ip", quota, window_s)
    buckets, model, now_us = Buckets(), LeakyBucket(policy), 0
    for _ in range(4000):
        now_us += chance.choice([0, 0, 0, 1, policy.interval_us - 1, policy.interval_us, chance.randrange(1, 10**6)])
        [judged] = buckets.take([policy], "a", now_us)
        assert judged.is_allowed == model.take(now_us)
        assert judged.remaining_count == int(quota - model.level)
        if not judged.is_allowed:
            assert buckets.take([policy], "a", now_us + judged.retry_us - 1)[0].is_allowed is False
            now_us += judged.retry_us
            assert buckets.take([policy], "a", now_us)[0].is_allowed
            assert model.take(now_us)


def test_no_window_holds_more_than_twice_the_quota(chance: random.Random) -> None:
    """A full bucket at once, and what flows back in the window: never more, wherever the window begins."""
    policy, buckets = Policy("ip", 50, 10), Buckets()
    times = sorted(chance.randrange(60 * MICROS) for _ in range(20_000))
    allowed = [now_us for now_us in times if buckets.take([policy], "a", now_us)[0].is_allowed]
    for first in range(0, len(allowed), 7):
        assert sum(allowed[first] <= one < allowed[first] + 10 * MICROS for one in allowed) <= 2 * 50


def test_policies_are_judged_together() -> None:
    """What one refuses uses up nothing of the others, and the refusing one is named."""
    wide, narrow, buckets = Policy("wide", 100, 60), Policy("narrow", 2, 60), Buckets()
    judged = buckets.take([wide, narrow], "a", 0)
    for _ in range(49):
        judged = buckets.take([wide, narrow], "a", 0)
    assert [one.is_allowed for one in judged] == [True, False]
    [alone] = buckets.take([wide], "a", 0)
    assert alone.remaining_count == 97
    assert buckets.take([wide, narrow], "b", 0)[1].is_allowed


def test_a_clock_that_jumps_costs_no_more_than_a_window() -> None:
    """Back by a day: the bucket is at most full; forward: it is empty."""
    policy, buckets = Policy("ip", 5, 60), Buckets()
    day_us = 86_400 * MICROS
    for _ in range(5):
        assert buckets.take([policy], "a", day_us)[0].is_allowed
    [judged] = buckets.take([policy], "a", 0)
    assert (judged.is_allowed, judged.retry_us) == (False, policy.interval_us)
    assert buckets.take([policy], "a", policy.burst_us + day_us)[0].remaining_count == 4


def test_a_million_addresses_cost_no_more_than_the_bound() -> None:
    """And who asks all the time is not forgotten for it."""
    policy, buckets = Policy("ip", 100, 60), Buckets(1000)
    refused = 0
    for number in range(1_000_000):
        buckets.take([policy], f"a:{number}", number)
        if number % 100 == 0:
            refused += not buckets.take([policy], "a:busy", number)[0].is_allowed
            assert len(buckets) <= 1000
    assert refused > 9000


def test_a_table_that_is_full_takes_little_memory() -> None:
    """T19: a tenth of the default, asked by more IPv6 networks than it holds, with two policies: 200 bytes each."""
    policies, buckets = [Policy("ip", 1000, 60), Policy("requests", 600, 60)], Buckets(MOST_BUCKETS // 10)
    tracemalloc.start()
    try:
        for number in range(MOST_BUCKETS // 10):
            buckets.take(policies, f"a:2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::/64", number)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(buckets) <= MOST_BUCKETS // 10
    assert most_bytes < 4 << 20


def test_what_a_client_is_told() -> None:
    """Every policy in the draft's fields, the tightest in the old ones; whole seconds, rounded up."""
    buckets = Buckets()
    judged = buckets.take([Policy("ip", 1000, 60), Policy("cache-jobs", 10, 60)], "a", 0)
    assert headers_of(judged) == {
        "RateLimit-Policy": '"ip";q=1000;w=60, "cache-jobs";q=10;w=60',
        "RateLimit": '"ip";r=999;t=1, "cache-jobs";r=9;t=6',
        "X-RateLimit-Limit": "10",
        "X-RateLimit-Remaining": "9",
        "X-RateLimit-Reset": "6",
    }
    assert headers_of([]) == {}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_answers_lines_say_the_same(chance: random.Random, count: int) -> None:
    """Whether they come from the policy's template or one by one, allowed or not."""
    policies = [Policy("ip", 40, 60), Policy("cache-jobs", 25, 7)][:count]
    buckets, now_us = Buckets(), 0
    for _ in range(60):
        now_us += chance.randrange(100_000)
        judged = buckets.take(policies, "a", now_us) if policies else []
        told = lines_of(judged).decode().split("\r\n")
        assert told.pop() == ""
        assert dict(line.split(": ", 1) for line in told) == headers_of(judged)


TRUSTED = ("10.0.0.0/8", "127.0.0.1", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("1.2.3.4", "", "1.2.3.4"),
        ("1.2.3.4", "5.6.7.8", "1.2.3.4"),
        ("10.0.0.1", "5.6.7.8", "5.6.7.8"),
        ("10.0.0.1", "9.9.9.9, 5.6.7.8", "5.6.7.8"),
        ("10.0.0.1", "9.9.9.9, 5.6.7.8, 10.1.1.1", "5.6.7.8"),
        ("10.0.0.1", "10.2.2.2, 10.1.1.1", "10.2.2.2"),
        ("10.0.0.1", "9.9.9.9, evil, 10.1.1.1", "10.1.1.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", ",, ,", "10.0.0.1"),
        ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("::ffff:1.2.3.4", "", "1.2.3.4"),
        ("", "", "unknown"),
        ("127.0.0.1", "5.6.7.8:443", "127.0.0.1"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, forwarded: str, address: str) -> None:
    """The last address that is not a proxy's counts; an IPv6 network is one client."""
    assert address_of(peer, forwarded, TRUSTED) == address
