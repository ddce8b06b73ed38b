"""The hash cache's tiers, asked in order: in-process, then Redis where there is one.

Rules of the file:
- One round trip a request a tier, whatever the number of probes; a tier that does not answer is a miss.
- The cache learns only what the log has confirmed: a hit for an event that was never stored would lose it for good.
- Tombstones of the in-process tier also hold for what Redis answers, so that a deletion counts here at once even
  while Redis is away.
"""

import time
from collections.abc import Sequence
from typing import Final

import structlog

from engine.errors import Unavailable
from engine.events import FileEvent
from engine.hashes import HashTable, Probe, changes_of, identity_of, path_of, seeded_at
from engine.hashes_redis import RedisTier

log = structlog.get_logger("hashes")
COMPLAIN_EVERY_S: Final = 10.0


class HashCache:
    """What the edge holds of the cache.

    Args:
        table: the in-process tier.
        redis: the second tier, None when there is none.
    """

    def __init__(self, table: HashTable, redis: RedisTier | None) -> None:
        self.table = table
        self.redis_error: str | None = None
        self._redis = redis
        self._complained = 0.0

    @property
    def has_redis(self) -> bool:
        """There is a second tier."""
        return self._redis is not None

    async def probe(self, probes: Sequence[Probe]) -> list[bytes | None]:
        """Give what is known of each file, in order: a packed entry, or None for a miss."""
        now_us = time.time_ns() // 1000
        table = self.table
        answers: list[bytes | None] = []
        missing: list[tuple[int, int]] = []
        for index, probe in enumerate(probes):
            key = identity_of(probe)
            entry = table.find(probe, key, now_us) if key is not None else None
            if entry is None and key is not None:
                missing.append((index, key))
            answers.append(entry)
        if missing and self._redis is not None:
            await self._ask_redis(self._redis, probes, answers, missing, now_us)
        hits = sum(entry is not None for entry in answers)
        table.hits += hits
        table.misses += len(answers) - hits
        return answers

    async def learn(self, events: Sequence[FileEvent]) -> None:
        """Take over what stored events say; never fails."""
        changes = changes_of(events, time.time_ns() // 1000)
        if not (changes.seeds or changes.evicted or changes.tombstones):
            return
        self.table.apply(changes)
        if self._redis is not None:
            try:
                await self._redis.apply(changes)
                self.redis_error = None
            except Unavailable as problem:
                self._complain(problem)

    async def _ask_redis(
        self,
        redis: RedisTier,
        probes: Sequence[Probe],
        answers: list[bytes | None],
        missing: list[tuple[int, int]],
        now_us: int,
    ) -> None:
        paths = [path_of(probes[index].path) for index, _ in missing]
        try:
            entries, buried = await redis.find([key for _, key in missing], paths)
            self.redis_error = None
        except Unavailable as problem:
            self._complain(problem)
            return
        for (index, key), path, entry, buried_us in zip(missing, paths, entries, buried, strict=True):
            if path is not None and buried_us:
                self.table.bury(path, buried_us)
            if entry is None or seeded_at(entry) <= buried_us or not self.table.is_valid(probes[index], entry, now_us):
                continue
            self.table.remember(key, entry)
            answers[index] = entry

    def _complain(self, problem: Unavailable) -> None:
        self.redis_error = problem.detail
        now = time.monotonic()
        if now - self._complained > COMPLAIN_EVERY_S:
            self._complained = now
            log.warning("the Redis tier does not answer", error=problem.detail)
