"""The stand-in for a connection that was read from: what was read comes first, and no send waits for ever."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from edge.handover import SEND_PIECE_BYTES, SEND_WITHIN_S, ReplayStream, send_in_pieces
from edge.tcp_stream import TcpStream

Clock = trio.testing.MockClock


@asynccontextmanager
async def open_pair(head: bytes = b"", rest: bytes = b"") -> AsyncIterator[tuple[ReplayStream, trio.SocketStream]]:
    """A stand-in, and the client's end of its connection; small buffers, so that a send can be seen to wait."""
    ours, theirs = trio.socket.socketpair()
    for one in (ours, theirs):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client = trio.SocketStream(theirs)
    replay = ReplayStream(TcpStream(trio.SocketStream(ours)), head, rest)
    try:
        yield replay, client
    finally:
        await trio.aclose_forcefully(replay)
        await trio.aclose_forcefully(client)


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    """Read so many bytes."""
    data = b""
    with trio.fail_after(5):
        while len(data) < count:
            received = await stream.receive_some(count - len(data))
            assert received
            data += received
    return data


async def test_what_was_read_comes_first_and_in_order() -> None:
    """The head by itself, then what was read behind it, then what the client sends now."""
    async with open_pair(b"HEAD", b"behind") as (replay, client):
        replay.release()
        await client.send_all(b" and later")
        assert await replay.receive_some() == b"HEAD"
        assert await replay.receive_some() == b"behind"
        assert await receive_exactly(replay, 10) == b" and later"
        await client.send_eof()
        assert await replay.receive_some() == b""


async def test_what_follows_the_head_waits_until_it_is_released() -> None:
    """Before the handshake is accepted nothing but the head is received, neither what was read nor what comes."""
    for rest in (b"behind", b""):
        async with open_pair(b"HEAD", rest) as (replay, client):
            await client.send_all(b"later")
            assert await replay.receive_some(1000) == b"HEAD"
            async with trio.open_nursery() as nursery:
                received: list[bytes] = []

                async def receive(replay: ReplayStream = replay, received: list[bytes] = received) -> None:
                    received.append(await replay.receive_some(1000))

                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                assert received == []
                replay.release()
            assert received == [rest or b"later"]


async def test_what_was_read_is_received_in_any_portions() -> None:
    """A reader that takes a byte at a time loses none."""
    async with open_pair(b"H", b"behind") as (replay, client):
        replay.release()
        await client.send_all(b"!")
        data = b""
        for _ in range(8):
            piece = await replay.receive_some(1)
            assert len(piece) == 1
            data += piece
        assert data == b"Hbehind!"


async def test_receiving_what_was_read_is_a_checkpoint() -> None:
    """A cancelled reader takes nothing, and nothing is lost by it."""
    async with open_pair(b"HEAD", b"behind") as (replay, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await replay.receive_some()
        assert scope.cancelled_caught
        assert await replay.receive_some() == b"HEAD"
        with trio.move_on_after(0.01) as scope:
            await replay.receive_some()
        assert scope.cancelled_caught
        replay.release()
        assert await replay.receive_some() == b"behind"


@pytest.mark.parametrize(
    "size", [0, 1, SEND_PIECE_BYTES - 1, SEND_PIECE_BYTES, SEND_PIECE_BYTES + 1, 5 * SEND_PIECE_BYTES]
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_everything_is_sent(size: int, kind: type[bytes | bytearray | memoryview]) -> None:
    """In pieces, whatever it is kept in, and nothing twice."""
    data = bytes(number % 251 for number in range(size))
    async with open_pair() as (replay, client), trio.open_nursery() as nursery:
        nursery.start_soon(replay.send_all, kind(data))
        assert await receive_exactly(client, size) == data
    async with open_pair() as (replay, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replay.send_all, kind(data))
            assert await receive_exactly(client, size) == data
        await replay.send_eof()
        assert await client.receive_some() == b""


async def test_a_client_that_reads_nothing_is_cut(patient_clock: Clock) -> None:
    """After the deadline of a piece the send ends in an error and the connection is closed."""
    async with open_pair() as (replay, client):
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError, match="took nothing"):
            await replay.send_all(bytes(10 * SEND_PIECE_BYTES))
        assert trio.current_time() - began == pytest.approx(SEND_WITHIN_S, abs=0.5)
        with pytest.raises(trio.ClosedResourceError):
            await replay.send_all(b"x")
        with trio.fail_after(SEND_WITHIN_S):
            while await client.receive_some(65_536):
                pass


async def test_a_client_that_reads_slowly_is_not_cut(patient_clock: Clock) -> None:
    """The deadline counts for a piece: a large answer may take many times as long."""
    async with open_pair() as (replay, client):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replay.send_all, bytes(8 * SEND_PIECE_BYTES))
            for _ in range(8):
                await trio.sleep(SEND_WITHIN_S * 0.8)
                await receive_exactly(client, SEND_PIECE_BYTES)
        assert trio.current_time() - began > 5 * SEND_WITHIN_S


async def test_a_client_that_is_gone_is_an_error_at_once() -> None:
    """A broken connection is reported, not waited for."""
    async with open_pair() as (replay, client):
        await client.aclose()
        with trio.fail_after(1), pytest.raises(trio.BrokenResourceError):
            await replay.send_all(bytes(10 * SEND_PIECE_BYTES))


async def test_cancelled_here_a_send_ends() -> None:
    """A client that reads nothing cannot hold a task that is cancelled: shutdown does not wait for it (F2)."""
    ours, theirs = trio.socket.socketpair()
    async with TcpStream(trio.SocketStream(ours)) as stream, trio.SocketStream(theirs):
        with trio.fail_after(1), trio.move_on_after(0.02) as scope:
            await send_in_pieces(stream, bytes(100 * SEND_PIECE_BYTES))
        assert scope.cancelled_caught


async def test_closing_closes_the_connection() -> None:
    """The stand-in owns the connection from then on."""
    async with open_pair(b"HEAD") as (replay, client):
        await replay.aclose()
        assert await client.receive_some() == b""
