"""The catalog's actor on a real log and a real PostgreSQL: it follows, waits, goes on, and is never stopped."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio
import trio.testing

from actors.catalog import PULL_MESSAGES, Catalog
from actors.tree import Actor, supervise
from engine.catalog_store import CatalogStore
from tests.support.catalog_model import Model, messages_of, model_of, read_table
from tests.support.postgres import RealPostgres, execute, open_real_postgres
from tests.support.real_log import RealLog, open_real_log
from tests.support.waiting import wait_until

FRAME = b"NATS/1.0\r\nHeadgate-Events: 1\r\n\r\n"


class Scene:
    """A log, a PostgreSQL, and catalogs that follow the one into the other."""

    def __init__(self, log: RealLog, real: RealPostgres) -> None:
        self.log = log
        self.real = real

    def make(self) -> Catalog:
        """A catalog as a starting gateway makes it."""
        databases = self.real.databases
        return Catalog(
            self.log.data, "S", CatalogStore(databases.owner), databases.migrated, lambda: databases.identity
        )

    async def publish(self, messages: list[bytes]) -> None:
        """Put frames on the log."""
        for begin in range(0, len(messages), 500):
            await self.log.publish(*((FRAME, one) for one in messages[begin : begin + 500]))

    async def progress(self) -> dict[str, int]:
        """What the log knows of the catalog's durable."""
        [found] = await self.log.client.find_consumers("S", "catalog-")
        return {"floor": found["ack_floor"]["stream_seq"], "outstanding": found["num_ack_pending"]}


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[Scene]:
    """Both engines, for the length of the block."""
    async with open_real_log(folder / "log") as log, open_real_postgres(folder / "pg") as real:
        yield Scene(log, real)


@asynccontextmanager
async def running(catalog: Catalog) -> AsyncIterator[Actor]:
    """The actor under its supervisor, for the length of the block."""
    root = Actor("test", trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(supervise, root, "catalog", catalog.run, mailbox=catalog.mailbox))
        yield root
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def held_up(real: RealPostgres) -> AsyncIterator[None]:
    """PostgreSQL takes nothing into the files, for the length of the block."""
    async with real.databases.owner.lease() as lease:
        await lease.call(execute, "BEGIN; LOCK TABLE catalog.files IN EXCLUSIVE MODE")
        try:
            yield
        finally:
            await lease.call(execute, "ROLLBACK")


async def assert_complete(scene: Scene, catalog: Catalog, model: Model) -> None:
    """The table is what the log says, and the log knows it."""
    await wait_until(lambda: catalog.counts.events >= model.events, "everything was taken in", timeout_s=20)
    assert await read_table(scene.real.databases.owner) == model.files

    async def is_acknowledged() -> bool:
        return (await scene.progress())["outstanding"] == 0

    await wait_until(is_acknowledged, "everything is acknowledged")


async def test_the_catalog_follows_the_log(tmp_path: Path, chance: random.Random) -> None:
    """Messages of gateways and of strangers become rows; what cannot be stored is counted, and nothing falls."""
    messages = messages_of(chance, 200, 50, 500)
    async with open_scene(tmp_path) as scene:
        await scene.publish(messages)
        catalog = scene.make()
        async with running(catalog) as root:
            await assert_complete(scene, catalog, model := model_of(enumerate(messages, 1)))
            await wait_until(lambda: catalog.is_current, "it knows that it has everything")
            assert catalog.counts.refused == model.refused
            strange = [
                b"no json",
                b"[]",
                b'{"events":3}',
                b'{"events":[{"type":"file.upsert","data":{"path":"/\\ud800"}}]}',
                b'{"events":[' + b"[" * 5000,
                b'{"events":[7,{"type":"file.upsert","data":{"path":"\\\\a\\\\b"}}]}',
            ]
            await scene.log.publish(*((b"", one) for one in strange))
            await wait_until(lambda: catalog.counts.refused >= model.refused + 6, "the poison was counted")
            assert await scene.real.fetch("SELECT seq FROM catalog.files WHERE path = '/a/b'") == [{"seq": 206}]
            assert root.children["catalog"].restarts == 0
            await the_stream_is_made_again(scene)


async def the_stream_is_made_again(scene: Scene) -> None:
    """A log that is lost and made again is followed from its beginning, and counts as newer."""
    await scene.log.client.api("STREAM.DELETE.S")
    await scene.log.client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["snapfs.>"], "allow_direct": True})
    await scene.publish([b'{"events":[{"type":"file.delete","data":{"path":"/a/b"}}]}'])

    async def is_deleted() -> bool:
        found = await scene.real.fetch("SELECT seq, epoch, is_deleted FROM catalog.files WHERE path = '/a/b'")
        return found == [{"seq": 1, "epoch": 2, "is_deleted": True}]

    await wait_until(is_deleted, "the new stream's first event counts", timeout_s=20)


async def test_cancelled_while_it_writes_nothing_is_lost(tmp_path: Path, chance: random.Random) -> None:
    """Cancelled here, in the middle of a transaction: nothing is acknowledged, and the next one takes it in at once."""
    messages = messages_of(chance, 50, 20, 100)
    async with open_scene(tmp_path) as scene:
        async with held_up(scene.real):
            await scene.publish(messages)
            catalog = scene.make()
            async with running(catalog):
                await wait_until(lambda: catalog.mailbox().depth == len(messages), "it holds everything")
            assert (await scene.progress())["floor"] == 0
        assert await read_table(scene.real.databases.owner) == {}
        again = scene.make()
        async with running(again):
            await assert_complete(scene, again, model_of(enumerate(messages, 1)))


async def test_overloaded_it_holds_no_more_than_its_bound(tmp_path: Path, chance: random.Random) -> None:
    """While PostgreSQL takes nothing, what is held here stays within the mailbox; afterwards all of it is stored."""
    messages = messages_of(chance, 6 * PULL_MESSAGES, 2, 400)
    async with open_scene(tmp_path) as scene:
        catalog = scene.make()
        async with running(catalog):
            async with held_up(scene.real):
                await scene.publish(messages)
                await wait_until(lambda: catalog.mailbox().depth >= PULL_MESSAGES, "it fills")
                for _ in range(20):
                    await trio.testing.wait_all_tasks_blocked(0.02)
                    assert catalog.mailbox().depth <= catalog.mailbox().bound
            await assert_complete(scene, catalog, model_of(enumerate(messages, 1)))
