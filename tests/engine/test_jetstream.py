"""JetStream's data plane against a scripted server: the exact bytes, and what is done with what comes back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
import trio
import trio.testing

from engine.jetstream import JetStream
from engine.log import Delivery, NotStored, Outcome, PullRequest, Stored, Verdict
from tests.support.nats_peer import PeerConnection, open_nats_peer

ACK = "$JS.ACK.S.C.1.%d.%d.1700000000000000000.0"
HEADER = b"NATS/1.0\r\nNats-Msg-Id: k\r\n\r\n"


@asynccontextmanager
async def open_log() -> AsyncIterator[tuple[PeerConnection, JetStream]]:
    """Give a server's end of a connection that is up, and the log on the other."""
    async with open_nats_peer() as peer, trio.open_nursery() as nursery:
        log = JetStream(peer.locate, "test")
        nursery.start_soon(log.connection.run)
        server = await peer.welcome()
        with trio.fail_after(5):
            await log.connection.wait_up()
        yield server, log
        nursery.cancel_scope.cancel()


async def wait_heard(server: PeerConnection) -> None:
    """Wait until the client has dealt with everything sent so far."""
    await server.send(b"PING\r\n")
    await server.next("PONG")


async def test_a_publish_is_answered_with_its_outcome() -> None:
    """The message leaves with its header and an inbox; the acknowledgement becomes a value, once."""
    async with open_log() as (server, log):
        outcomes: list[Outcome] = []
        log.publish_nowait("snapfs.files", b"{}", outcomes.append, HEADER)
        request = await server.next("PUB")
        assert (request.words[0], request.payload, request.header) == ("snapfs.files", b"{}", HEADER)
        await server.answer(request, b'{"stream":"S","seq":3,"duplicate":true}')
        await server.answer(request, b'{"stream":"S","seq":4}')
        await wait_heard(server)
        assert outcomes == [Stored("S", 3, True)]


async def test_an_abandoned_publish_says_nothing_more() -> None:
    """Whoever stops waiting is not called any more, and learns whether it was too late to."""
    async with open_log() as (server, log):
        outcomes: list[Outcome] = []
        number = log.publish_nowait("s", b"{}", outcomes.append)
        request = await server.next("PUB")
        assert log.abandon(number)
        assert not log.abandon(number)
        await server.answer(request, b'{"stream":"S","seq":3}')
        await wait_heard(server)
        assert outcomes == []


async def test_without_a_connection_nothing_is_claimed() -> None:
    """A publish is not stored, a verdict and a pull are not sent, a header is not known."""
    log = JetStream(lambda: pytest.fail("nobody runs it"), "test")
    outcomes: list[Outcome] = []
    assert log.publish_nowait("s", b"{}", outcomes.append) == 0
    assert outcomes == [NotStored(0, "the log is not connected")]
    assert not log.settle_nowait([Delivery("$JS.ACK.x", b"", False, 1, 1)], Verdict.ACK)
    assert not log.pull_nowait("S", "d", "in", PullRequest(1))
    assert await log.read_header("S", 1, 1.0) is None


@pytest.mark.parametrize("verdict", Verdict)
async def test_a_verdict_is_said_once_for_each_delivery(verdict: Verdict) -> None:
    """Settling writes one publish to each delivery's own subject, in order."""
    async with open_log() as (server, log):
        deliveries = [Delivery(ACK % (number, number), b"", True, number, 1) for number in range(1, 4)]
        assert log.settle_nowait(deliveries, verdict)
        said = [await server.next("PUB") for _ in deliveries]
        assert [(one.words, one.payload) for one in said] == [((one.reply,), verdict.value) for one in deliveries]


async def test_a_pull_asks_the_durable_and_names_the_inbox() -> None:
    """The request goes to the consumer's own subject and asks for answers in the inbox."""
    async with open_log() as (server, log):
        assert log.pull_nowait("S", "mysql", "_INBOX.here", PullRequest(5, 900))
        request = await server.next("PUB")
        assert request.words == ("$JS.API.CONSUMER.MSG.NEXT.S.mysql", "_INBOX.here")
        assert orjson.loads(request.payload) == {"batch": 5, "max_bytes": 900, "no_wait": True}


async def test_a_stray_delivery_is_given_back_at_once() -> None:
    """A message for an inbox that is closed is NAKed, so that it does not wait for its lease to end."""
    async with open_log() as (server, log):
        inbox = log.connection.subscribe(lambda _: None)
        inbox.close()
        await server.next("UNSUB")
        await server.deliver(inbox.sid, inbox.subject, b"{}", ACK % (7, 7))
        given_back = await server.next("PUB")
        assert (given_back.words, given_back.payload) == ((ACK % (7, 7),), b"-NAK")


async def test_a_stray_that_is_no_delivery_is_not_answered() -> None:
    """Only an acknowledgement's subject is written to: nobody can make the gateway publish elsewhere."""
    async with open_log() as (server, log):
        inbox = log.connection.subscribe(lambda _: None)
        inbox.close()
        for reply in ("snapfs.files", "", "$JS.API.STREAM.DELETE.S"):
            await server.deliver(inbox.sid, inbox.subject, b"{}", reply)
        await server.deliver(inbox.sid, inbox.subject, b"", "", b"NATS/1.0 404 No Messages\r\n\r\n")
        await server.deliver(inbox.sid, inbox.subject, b"{}", ACK % (8, 8))
        assert (await server.next("PUB")).words == (ACK % (8, 8),)  # the first and only one


async def test_a_stored_messages_header_is_read_by_its_sequence() -> None:
    """The fields of the message, or None when it is gone."""
    async with open_log() as (server, log), trio.open_nursery() as nursery:

        async def serve() -> None:
            for header in (
                b"NATS/1.0\r\nNats-Sequence: 9\r\nHeadgate-Digest: d\r\n\r\n",
                b"NATS/1.0 404 Not Found\r\n\r\n",
                b"",
            ):
                request = await server.next("PUB")
                assert request.words[0] == "$JS.API.DIRECT.GET.S"
                assert orjson.loads(request.payload) == {"seq": 9}
                await server.answer(request, b"{}", header)

        nursery.start_soon(serve)
        assert await log.read_header("S", 9, 5.0) == {"nats-sequence": "9", "headgate-digest": "d"}
        assert await log.read_header("S", 9, 5.0) is None
        assert await log.read_header("S", 9, 5.0) is None


async def test_a_log_that_does_not_answer_knows_no_header(patient_clock: trio.testing.MockClock) -> None:
    """The question has a deadline, and a break ends it at once."""
    async with open_log() as (server, log):
        began = trio.current_time()
        assert await log.read_header("S", 9, 0.5) is None
        assert trio.current_time() - began == pytest.approx(0.5, abs=0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.read_header, "S", 9, 5.0)
            await server.next("PUB")
            began = trio.current_time()
            await server.cut()
        assert trio.current_time() - began < 0.1
