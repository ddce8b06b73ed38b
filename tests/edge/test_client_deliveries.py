"""The client of `headgate.stream.v1` against scripted peers: what it says, what it makes of what it hears."""

import pytest
import trio
import trio.testing

from edge.client import (
    Attached,
    Client,
    Credit,
    Gap,
    GatewayBroken,
    GatewayUnavailable,
    LeasesLost,
    Notice,
    Settled,
)
from tests.support.peers import open_stream_peer
from tests.support.v1_script import Conversation, V1Script, cut, frame_of, streaming
from tests.support.waiting import wait_until


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """Jump after the run was idle for long: on a busy machine loopback sockets take their time, which is not Trio's."""
    return trio.testing.MockClock(autojump_threshold=0.3)


async def test_stream_says_what_it_wants_and_settles_with_mixed_verdicts() -> None:
    """The query, the subprotocol, one credit frame, and one settle frame with ranges, delays and reasons."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.hear_until("credit")
        await gateway.batch("b1", *(frame_of(f"/{n}") for n in range(6)), seq=40, delivered=2)
        await gateway.listen()

    async with streaming(script.step(play), from_="seq:40", filter_=("file.*", "scan.done")) as (peer, stream):
        batch = await anext(stream)
        assert [message.seq for message in batch] == [40, 41, 42, 43, 44, 45]
        assert {message.delivered for message in batch} == {2}
        assert batch.messages[0].time is not None
        assert batch.messages[0].time.isoformat() == "2026-01-02T03:04:05.678901+00:00"
        assert [event.data["path"] for event in batch.events()] == [f"/{n}" for n in range(6)]
        said = await batch.settle(ack=[0, 1, batch.messages[2]], nak={4: 5.0}, term=[5], reason="no such codec")
        assert said == Settled(said=True)
        assert [message.index for message in batch.unanswered] == [3]
        assert (await batch.nak(1.5)).is_well
    assert peer.targets == ["/stream?subject=snapfs.files&durable=mysql&from=seq%3A40&filter=file.%2A%2Cscan.done"]
    assert script.said == [
        {"type": "credit", "mode": "auto"},
        {
            "type": "settle",
            "batch": "b1",
            "ack": [[0, 2]],
            "nak": [{"i": [4, 4], "delay_ms": 5000}],
            "term": [{"i": [5, 5], "reason": "no such codec"}],
        },
        {"type": "settle", "batch": "b1", "nak": [{"i": [3, 3], "delay_ms": 1500}]},
    ]
    assert script.close_codes == [1000]


@pytest.mark.parametrize(
    "wrong", [{"ack": [0], "nak": [0]}, {"ack": [2]}, {"term": [-1]}, {"ack": [0], "term": {0: "x"}}]
)
async def test_wrong_verdicts_say_nothing(wrong: dict[str, object]) -> None:
    """A message with two verdicts, or one that is not there, is the agent's bug: nothing is sent, nothing changes."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"), frame_of("/b"))
        await gateway.listen()

    async with streaming(script.step(play)) as (_, stream):
        batch = await anext(stream)
        with pytest.raises(ValueError, match="batch b1: "):
            await batch.settle(**wrong)  # type: ignore[arg-type]  # that is the point
        assert len(batch.unanswered) == 2
        await batch.ack()
        with pytest.raises(ValueError, match="answered before"):
            await batch.settle(ack=[1])
        assert await batch.ack() == Settled(said=True), "nothing is left to say"
    assert script.settles() == [{"type": "settle", "batch": "b1", "ack": [[0, 1]]}]


