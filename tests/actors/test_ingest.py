"""The publisher against a scripted log: what is answered, when, and what becomes of callers that go away (3.2, P5)."""

import orjson
import pytest
import trio
import trio.testing

from actors.ingest import message_id_of
from engine.errors import Fault, Situation
from engine.frames import digest_of
from engine.ingest import ANSWER_WITHIN_S, Publication
from engine.nats_wire import read_headers
from tests.support.publisher import SUBJECT, batch_of, numbers_in, open_scene, stored

Clock = trio.testing.MockClock


async def test_a_request_is_answered_with_where_it_is_stored() -> None:
    """The frame leaves at once, and only its acknowledgement answers."""
    async with open_scene() as scene:
        server = await scene.welcome()
        scene.callers.call("a", batch_of(1, 2))
        frame = await server.next("PUB")
        assert frame.words[0] == SUBJECT
        assert numbers_in(frame) == [1, 2]
        assert read_headers(frame.header).fields == {"headgate-events": "2"}
        assert scene.callers.answers == {}
        await server.answer(frame, stored(7))
        await scene.callers.wait("a")
        assert scene.callers.answers["a"] == Publication("S", 7, False)


async def test_requests_that_come_meanwhile_share_a_frame() -> None:
    """One acknowledgement answers all of them, in the order in which they came."""
    async with open_scene() as scene:
        server = await scene.welcome()
        scene.callers.call("a", batch_of(1))
        first = await server.next("PUB")
        for name, number in (("b", 2), ("c", 3), ("d", 4)):
            scene.callers.call(name, batch_of(number))
            await trio.testing.wait_all_tasks_blocked()
        assert scene.publisher.mailbox().depth == 3
        await server.answer(first, stored(1))
        second = await server.next("PUB")
        assert numbers_in(second) == [2, 3, 4]
        await server.answer(second, stored(2))
        await scene.callers.wait("a", "b", "c", "d")
        assert [scene.callers.brief(name) for name in "abcd"] == [(1, False), (2, False), (2, False), (2, False)]
        assert scene.publisher.mailbox().depth == 0


async def test_while_the_log_is_away_nothing_is_claimed(patient_clock: Clock) -> None:
    """A request waits its time and is told that nothing was stored; later ones are refused before their body."""
    async with open_scene() as scene:
        scene.publisher.check_room()
        scene.callers.call("a", batch_of(1))
        began = trio.current_time()
        await scene.callers.wait("a")
        assert scene.callers.at["a"] - began == pytest.approx(ANSWER_WITHIN_S, abs=0.01)
        answer = scene.callers.answers["a"]
        assert isinstance(answer, Fault)
        assert answer.kind.code == "log.down"
        assert "nothing was stored" in answer.detail
        await trio.sleep(0.01)
        with pytest.raises(Fault, match="not reachable"):
            scene.publisher.check_room()
        server = await scene.welcome()
        await trio.testing.wait_all_tasks_blocked()
        scene.publisher.check_room()
        scene.callers.call("b", batch_of(2))
        frame = await server.next("PUB")
        assert numbers_in(frame) == [2]  # the first one, whose caller was told otherwise, is not published


async def test_what_waited_for_the_log_is_published_when_it_is_back() -> None:
    """A log that was away for less than a request may wait costs time, not requests."""
    async with open_scene() as scene:
        scene.callers.call("a", batch_of(1))
        scene.callers.call("b", batch_of(2))
        server = await scene.welcome()
        frame = await server.next("PUB")
        assert sorted(numbers_in(frame)) == [1, 2]
        await server.answer(frame, stored(1))
        await scene.callers.wait("a", "b")
        assert scene.callers.brief("a") == (1, False)


async def test_a_break_leaves_an_unkeyed_request_unknown() -> None:
    """It may be stored: it is not published again, and the caller is told at once."""
    async with open_scene() as scene:
        server = await scene.welcome()
        scene.callers.call("a", batch_of(1))
        await server.next("PUB")
        await server.cut()
        await scene.callers.wait("a")
        assert scene.callers.brief("a") is Situation.UNKNOWN
        server = await scene.welcome()
        scene.callers.call("b", batch_of(2))
        assert numbers_in(await server.next("PUB")) == [2]


async def test_a_break_makes_a_keyed_request_find_out() -> None:
    """The same frame under the same id; a duplicate answer says where it was stored the first time (T6)."""
    async with open_scene() as scene:
        server = await scene.welcome()
        batch = batch_of(1)
        scene.callers.call("a", batch, "key")
        first = await server.next("PUB")
        await server.cut()
        server = await scene.welcome()
        second = await server.next("PUB")
        assert (second.payload, second.header) == (first.payload, first.header)
        assert read_headers(second.header).fields["nats-msg-id"] == message_id_of(SUBJECT, "key")
        await server.answer(second, stored(5, duplicate=True))
        question = await server.next("PUB")
        assert question.words[0] == "$JS.API.DIRECT.GET.S"
        assert orjson.loads(question.payload) == {"seq": 5}
        digest = digest_of(batch.joined).encode()
        await server.answer(question, b"{}", b"NATS/1.0\r\nHeadgate-Digest: " + digest + b"\r\n\r\n")
        await scene.callers.wait("a")
        assert scene.callers.brief("a") == (5, True)
