"""The hash cache's tiers, asked in order: in-process, then Redis where there is one, then the catalog in PostgreSQL.

Rules of the file:
- One round trip a request a tier, whatever the number of probes; a tier that does not answer is a miss.
- The cache learns only what the log has confirmed: a hit for an event that was never stored would lose it for good.
- Tombstones of the in-process tier also hold for what Redis answers, so that a deletion counts here at once even
  while Redis is away.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import structlog
import trio

from actors.tree import Actor
from engine.catalog_store import Known
from engine.errors import Unavailable
from engine.events import FileEvent
from engine.hashes import WINDOW_S, Changes, HashTable, Probe, changes_of, encode_entry, path_of, seeded_at
from engine.metrics import Histogram

if TYPE_CHECKING:
    from engine.hashes_redis import RedisTier  # its library is not imported where there is no Redis

log = structlog.get_logger("hashes")
TIERS: Final = ("memory", "redis", "catalog")
"""In the order in which they are asked."""
COMPLAIN_EVERY_S: Final = 10.0
FOLLOW_EVERY_S: Final = 1.0
"""A deletion at one gateway is no hit at another after about this time."""
OVERLAP_US: Final = 2_000_000
"""Gateways' clocks may differ by so much and no deletion is missed."""
CATALOG_WITHIN_S: Final = 0.25
"""A catalog that takes longer is treated as away: the scanner hashes the files, which costs it about as much."""
CATALOG_PAUSE_S: Final = 1.0
"""It is left alone for so long after that, so that a hanging database does not cost every request its deadline."""


class CatalogTier(Protocol):
    """What the cache needs of the catalog."""

    @property
    def is_current(self) -> bool:
        """Whether it knows of every deletion from before this gateway's start; those since then are known here."""

    async def find(self, identities: list[bytes], paths: list[bytes]) -> Known:
        """Look up files and deletions; raises `Unavailable`."""


