"""How a stream of `headgate.stream.v1` ends and comes back: epochs, close codes, broken gateways, cancellation."""

import pytest
import trio
import trio.testing

from edge.client import (
    Client,
    Complaint,
    EpochChanged,
    GatewayBroken,
    GatewayRefused,
    Notice,
    Settled,
    Trouble,
)
from tests.support.peers import open_stream_peer
from tests.support.v1_script import Conversation, V1Script, cut, frame_of, streaming


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """Jump after the run was idle for long: on a busy machine loopback sockets take their time, which is not Trio's."""
    return trio.testing.MockClock(autojump_threshold=0.3)


async def drain(client: Client, tasks: int = 1) -> None:
    """Acknowledge whatever comes, from so many tasks, until the stream ends."""
    async with client.stream(durable="d") as stream, trio.open_nursery() as nursery:

        async def work() -> None:
            async for batch in stream:
                await batch.ack()

        for _ in range(tasks):
            nursery.start_soon(work)


async def test_another_epoch_is_reported() -> None:
    """A log that was made anew is noticed; a durable goes on in it."""
    notices: list[Notice] = []

    async def play(gateway: Conversation) -> None:
        await gateway.hello(epoch="e1")
        await gateway.batch("b1", frame_of("/a"), seq=70)
        await gateway.hear_until("settle")
        await cut(gateway)

    async def play_anew(gateway: Conversation) -> None:
        await gateway.hello(epoch="e2", created=True)
        await gateway.batch("b2", frame_of("/a"), seq=1)
        await gateway.listen()

    script = V1Script()
    async with streaming(script.step(play), script.step(play_anew), notices=notices) as (_, stream):
        assert await (await anext(stream)).ack() == Settled(said=True)
        assert (await anext(stream)).epoch == "e2"
        assert stream.statistics().epochs == 1
    assert EpochChanged("e1", "e2") in notices
    assert any(isinstance(notice, Trouble) for notice in notices)


async def test_an_ephemeral_goes_on_where_it_was() -> None:
    """Its place is kept nowhere else: it asks for the first message that it has not answered, in this epoch only."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello(durable=None)
        await gateway.batch("b1", *(frame_of("/a") for _ in range(4)), seq=10)
        await gateway.hear_until("settle")
        await cut(gateway)

    async def play_rest(gateway: Conversation) -> None:
        await gateway.hello(durable=None)
        await gateway.batch("b2", frame_of("/a"), frame_of("/b"), seq=12)
        await gateway.hear_until("settle")
        await cut(gateway)

    async def play_anew(gateway: Conversation) -> None:
        await gateway.hello(durable=None, epoch="e2")
        await gateway.listen()

    async def play_all(gateway: Conversation) -> None:
        await gateway.hello(durable=None, epoch="e2")
        await gateway.batch("b3", frame_of("/z"))
        await gateway.listen()

    steps = map(script.step, (play, play_rest, play_anew, play_all))
    async with streaming(*steps, durable=None, from_="new") as (peer, stream):
        await (await anext(stream)).settle(ack=[0, 1, 3])
        await (await anext(stream)).ack()
        await anext(stream)
    asked = [target.partition("&from=")[2] for target in peer.targets]
    assert asked == ["new", "seq%3A12", "seq%3A14", "all"]


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4000, 4010, 4499])
async def test_stream_comes_back_after(code: int) -> None:
    """These codes mean come back; the error frame before them explains."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.say(type="error", code="log.down", message="the log is away", fatal=True)
        await gateway.socket.aclose(code, "")

    async def play_again(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"))
        await gateway.listen()

    notices: list[Notice] = []
    async with streaming(script.step(play), script.step(play_again), notices=notices) as (_, stream):
        assert (await anext(stream)).id == "b1"
    [trouble] = [notice for notice in notices if isinstance(notice, Trouble)]
    assert str(trouble.error) == f"the gateway closed the stream, code {code} (the log is away)"
    assert Complaint("log.down", "the log is away") in notices


@pytest.mark.parametrize("code", [1002, 1008, 4500, 4522, 4999])
async def test_stream_gives_up_after(code: int) -> None:
    """These codes mean do not come back: the block is cancelled and the reason raised."""

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.socket.aclose(code, "because of this")

    async with open_stream_peer(V1Script().step(play)) as peer, Client(peer.url) as client:
        with pytest.raises(GatewayRefused, match="because of this"):
            await drain(client)


@pytest.mark.parametrize(
    "said",
    [
        '{"type":"events","batch":"b","messages":[{"index":1,"data":{}}]}',
        '{"type":"events","batch":"b","messages":5}',
        '{"type":"settled","batch":5}',
        '{"type":"gap","from":"x","to":2}',
        "not json",
        "[]",
    ],
)
async def test_frames_that_cannot_be_read_are_the_gateways_bug(said: str) -> None:
    """Raised, not come back from: it would show the same."""

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.socket.send_message(said)
        await gateway.listen()

    async with open_stream_peer(V1Script().step(play)) as peer, Client(peer.url) as client:
        with pytest.raises(GatewayBroken):
            async with client.stream(durable="d"):
                await trio.sleep_forever()


async def test_frames_of_unknown_types_are_passed_over() -> None:
    """A newer gateway may say more."""

    async def play(gateway: Conversation) -> None:
        await gateway.hello(colour="blue")
        await gateway.say(type="weather", sun=True)
        await gateway.say(type="pong")
        await gateway.batch("b1", frame_of("/a"))
        await gateway.listen()

    async with streaming(V1Script().step(play)) as (_, stream):
        assert (await anext(stream)).id == "b1"


async def test_a_gateway_without_the_protocol_is_no_gateway_for_it() -> None:
    """An old gateway that ignores the subprotocol would send the old wire: say so instead of misreading it."""

    async def play(gateway: Conversation) -> None:
        await gateway.listen()

    async with open_stream_peer(V1Script().step(play, subprotocol=None)) as peer, Client(peer.url) as client:
        with pytest.raises(GatewayBroken, match=r"does not speak headgate\.stream\.v1"):
            async with client.stream(durable="d"):
                await trio.sleep_forever()


async def test_a_gateway_that_never_says_hello_is_left(jumping_clock: trio.testing.MockClock) -> None:
    """After ten seconds, and come back to."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.listen()

    async def play_well(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"))
        await gateway.listen()

    async with streaming(script.step(play), script.step(play_well)) as (peer, stream):
        await anext(stream)
        assert peer.at[1] - peer.at[0] >= 10


async def test_cancelled_here_the_stream_says_goodbye() -> None:
    """An agent that stops closes with 1000, whatever it holds, and the gateway gives that to another at once."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", frame_of("/a"))
        await gateway.listen()

    with trio.CancelScope() as scope:
        async with streaming(script.step(play)) as (_, stream):
            await anext(stream)
            scope.cancel()
            await trio.sleep_forever()
    assert script.close_codes in ([1000], [])  # the peer may be cancelled before it has read the goodbye
    assert script.settles() == []


async def test_several_tasks_share_one_stream() -> None:
    """Each batch goes to one of them."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        for number in range(20):
            await gateway.batch(f"b{number}", frame_of("/a"), seq=number + 1)
        for _ in range(20):
            await gateway.hear_until("settle")
        await gateway.socket.aclose(4500, "that was all")

    async with open_stream_peer(script.step(play)) as peer, Client(peer.url) as client:
        with pytest.raises(GatewayRefused):
            await drain(client, tasks=4)
    assert sorted(settle["batch"] for settle in script.settles()) == sorted(f"b{n}" for n in range(20))
