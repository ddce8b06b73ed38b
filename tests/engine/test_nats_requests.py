"""The driver's requests: each is answered exactly once, and never guesses what became of one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from engine.log import Lost, Reply
from engine.nats import OUTGOING_MOST_BYTES, NatsConnection
from engine.nats_wire import Message
from tests.support.nats_peer import NatsPeer, PeerConnection, open_nats_peer

WITHIN_S = 5.0
MORE_THAN_THE_KERNEL_TAKES = bytes(32 * 1024 * 1024)


class Outcomes:
    """What became of a test's requests, in the order in which it was told."""

    def __init__(self) -> None:
        self.all: list[tuple[int, Reply]] = []
        self._news = trio.Event()

    def of(self, name: int) -> "OutcomeOf":
        """Make the callback of one request."""
        return OutcomeOf(self, name)

    def take(self, name: int, reply: Reply) -> None:
        """Note one."""
        self.all.append((name, reply))
        self._news.set()

    async def wait(self, count: int) -> None:
        """Wait until this many are known."""
        with trio.fail_after(WITHIN_S):
            while len(self.all) < count:
                self._news = trio.Event()
                await self._news.wait()

    def brief(self) -> list[tuple[int, bytes | Lost]]:
        """Payloads of the answers, and why there were none."""
        return [(name, reply.payload if isinstance(reply, Message) else reply) for name, reply in self.all]


class OutcomeOf:
    """The callback of one request."""

    def __init__(self, outcomes: Outcomes, name: int) -> None:
        self._outcomes = outcomes
        self._name = name

    def __call__(self, reply: Reply) -> None:
        """Take the outcome."""
        self._outcomes.take(self._name, reply)


@asynccontextmanager
async def open_pair(
    strays: list[Message] | None = None, *, reads: bool = True
) -> AsyncIterator[tuple[NatsPeer, PeerConnection, NatsConnection]]:
    """Give a peer, its end of a connection that is up, and the connection."""
    async with open_nats_peer() as peer, trio.open_nursery() as nursery:
        connection = NatsConnection(peer.locate, "test", strays.append if strays is not None else None)
        nursery.start_soon(connection.run)
        server = await peer.welcome(reads=reads)
        with trio.fail_after(WITHIN_S):
            await connection.wait_up()
        yield peer, server, connection
        nursery.cancel_scope.cancel()


async def test_answers_find_their_requests_in_any_order() -> None:
    """Each answer reaches the request it names, exactly once; a second answer is ignored."""
    async with open_pair() as (_, server, connection):
        outcomes = Outcomes()
        for name in range(3):
            assert connection.request_nowait("s", b"%d" % name, outcomes.of(name), b"NATS/1.0\r\nA: 1\r\n\r\n") > 0
        requests = [await server.next("PUB") for _ in range(3)]
        assert [(one.words[0], one.payload, one.header) for one in requests] == [
            ("s", b"%d" % name, b"NATS/1.0\r\nA: 1\r\n\r\n") for name in range(3)
        ]
        assert connection.statistics().requests_waiting == 3
        for name in (2, 0, 0, 1):
            await server.answer(requests[name], b"answer %d" % name)
        await outcomes.wait(3)
        assert outcomes.brief() == [(2, b"answer 2"), (0, b"answer 0"), (1, b"answer 1")]
        assert connection.statistics().requests_waiting == 0
        await server.cut()
        await connection.wait_changed()
        assert len(outcomes.all) == 3


async def test_without_a_connection_a_request_is_unsent_at_once() -> None:
    """What cannot leave did not happen, and whoever asked is told before the call returns."""
    connection = NatsConnection(lambda: pytest.fail("nobody runs it"), "test")
    outcomes = Outcomes()
    assert connection.request_nowait("s", b"x", outcomes.of(1)) == 0
    assert outcomes.all == [(1, Lost.UNSENT)]
    assert await connection.request("s", b"x", 1.0) is Lost.UNSENT
    assert not connection.send_nowait(b"PUB x 0\r\n\r\n")
    assert connection.statistics().outgoing_bytes == 0


async def test_what_left_is_lost_and_what_had_not_left_is_unsent() -> None:
    """When the connection breaks, only a request of which no byte was written may be called unsent."""
    async with open_pair(reads=False) as (peer, server, connection):
        outcomes = Outcomes()
        connection.request_nowait("s", MORE_THAN_THE_KERNEL_TAKES, outcomes.of(1))
        connection.request_nowait("s", b"together with the first", outcomes.of(2))
        await trio.testing.wait_all_tasks_blocked()
        connection.request_nowait("s", b"behind them", outcomes.of(3))
        connection.request_nowait("s", b"behind them", outcomes.of(4))
        await trio.testing.wait_all_tasks_blocked()
        await server.cut()
        await outcomes.wait(4)
        assert outcomes.all == [(1, Lost.LOST), (2, Lost.LOST), (3, Lost.UNSENT), (4, Lost.UNSENT)]
        second = await peer.welcome()
        with trio.fail_after(WITHIN_S):
            await connection.wait_up()
        connection.send_nowait(b"PUB end 0\r\n\r\n")
        assert (await second.next("PUB")).words == ("end",)  # nothing of the four was sent again


async def test_what_was_answered_before_the_break_is_not_lost() -> None:
    """An answer in the last bytes before the break counts."""
    async with open_pair() as (_, server, connection):
        outcomes = Outcomes()
        connection.request_nowait("s", b"1", outcomes.of(1))
        connection.request_nowait("s", b"2", outcomes.of(2))
        first = await server.next("PUB")
        await server.next("PUB")
        await server.answer(first, b"yes")
        await server.cut()
        await outcomes.wait(2)
        assert outcomes.brief() == [(1, b"yes"), (2, Lost.LOST)]