async def test_confirmed_answers_tell_confirmed_late_and_unknown() -> None:
    """Each index is in the class that the gateway put it in; what it could not say is unknown."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", *(frame_of("/x") for _ in range(6)))
        first = await gateway.hear_until("settle")
        second = await gateway.hear_until("settle")
        assert (first["confirm"], second["confirm"]) == (True, True)
        await gateway.say(type="settled", batch="b1", confirmed=[[4, 5]], late=[])  # the second is answered first
        await gateway.say(type="settled", batch="b1", confirmed=[[0, 1]], late=[2], failed=[[3, 3]])
        await gateway.listen()

    async with streaming(script.step(play)) as (_, stream), trio.open_nursery() as nursery:
        batch = await anext(stream)
        answers: list[Settled] = []

        async def settle() -> None:
            answers.append(await batch.settle(ack=[0, 1, 2], nak=[3], confirm=True))

        nursery.start_soon(settle)
        await wait_until(lambda: len(script.settles()) == 1, "the first answer was heard")
        assert await batch.ack(confirm=True) == Settled(True, confirmed=(4, 5))
    assert answers == [Settled(True, confirmed=(0, 1), late=(2,), unknown=(3,))]


async def test_an_answer_that_is_never_confirmed_is_unknown(jumping_clock: trio.testing.MockClock) -> None:
    """The connection ends first, or the gateway says nothing for 30 s, or complains of the frame."""
    script = V1Script()

    async def play_cut(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"), frame_of("/b"))
        await gateway.hear_until("settle")
        await cut(gateway)

    async def play_silence(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b2", frame_of("/a"), frame_of("/b"))
        await gateway.hear_until("settle")
        await gateway.hear_until("settle")
        await gateway.say(type="error", code="stream.bad-frame", message="no", fatal=False, batch="b2")
        await gateway.listen()

    async with streaming(script.step(play_cut), script.step(play_silence)) as (_, stream):
        first = await anext(stream)
        assert await first.ack(confirm=True) == Settled(True, unknown=(0, 1))
        assert first.is_over
        second = await anext(stream)
        assert await second.settle(ack=[0], confirm=True) == Settled(True, unknown=(0,))
        assert await second.settle(ack=[1], confirm=True) == Settled(True, unknown=(1,))


async def test_what_the_log_could_not_be_told_is_unanswered_again() -> None:
    """`failed` while the connection lives: the message is held again, its credit too, and a second answer is heard."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"), frame_of("/b"))
        await gateway.hear_until("settle")
        await gateway.say(type="settled", batch="b1", confirmed=[[0, 0]], late=[], failed=[[1, 1]])
        await gateway.hear_until("settle")
        await gateway.say(type="settled", batch="b1", confirmed=[[1, 1]], late=[])
        await gateway.listen()

    async with streaming(script.step(play), credit=Credit(2, 10_000)) as (_, stream):
        batch = await anext(stream)
        assert await batch.ack(confirm=True) == Settled(True, confirmed=(0,), unknown=(1,))
        assert [message.index for message in batch.unanswered] == [1]
        assert stream.held_count == 1
        assert await batch.nak(confirm=True) == Settled(True, confirmed=(1,))
        assert stream.held_count == 0
    granted = [said["messages"] for said in script.said if said["type"] == "credit"]
    assert granted == [2, 1, 1], "no message's credit is granted twice"
    assert script.settles()[1] == {"type": "settle", "batch": "b1", "nak": [{"i": [1, 1]}], "confirm": True}