class HashCache:
    """What the edge holds of the cache.

    Args:
        table: the in-process tier.
        redis: the second tier, None when there is none.
        catalog: the last tier, None when there is none.
    """

    def __init__(self, table: HashTable, redis: "RedisTier | None", catalog: CatalogTier | None = None) -> None:
        self.table = table
        self.tier_hits = Counter[str]()
        self.tier_took = {tier: Histogram() for tier in TIERS}
        self.catalog_hits = 0
        self.catalog_failures = 0
        self._catalog = catalog
        self._catalog_rests_until = 0.0
        self.redis_error: str | None = None
        self.redis_since = trio.current_time()
        self._redis = redis
        self._complained = 0.0
        self._followed_us = time.time_ns() // 1000
        self._learned_us = 0
        self.on_deletions: Callable[[dict[bytes, int]], None] | None = None
        """Told of what is deleted, paths to times: other processes of this gateway hear it by that."""

    def redis_state(self) -> tuple[float, str | None]:
        """Say since when Redis answers or does not, Trio's clock, and why it does not."""
        return self.redis_since, self.redis_error

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Follow the deletions that other gateways learned of, for ever."""
        ready()
        while self._redis is not None:
            now_us = time.time_ns() // 1000
            try:
                deleted = await self._redis.deletions(self._followed_us - OVERLAP_US)
            except Unavailable as problem:
                self._complain(problem)
            else:
                self._redis_answered()
                if now_us - self._followed_us > WINDOW_S * 1_000_000:
                    self.table.forget_before(now_us)  # away for so long that deletions may have been missed
                for path, at_us in deleted.items():
                    self.table.bury(path, at_us)
                self._followed_us = now_us
            await trio.sleep(FOLLOW_EVERY_S)

    async def probe(self, probes: Sequence[Probe]) -> list[bytes | None]:
        """Give what is known of each file, in order: a packed entry, or None for a miss."""
        now_us = time.time_ns() // 1000
        table = self.table
        began_s = time.perf_counter()
        answers, missing = table.find_all(probes, now_us)
        self._note_tier("memory", began_s, len(probes) - len(missing))
        if missing and self._redis is not None:
            began_s, asked = time.perf_counter(), len(missing)
            await self._ask_redis(self._redis, probes, answers, missing, now_us)
            missing = [one for one in missing if answers[one[0]] is None]
            self._note_tier("redis", began_s, asked - len(missing))
        if missing and self._catalog is not None and self._catalog.is_current:
            began_s, before = time.perf_counter(), self.catalog_hits
            await self._ask_catalog(self._catalog, probes, answers, missing, now_us)
            self._note_tier("catalog", began_s, self.catalog_hits - before)
        hits = len(answers) - answers.count(None)
        table.hits += hits
        table.misses += len(answers) - hits
        return answers

    def read(self, events: Sequence[FileEvent]) -> Changes | Sequence[FileEvent]:
        """Give what `learn` will need of events that are about to be stored; never fails.

        Files are read now, while their events are in the processor's caches, and count as seen now. Deletions count
        from when they are stored, so events with one among them are kept as they are.
        """
        self._learned_us = self._now_us()
        changes = changes_of(events, self._learned_us)
        return events if changes.evicted or changes.tombstones else changes

    async def learn(self, news: Changes | Sequence[FileEvent]) -> None:
        """Take over what stored events say, or what was read of them before; never fails."""
        if isinstance(news, Changes):
            changes = news
        else:
            now_us = self._now_us()
            self._learned_us = now_us + 2 * len(news) + 1
            changes = changes_of(news, now_us)
        if not (changes.seeds or changes.evicted or changes.tombstones):
            return
        self.table.apply(changes)
        if self.on_deletions is not None:
            self.on_deletions(changes.tombstones)
        if self._redis is not None:
            try:
                await self._redis.apply(changes)
                self._redis_answered()
            except Unavailable as problem:
                self._complain(problem)

    def _now_us(self) -> int:
        return max(time.time_ns() // 1000, self._learned_us)  # a clock that is set back brings nothing deleted back

    async def _ask_redis(
        self,
        redis: "RedisTier",
        probes: Sequence[Probe],
        answers: list[bytes | None],
        missing: list[tuple[int, bytes]],
        now_us: int,
    ) -> None:
        paths = [path_of(probes[index].path) for index, _ in missing]
        try:
            entries, buried = await redis.find([key for _, key in missing], paths)
            self._redis_answered()
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

    async def _ask_catalog(
        self,
        catalog: CatalogTier,
        probes: Sequence[Probe],
        answers: list[bytes | None],
        missing: list[tuple[int, bytes]],
        now_us: int,
    ) -> None:
        if trio.current_time() < self._catalog_rests_until:
            return
        paths = {index: path_of(probes[index].path) for index, _ in missing}
        known: Known | None = None
        with trio.move_on_after(CATALOG_WITHIN_S):
            try:
                known = await catalog.find([key for _, key in missing], [one for one in paths.values() if one])
            except Unavailable as problem:
                log.debug("the catalog does not answer the cache", error=problem.detail)
        if known is None:
            self.catalog_failures += 1
            self._catalog_rests_until = trio.current_time() + CATALOG_PAUSE_S
            return
        for path, deleted_us in known.deleted.items():
            self.table.bury(path, deleted_us)
        for index, key in missing:
            found = known.entries.get(key)
            if found is None:
                continue
            # The log's clock is not this machine's: by the margin a deletion wins over what may have been after it.
            entry = encode_entry(found[0], found[1], max(0, found[2] - OVERLAP_US))
            buried_us = known.deleted.get(paths[index] or b"", 0)
            if entry is None or seeded_at(entry) <= buried_us or not self.table.is_valid(probes[index], entry, now_us):
                continue
            self.table.remember(key, entry)
            answers[index] = entry
            self.catalog_hits += 1

    def _note_tier(self, tier: str, began_s: float, hits: int) -> None:
        self.tier_hits[tier] += hits
        self.tier_took[tier].observe(time.perf_counter() - began_s)

    def _redis_answered(self) -> None:
        if self.redis_error is not None:
            self.redis_error = None
            self.redis_since = trio.current_time()

    def _complain(self, problem: Unavailable) -> None:
        if self.redis_error is None:
            self.redis_since = trio.current_time()
        self.redis_error = problem.detail
        now = time.monotonic()
        if now - self._complained > COMPLAIN_EVERY_S:
            self._complained = now
            log.warning("the Redis tier does not answer", error=problem.detail)
