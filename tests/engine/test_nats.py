"""The driver's connection: it connects, comes back, resubscribes, and notices a server that is silent."""

import itertools

import pytest
import trio
import trio.testing

from engine.endpoints import Endpoint
from engine.nats import CONNECT_TIMEOUT_S, PING_EVERY_S, RECONNECT_FIRST_S, RECONNECT_MOST_S, NatsConnection
from engine.nats_wire import Message
from tests.support.nats_connection import WITHIN_S, open_connection, wait_up
from tests.support.nats_peer import open_nats_peer


async def wait_down(connection: NatsConnection) -> None:
    """Wait until the connection is gone."""
    with trio.fail_after(WITHIN_S):
        while connection.is_up:
            await connection.wait_changed()


async def test_it_says_who_it_is_and_is_up_after_the_pong() -> None:
    """CONNECT carries the credentials; only the answer to the first PING makes the connection usable."""
    async with open_nats_peer() as peer:
        peer.credentials = {"user": "u", "pass": "p"}
        async with open_connection(peer) as connection:
            server = await peer.take()
            await server.say_info(version="2.15.1", max_payload=4096)
            await server.hear_connect()
            assert (server.connect["user"], server.connect["pass"], server.connect["name"]) == ("u", "p", "test")
            await trio.testing.wait_all_tasks_blocked()
            assert not connection.is_up
            assert not connection.has_room()
            await server.send(b"PONG\r\n")
            await wait_up(connection)
            assert connection.has_room()
            assert connection.info.max_payload_bytes == 4096
            assert connection.info.fields["version"] == "2.15.1"
            peer.nursery.start_soon(server.run)
            inbox = await server.wait_subscribed()
            assert inbox.words[0].endswith(".*")
            assert inbox.words[1] == "1"
            assert connection.statistics().connects == 1
            assert connection.last_error is None


async def test_a_handshake_may_come_in_any_cut() -> None:
    """INFO byte by byte is still INFO, and a message in the same piece as the PONG is not lost."""
    async with open_nats_peer() as peer, open_connection(peer) as connection:
        heard: list[bytes] = []
        subscription = connection.subscribe(lambda message: heard.append(message.payload))
        server = await peer.take()
        for code in b'INFO {"max_payload":10}\r\n':
            await server.send(bytes([code]))
        await server.hear_connect()
        await server.send(
            b"+OK\r\nPONG\r\nMSG x %d 5\r\nearly\r\nMSG x %d 4\r\nla" % (subscription.sid, subscription.sid)
        )
        await wait_up(connection)
        await server.send(b"te\r\nPING\r\n")
        peer.nursery.start_soon(server.run)
        await server.next("PONG")
        assert heard == [b"early", b"late"]


async def test_it_comes_back_and_resubscribes_what_is_open() -> None:
    """After a cut there is a new connection with every open subscription on it, under the same number."""
    async with open_nats_peer() as peer, open_connection(peer) as connection:
        heard: list[Message] = []
        server = await peer.welcome()
        await wait_up(connection)
        kept = connection.subscribe(heard.append)
        closed = connection.subscribe(heard.append)
        first = {(await server.wait_subscribed()).words for _ in range(3)}
        assert (kept.subject, str(kept.sid)) in first
        assert (closed.subject, str(closed.sid)) in first
        closed.close()
        assert (await server.next("UNSUB")).words == (str(closed.sid),)
        closed.close()  # twice is harmless
        await server.cut()
        await wait_down(connection)
        late = connection.subscribe(heard.append)
        server = await peer.welcome()
        again = {(await server.wait_subscribed()).words for _ in range(3)}
        assert {subject for subject, _ in again} >= {kept.subject, late.subject}
        assert closed.subject not in {subject for subject, _ in again}
        await server.deliver(kept.sid, kept.subject, b"1")
        await server.deliver(late.sid, late.subject, b"2")
        await server.send(b"PING\r\n")
        await server.next("PONG")
        assert [message.payload for message in heard] == [b"1", b"2"]
        assert connection.statistics().connects == 2


async def test_tries_are_short_apart_and_never_further_than_half_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """While nobody is there, the pauses double up to their limit, so that a server is in use soon after it is back."""
    at: list[float] = []

    def locate() -> Endpoint:
        at.append(trio.current_time())
        raise OSError("not ready yet")

    connection = NatsConnection(locate, "test")
    with trio.move_on_after(5):
        await connection.run()
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    expected = RECONNECT_FIRST_S
    for pause_s in pauses:
        assert pause_s == pytest.approx(expected)
        expected = min(RECONNECT_MOST_S, expected * 2)
    assert pauses[-1] == RECONNECT_MOST_S
    assert connection.last_error == "OSError: not ready yet"
    assert not connection.is_up


