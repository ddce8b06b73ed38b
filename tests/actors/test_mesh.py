"""The mesh on real socket pairs: what is said arrives, and whoever hangs or is gone holds nobody up."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing

from actors.mesh import OUTBOX, OUTBOX_BYTES, Mesh
from actors.tree import Actor, supervise
from engine.errors import Broken, Refused, Unavailable
from engine.mesh_wire import MOST_BYTES, PACKET_BYTES, Kind, encode

COUNT = 3
WITHIN_S = 10.0


class Cluster:
    """The sockets of a parent's making, and the processes on them; a process can be replaced by another.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int = COUNT) -> None:
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
        self._made: list[Mesh] = []
        self.count = count

    def make(self, index: int) -> Mesh:
        """A process's end."""
        others = {other: self._pairs[other][1].dup() for other in range(self.count) if other != index}
        self._made.append(Mesh(index, self._pairs[index][0].dup(), others))
        return self._made[-1]

    def receiving_end(self, index: int) -> socket.socket:
        """Where a process is told things."""
        return self._pairs[index][0]

    def sending_end(self, index: int) -> socket.socket:
        """Where others tell it things."""
        return self._pairs[index][1]

    def close(self) -> None:
        """Close everybody's ends."""
        for mesh in self._made:
            mesh.close()
        for pair in self._pairs:
            for end in pair:
                end.close()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three processes' sockets."""
    made = Cluster()
    yield made
    made.close()


def run(nursery: trio.Nursery, *meshes: Mesh) -> None:
    """Run them as a process does."""
    for mesh in meshes:
        mesh.begin_receiving()
        nursery.start_soon(partial(supervise, Actor("root", 0.0), "mesh", mesh.run, mailbox=mesh.mailbox))


def answering(reply: bytes) -> Callable[[bytes], Awaitable[bytes]]:
    """An answer that repeats the question."""

    async def answer(body: bytes) -> bytes:
        return reply + body

    return answer


@contextmanager
def a_connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's end, and what was accepted of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as one:
        accepted, _ = listening.accept()
        one.settimeout(WITHIN_S)
        with accepted:
            yield one, accepted


async def test_a_question_is_answered(cluster: Cluster) -> None:
    """By the one that was asked, and by all the others together."""
    one, two, three = (cluster.make(index) for index in range(COUNT))
    two.on_ask("t", answering(b"two:"))
    three.on_ask("t", answering(b"three:"))
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            run(nursery, one, two, three)
            assert await one.ask(1, "t", b"x") == b"two:x"
            assert await one.ask_all("t", b"y") == {1: b"two:y", 2: b"three:y"}
            nursery.cancel_scope.cancel()


async def test_a_large_answer_comes_whole_beside_small_ones(cluster: Cluster) -> None:
    """Of many packets, more than the socket holds at once."""
    one, two, three = (cluster.make(index) for index in range(COUNT))
    large = os.urandom(1000) * 5000
    two.on_ask("large", answering(large))
    two.on_ask("small", answering(b""))
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            run(nursery, one, two, three)
            async with trio.open_nursery() as asking:
                for asker in (one, three):
                    asking.start_soon(check_answer, asker, "large", large)
                    for _ in range(20):
                        asking.start_soon(check_answer, asker, "small", b"")
            nursery.cancel_scope.cancel()


async def check_answer(asker: Mesh, topic: str, expected: bytes) -> None:
    """Ask process 1, and look at the answer."""
    assert await asker.ask(1, topic, b"", WITHIN_S) == expected


async def test_what_is_wrong_with_a_question_is_told_to_the_one_who_asked(cluster: Cluster) -> None:
    """A fault comes as that fault; our bug and a topic that nobody knows as faults too; the actor goes on."""
    one, two = cluster.make(0), cluster.make(1)

    async def refuse(_: bytes) -> bytes:
        raise Refused("request.conflict", "no")

    async def fall(_: bytes) -> bytes:
        raise ZeroDivisionError

    two.on_ask("refused", refuse)
    two.on_ask("falls", fall)
    two.on_ask("fine", answering(b"fine"))
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            run(nursery, one, two)
            with pytest.raises(Refused, match="no") as refused:
                await one.ask(1, "refused")
            assert refused.value.kind.code == "request.conflict"
            with pytest.raises(Broken):
                await one.ask(1, "falls")
            with pytest.raises(Unavailable):
                await one.ask(1, "unheard-of")
            assert await one.ask(1, "fine") == b"fine"
            nursery.cancel_scope.cancel()


