"""The publisher when the log refuses, breaks or is slow, and when callers go away."""

import orjson
import pytest
import trio
import trio.testing

from actors.ingest import Publisher, message_id_of
from actors.tree import Actor
from engine.errors import Fault, Situation
from engine.frames import digest_of
from engine.ingest import ANSWER_WITHIN_S, IN_FLIGHT_FRAMES, WAITING_EVENTS, Publication
from engine.jetstream import JetStream
from engine.log import DUPLICATE_IN_BATCH
from tests.support.nats_peer import open_nats_peer
from tests.support.publisher import Callers, batch_of, numbers_in, open_scene, stored

Clock = trio.testing.MockClock


async def test_a_key_of_another_body_is_refused() -> None:
    """The digest of the stored message is another: the key was used for something else."""
    async with open_scene() as scene:
        server = await scene.welcome()
        scene.callers.call("a", batch_of(1), "key")
        await server.answer(await server.next("PUB"), stored(5, duplicate=True))
        await server.answer(await server.next("PUB"), b"{}", b"NATS/1.0\r\nHeadgate-Digest: other\r\n\r\n")
        await scene.callers.wait("a")
        answer = scene.callers.answers["a"]
        assert isinstance(answer, Fault)
        assert answer.kind.code == "ingest.key-conflict"


async def test_a_key_whose_first_message_is_gone_is_believed() -> None:
    """Retention took the original: the log still knows the key, and that is the answer."""
    async with open_scene() as scene:
        server = await scene.welcome()
        scene.callers.call("a", batch_of(1), "key")
        await server.answer(await server.next("PUB"), stored(5, duplicate=True))
        await server.answer(await server.next("PUB"), b"", b"NATS/1.0 404 Message Not Found\r\n\r\n")
        await scene.callers.wait("a")
        assert scene.callers.brief("a") == (5, True)


async def test_a_large_request_is_stored_as_one() -> None:
    """An atomic batch: its last answer counts; a known id in it is asked for by the first message alone."""
    async with open_scene() as scene:
        server = await scene.welcome()
        batch = batch_of(*range(2500))
        scene.callers.call("a", batch, "key")
        messages = [await server.next("PUB") for _ in range(3)]
        assert [len(numbers_in(one)) for one in messages] == [1000, 1000, 500]
        for one in messages[:2]:
            await server.answer(one, b"")
        await server.answer(messages[2], orjson.dumps({"error": {"err_code": DUPLICATE_IN_BATCH, "description": "x"}}))
        again = await server.next("PUB")
        assert again.payload == messages[0].payload
        await server.answer(again, stored(41, duplicate=True))
        question = await server.next("PUB")
        assert orjson.loads(question.payload) == {"seq": 41}  # the first message has the digest of all
        digest = digest_of(batch.joined).encode()
        await server.answer(question, b"{}", b"NATS/1.0\r\nHeadgate-Digest: " + digest + b"\r\n\r\n")
        await scene.callers.wait("a")
        assert scene.callers.brief("a") == (43, True)


async def test_a_batch_is_refused_by_its_first_refusal() -> None:
    """When an early message of a batch is refused, nobody waits for the last one's answer."""
    async with open_scene() as scene:
        server = await scene.welcome()
        scene.callers.call("a", batch_of(*range(1500)))
        first, last = await server.next("PUB"), await server.next("PUB")
        await server.answer(first, orjson.dumps({"error": {"err_code": 10174, "description": "batch disabled"}}))
        await scene.callers.wait("a")
        assert scene.callers.brief("a") is Situation.UNAVAILABLE
        await server.answer(last, orjson.dumps({"error": {"err_code": 10176, "description": "incomplete"}}))
        scene.callers.call("b", batch_of(1))
        await server.answer(await server.next("PUB"), stored(1))
        await scene.callers.wait("b")


async def test_a_stream_that_is_not_there_yet_is_waited_for(patient_clock: Clock) -> None:
    """503 is worth another try, soon and not at once, until the request's time is up."""
    async with open_scene() as scene:
        server = await scene.welcome()
        scene.callers.call("a", batch_of(1))
        for _ in range(3):
            await server.answer(await server.next("PUB"), b"", b"NATS/1.0 503\r\n\r\n")
        await server.answer(await server.next("PUB"), stored(1))
        await scene.callers.wait("a")
        assert scene.callers.brief("a") == (1, False)


async def test_a_log_that_does_not_answer_is_given_up(patient_clock: Clock) -> None:
    """The outcome is unknown after the request's time, and what comes later is not held up by it."""
    async with open_scene() as scene:
        server = await scene.welcome()
        server.is_mute = False
        began = trio.current_time()
        for number in range(IN_FLIGHT_FRAMES):
            scene.callers.call(str(number), batch_of(number), f"key-{number}")
        lost = [await server.next("PUB") for _ in range(IN_FLIGHT_FRAMES)]
        await scene.callers.wait(*map(str, range(IN_FLIGHT_FRAMES)))
        assert {scene.callers.brief(str(number)) for number in range(IN_FLIGHT_FRAMES)} == {Situation.UNKNOWN}
        assert trio.current_time() - began == pytest.approx(ANSWER_WITHIN_S, abs=0.1)
        scene.callers.call("next", batch_of(9))
        frame = await server.next("PUB")
        while numbers_in(frame) != [9]:
            frame = await server.next("PUB")
        await server.answer(lost[0], stored(1))  # late: nobody waits for it any more
        await server.answer(frame, stored(2))
        await scene.callers.wait("next")
        assert scene.callers.brief("next") == (2, False)