async def test_an_answer_after_the_break_is_not_taken_for_another() -> None:
    """The numbers of requests are never used again: what a server says late finds nobody."""
    async with open_pair() as (peer, server, connection):
        outcomes = Outcomes()
        connection.request_nowait("s", b"1", outcomes.of(1))
        old = await server.next("PUB")
        await server.cut()
        await outcomes.wait(1)
        server = await peer.welcome()  # noqa: PLW2901  # the same server, after the cut
        with trio.fail_after(WITHIN_S):
            await connection.wait_up()
        connection.request_nowait("s", b"2", outcomes.of(2))
        new = await server.next("PUB")
        assert new.reply != old.reply
        await server.answer(old, b"late")
        await server.answer(new, b"fresh")
        await outcomes.wait(2)
        assert outcomes.brief() == [(1, Lost.LOST), (2, b"fresh")]


async def test_a_forgotten_request_is_told_nothing() -> None:
    """Forgetting says whether the answer was there already; a late one is ignored, as is a break."""
    async with open_pair() as (_, server, connection):
        outcomes = Outcomes()
        number = connection.request_nowait("s", b"1", outcomes.of(1))
        request = await server.next("PUB")
        assert connection.forget_request(number)
        assert not connection.forget_request(number)
        await server.answer(request, b"late")
        await server.send(b"PING\r\n")
        await server.next("PONG")
        await server.cut()
        await connection.wait_changed()
        assert outcomes.all == []


async def test_waiting_for_an_answer_ends_with_it_or_with_its_time(patient_clock: trio.testing.MockClock) -> None:
    """`request` gives the answer, None after its time, and why there is none after a break."""
    async with open_pair() as (_, server, connection), trio.open_nursery() as nursery:

        async def serve() -> None:
            await server.answer(await server.next("PUB"), b"pong")
            await server.next("PUB")  # no answer
            await server.next("PUB")
            await server.cut()

        nursery.start_soon(serve)
        answer = await connection.request("s", b"ping", 1.0)
        assert isinstance(answer, Message)
        assert answer.payload == b"pong"
        began = trio.current_time()
        assert await connection.request("s", b"ping", 1.5) is None
        assert trio.current_time() - began == pytest.approx(1.5, abs=0.01)
        assert await connection.request("s", b"ping", 1.0) is Lost.LOST
        assert connection.statistics().requests_waiting == 0


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    """Cancelled here, the request is forgotten and its late answer finds nobody."""
    async with open_pair() as (_, server, connection):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.request, "s", b"x", 60.0)
                request = await server.next("PUB")
                assert connection.statistics().requests_waiting == 1
                scope.cancel()
        assert connection.statistics().requests_waiting == 0
        await server.answer(request, b"late")
        await server.send(b"PING\r\n")
        await server.next("PONG")


async def test_above_its_bound_the_connection_refuses() -> None:
    """Overloaded: a server that takes nothing costs no more than the bound, and what is refused was not queued."""
    async with open_pair(reads=False) as (_, __, connection):
        outcomes = Outcomes()
        connection.send_nowait(MORE_THAN_THE_KERNEL_TAKES)
        await trio.testing.wait_all_tasks_blocked()
        assert connection.statistics().outgoing_bytes == 0
        megabyte = bytes(1024 * 1024)
        taken = 0
        while connection.send_nowait(megabyte):
            taken += 1
            assert taken <= OUTGOING_MOST_BYTES // len(megabyte)
        assert not connection.has_room()
        assert connection.statistics().outgoing_bytes < OUTGOING_MOST_BYTES + 2 * len(megabyte)
        held = connection.statistics().outgoing_bytes
        assert connection.request_nowait("s", b"x", outcomes.of(1)) == 0
        assert outcomes.all == [(1, Lost.UNSENT)]
        assert connection.statistics().outgoing_bytes == held
        assert connection.statistics().requests_waiting == 0


async def test_messages_reach_their_own_subscription_and_strays_are_handed_on() -> None:
    """A delivery for a subscription that was closed is not dropped in silence."""
    strays: list[Message] = []
    async with open_pair(strays) as (_, server, connection):
        heard: dict[str, list[bytes]] = {"a": [], "b": []}
        a = connection.subscribe(lambda message: heard["a"].append(message.payload))
        b = connection.subscribe(lambda message: heard["b"].append(message.payload))
        await server.deliver(a.sid, a.subject, b"1")
        await server.deliver(b.sid, b.subject, b"2")
        a.close()
        await server.deliver(a.sid, a.subject, b"3", "back.to")
        await server.deliver(999, "nowhere", b"4")
        await server.send(b"PING\r\n")
        await server.next("PONG")
        assert heard == {"a": [b"1"], "b": [b"2"]}
        assert [(one.payload, one.reply) for one in strays] == [(b"3", "back.to"), (b"4", "")]
        assert connection.statistics().strays == 2
        assert connection.statistics().messages_in == 4


@pytest.mark.parametrize("name", ["x", "", "-1", "1.5", "²", "9" * 30], ids=repr)
async def test_whoever_writes_to_the_inbox_breaks_nothing(name: str) -> None:
    """A message for no request of ours, whatever its name, is ignored."""
    async with open_pair() as (_, server, connection):
        inbox = (await server.wait_subscribed()).words[0].removesuffix("*")
        await server.deliver(1, inbox + name, b"hello")
        await server.send(b"PING\r\n")
        await server.next("PONG")
        assert connection.is_up
        assert connection.statistics().connects == 1
