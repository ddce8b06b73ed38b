"""Buckets that several gateways share, in Redis: one script, one round trip, the sums of `engine/limits.py`.

Rules of the file:
- Redis's clock counts, so that gateways need not agree on the time.
- All policies of a request share one key's hash tag, so that the script works on a cluster too.
- No foreign object or exception comes out.

Keys: `hg:rl:{<who>}:<policy>` holds the theoretical arrival in microseconds; it expires when the bucket is empty.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final, cast

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.bridge import Bridge
from engine.errors import Unavailable
from engine.limits import Judgement, Policy, judge

CONNECT_TIMEOUT_S: Final = 0.25
REPLY_TIMEOUT_S: Final = 0.25
"""Longer than that a limit is not worth waiting for: the gateway counts by itself."""
SCRIPT: Final = """
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local aheads, ok = {}, true
for i, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local arrival = tonumber(redis.call('GET', key) or '') or now
  local ahead = math.min(math.max(arrival - now, 0), burst)
  aheads[i] = ahead
  if ahead + interval > burst then ok = false end
end
if ok then
  for i, key in ipairs(KEYS) do
    local after = aheads[i] + tonumber(ARGV[2 * i - 1])
    redis.call('SET', key, string.format('%.0f', now + after), 'PX', math.ceil(after / 1000))
  end
end
return aheads
"""


class SharedBuckets:
    """Buckets in Redis.

    Args:
        bridge: where the asyncio client lives.
        url: `redis://…`, `rediss://…` or `unix://…`.
    """

    def __init__(self, bridge: Bridge, url: str) -> None:
        self._bridge = bridge
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=REPLY_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            max_connections=64,
        )
        self._digest = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

    async def take(self, policies: Sequence[Policy], who: str) -> list[Judgement]:
        """Judge a request by all policies, and count it if all allow it.

        Raises:
            Unavailable: Redis does not answer.
        """
        tag = hashlib.sha256(who.encode()).hexdigest()[:32]
        keys = [f"hg:rl:{{{tag}}}:{policy.name}" for policy in policies]
        arguments = [number for policy in policies for number in (policy.interval_us, policy.burst_us)]
        try:
            aheads = await self._bridge.call(self._run, keys, arguments)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as problem:
            raise Unavailable("limits.away", f"Redis: {type(problem).__name__}: {problem}") from problem
        return [judge(ahead, policy) for ahead, policy in zip(aheads, policies, strict=True)]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._bridge.call(self._client.aclose)

    async def _run(self, keys: list[str], arguments: list[int]) -> list[int]:
        client = cast("Any", self._client)  # redis-py's types say that a script gives text
        try:
            return cast("list[int]", await client.evalsha(self._digest, len(keys), *keys, *arguments))
        except redis.exceptions.NoScriptError:
            return cast("list[int]", await client.eval(SCRIPT, len(keys), *keys, *arguments))
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError):
            # The others that wait in the pool are as dead: each would be one more failure once Redis is back.
            await client.connection_pool.disconnect(inuse_connections=False)
            raise
