"""The driver's connection, as tests of it open it and wait for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from engine.nats import NatsConnection
from tests.support.nats_peer import NatsPeer

WITHIN_S = 5.0


@asynccontextmanager
async def open_connection(peer: NatsPeer) -> AsyncIterator[NatsConnection]:
    """Run a connection to the peer for the length of the block."""
    connection = NatsConnection(peer.locate, "test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        yield connection
        nursery.cancel_scope.cancel()


async def wait_up(connection: NatsConnection) -> None:
    """Wait until the connection is usable."""
    with trio.fail_after(WITHIN_S):
        await connection.wait_up()
