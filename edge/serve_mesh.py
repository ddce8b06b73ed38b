"""A worker's part of the composition: its end of the mesh, and what it shares with the other workers.

Rules of the file:
- A gateway of one process has no mesh; everything here is then left out, not emptied.
"""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from secrets import token_hex

import orjson
import structlog
import trio

from actors.hashes import HashCache
from actors.mesh import Mesh
from actors.tree import Actor, supervise
from edge.listener import Listener
from edge.merging import describe_families
from edge.metrics import collect
from edge.node import Node
from edge.passing import Passing
from edge.sharing import share_deletions
from engine.lease_journal import SUFFIX, LeaseJournal
from engine.placement import PARENT, Placement
from engine.settings import Settings
from engine.settle_words import BadFrame, read_settle

log = structlog.get_logger("serve")
READY = "ready"
ALIVE = "alive"
ACTORS = "actors"
METRICS = "metrics"
ATTACHED = "attached"
SETTLE = "settle"
DURABILITY = "durability"


@asynccontextmanager
async def open_mesh(placement: Placement | None, root: Actor) -> AsyncIterator[Mesh | None]:
    """Run this worker's end of the mesh for the length of the block; None where there is one process only."""
    if placement is None:
        yield None
        return
    receive = socket.socket(fileno=placement.receive)
    send = {other: socket.socket(fileno=descriptor) for other, descriptor in placement.send.items()}
    mesh = Mesh(placement.index, receive, send)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(supervise, root, "mesh", mesh.run, mailbox=mesh.mailbox))
            yield mesh
            nursery.cancel_scope.cancel()
    finally:
        mesh.close()


@asynccontextmanager
async def open_journal(settings: Settings) -> AsyncIterator[LeaseJournal | None]:
    """Write down what this process holds of the log for the length of the block; None where no file can be made."""
    folder = settings.leases_folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        journal = LeaseJournal(folder / f"{os.getpid()}-{token_hex(4)}{SUFFIX}")
    except OSError as problem:
        log.warning("what is held when this process is killed comes again only after its lease", error=str(problem))
        yield None
        return
    try:
        yield journal
    finally:
        journal.close()


def take_part(node: Node, mesh: Mesh, cache: HashCache) -> None:
    """Answer what the other processes ask this one."""

    async def alive(_: bytes) -> bytes:
        return b""

    async def actors(_: bytes) -> bytes:
        return orjson.dumps(node.root.describe(trio.current_time()))

    async def metrics(_: bytes) -> bytes:
        return orjson.dumps(describe_families(collect(node)))

    async def attached(names: bytes) -> bytes:
        return orjson.dumps([node.consumers.attached(name) for name in orjson.loads(names)])

    async def settle(body: bytes) -> bytes:
        said = orjson.loads(body)
        words = read_settle(said["words"])
        assert not isinstance(words, BadFrame)  # noqa: S101  # the one who asks has read it with the same eyes
        return orjson.dumps(await node.pulls.settle(said["durable"], words))

    topics = {ALIVE: alive, ACTORS: actors, METRICS: metrics, ATTACHED: attached, SETTLE: settle}
    for topic, answer in topics.items():
        mesh.on_ask(topic, answer)
    share_deletions(mesh, cache)


def make_passing(mesh: Mesh | None, placement: Placement | None) -> Passing | None:
    """Make what brings connections where they belong; None where there is one process only."""
    return None if mesh is None or placement is None else Passing(mesh, placement.count)


def begin_taking(passing: Passing | None, listener: Listener, nursery: trio.Nursery) -> None:
    """Serve connections that other workers pass on, in the nursery of those that were accepted here."""
    if passing is not None:
        passing.take_with(listener, nursery)


def say_ready(mesh: Mesh, durability: str) -> None:
    """Tell the parent that requests are welcome here."""
    mesh.tell(PARENT, READY, orjson.dumps({DURABILITY: durability}))
