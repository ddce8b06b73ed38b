"""The tiers of the hash cache, the second on a real Redis: learned, found, followed, forgotten (S0.3 to S0.5)."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog.testing
import trio

from actors.hashes import FOLLOW_EVERY_S, HashCache
from actors.tree import Actor
from engine.bridge import Bridge, open_bridge
from engine.events import FileEvent, FileFacts
from engine.hashes import ENTRY_COST_BYTES, WINDOW_S, HashTable, Probe, decode_entry
from engine.hashes_redis import RedisTier
from tests.support.redis_server import RedisServer, needs_redis, open_redis_server
from tests.support.waiting import wait_until

AMPLE_BYTES = 1024 * 1024
TTL_S = 3600


def upsert(number: int, value: str = "00ff") -> FileEvent:
    """Report a file with its hash."""
    return FileEvent("file.upsert", FileFacts(path=f"/f/{number}", size=1, mtime=5, algo="test", hash=value))


def delete(number: int) -> FileEvent:
    """Report that a file is gone, by its path alone."""
    return FileEvent("file.delete", FileFacts(path=f"/f/{number}"))


def probes(*numbers: int) -> list[Probe]:
    """Ask for these files."""
    return [Probe(path=f"/f/{number}", size=1, mtime=5) for number in numbers]


async def ask(cache: HashCache, *numbers: int) -> list[str | None]:
    """The hashes that are known of these files."""
    return [None if entry is None else decode_entry(entry).hash for entry in await cache.probe(probes(*numbers))]


@asynccontextmanager
async def open_cache(
    bridge: Bridge, redis: RedisServer, *, ttl_s: int = TTL_S, table: HashTable | None = None
) -> AsyncIterator[HashCache]:
    """A gateway's cache on a Redis."""
    tier = RedisTier(bridge, redis.url, ttl_s)
    try:
        yield HashCache(HashTable(AMPLE_BYTES, ttl_s) if table is None else table, tier)
    finally:
        await tier.aclose()


async def test_what_was_stored_is_known() -> None:
    """Each probe is answered in its place, and hits and misses are counted."""
    cache = HashCache(HashTable(AMPLE_BYTES, TTL_S), None)
    assert await ask(cache, 1, 2) == [None, None]
    await cache.learn([upsert(1, "aa"), upsert(3, "cc")])
    assert await ask(cache, 3, 2, 1, 1) == ["cc", None, "aa", "aa"]
    await cache.learn([delete(1)])
    assert await ask(cache, 1, 3) == [None, "cc"]
    assert (cache.table.hits, cache.table.misses) == (4, 4)
    await cache.learn([])
    await cache.learn([FileEvent("job.done", FileFacts())])
    assert cache.redis_state()[1] is None


async def test_what_is_read_before_it_is_stored_counts_as_seen_then() -> None:
    """It is known once it was stored, and not by a deletion that was stored meanwhile; one in it counts when stored."""
    cache = HashCache(HashTable(AMPLE_BYTES, TTL_S), None)
    news = cache.read([upsert(1, "aa"), upsert(2, "bb")])
    assert await ask(cache, 1, 2) == [None, None]
    await cache.learn(cache.read([delete(1), upsert(3, "cc")]))
    await cache.learn(news)
    assert await ask(cache, 1, 2, 3) == [None, "bb", "cc"]
    gone = cache.read([upsert(4, "old"), delete(2), delete(4), upsert(4, "dd")])
    await cache.learn(cache.read([upsert(2, "new")]))
    assert await ask(cache, 2, 4) == ["new", None]
    await cache.learn(gone)
    assert await ask(cache, 2, 4) == [None, "dd"]


async def test_probes_without_an_identity_are_misses() -> None:
    """Facts that make no identity are neither found nor asked for elsewhere."""
    cache = HashCache(HashTable(AMPLE_BYTES, TTL_S), None)
    assert await cache.probe([Probe(), Probe(path="/a"), Probe(size=-1, mtime=1, path="/a")]) == [None] * 3
    assert await cache.probe([]) == []