async def test_a_frame_fits_what_the_server_takes() -> None:
    """A server's smaller `max_payload` holds from its connection on, however quickly it came."""
    async with open_nats_peer() as peer, trio.open_nursery() as nursery:
        log = JetStream(peer.locate, "test")
        publisher = Publisher(log)
        nursery.start_soon(log.connection.run)
        server = await peer.welcome(max_payload=10_000)
        with trio.fail_after(5):
            await log.connection.wait_up()
        nursery.start_soon(publisher.run, Actor("ingest", 0.0), lambda: None)  # the connection was there first
        callers = Callers(publisher, nursery)
        callers.call("a", batch_of(*range(1000)))
        sizes = [len(frame.payload) + len(frame.header) for frame in [await server.next("PUB") for _ in range(3)]]
        assert max(sizes) <= 10_000
        nursery.cancel_scope.cancel()


async def test_above_its_bounds_requests_are_refused_at_once(patient_clock: Clock) -> None:
    """Overloaded: a log that answers nothing fills the queue to its bound and no further; then it drains."""
    async with open_scene() as scene:
        server = await scene.welcome()
        large = batch_of(*range(10_000))
        count = WAITING_EVENTS // 10_000 + IN_FLIGHT_FRAMES + 5
        for number in range(count):
            scene.callers.call(str(number), large)
        await trio.testing.wait_all_tasks_blocked()
        refused = [name for name in scene.callers.answers if scene.callers.brief(name) is Situation.UNAVAILABLE]
        bound = WAITING_EVENTS // 10_000
        assert bound <= count - len(refused) <= bound + IN_FLIGHT_FRAMES
        codes = {answer.kind.code for answer in scene.callers.answers.values() if isinstance(answer, Fault)}
        assert codes == {"ingest.full"}
        assert scene.publisher.mailbox().depth < WAITING_EVENTS + 10_000
        while scene.publisher.mailbox().depth < WAITING_EVENTS:  # frames left while the requests came
            scene.callers.call(f"more-{scene.publisher.mailbox().depth}", large)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Fault, match="wait for the log"):
            scene.publisher.check_room()
        sequence = 0
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                nonlocal sequence
                while True:
                    frame = await server.next("PUB")
                    sequence += 1
                    is_last = b"Nats-Batch-Commit" in frame.header
                    await server.answer(frame, stored(sequence) if is_last else b"")

            nursery.start_soon(serve)
            await scene.publisher.wait_idle()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        answers = [answer for name, answer in scene.callers.answers.items() if name not in refused]
        assert len(answers) >= bound + IN_FLIGHT_FRAMES
        assert all(isinstance(answer, Publication) for answer in answers)
        assert scene.publisher.mailbox().depth == 0


async def test_a_caller_that_goes_away_changes_nothing() -> None:
    """Cancelled here while it waits or while its frame is in flight, its events are published like any others."""
    async with open_scene() as scene:
        server = await scene.welcome()
        flying = scene.callers.call("flying", batch_of(1))
        first = await server.next("PUB")
        waiting = scene.callers.call("waiting", batch_of(2))
        await trio.testing.wait_all_tasks_blocked()
        flying.cancel()
        waiting.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await server.answer(first, stored(1))
        second = await server.next("PUB")
        assert numbers_in(second) == [2]
        await server.answer(second, stored(2))
        with trio.fail_after(5):
            await scene.publisher.wait_idle()
        assert scene.callers.answers == {}


async def test_cancelled_here_the_publisher_leaves_its_callers_their_time(patient_clock: Clock) -> None:
    """When the publisher ends, whoever still waits is answered by the clock, truly."""
    async with open_nats_peer() as peer, trio.open_nursery() as nursery:
        log = JetStream(peer.locate, "test")
        publisher = Publisher(log)
        nursery.start_soon(log.connection.run)
        callers = Callers(publisher, nursery)
        async with trio.open_nursery() as actors:
            actors.start_soon(publisher.run, Actor("ingest", 0.0), lambda: None)
            server = await peer.welcome()
            callers.call("flying", batch_of(1))
            await server.next("PUB")
            callers.call("waiting", batch_of(2))
            await trio.testing.wait_all_tasks_blocked()
            actors.cancel_scope.cancel()
        await callers.wait("flying", "waiting")
        assert callers.brief("flying") is Situation.UNKNOWN
        assert callers.brief("waiting") is Situation.UNAVAILABLE
        nursery.cancel_scope.cancel()


async def test_idle_is_when_nothing_waits_and_nothing_flies(patient_clock: Clock) -> None:
    """Waiting for it ends with the last answer, or when the last request's time is up."""
    async with open_scene() as scene:
        with trio.fail_after(0.1):
            await scene.publisher.wait_idle()
        scene.callers.call("a", batch_of(1))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(ANSWER_WITHIN_S + 0.1):  # the log is away: the request expires
            await scene.publisher.wait_idle()
        server = await scene.welcome()
        scene.callers.call("b", batch_of(2))
        frame = await server.next("PUB")
        with trio.move_on_after(0.5) as early:
            await scene.publisher.wait_idle()
        assert early.cancelled_caught
        await server.answer(frame, stored(1))
        with trio.fail_after(0.1):
            await scene.publisher.wait_idle()


def test_a_message_id_is_of_a_key_and_a_subject() -> None:
    """The same key on another subject is another message; nothing of the key can break a header."""
    ids = {message_id_of(subject, key) for subject in ("a", "b") for key in ("k", "l", "k\r\nX: 1", "é" * 100)}
    assert len(ids) == 8
    assert all(one.isalnum() and len(one) == 32 for one in ids)
    assert message_id_of("a", "k") == message_id_of("a", "k")
