"""T19: limits across gateways, with Redis and without it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from actors.limits import Limiter
from engine.bridge import open_bridge
from engine.errors import Unavailable
from engine.limits import Policy, headers_of
from engine.limits_redis import SharedBuckets
from tests.support.redis_server import RedisServer, needs_redis, open_redis_server

POLICIES = {"tight": Policy("tight", 20, 3600), "wide": Policy("wide", 500, 3600)}


async def count_allowed(limiter: Limiter, times: int, who: str = "a", names: tuple[str, ...] = ("tight",)) -> int:
    """How many of so many requests are allowed."""
    allowed = 0
    for _ in range(times):
        try:
            await limiter.take(limiter.find(names), who)
        except Unavailable:
            continue
        allowed += 1
    return allowed


@asynccontextmanager
async def open_limiters(server: RedisServer, count: int) -> AsyncIterator[list[Limiter]]:
    """Limiters of so many gateways on one Redis."""
    async with open_bridge() as bridge:
        shared = [SharedBuckets(bridge, server.url) for _ in range(count)]
        yield [Limiter(POLICIES, one) for one in shared]
        for one in shared:
            await one.aclose()


@needs_redis
async def test_two_gateways_on_one_redis_allow_exactly_the_quota(tmp_path: Path) -> None:
    """At once and from both; and what one policy refuses uses up nothing of the other."""
    async with open_redis_server(tmp_path) as server, open_limiters(server, 2) as limiters:
        allowed: list[int] = []

        async def ask(limiter: Limiter) -> None:
            allowed.append(await count_allowed(limiter, 10, names=("tight", "wide")))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(ask, limiters[number % 2])
        assert sum(allowed) == 20
        headers = headers_of(await limiters[0].take(limiters[0].find(("wide",)), "a"))
        assert headers["RateLimit"].startswith('"wide";r=479;')
        assert await count_allowed(limiters[1], 30, who="b") == 20
        assert limiters[0].mailbox().depth == limiters[1].mailbox().depth == 0


@needs_redis
async def test_without_redis_each_gateway_counts_by_itself(tmp_path: Path) -> None:
    """G gateways allow at most G times the quota; when Redis is back its count holds again."""
    async with open_redis_server(tmp_path) as server, open_limiters(server, 2) as limiters:
        assert await count_allowed(limiters[0], 5) == 5
        server.kill()
        allowed = [await count_allowed(one, 50) for one in limiters]
        assert allowed == [20, 20]
        assert all(one.error is not None for one in limiters)
        await server.start()
        with trio.fail_after(10):
            while limiters[0].error is not None:
                await trio.testing.wait_all_tasks_blocked(0.05)
                await count_allowed(limiters[0], 1, who="probe")
        assert await count_allowed(limiters[0], 30) == 20  # an empty Redis: nothing was counted there


@needs_redis
async def test_the_script_is_sent_again_when_redis_forgot_it(tmp_path: Path) -> None:
    """A Redis that was restarted, or whose scripts were flushed, is no failure."""
    async with open_redis_server(tmp_path) as server, open_limiters(server, 1) as [limiter]:
        assert await count_allowed(limiter, 3) == 3
        await server.command("SCRIPT", "FLUSH")
        assert await count_allowed(limiter, 30) == 17
        assert limiter.error is None
        assert await server.command("DBSIZE") == b":1\r\n"


async def test_over_the_limit_it_says_when_to_come_back() -> None:
    """429 with the wait, the policies that refuse, and the headers."""
    limiter = Limiter(POLICIES, None)
    assert await count_allowed(limiter, 25) == 20
    with pytest.raises(Unavailable) as caught:
        await limiter.take(limiter.find(("wide", "tight")), "a")
    assert caught.value.kind.status == 429
    assert caught.value.members["violated-policies"] == ["tight"]
    assert 179 < caught.value.retry_after_s <= 180
    assert caught.value.headers["X-RateLimit-Remaining"] == "0"
    assert limiter.refused == {"tight": 6}
    assert await limiter.take([], "a") == []


@needs_redis
async def test_cancelled_here_nothing_is_left(tmp_path: Path) -> None:
    """A client that leaves while Redis is asked; the next request is answered."""
    async with open_redis_server(tmp_path) as server, open_limiters(server, 1) as [limiter]:
        for _ in range(20):
            with trio.move_on_after(0):
                await limiter.take(limiter.find(("wide",)), "a")
        assert await count_allowed(limiter, 5) == 5
        assert limiter.error is None