async def test_a_clock_that_is_set_back_brings_nothing_deleted_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Order decides, not the wall: a deletion after an upsert counts, whatever the time says."""
    cache = HashCache(HashTable(AMPLE_BYTES, TTL_S), None)
    now = time.time_ns()
    await cache.learn(cache.read([upsert(1)]))
    monkeypatch.setattr(time, "time_ns", lambda: now - 60_000_000_000)
    await cache.learn(cache.read([delete(1)]))
    assert await ask(cache, 1) == [None]
    await cache.learn(cache.read([upsert(1)]))
    assert await ask(cache, 1) == ["00ff"]


async def test_many_deletions_at_once_do_not_run_ahead_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times made up inside one request are before those of the next, though no time passed between them."""
    cache = HashCache(HashTable(AMPLE_BYTES, TTL_S), None)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    await cache.learn([*(delete(number) for number in range(1000)), upsert(1)])
    assert await ask(cache, 1) == ["00ff"]
    await cache.learn([delete(1)])
    assert await ask(cache, 1) == [None]


@needs_redis
async def test_what_another_gateway_learned_is_known_here(tmp_path: Path) -> None:
    """The second tier is asked once for what the first does not know, and the first remembers the answer."""
    async with open_bridge() as bridge, open_redis_server(tmp_path) as redis:  # noqa: SIM117  # one line is too long
        async with open_cache(bridge, redis) as one, open_cache(bridge, redis) as other:
            await one.learn([upsert(number, f"{number:02x}") for number in range(50)])
            assert await ask(other, *range(60)) == [f"{number:02x}" for number in range(50)] + [None] * 10
            assert b"calls=1," in await mget_calls(redis)
            assert await ask(other, *range(50)) == [f"{number:02x}" for number in range(50)]
            assert b"calls=1," in await mget_calls(redis)  # all of them were hits here
            assert await ask(other, 1, 2, 99) == ["01", "02", None]
            assert b"calls=2," in await mget_calls(redis)


async def mget_calls(redis: RedisServer) -> bytes:
    """How often Redis was asked for entries."""
    text = await redis.command("INFO", "commandstats")
    return next((line for line in text.split(b"\r\n") if line.startswith(b"cmdstat_mget")), b"")


@needs_redis
async def test_a_deletion_at_another_gateway_is_a_miss_here(tmp_path: Path) -> None:
    """At once for whoever asks Redis, and after about a second for what is remembered here."""
    async with open_bridge() as bridge, open_redis_server(tmp_path) as redis:  # noqa: SIM117  # one line is too long
        async with open_cache(bridge, redis) as one, open_cache(bridge, redis) as other, trio.open_nursery() as nursery:
            nursery.start_soon(other.run, Actor("hashes", 0.0), lambda: None)
            await one.learn([upsert(1), upsert(2)])
            assert await ask(other, 1) == ["00ff"]
            await one.learn([delete(1), delete(2)])
            assert await ask(one, 1, 2) == [None, None]
            assert await ask(other, 2) == [None]

            async def is_gone() -> bool:
                return await ask(other, 1) == [None]

            await wait_until(is_gone, "the deletion is known here", timeout_s=2 * FOLLOW_EVERY_S)
            await one.learn([upsert(1, "new")])
            assert await ask(other, 1) == ["new"]
            nursery.cancel_scope.cancel()


@needs_redis
async def test_a_deletion_here_counts_while_redis_is_away(tmp_path: Path) -> None:
    """What Redis still holds is no hit after a deletion that Redis never heard of."""
    table = HashTable(AMPLE_BYTES, TTL_S)
    async with open_bridge() as bridge, open_redis_server(tmp_path) as redis:  # one line is too long
        async with open_cache(bridge, redis) as other:
            await other.learn([upsert(1), upsert(2)])
        await HashCache(table, None).learn([delete(1)])
        async with open_cache(bridge, redis, table=table) as cache:
            assert await ask(cache, 1, 2) == [None, "00ff"]


@needs_redis
async def test_a_redis_that_is_away_is_a_miss_and_is_said_once(tmp_path: Path) -> None:
    """Neither learning nor asking fails; the first tier goes on; when Redis is back it is used again."""
    async with open_bridge() as bridge, open_redis_server(tmp_path) as redis, open_cache(bridge, redis) as cache:
        with structlog.testing.capture_logs() as lines:
            await cache.learn([upsert(1)])
            assert cache.redis_state()[1] is None
            redis.kill()
            with trio.fail_after(5):
                assert await ask(cache, 1, 2) == ["00ff", None]
                await cache.learn([upsert(2)])
                assert await ask(cache, 2, 3) == ["00ff", None]
            since, error = cache.redis_state()
            assert error is not None
            assert error.startswith("Redis: ")
            assert len(lines) == 1
            await redis.start()
            await cache.learn([upsert(3)])
            assert cache.redis_state()[1] is None
            assert cache.redis_state()[0] > since
            assert await ask(cache, 3) == ["00ff"]


