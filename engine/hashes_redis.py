"""The Redis tier of the hash cache: what several gateways share.

Rules of the file:
- One round trip a request: one MGET to look up, one pipeline to write, whatever the number of probes.
- No foreign object or exception comes out.

Keys: `hg:h:<identity>` holds an entry, `hg:t:<path>` a tombstone's time; both expire with the cache's TTL. The sorted
set `hg:deleted` holds the tombstones of the last `WINDOW_S`, for the in-process tiers of other gateways to follow.
"""

import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple, Unpack, cast

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.bridge import Bridge
from engine.errors import Unavailable
from engine.hashes import WINDOW_S, Changes, export_entry, import_entry

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_TIME = struct.Struct("<Q")
CONNECT_TIMEOUT_S = 0.5
REPLY_TIMEOUT_S = 1.0
"""A tier that does not answer within this is treated as away: a miss is cheaper than waiting."""


class RedisTier:
    """The second tier; every method raises `Unavailable` when Redis does not answer.

    Args:
        bridge: where the asyncio client lives.
        url: `redis://…`, `rediss://…` or `unix://…`.
        ttl_s: how long entries live, seconds.
    """

    def __init__(self, bridge: Bridge, url: str, ttl_s: int) -> None:
        self._bridge = bridge
        self._ttl_s = ttl_s
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=REPLY_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),
            max_connections=32,
        )

    async def find(self, keys: Sequence[bytes], paths: Sequence[bytes | None]) -> tuple[list[bytes | None], list[int]]:
        """Look up entries and, in the same round trip, the tombstones of the probes' paths.

        Returns:
            The entries, None for a miss, and the tombstones' times in microseconds, 0 for none; in order.
        """
        names = [f"hg:h:{key.hex()}" for key in keys] + [f"hg:t:{(path or b'').hex()}" for path in paths]
        values = await self._call(self._get, names)
        times = [_TIME.unpack(value)[0] if value and len(value) == 8 else 0 for value in values[len(keys) :]]
        return [import_entry(value) if value else None for value in values[: len(keys)]], times

    async def apply(self, changes: Changes) -> None:
        """Write what stored events change."""
        await self._call(self._write, changes)

    async def deletions(self, after_us: int) -> dict[bytes, int]:
        """Give the tombstones that any gateway left after a time within the last `WINDOW_S`: paths to times."""
        found = await self._call(self._deleted, after_us)
        return {bytes.fromhex(path.decode()): int(at_us) for path, at_us in found}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._bridge.call(self._client.aclose)

    async def _get(self, names: list[str]) -> list[bytes | None]:
        return cast("list[bytes | None]", await self._client.mget(names))

    async def _deleted(self, after_us: int) -> list[tuple[bytes, float]]:
        found = await self._client.zrange("hg:deleted", after_us, "+inf", byscore=True, withscores=True)
        return cast("list[tuple[bytes, float]]", found)

    async def _write(self, changes: Changes) -> None:
        pipe: Any  # a pipeline's commands are queued, not awaited, which redis-py's types do not know
        async with self._client.pipeline(transaction=False) as pipe:
            if changes.evicted:
                pipe.delete(*[f"hg:h:{key.hex()}" for key in changes.evicted])
            for path, at_us in changes.tombstones.items():
                pipe.set(f"hg:t:{path.hex()}", _TIME.pack(at_us), ex=self._ttl_s)
            if changes.tombstones:
                pipe.zadd("hg:deleted", {f"{path.hex()}": at_us for path, at_us in changes.tombstones.items()})
                oldest_us = min(changes.tombstones.values()) - WINDOW_S * 1_000_000
                pipe.zremrangebyscore("hg:deleted", "-inf", oldest_us)
                pipe.expire("hg:deleted", WINDOW_S)
            for key, entry in changes.seeds.items():
                pipe.set(f"hg:h:{key.hex()}", export_entry(entry), ex=self._ttl_s)
            await pipe.execute()

    async def _call(self, fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        try:
            return await self._bridge.call(fn, *args)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as problem:
            raise Unavailable("hashes.tier-down", f"Redis: {type(problem).__name__}: {problem}") from problem