async def test_what_is_told_is_heard_in_order_with_its_sender(cluster: Cluster) -> None:
    """By all of them from `least` on; one that nobody understands takes no other along."""
    one, two, three = (cluster.make(index) for index in range(COUNT))
    heard: list[tuple[int, bytes]] = []

    def hear(sender: int, body: bytes) -> None:
        heard.append((sender, body))
        if body == b"1":
            raise ZeroDivisionError

    two.on_tell("t", hear)
    one.on_tell("t", hear)
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            run(nursery, one, two, three)
            for number in range(5):
                three.tell_all("t", b"%d" % number, least=1)
            while len(heard) < 5:
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert heard == [(2, b"%d" % number) for number in range(5)]


async def test_a_connection_goes_over_whole(cluster: Cluster) -> None:
    """The other process speaks to the client, and this one has nothing open of it any more."""
    one, two = cluster.make(0), cluster.make(1)
    taken: list[tuple[socket.socket, bytes]] = []
    two.on_connection(lambda connection, about: taken.append((connection, about)))
    about = b"GET / HTTP/1.1\r\n" + b"x" * 3 * PACKET_BYTES
    with trio.fail_after(WITHIN_S), a_connection() as (client, accepted):
        async with trio.open_nursery() as nursery:
            run(nursery, one, two)
            whole = accepted.dup()
            assert one.hand_over(1, whole, about)
            while not taken:
                await trio.testing.wait_all_tasks_blocked(0.01)
            accepted.close()
            nursery.cancel_scope.cancel()
        assert whole.fileno() < 0
        with taken[0][0] as theirs:
            assert taken[0][1] == about
            theirs.sendall(b"hello")
            assert client.recv(10) == b"hello"
        assert client.recv(10) == b"", "nobody else holds it open"


async def test_a_process_that_hangs_holds_nobody_up(cluster: Cluster, autojump_clock: trio.testing.MockClock) -> None:
    """*Overloaded*: what is told is dropped above the bound and remembered; questions have a deadline; others hear."""
    one, three = cluster.make(0), cluster.make(2)
    three.on_ask("t", answering(b"three"))
    async with trio.open_nursery() as nursery:
        run(nursery, one, three)
        with pytest.raises(Unavailable, match="did not answer within 2 s"):
            await one.ask(1, "t")
        told = 0
        while one.tell(1, "t", b"x" * 1000):
            told += 1
            if told % OUTBOX == 0:
                await trio.testing.wait_all_tasks_blocked()
            assert told < 10 * OUTBOX
        assert one.mailbox().depth <= OUTBOX
        one.tell_all("t", b"x")
        assert one.told_less == {1}
        assert one.dropped >= 2
        with a_connection() as (client, accepted):
            whole = accepted.dup()
            assert not one.hand_over(1, whole, b"")
            assert whole.fileno() < 0
            accepted.close()
            assert client.recv(1) == b""
        assert await one.ask_all("t") == {2: b"three"}
        nursery.cancel_scope.cancel()


async def test_what_waits_for_a_process_has_a_bound_in_bytes(cluster: Cluster) -> None:
    """A few large messages are as many as a lot of small ones; one that is too large is nobody's."""
    one = cluster.make(0)
    body = bytes(MOST_BYTES - PACKET_BYTES)
    told = 0
    while one.tell(1, "t", body):
        told += 1
    assert told == OUTBOX_BYTES // MOST_BYTES
    assert not one.tell(2, "t", bytes(MOST_BYTES + 1))
    assert one.tell(2, "t", b"")
    assert not one.tell(9, "t", b""), "there is no such process"


