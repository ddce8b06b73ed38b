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
from engine.slots import Hold, SlotPolicy
from tests.support.redis_server import RedisServer, needs_redis, open_redis_server
from tests.support.waiting import wait_until

POLICIES = {"tight": Policy("tight", 20, 3600), "wide": Policy("wide", 500, 3600)}


async def count_allowed(limiter: Limiter, times: int, who: str = "a", names: tuple[str, ...] = ("tight",)) -> int:
    """How many of so many requests are allowed."""
    allowed = 0
    for _ in range(times):
        try:
            await limiter.take_slots(limiter.find_slots(names), limiter.find(names), who)
        except Unavailable:
            continue
        allowed += 1
    return allowed


@asynccontextmanager
async def open_limiters(server: RedisServer, count: int) -> AsyncIterator[list[Limiter]]:
    """Limiters of so many gateways on one Redis."""
    async with open_bridge() as bridge:
        shared = [SharedBuckets(bridge, server.url) for _ in range(count)]
        yield [Limiter(POLICIES, one, [SlotPolicy("slots", 1)]) for one in shared]
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
async def test_connections_of_before_are_no_further_failures(tmp_path: Path) -> None:
    """Once Redis is back, whoever else was connected to the old one does not make the gateway count alone again."""
    async with open_redis_server(tmp_path) as server, open_limiters(server, 1) as [limiter]:

        async def crowd() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(count_allowed, limiter, 3, f"p:{number}")

        await crowd()
        server.kill()
        await count_allowed(limiter, 1, who="one")
        assert limiter.statistics().is_alone
        await server.start()

        async def are_together() -> bool:
            await count_allowed(limiter, 1, who="probe", names=("wide",))
            return not limiter.statistics().is_alone

        await wait_until(are_together, "Redis counts again", timeout_s=30)
        failures = limiter.statistics().failures
        await crowd()
        assert (limiter.statistics().failures, limiter.error) == (failures, None)


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
async def test_while_redis_is_away_what_was_chosen_happens(tmp_path: Path) -> None:
    """T19: open lets everything pass, closed refuses with 503 and when to come back; and it counts again afterwards."""
    async with open_redis_server(tmp_path) as server, open_bridge() as bridge:
        shared = SharedBuckets(bridge, server.url)
        is_open = Limiter(POLICIES, shared, fallback="open")
        closed = Limiter(POLICIES, shared, [SlotPolicy("slots", 5)], fallback="closed")
        assert await count_allowed(is_open, 30) == 20
        server.kill()
        assert await count_allowed(is_open, 30) == 30
        with pytest.raises(Unavailable) as caught:
            await closed.take_slots(closed.find_slots(("slots",)), closed.find(("tight",)), "a")
        assert (caught.value.kind.code, caught.value.kind.status) == ("limits.away", 503)
        assert closed.statistics().slots == {"slots": (0, 5)}
        assert await count_allowed(closed, 10, names=("slots",)) == 5  # these need no Redis
        assert (closed.statistics().is_alone, closed.statistics().alone_requests) == (True, 1)
        assert (is_open.statistics().failures, is_open.statistics().alone_requests) == (1, 30)
        await server.start()

        async def answers_again() -> bool:
            return await count_allowed(closed, 1) == 1 and not closed.statistics().is_alone

        await wait_until(answers_again, "Redis counts again")
        await shared.aclose()


async def test_slots_are_held_until_they_are_given_back() -> None:
    """One of each policy or none; what is refused by a slot is not counted, and what is counted out keeps no slot."""
    policies = [SlotPolicy("all", 3), SlotPolicy("each", 2, is_each=True)]
    limiter = Limiter({"few": Policy("few", 4, 3600)}, None, policies)
    names = ("few", "all", "each")

    async def take(who: str) -> tuple[dict[str, str], Hold]:
        judgements, hold = await limiter.take_slots(limiter.find_slots(names), limiter.find(names), who)
        return headers_of(judgements, hold.states), hold

    told, first = await take("a")
    assert told["RateLimit-Policy"] == (
        '"few";q=4;w=3600, "all";q=3;qu="concurrent-requests", "each";q=2;qu="concurrent-requests"'
    )
    assert told["RateLimit"] == '"few";r=3;t=900, "all";r=2, "each";r=1'
    assert told["X-RateLimit-Remaining"] == "3"
    _, second = await take("a")
    with pytest.raises(Unavailable) as caught:
        await take("a")
    assert caught.value.members["violated-policies"] == ["each"]
    assert caught.value.headers["RateLimit-Policy"] == told["RateLimit-Policy"]
    assert caught.value.headers["RateLimit"] == '"all";r=1, "each";r=0'
    _, third = await take("b")
    with pytest.raises(Unavailable) as caught:
        await take("c")
    assert caught.value.members["violated-policies"] == ["all"]
    assert limiter.statistics().slots == {"all": (3, 3), "each": (3, 2)}
    assert limiter.statistics().holders == 3
    for hold in (first, second, third, first):  # twice is as good as once
        hold.release()
    assert await count_allowed(limiter, 9, names=("few",)) == 2  # of four: neither refusal was counted
    for _ in range(5):
        with pytest.raises(Unavailable):
            await take("a")
    assert limiter.statistics().refused == {"few": 12, "all": 1, "each": 1}
    assert limiter.statistics().slots == {"all": (0, 3), "each": (0, 2)}
    assert limiter.statistics().holders == 0


@needs_redis
async def test_cancelled_here_nothing_is_left(tmp_path: Path) -> None:
    """A client that leaves while Redis is asked; the next request is answered."""
    async with open_redis_server(tmp_path) as server, open_limiters(server, 1) as [limiter]:
        for _ in range(20):
            with trio.move_on_after(0):
                await limiter.take_slots(limiter.find_slots(("slots",)), limiter.find(("wide",)), "a")
        assert limiter.statistics().slots == {"slots": (0, 1)}
        assert await count_allowed(limiter, 5) == 5
        assert limiter.error is None
