"""The plain connection: Trio's own checks of a stream, and what the quick paths must not lose."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from edge.tcp_stream import DISCARD_BYTES, TcpStream
from tests.support.tcp import open_tcp
from tests.support.waiting import wait_until


def pair() -> tuple[TcpStream, TcpStream]:
    """Two ends of one connection, with small buffers."""
    ours, theirs = trio.socket.socketpair()
    for one in (ours, theirs):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return TcpStream(trio.SocketStream(ours)), TcpStream(trio.SocketStream(theirs))


@asynccontextmanager
async def open_pair() -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    """The same, closed afterwards."""
    ours, theirs = pair()
    async with ours, theirs:
        yield ours, theirs


async def make_pair() -> tuple[TcpStream, TcpStream]:
    """As Trio's checks want it."""
    return pair()


async def make_clogged_pair() -> tuple[TcpStream, TcpStream]:
    """One whose ends cannot send any more."""
    ends = pair()
    for one in ends:
        while one.send_nowait(bytes(1024)):
            pass
    return ends


async def test_it_is_a_stream_as_trio_has_it() -> None:
    """Closing, breaking, ends, cancellation, and two who do the same at once."""
    await trio.testing.check_half_closeable_stream(make_pair, make_clogged_pair)


async def test_what_fits_is_sent_at_once_and_the_rest_is_said() -> None:
    """Without going through the scheduler; a full buffer takes nothing and raises nothing."""
    async with open_pair() as (ours, theirs):
        with trio.testing.assert_no_checkpoints():
            assert ours.send_nowait(b"abc") == 3
            taken = ours.send_nowait(bytes(1_000_000))
            assert 0 < taken < 1_000_000
            while ours.send_nowait(bytes(1024)):
                pass
        assert await theirs.receive_some(3) == b"abc"


async def test_nobody_sends_into_the_middle_of_another_message() -> None:
    """While one sender waits for room, another is refused, however it tries."""
    async with open_pair() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, b"x" * 1_000_000)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            ours.send_nowait(b"y")
        with pytest.raises(trio.BusyResourceError):
            await ours.send_all(b"y")
        received = b""
        while len(received) < 1_000_000:
            received += await theirs.receive_some()
        assert received == b"x" * 1_000_000


async def test_a_socket_that_is_closed_is_not_read_though_its_number_is_in_use_again() -> None:
    """Woken by bytes and closed before it runs: what another connection with the same number sent is not taken."""
    caught: list[Exception] = []
    async with open_pair() as (ours, theirs), trio.open_nursery() as nursery:

        async def receive() -> None:
            try:
                await ours.receive_some()
            except trio.ClosedResourceError as problem:
                caught.append(problem)

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        number = ours.socket.fileno()
        assert theirs.send_nowait(b"for the first") == 13
        ours.socket.close()
        other, peer = socket.socketpair()
        with other, peer:
            assert number in (other.fileno(), peer.fileno())
            for one in (other, peer):
                one.send(b"for the second")
            await trio.testing.wait_all_tasks_blocked()
            assert len(caught) == 1
            assert (other.recv(100), peer.recv(100)) == (b"for the second", b"for the second")


async def wait_held(stream: TcpStream, size_bytes: int) -> None:
    """Wait until so many bytes have arrived."""
    await wait_until(lambda: stream.holds(size_bytes), f"{size_bytes} bytes have arrived")


async def test_what_has_arrived_is_known_taken_and_thrown_away_without_waiting() -> None:
    """Exactly as many bytes as are asked for, on TCP as on anything else; what comes after them stays."""
    for opened in (open_tcp, open_pair):
        async with opened() as (ours, theirs):
            assert not ours.holds(1)
            assert ours.holds(0)
            assert ours.receive_nowait(10) is None
            assert ours.discard_nowait(10) == 0
            await theirs.send_all(b"abcdefghij")
            await wait_held(ours, 10)
            assert not ours.holds(11)
            assert ours.receive_nowait(3) == b"abc"
            assert ours.discard_nowait(4) == 4
            assert ours.receive_nowait(2) == b"hi"
            assert ours.discard_nowait(100) == 1
            assert ours.receive_nowait(1) is None
            await theirs.send_eof()
            assert await ours.receive_some() == b""
            assert ours.receive_nowait(1) == b""
            assert ours.discard_nowait(5) == 0
        assert not ours.holds(0)
        for ask in (ours.receive_nowait, ours.discard_nowait):
            with pytest.raises(trio.ClosedResourceError):
                ask(1)


async def test_much_is_thrown_away_piece_by_piece() -> None:
    """More than one call of the kernel takes."""
    async with open_tcp() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, bytes(3 * DISCARD_BYTES) + b"end")
        gone = 0
        with trio.fail_after(10):
            while gone < 3 * DISCARD_BYTES:
                await trio.lowlevel.wait_readable(ours.socket)
                gone += ours.discard_nowait(3 * DISCARD_BYTES - gone)
            await wait_held(ours, 3)
        assert ours.receive_nowait(10) == b"end"


async def test_cancelled_here_nothing_is_lost() -> None:
    """Who waits for bytes and gives up has taken none."""
    async with open_pair() as (ours, theirs):
        with trio.move_on_after(0.01) as scope:
            await ours.receive_some()
        assert scope.cancelled_caught
        with trio.CancelScope() as gone:
            gone.cancel()
            await ours.receive_some()
        await theirs.send_all(b"abc")
        assert await ours.receive_some() == b"abc"
