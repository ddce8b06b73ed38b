"""A file that one worker hears is gone is no hit at another, and who could not be told forgets all it knows."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
import trio.testing

from actors.hashes import HashCache
from actors.mesh import OUTBOX, Mesh
from actors.tree import Actor, supervise
from edge.sharing import share_deletions
from engine.events import FileEvent, FileFacts
from engine.hashes import HashTable, Probe
from tests.support.waiting import wait_until

WORKERS = (1, 2)


def upsert(number: int) -> FileEvent:
    """Report a file with its hash."""
    return FileEvent("file.upsert", FileFacts(path=f"/f/{number}", size=1, mtime=5, algo="test", hash="aa"))


def delete(number: int) -> FileEvent:
    """Report that a file is gone."""
    return FileEvent("file.delete", FileFacts(path=f"/f/{number}"))


async def knows(cache: HashCache, number: int) -> bool:
    """Whether it has the file's hash."""
    return await cache.probe([Probe(path=f"/f/{number}", size=1, mtime=5)]) != [None]


async def knows_not(cache: HashCache, number: int) -> bool:
    """The opposite, to be waited for."""
    return not await knows(cache, number)


@asynccontextmanager
async def open_workers() -> AsyncIterator[tuple[list[Mesh], list[HashCache], trio.Nursery]]:
    """Two workers' meshes and caches; the second receives only when a test runs it."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    meshes, caches = [], [HashCache(HashTable(1 << 20, 3600), None) for _ in WORKERS]
    for index, cache in zip(WORKERS, caches, strict=True):
        others = {other: pairs[other][1].dup() for other in range(3) if other != index}
        mesh = Mesh(index, pairs[index][0].dup(), others)
        mesh.begin_receiving()
        share_deletions(mesh, cache)
        meshes.append(mesh)
    try:
        async with trio.open_nursery() as nursery:
            run(nursery, meshes[0])
            yield meshes, caches, nursery
            nursery.cancel_scope.cancel()
    finally:
        for mesh in meshes:
            mesh.close()
        for pair in pairs:
            for end in pair:
                end.close()


def run(nursery: trio.Nursery, mesh: Mesh) -> None:
    """Run a worker's end."""
    nursery.start_soon(partial(supervise, Actor("root", 0.0), "mesh", mesh.run))


async def test_a_deletion_is_told_and_what_is_known_is_not() -> None:
    """Both know two files; one hears that the first is gone."""
    async with open_workers() as (meshes, caches, nursery):
        run(nursery, meshes[1])
        for cache in caches:
            await cache.learn([upsert(1), upsert(2)])
        await caches[0].learn([delete(1), upsert(3)])
        await wait_until(partial(knows_not, caches[1], 1), "the other has heard it")
        assert await knows(caches[1], 2)
        assert not await knows(caches[1], 3)


async def test_who_could_not_be_told_is_told_to_forget_everything() -> None:
    """A worker that hangs misses deletions; when there is room again it hears that it missed some."""
    async with open_workers() as (meshes, caches, nursery):
        await caches[1].learn([upsert(1), upsert(2)])
        while meshes[0].tell(2, "noise", bytes(100)):
            if meshes[0].mailbox().depth >= OUTBOX:
                await trio.testing.wait_all_tasks_blocked()
        await caches[0].learn([delete(1)])
        assert meshes[0].told_less == {2}
        run(nursery, meshes[1])
        await wait_until(lambda: meshes[0].mailbox().depth < OUTBOX // 2, "it hears again")
        assert await knows(caches[1], 1), "that deletion it has missed"
        await caches[0].learn([upsert(9)])
        await wait_until(partial(knows_not, caches[1], 1), "it has forgotten the file that is gone")
        assert not await knows(caches[1], 2)
        assert 2 not in meshes[0].told_less
