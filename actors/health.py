"""How the gateway is: one place that every health path renders.

Rules of the file:
- Asking changes nothing and waits for nothing: what dependencies said last is remembered here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httpx2
import trio

from actors.hashes import HashCache
from actors.tree import Actor
from engine.errors import Unavailable
from engine.hashes_redis import RedisTier
from engine.jetstream import JetStream

LOOK_EVERY_S: Final = 2.0
ANSWER_WITHIN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Dependency:
    """One thing the gateway needs.

    Args:
        state: `up` or `down`.
        since: when that began, Trio's clock.
        last_error: the last reason it was down, None when there was none.
        facts: more about it, JSON values.
        is_needed: without it the gateway is not ready.
    """

    state: str
    since: float
    last_error: str | None
    facts: dict[str, object]
    is_needed: bool


class Health:
    """What is known of the gateway and its dependencies.

    Args:
        log: the log's data plane.
        root: the tree of actors.
        is_draining: shutdown has begun.
    """

    def __init__(self, log: JetStream, root: Actor, is_draining: Callable[[], bool]) -> None:
        self._log = log
        self._root = root
        self._is_draining = is_draining
        self._log_since = trio.current_time()
        self._log_error: str | None = None
        self._redis: Dependency | None = None
        self.log_facts: dict[str, object] = {}
        self.started = False
        self.durability = "buffered"
        log.connection.watchers.append(self._on_change)

    @property
    def state(self) -> str:
        """`ready`, `starting`, `draining` or `unavailable`."""
        if self._is_draining():
            return "draining"
        if not self.started:
            return "starting"
        return "ready" if self._log.connection.is_up and not self._root.failing() else "unavailable"

    def dependencies(self) -> dict[str, Dependency]:
        """Give every dependency by its name."""
        connection = self._log.connection
        facts = {**self.log_facts, "server": connection.info.fields.get("version")}
        state = "up" if connection.is_up else "down"
        known = {"log": Dependency(state, self._log_since, self.log_error, facts, True)}
        if self._redis is not None:
            known["redis"] = self._redis
        return known

    @property
    def log_error(self) -> str | None:
        """The last reason the log was not reachable."""
        return self._log.connection.last_error or self._log_error

    def failing(self) -> list[str]:
        """Give the actors that fall too often."""
        return self._root.failing()

    async def watch_redis(self, redis: RedisTier, cache: HashCache) -> None:
        """Ask Redis every now and then whether it is there, for ever."""
        while True:
            problem: str | None = None
            try:
                await redis.ping()
            except Unavailable as fault:
                problem = fault.detail
            state = "down" if problem else "up"
            before = self._redis
            since = before.since if before is not None and before.state == state else trio.current_time()
            last = problem or cache.redis_error or (before.last_error if before is not None else None)
            self._redis = Dependency(state, since, last, {}, False)
            await trio.sleep(LOOK_EVERY_S)

    def _on_change(self) -> None:
        self._log_since = trio.current_time()
        self._log_error = self.log_error


async def read_sync_always(monitor_url: str) -> bool | None:
    """Ask a log server's monitoring whether it syncs before it answers; None when it does not say."""
    try:
        async with httpx2.AsyncClient(timeout=ANSWER_WITHIN_S) as client:
            reply = await client.get(f"{monitor_url}/varz")
            fields = reply.json()
            return bool(fields["jetstream"]["config"].get("sync_always", False))
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return None
