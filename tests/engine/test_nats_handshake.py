"""The driver before it is connected: whatever a server does instead of the handshake is tried again."""

import pytest
import trio
import trio.testing

from engine.nats import CONNECT_TIMEOUT_S
from tests.support.nats_connection import open_connection, wait_up
from tests.support.nats_peer import PeerConnection, open_nats_peer


async def say_nothing(server: PeerConnection) -> None:
    """End the connection before INFO."""
    await server.cut()


async def say_pong(server: PeerConnection) -> None:
    """Begin with something that is not INFO."""
    await server.send(b"PONG\r\n")


async def say_garbage(server: PeerConnection) -> None:
    """Begin with something that is not NATS."""
    await server.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def refuse(server: PeerConnection) -> None:
    """Refuse the credentials."""
    await server.say_info()
    await server.hear_connect()
    await server.send(b"-ERR 'Authorization Violation'\r\n")


async def leave_before_pong(server: PeerConnection) -> None:
    """End the connection between CONNECT and PONG."""
    await server.say_info()
    await server.hear_connect()
    await server.cut()


BAD_STARTS = {
    say_nothing: "closed",
    say_pong: "instead of INFO",
    say_garbage: "unknown control line",
    refuse: "Authorization Violation",
    leave_before_pong: "closed",
}


@pytest.mark.parametrize(("start", "reason"), BAD_STARTS.items(), ids=lambda value: getattr(value, "__name__", ""))
async def test_a_failed_start_is_tried_again_and_its_reason_is_kept(
    start: object, reason: str, patient_clock: trio.testing.MockClock
) -> None:
    """Whatever a server does instead of the handshake, the next one is asked, and a person can see why."""
    assert callable(start)
    async with open_nats_peer() as peer, open_connection(peer) as connection:
        server = await peer.take()
        await start(server)
        second = await peer.take()
        assert connection.statistics().connects == 0
        assert reason in str(connection.last_error)
        await second.greet()
        await wait_up(connection)
        assert connection.last_error is None
        assert connection.statistics().connects == 1


async def test_a_server_that_says_nothing_at_all_is_given_up(patient_clock: trio.testing.MockClock) -> None:
    """A handshake has a deadline: the next try begins after it."""
    async with open_nats_peer() as peer, open_connection(peer):
        began = trio.current_time()
        await peer.take()
        await peer.take()
        assert CONNECT_TIMEOUT_S <= trio.current_time() - began < CONNECT_TIMEOUT_S + 1
