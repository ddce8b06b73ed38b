"""Connections that belong to another worker: handed over or relayed whole, refused where there is no room."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from actors.mesh import Mesh
from edge.passing import RELAY_BYTES, _relay
from engine.mesh_wire import MOST_BYTES

WITHIN_S = 10.0


def stream_of(end: socket.socket) -> trio.SocketStream:
    """A stream on one end of a pair."""
    end.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(end))


@asynccontextmanager
async def open_relay() -> AsyncIterator[tuple[socket.socket, trio.SocketStream, trio.Event]]:
    """A client, the other worker's end, and when the relay between them is over."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    ours, theirs = socket.socketpair()
    other, over = stream_of(theirs), trio.Event()

    async def relay() -> None:
        async with stream_of(accepted) as stream:
            await _relay(stream, stream_of(ours))  # type: ignore[arg-type]  # a plain stream does as well
        over.set()

    try:
        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay)
                yield client, other, over
                nursery.cancel_scope.cancel()
    finally:
        client.close()
        await trio.aclose_forcefully(other)


async def send_on_a_thread(client: socket.socket, data: bytes) -> None:
    """Send more than the kernel holds, while somebody here reads it."""
    await trio.to_thread.run_sync(lambda: client.sendall(data))


async def test_bytes_go_both_ways_to_their_end() -> None:
    """More than fits in one piece; a client that has ended its side still gets the answer."""
    sent = b"x" * (3 * RELAY_BYTES + 1)
    async with open_relay() as (client, other, over):
        got = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_on_a_thread, client, sent)
            while len(got) < len(sent):
                got += await other.receive_some()
        assert got == sent
        client.shutdown(socket.SHUT_WR)
        assert await other.receive_some() == b""
        await other.send_all(b"the answer")
        await other.aclose()
        await over.wait()
        client.settimeout(WITHIN_S)
        assert client.recv(100) == b"the answer"
        assert client.recv(100) == b""


async def test_a_client_that_breaks_off_is_gone_for_the_other_worker_at_once() -> None:
    """A reset is no end of what the client sends: nobody would read an answer, and what it holds goes to another."""
    async with open_relay() as (client, other, over):
        await other.send_all(b"a batch")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert await other.receive_some() == b""
        await over.wait()
        with pytest.raises(trio.BrokenResourceError):
            await other.send_all(b"more")


async def test_a_worker_that_ends_ends_the_clients_connection() -> None:
    """Killed in the middle of an answer: the client sees the end, and not silence."""
    async with open_relay() as (client, other, over):
        await other.send_all(b"half")
        await other.aclose()
        await over.wait()
        client.settimeout(WITHIN_S)
        assert client.recv(100) == b"half"
        assert client.recv(100) == b""


async def test_what_cannot_be_handed_over_is_not_kept_open() -> None:
    """No room, or no such worker: the mesh closes what it was given, and says so."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    mesh = Mesh(1, pairs[0][0].dup(), {2: pairs[1][1].dup()})
    for other, about in ((2, bytes(MOST_BYTES + 1)), (3, b"")):
        ours, theirs = socket.socketpair()
        assert not mesh.hand_over(other, theirs, about)
        assert theirs.fileno() < 0
        assert ours.recv(1) == b""
        ours.close()
    mesh.close()
    for pair in pairs:
        for end in pair:
            end.close()