async def test_what_was_said_to_a_process_that_is_gone_waits_for_the_next(cluster: Cluster) -> None:
    """The parent keeps the sockets: a connection is served by whoever comes next, an old answer is nobody's."""
    one, two = cluster.make(0), cluster.make(1)
    taken: list[socket.socket] = []
    asked = trio.Event()

    async def never(_: bytes) -> bytes:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    two.on_ask("t", never)
    with trio.fail_after(WITHIN_S), a_connection() as (client, accepted):
        async with trio.open_nursery() as nursery:
            run(nursery, one)
            async with trio.open_nursery() as second:
                run(second, two)
                with trio.move_on_after(0.1):
                    await one.ask(1, "t", b"", 5)
                await asked.wait()
                second.cancel_scope.cancel()
            assert one.hand_over(1, accepted.dup(), b"")
            await trio.testing.wait_all_tasks_blocked(0.05)
            another = cluster.make(1)
            another.on_connection(lambda connection, _: taken.append(connection))
            run(nursery, another)
            while not taken:
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        accepted.close()
        taken[0].close()
        assert client.recv(1) == b""


async def test_an_answer_to_the_process_before_is_no_answer_to_this_one(
    cluster: Cluster, autojump_clock: trio.testing.MockClock
) -> None:
    """Each numbers its questions from somewhere else, so an answer that waited in the socket is nobody's."""
    for number in range(1, 200):
        for packet in encode(Kind.ANSWER, 1, number, "t", b"old"):
            cluster.sending_end(0).send(packet, socket.MSG_DONTWAIT)
    async with trio.open_nursery() as nursery:
        one = cluster.make(0)
        run(nursery, one)
        with pytest.raises(Unavailable):
            await one.ask(1, "t")
        nursery.cancel_scope.cancel()


async def test_cancelled_here_nothing_stays_open(cluster: Cluster) -> None:
    """Connections that wait to be handed over are closed; a question that is cancelled is forgotten."""
    one = cluster.make(0)
    with suppress(BlockingIOError):
        while True:
            cluster.sending_end(1).send(bytes(1000), socket.MSG_DONTWAIT)
    with a_connection() as (client, accepted):
        async with trio.open_nursery() as nursery:
            run(nursery, one)
            with trio.move_on_after(0.05):
                await one.ask(1, "t", b"x" * 100_000, WITHIN_S)
            assert one.hand_over(1, accepted.dup(), b"")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(one._waiting) == 0
            nursery.cancel_scope.cancel()
        accepted.close()
        assert client.recv(1) == b""
    assert one.mailbox().depth == 0


async def test_after_a_fall_it_goes_on_and_knows_that_something_is_missing(
    cluster: Cluster, autojump_clock: trio.testing.MockClock
) -> None:
    """What waited is gone, so everybody was told less; what is said afterwards arrives."""
    one, two = cluster.make(0), cluster.make(1)
    two.on_ask("t", answering(b"two"))
    async with trio.open_nursery() as nursery:
        fallen = trio.Event()

        async def run_and_fall(actor: Actor, ready: Callable[[], None]) -> None:
            async with trio.open_nursery() as inner:
                inner.start_soon(one.run, actor, ready)
                if not fallen.is_set():
                    await trio.testing.wait_all_tasks_blocked()
                    fallen.set()
                    raise OSError("broken")

        one.begin_receiving()
        nursery.start_soon(partial(supervise, Actor("root", 0.0), "mesh", run_and_fall))
        run(nursery, two)
        await fallen.wait()
        await trio.sleep(30)
        assert one.told_less == {1, 2}
        assert await one.ask(1, "t") == b"two"
        nursery.cancel_scope.cancel()


async def test_whoever_stops_receiving_leaves_the_rest_to_the_next(cluster: Cluster) -> None:
    """A worker that drains: what comes from now on is for the one after it, and what it says itself still goes out."""
    one, two = cluster.make(0), cluster.make(1)
    heard: list[bytes] = []
    one.on_tell("t", lambda _, body: heard.append(body))
    two.on_tell("t", lambda _, body: heard.append(body))
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            run(nursery, one, two)
            await trio.testing.wait_all_tasks_blocked(0.01)
            two.stop_receiving()
            assert one.tell(1, "t", b"for the next")
            assert two.tell(0, "t", b"last words")
            while not heard:
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert heard == [b"last words"]
    assert b"for the next" in cluster.receiving_end(1).recv(1000, socket.MSG_DONTWAIT)
