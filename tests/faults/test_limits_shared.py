"""T19: two real gateways on one real Redis admit together what one would, and do without it when it is away."""

import re
from collections import Counter
from pathlib import Path

import trio

from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ConnectionLost, ask, open_connection
from tests.support.processes import freeze_process, thaw_process
from tests.support.redis_server import RedisServer, needs_redis, open_redis_server
from tests.support.waiting import wait_until

QUOTA = 600
"""A minute: ten flow back in a second, fewer than are asked for on any machine."""
CLIENTS = 4
KEYS = {name: f"secret-of-the-{name}-0123456789" for name in ("first", "second", "third", "watcher")}


def settings(server: RedisServer, **more: str) -> dict[str, str]:
    """A gateway's environment: every principal may ask so often a minute."""
    return {
        "AUTH": "on",
        "HEADGATE_API_KEYS": ",".join(f"{name}={key};scopes=admin" for name, key in KEYS.items()),
        "HEADGATE_REQUEST_LIMIT": str(QUOTA),
        "REDIS_URL": server.url,
    } | more


async def ask_often(gateway: Gateway, who: str, times: int, into: Counter[int]) -> None:
    """So many requests of a principal, one after the other, by status; what is cut short is missing."""
    done = 0
    try:
        while done < times:
            async with open_connection(gateway.url) as connection:
                stays = True
                while stays and done < times:
                    answer = await connection.request("POST", "/cache/batch", {"X-API-Key": KEYS[who]}, b"[]")
                    into[answer.status] += 1
                    done += 1
                    stays = answer.header("connection") != "close"
    except (ConnectionLost, OSError):
        pass  # it was killed


async def load(gateways: list[Gateway], who: str, times: int) -> tuple[dict[int, int], float]:
    """Clients at all gateways at once, each so many requests: the answers by status, and how long it took."""
    found, began = Counter[int](), trio.current_time()
    async with trio.open_nursery() as nursery:
        for gateway in gateways * CLIENTS:
            nursery.start_soon(ask_often, gateway, who, times, found)
    return dict(found), trio.current_time() - began


def check_quota(found: dict[int, int], took_s: float) -> None:
    """Exactly the quota was admitted, and what the clock gave back meanwhile; the rest was refused."""
    assert found.keys() == {200, 429}
    assert QUOTA <= found[200] <= QUOTA + int(took_s * QUOTA / 60) + 1


async def arrival_us(server: RedisServer) -> int:
    """The third principal's theoretical arrival, which every request that is admitted moves on by the same step."""
    keys = (await server.command("KEYS", "hg:rl:*")).split(b"\r\n")[2::2]
    values = [int((await server.command("GET", key.decode())).split(b"\r\n")[1]) for key in keys]
    assert len(values) == 1
    return values[0]


async def is_alone(gateway: Gateway) -> bool:
    """Whether the gateway says that it counts by itself."""
    answer = await ask(gateway.url, "GET", "/metrics", {"X-API-Key": KEYS["watcher"]})
    assert answer.status == 200
    found = re.search(rb"^headgate_limits_alone (\S+)$", answer.body, re.MULTILINE)
    assert found is not None
    return float(found[1]) == 1


async def check_killed(server: RedisServer, gateways: list[Gateway]) -> None:
    """SIGKILL in mid-load: what was answered stays counted, once, and beside it at most what was in flight.

    The bucket is never empty here, so that the count is exact whatever the clock does.
    """
    await server.command("FLUSHALL")
    killed, other = Counter[int](), Counter[int]()
    await ask_often(gateways[1], "third", 100, Counter())
    before_us = await arrival_us(server)

    async def kill() -> None:
        await wait_until(lambda: killed.total() >= 50, "the load is there", timeout_s=30)
        gateways[0].kill()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        for _ in range(CLIENTS):
            nursery.start_soon(ask_often, gateways[0], "third", QUOTA, killed)
            nursery.start_soon(ask_often, gateways[1], "third", 40, other)
    counted, rest = divmod(await arrival_us(server) - before_us, 60_000_000 // QUOTA)
    assert rest == 0
    assert killed.keys() == {200}
    assert dict(other) == {200: 40 * CLIENTS}
    assert 0 <= counted - killed.total() - other.total() <= CLIENTS


@needs_redis
async def test_two_gateways_count_as_one_and_each_alone_without_redis(tmp_path: Path) -> None:
    """T19: exact together, G quotas at most while Redis is away, exact again when it is back, and through a SIGKILL."""
    async with (
        open_redis_server(tmp_path / "redis") as server,
        open_gateway(tmp_path / "a", env=settings(server)) as one,
        open_gateway(tmp_path / "b", env=settings(server)) as other,
    ):
        gateways = [one, other]
        check_quota(*await load(gateways, "first", 100))
        assert [await is_alone(gateway) for gateway in gateways] == [False, False]

        server.kill()
        for gateway in gateways:
            check_quota(*await load([gateway], "first", 200))
        assert [await is_alone(gateway) for gateway in gateways] == [True, True]

        await server.start()

        async def are_together() -> bool:
            return not any([await is_alone(gateway) for gateway in gateways])

        await wait_until(are_together, "both count in Redis again", timeout_s=30, interval_s=0.1)
        check_quota(*await load(gateways, "second", 100))
        await check_killed(server, gateways)


@needs_redis
async def test_closed_refuses_while_redis_hangs(tmp_path: Path) -> None:
    """`HEADGATE_LIMITS_FALLBACK=closed`: 503 and when to come back until Redis answers; probes do not mind."""
    async with (
        open_redis_server(tmp_path / "redis") as server,
        open_gateway(tmp_path / "a", env=settings(server, HEADGATE_LIMITS_FALLBACK="closed")) as gateway,
    ):
        probe = ("GET", "/actors", {"X-API-Key": KEYS["first"]})
        assert (await ask(gateway.url, *probe)).status == 200
        process = server.process_name()
        await freeze_process(process)
        try:
            answer = await ask(gateway.url, *probe)
            assert answer.problem(503)["code"] == "limits.away"
            assert answer.header("retry-after") == "1"
            assert (await ask(gateway.url, "GET", "/healthz")).status == 200
        finally:
            thaw_process(process)

        async def answers() -> bool:
            return (await ask(gateway.url, *probe)).status == 200

        await wait_until(answers, "requests are counted again", timeout_s=30)
