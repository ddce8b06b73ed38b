"""The catalog's actor: it follows the log with a durable of its own and keeps PostgreSQL at what the log says.

Rules of the file:
- Acknowledged after the commit, never before: what a crash interrupts comes again, and changes nothing twice.
- Nothing that an event holds stops it: what cannot be stored is counted and logged, the rest is stored.
- While PostgreSQL is away it waits with what it holds; the leases are extended, so nothing is delivered in vain.

Back-pressure: waits. It holds at most the messages of two pulls, one batch packed and one being written.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
import trio

from actors.tree import Actor, Mailbox
from engine.catalog import Rows, Source, take_message
from engine.catalog_log import CatalogLog, read_reply
from engine.catalog_store import CatalogStore, Known, Written
from engine.errors import Unavailable
from engine.jetstream import JetStream
from engine.log import Delivery, PullRequest, PullStatus, Verdict, read_delivery
from engine.nats_wire import Message, WireError

log = structlog.get_logger("catalog")

ACK_WAIT_S: Final = 5.0
"""What a killed gateway held comes again after this."""
PULL_MESSAGES: Final = 500
PULL_BYTES: Final = 4 * 1024 * 1024
BATCH_EVENTS: Final = 5000
"""More in one transaction gains little: the statement's and the commit's cost are spread thin by then."""
WAIT_S: Final = 30.0
GRACE_S: Final = 5.0
LOOK_EVERY_S: Final = 0.25
RETRY_S: Final = 0.05
RETRY_MOST_S: Final = 2.0
WRITE_WITHIN_S: Final = 60.0
"""A batch takes milliseconds; a connection that is silent for this long is given up, and the batch written again."""
NO_CONSUMER: Final = 503


@dataclass(slots=True)
class CatalogCounts:
    """What the catalog's actor has done since the start.

    Args:
        events: events taken in, refused and ignored ones among them.
        rows: file rows written: events that were newer than what was known.
        batches: transactions committed.
        refused: events that cannot be stored.
        ignored: events of types that the catalog does not know.
        retries: tries that PostgreSQL did not answer.
        waiting: messages that wait in the log.
    """

    events: int = 0
    rows: int = 0
    batches: int = 0
    refused: int = 0
    ignored: int = 0
    retries: int = 0
    waiting: int = 0


class _Batch(NamedTuple):
    rows: Rows
    deliveries: list[Delivery]
    waiting: int


class Catalog:
    """What the edge holds of the catalog's actor.

    Args:
        log: the log's data plane.
        stream: the stream to follow.
        store: the catalog's tables.
        migrated: set when they are there.
        identity: names the database, once they are there.
    """

    def __init__(
        self, log: JetStream, stream: str, store: CatalogStore, migrated: trio.Event, identity: Callable[[], str]
    ) -> None:
        self.counts = CatalogCounts()
        self.store = store
        self.is_current = False
        """Everything that the log held when this gateway began is in the catalog."""
        self._log = log
        self._source = CatalogLog(log, stream)
        self._migrated = migrated
        self._identity = identity
        self._arrived: deque[Delivery] = deque()
        self._held: list[Delivery] = []
        self._left = 0
        self._ended: PullStatus | None = None
        self._news = trio.Event()
        log.connection.watchers.append(self._nudge)

    def mailbox(self) -> Mailbox:
        """How many messages are here, and how many may be."""
        return Mailbox(len(self._arrived) + len(self._held), 4 * PULL_MESSAGES)

    async def find(self, identities: list[bytes], paths: list[bytes]) -> Known:
        """Look up files and deletions, for the hash cache.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        return await self.store.find(identities, paths)

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Follow the log, for ever.

        Cancellation: the transaction in hand is rolled back; its messages are given back at once.
        """
        ready()
        await self._migrated.wait()
        pause_s = RETRY_S
        while True:
            await self._log.connection.wait_up()
            try:
                state = await self._source.state()
                epoch = await self.store.open_epoch(self._source.stream, state.created)
                durable = f"catalog-{self._identity()[:12]}"
                await self._source.open_durable(durable, ACK_WAIT_S)
            except Unavailable as problem:
                log.debug("the catalog cannot follow the log yet", error=problem.detail)
                await trio.sleep(pause_s)
                pause_s = min(RETRY_MOST_S, pause_s * 2)
                continue
            pause_s = RETRY_S
            await self._follow(durable, epoch, state.last_seq)

    async def watch(self, _: Actor, ready: Callable[[], None]) -> None:
        """Find out when what another process writes may be believed, and no more: one follows the log for all."""
        ready()
        await self._migrated.wait()
        while not self.is_current:
            await self._log.connection.wait_up()
            try:
                state = await self._source.state()
            except Unavailable as problem:
                log.debug("the log's state is not known yet", error=problem.detail)
                await trio.sleep(RETRY_MOST_S)
                continue
            await self._catch_up(f"catalog-{self._identity()[:12]}", state.last_seq)
        await trio.sleep_forever()

    async def _follow(self, durable: str, epoch: int, goal_seq: int) -> None:
        """Follow until the connection or the durable is lost; then what was held comes again."""
        give, take = trio.open_memory_channel[_Batch](1)  # packed while another is being written; policy wait
        inbox = self._log.connection.subscribe(self._take)
        self._left, self._ended = 0, None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._extend)
                if not self.is_current:
                    nursery.start_soon(self._catch_up, durable, goal_seq)
                async with trio.open_nursery() as flow:
                    flow.start_soon(self._write, take, epoch)
                    with give:
                        while (batch := await self._next_batch(durable, inbox.subject, epoch)) is not None:
                            await give.send(batch)
                nursery.cancel_scope.cancel()
        finally:
            inbox.close()  # first, or the log would deliver again to this very inbox
            if held := [*self._held, *self._arrived]:
                self._log.settle_nowait(held, Verdict.NAK)
            self._arrived.clear()
            self._held.clear()

    async def _next_batch(self, durable: str, inbox: str, epoch: int) -> _Batch | None:
        """Wait for messages and pack what is there, up to a batch; None when there is nothing to follow any more."""
        while not self._arrived:
            if not self._ask(durable, inbox):
                return None
            with trio.move_on_after(WAIT_S + GRACE_S) as patience:
                await self._news.wait()
            if patience.cancelled_caught:
                self._left = 0  # the log forgot the pull; ask again
        rows, deliveries, waiting = Rows(), list[Delivery](), 0
        while self._arrived and rows.events < BATCH_EVENTS:
            one = self._arrived.popleft()
            deliveries.append(one)
            self._held.append(one)
            stored_us, waiting = read_reply(one.reply)
            take_message(rows, Source(one.payload, one.is_frame, one.sequence, stored_us), epoch)
            await trio.lowlevel.checkpoint()  # requests come first: packing holds the loop for one message at most
        self._ask(durable, inbox)
        return _Batch(rows, deliveries, waiting)

    async def _write(self, take: trio.MemoryReceiveChannel[_Batch], epoch: int) -> None:
        async for rows, deliveries, waiting in take:
            written = await self._store(rows, epoch)
            self._log.settle_nowait(deliveries, Verdict.ACK)  # what the log does not hear of comes again
            del self._held[: len(deliveries)]
            counts = self.counts
            counts.events += rows.events
            counts.rows += written.rows
            counts.batches += 1
            counts.ignored += rows.ignored
            counts.refused += rows.refused + len(written.refused)
            counts.waiting = waiting + len(self._arrived) + len(self._held)
            if reasons := rows.reasons + written.refused:
                log.warning("events cannot be stored", count=rows.refused + len(written.refused), first=reasons[:10])

    async def _store(self, rows: Rows, epoch: int) -> Written:
        """Write a batch, and again until PostgreSQL takes it."""
        pause_s = RETRY_S
        while True:
            reason = f"no answer within {WRITE_WITHIN_S:g} s"
            with trio.move_on_after(WRITE_WITHIN_S):
                try:
                    return await self.store.write(rows, epoch)
                except Unavailable as problem:
                    reason = problem.detail
            self.counts.retries += 1
            log.debug("PostgreSQL does not take a batch", error=reason, pause_s=pause_s)
            await trio.sleep(pause_s)
            pause_s = min(RETRY_MOST_S, pause_s * 2)

    async def _extend(self) -> None:
        """Keep the leases of what is held here, however long PostgreSQL takes."""
        while True:
            await trio.sleep(ACK_WAIT_S / 3)
            held = [*self._held, *self._arrived]
            if held:
                self._log.settle_nowait(held, Verdict.PROGRESS)

    async def _catch_up(self, durable: str, goal_seq: int) -> None:
        """Find out when everything that was there at the start is in: only then may the cache believe the catalog.

        Before, it may lack a deletion that the log has.
        """
        while not self.is_current:
            try:
                self.is_current = (await self._source.progress(durable)).has_reached(goal_seq)
            except Unavailable as problem:
                log.debug("the catalog's progress is not known", error=problem.detail)
            if not self.is_current:
                await trio.sleep(LOOK_EVERY_S)

    def _ask(self, durable: str, inbox: str) -> bool:
        """Open a pull where none is open; False when there is nothing to ask: no connection, or no durable."""
        self._news = trio.Event()
        ended, self._ended = self._ended, None
        if ended is not None and (ended.status == NO_CONSUMER or "Deleted" in ended.description):
            return False
        if self._left > 0 or len(self._arrived) >= PULL_MESSAGES:
            return self._log.connection.is_up
        is_too_large = ended is not None and "MaxBytes" in ended.description and not self._arrived
        request = PullRequest(1, 0, WAIT_S) if is_too_large else PullRequest(PULL_MESSAGES, PULL_BYTES, WAIT_S)
        if not self._log.pull_nowait(self._source.stream, durable, inbox, request):
            return False
        self._left = request.count
        return True

    def _take(self, message: Message) -> None:
        try:
            item = read_delivery(message)
        except WireError:
            return  # somebody else published to our inbox: it is not the log's, nothing is owed for it
        if isinstance(item, Delivery):
            self._log.hold(item.reply, ACK_WAIT_S)
            self._arrived.append(item)
            self._left -= 1
        elif item is not None:
            self._ended = item
            self._left = 0
        else:
            return
        self._news.set()

    def _nudge(self) -> None:
        """Look again: the connection went up or down, and an open pull went with it."""
        self._left = 0
        self._ended = PullStatus(NO_CONSUMER, "the connection changed")
        self._news.set()