async def test_a_server_that_greets_and_hangs_up_is_not_stormed() -> None:
    """Each connection that ends at once makes the pause before the next longer, up to the same limit."""
    async with open_nats_peer() as peer, open_connection(peer) as connection:
        began = trio.current_time()
        for _ in range(6):
            server = await peer.welcome()
            await server.cut()
        await peer.welcome()
        assert trio.current_time() - began >= RECONNECT_FIRST_S * (1 + 2 + 4 + 8 + 16 + 16)
        assert connection.statistics().connects <= 7


async def test_a_server_that_answers_no_ping_is_dropped(patient_clock: trio.testing.MockClock) -> None:
    """A connection on which nothing is heard is broken and made again."""
    async with open_nats_peer() as peer, open_connection(peer) as connection:
        server = await peer.welcome()
        server.is_mute = True
        await wait_up(connection)
        began = trio.current_time()
        await server.next("PING")
        second = await peer.welcome()
        assert trio.current_time() - began < 2 * PING_EVERY_S + CONNECT_TIMEOUT_S
        await wait_up(connection)
        await second.wait_subscribed()
        assert connection.statistics().connects == 2


async def test_a_server_that_only_talks_is_kept(patient_clock: trio.testing.MockClock) -> None:
    """Anything heard counts: a server busy with messages needs no PONG."""
    async with open_nats_peer() as peer, open_connection(peer) as connection:
        server = await peer.welcome()
        server.is_mute = True
        await wait_up(connection)
        for _ in range(20):
            await trio.sleep(PING_EVERY_S / 2)
            await server.send(b"+OK\r\n")
        assert connection.statistics().connects == 1
        assert connection.is_up


async def test_an_idle_connection_stays_up(patient_clock: trio.testing.MockClock) -> None:
    """A server that answers PING is kept for as long as it does."""
    async with open_nats_peer() as peer, open_connection(peer) as connection:
        await peer.welcome()
        await wait_up(connection)
        await trio.sleep(20 * PING_EVERY_S)
        assert connection.is_up
        assert connection.statistics().connects == 1


async def test_a_ping_is_answered_and_news_of_the_server_are_taken() -> None:
    """PING gives PONG at once; a later INFO replaces the first; an error is kept and the connection goes on."""
    async with open_nats_peer() as peer, open_connection(peer) as connection:
        server = await peer.welcome(max_payload=100)
        await wait_up(connection)
        await server.send(b"INFO {\"max_payload\":200}\r\n-ERR 'Permissions Violation'\r\nPING\r\n")
        await server.next("PONG")
        assert connection.info.max_payload_bytes == 200
        assert connection.last_error == "Permissions Violation"
        assert connection.is_up


async def test_bytes_that_are_not_the_protocol_end_the_connection() -> None:
    """A broken stream is not read on: the driver connects anew."""
    async with open_nats_peer() as peer, open_connection(peer) as connection:
        server = await peer.welcome()
        await wait_up(connection)
        await server.send(b"MSG broken\r\n")
        await server.wait_closed()
        await peer.welcome()
        await wait_up(connection)
        assert connection.statistics().connects == 2


async def test_whoever_watches_hears_of_every_change() -> None:
    """Watchers are called when it went up and when it went down, and see the state it is in then."""
    async with open_nats_peer() as peer:
        connection = NatsConnection(peer.locate, "test")
        seen: list[bool] = []
        connection.watchers.append(lambda: seen.append(connection.is_up))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            server = await peer.welcome()
            await wait_up(connection)
            await server.cut()
            await wait_down(connection)
            await peer.welcome()
            await wait_up(connection)
            nursery.cancel_scope.cancel()
        assert seen == [True, False, True, False]


@pytest.mark.parametrize("steps", range(4), ids=["on connect", "after INFO", "up", "while sending"])
async def test_cancelled_here_it_closes_its_socket(steps: int) -> None:
    """Wherever the driver is cancelled, the server sees the end of the connection, and it is down."""
    async with open_nats_peer() as peer:
        connection = NatsConnection(peer.locate, "test")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            server = await peer.take()
            if steps >= 1:
                await server.say_info()
                await server.hear_connect()
            if steps >= 2:
                await server.send(b"PONG\r\n")
                await wait_up(connection)
            if steps >= 3:
                assert connection.send_nowait(b"PUB x 33554432\r\n" + bytes(32 * 1024 * 1024))
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not connection.is_up
        assert not connection.send_nowait(b"")
        peer.nursery.start_soon(server.run if steps < 3 else server.cut)
        await (server.wait_closed() if steps < 3 else trio.testing.wait_all_tasks_blocked())