async def test_an_answer_on_a_dead_connection_says_so() -> None:
    """Nothing was said: the messages come again, and the agent is told."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"))
        await gateway.hear_until("settle")  # the agent has it by now
        await cut(gateway)

    async def play_again(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b2", frame_of("/a"), delivered=2)
        await gateway.listen()

    async with streaming(script.step(play), script.step(play_again)) as (_, stream):
        first = await anext(stream)
        assert await first.progress()
        second = await anext(stream)
        assert second.messages[0].delivered == 2
        assert await first.ack() == Settled(said=False)
        assert await first.progress() is False
        assert (await second.ack()).said
    assert [settle["batch"] for settle in script.settles() if "ack" in settle] == ["b2"]


async def test_batches_nobody_took_from_a_dead_connection_are_dropped() -> None:
    """They come again: handing them over would only do work twice."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"))
        await gateway.batch("b2", frame_of("/b"), seq=2)
        await gateway.hear_until("settle")
        await cut(gateway)

    async def play_again(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b3", frame_of("/b"), seq=2, delivered=2)
        await gateway.listen()

    async with streaming(script.step(play), script.step(play_again)) as (_, stream):
        first = await anext(stream)
        await first.ack(confirm=True)
        assert (await anext(stream)).id == "b3"


async def test_fixed_credit_is_granted_again_for_what_was_settled() -> None:
    """One grant at first; then what was answered, at half of the credit or when nothing is held."""
    script = V1Script()
    size = len(b'{"events":[{"type":"file.upsert","data":{"path":"/a"}}]}')

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", *(frame_of("/a") for _ in range(10)))
        await gateway.hear_until("status")
        await gateway.say(type="status")
        await gateway.listen()

    async with streaming(script.step(play), credit=Credit(10, 100_000)) as (_, stream):
        batch = await anext(stream)
        assert batch.bytes == 10 * size
        await batch.settle(ack=[0, 1])
        await batch.settle(nak=[2], term=[3])
        await batch.settle(ack=[4, 5])
        await batch.ack()
        await stream.status()  # whatever was said before is heard by then
        assert stream.held_count == 0
    granted = [said for said in script.said if said["type"] == "credit"]
    assert granted == [
        {"type": "credit", "messages": 10, "bytes": 100_000},
        {"type": "credit", "messages": 6, "bytes": 6 * size},
        {"type": "credit", "messages": 4, "bytes": 4 * size},
    ]


async def test_manual_credit_is_the_callers() -> None:
    """`auto=False`: no credit frame but those that were asked for."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        assert await gateway.hear() == {"type": "credit", "messages": 1, "bytes": 500}
        await gateway.batch("b1", frame_of("/a"))
        await gateway.listen()

    async with streaming(script.step(play), auto=False) as (_, stream):
        await stream.wait_connected()
        assert await stream.grant(1, 500)
        assert (await (await anext(stream)).ack()).said
    assert [said["type"] for said in script.said] == ["credit", "settle"]


async def test_a_gateway_that_sends_without_credit_is_broken() -> None:
    """Twice the credit and more, unanswered: memory is not the gateway's to fill."""

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        for number in range(9):
            await gateway.batch(f"b{number}", frame_of("/a"), seq=number)
        await gateway.listen()

    async with open_stream_peer(V1Script().step(play)) as peer, Client(peer.url) as client:
        with pytest.raises(GatewayBroken, match="twice what it was granted"):
            async with client.stream(durable="d", credit=Credit(4, 10_000)):
                await trio.sleep_forever()


async def test_gaps_come_with_the_next_batch_and_as_notices() -> None:
    """Nothing is skipped in silence: both bounds and the reason are there, and counted."""
    notices: list[Notice] = []

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.say(type="gap", from_=1, to=39, reason="retention")
        await gateway.batch("b1", frame_of("/a"), seq=40)
        await gateway.batch("b2", frame_of("/b"), seq=41)
        await gateway.listen()

    async with streaming(V1Script().step(play), notices=notices) as (_, stream):
        first, second = await anext(stream), await anext(stream)
        assert first.gaps == (Gap(1, 39, "retention"),)
        assert second.gaps == ()
        assert stream.statistics().gaps == 39
    assert [type(notice) for notice in notices] == [Attached, Gap]


async def test_lost_leases_are_told_and_answers_to_them_are_late() -> None:
    """What the gateway took back is not answered any more; the rest of the batch is."""
    script, notices = V1Script(), list[Notice]()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"), frame_of("/b"), frame_of("/c"))
        await gateway.say(type="lost", batch="b1", messages=[[1, 2]], reason="held for 900 s")
        await gateway.hear_until("status")
        await gateway.say(type="status")
        await gateway.listen()

    async with streaming(script.step(play), notices=notices) as (_, stream):
        batch = await anext(stream)
        await stream.status()
        assert [message.index for message in batch.lost] == [1, 2]
        assert await batch.settle(ack=[0, 1]) == Settled(True, late=(1,))
        await wait_until(script.settles, "the answer was heard")
    assert LeasesLost("b1", (1, 2), "held for 900 s") in notices
    assert script.settles() == [{"type": "settle", "batch": "b1", "ack": [[0, 0]]}]


async def test_progress_names_what_is_unanswered() -> None:
    """A fresh lease is asked for what is still open, as ranges."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", *(frame_of("/a") for _ in range(4)))
        await gateway.listen()

    async with streaming(script.step(play)) as (_, stream):
        batch = await anext(stream)
        await batch.settle(ack=[1])
        assert await batch.progress()
        assert await batch.progress([3])
    assert script.settles()[1:] == [
        {"type": "settle", "batch": "b1", "progress": [[0, 0], [2, 3]]},
        {"type": "settle", "batch": "b1", "progress": [[3, 3]]},
    ]


async def test_status_is_asked_and_read() -> None:
    """Lag, what is in flight, and why nothing comes, also while a batch lies unread."""

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"))
        await gateway.hear_until("status")
        await gateway.say(
            type="status",
            lag={"messages": 7, "seconds": 1.5},
            in_flight={"batches": 1, "messages": 1, "bytes": 50},
            window={"messages": 1, "bytes": 50, "mode": "credit"},
            credit={"messages": 0, "bytes": 9},
            last_settle_s=None,
            stalled="the agent has no credit left",
        )
        await gateway.hear_until("status")
        await cut(gateway)

    async with streaming(V1Script().step(play)) as (_, stream):
        status = await stream.status()
        assert (status.lag.messages, status.in_flight.batches, status.credit.bytes) == (7, 1, 9)
        assert status.stalled == "the agent has no credit left"
        with pytest.raises(GatewayUnavailable):
            await stream.status()