@needs_redis
async def test_garbage_in_redis_is_a_miss(tmp_path: Path) -> None:
    """Whoever wrote it: a value that is no entry, and a tombstone that is no time, are passed over."""
    async with open_bridge() as bridge, open_redis_server(tmp_path) as redis, open_cache(bridge, redis) as cache:
        await cache.learn([upsert(1), upsert(2), delete(3)])
        keys = [
            word.decode() for word in (await redis.command("KEYS", "hg:*")).split(b"\r\n") if word.startswith(b"hg:")
        ]
        for key in keys:
            if key != "hg:deleted":
                await redis.command("SET", key, "garbage")
        async with open_cache(bridge, redis) as other:
            assert await ask(other, 1, 2, 3) == [None, None, None]
            assert other.redis_state()[1] is None


@needs_redis
async def test_whoever_was_away_for_too_long_forgets_what_he_knew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deletions are followed for ten minutes back: after a longer gap only what is learned anew is a hit."""
    table = HashTable(AMPLE_BYTES, TTL_S)
    await HashCache(table, None).learn([upsert(1)])
    async with (
        open_bridge() as bridge,
        open_redis_server(tmp_path) as redis,
        open_cache(bridge, redis, table=table) as cache,
    ):
        now, gap_ns = time.time_ns(), (WINDOW_S + 1) * 1_000_000_000
        monkeypatch.setattr(time, "time_ns", lambda: now + gap_ns)
        assert await ask(cache, 1) == ["00ff"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.run, Actor("hashes", 0.0), lambda: None)

            async def is_forgotten() -> bool:
                return await ask(cache, 1) == [None]

            await wait_until(is_forgotten, "it is forgotten", timeout_s=2)
            nursery.cancel_scope.cancel()
        monkeypatch.setattr(time, "time_ns", lambda: now + gap_ns + 1_000_000)
        await cache.learn([upsert(1)])
        assert await ask(cache, 1) == ["00ff"]


@needs_redis
async def test_entries_in_redis_expire_with_the_cache(tmp_path: Path) -> None:
    """What is written has the cache's own time to live: Redis never fills with what is no hit any more."""
    async with (
        open_bridge() as bridge,
        open_redis_server(tmp_path) as redis,
        open_cache(bridge, redis, ttl_s=7) as cache,
    ):
        await cache.learn([upsert(1), delete(2)])
        keys = [
            word.decode() for word in (await redis.command("KEYS", "hg:*")).split(b"\r\n") if word.startswith(b"hg:")
        ]
        assert len(keys) == 3
        for key in keys:
            seconds = int((await redis.command("TTL", key)).strip(b":\r\n"))
            assert 0 < seconds <= (WINDOW_S if key == "hg:deleted" else 7)


@needs_redis
async def test_cancelled_here_the_follower_leaves_the_tier_usable(tmp_path: Path) -> None:
    """Whoever follows or asks may be cancelled at any moment; the connections go on."""
    async with open_bridge() as bridge, open_redis_server(tmp_path) as redis, open_cache(bridge, redis) as cache:
        await cache.learn([upsert(1)])
        for number in range(20):
            with trio.move_on_after(number / 5000):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cache.run, Actor("hashes", 0.0), lambda: None)
                    while True:
                        await ask(cache, number + 100)
        async with open_cache(bridge, redis) as other:
            assert await ask(other, 1) == ["00ff"]
        assert await ask(cache, 1, 2) == ["00ff", None]


async def test_a_small_table_forgets_and_does_not_fail() -> None:
    """Overloaded: far more files than there is room for, and every answer is a hit or a miss."""
    cache = HashCache(HashTable(20 * ENTRY_COST_BYTES, TTL_S), None)
    for start in range(0, 1000, 100):
        await cache.learn([upsert(number) for number in range(start, start + 100)])
    assert await ask(cache, 0, 999) == [None, "00ff"]
    assert set(await ask(cache, *range(1000))) <= {None, "00ff"}
    assert len(cache.table) <= 200
