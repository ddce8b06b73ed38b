"""The agent loop against scripted peers: batches, answers, and which ends it comes back from."""

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketRequest

from edge.client import Client, GatewayBroken, GatewayRefused
from tests.support.agent_script import FRAME, Script, attach, attached
from tests.support.peers import StreamPeer, open_stream_peer, send_batch


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Jump only after the run was idle for a while: loopback sockets need a moment that is not Trio's."""
    return trio.testing.MockClock(autojump_threshold=0.03)


async def test_agent_acknowledges_batch_after_batch(autojump_clock: trio.testing.MockClock) -> None:
    """S0.11, S0.13, S0.14: the upgrade names subject, durable and batch; each batch is answered by its id."""
    script = Script()
    async with attached(script.serve_batches, batch=7) as (peer, agent):
        async for batch in agent:
            assert [event.type for event in batch.events()] == ["file.upsert", "file.delete"]
            assert await batch.ack()
            if batch.id == "b3":
                break
        statistics = agent.statistics()
    assert peer.targets == ["/stream?subject=snapfs.files&durable=mysql&batch=7"]
    assert peer.headers[0][b"authorization"] == b"Bearer secret"
    assert script.said == [{"type": "ack", "batch": f"b{n}"} for n in (1, 2, 3)]
    assert (statistics.connections, statistics.acked, statistics.naked) == (1, 3, 0)
    assert script.close_codes == [1000]


async def test_nak_is_not_an_ack(autojump_clock: trio.testing.MockClock) -> None:
    """Giving a batch back says `nack` and counts as given back."""
    script = Script()
    async with attached(script.serve_batches) as (_, agent):
        batch = await anext(agent)
        assert await batch.nak()
        await anext(agent)
        assert agent.statistics().naked == 1
    assert script.said == [{"type": "nack", "batch": "b1"}]


async def test_a_batch_is_answered_once(autojump_clock: trio.testing.MockClock) -> None:
    """A second answer is a bug of the agent, and nothing is sent."""
    script = Script()
    async with attached(script.serve_batches) as (_, agent):
        batch = await anext(agent)
        await batch.ack()
        with pytest.raises(RuntimeError, match="answered before: acked"):
            await batch.nak()
    assert script.said == [{"type": "ack", "batch": "b1"}]


async def test_messages_that_are_no_frames_have_no_events(autojump_clock: trio.testing.MockClock) -> None:
    """What others put on the log arrives as a value, and does not break the agent."""
    odd: list[object] = [{"raw": "text"}, {"events": 5}, {"events": [{"type": 1}]}, [1, 2], None]

    async def serve(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await send_batch(socket, "b1", *odd, FRAME)
        with pytest.raises(ConnectionClosed):
            await socket.get_message()

    async with attached(serve) as (_, agent):
        batch = await anext(agent)
        assert [message.value() for message in batch.messages[:-1]] == odd
        assert len(batch.events()) == 2


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 4000, 4010, 4499])
async def test_agent_comes_back_after(code: int, autojump_clock: trio.testing.MockClock) -> None:
    """These codes mean come back, and the next batch is served on the new connection."""
    script = Script()
    async with attached(script.close_with(code), script.close_with(code), script.serve_batches) as (_, agent):
        assert (await anext(agent)).id == "b1"
        assert agent.statistics().connections == 3


@pytest.mark.parametrize("code", [1002, 1008, 1009, 4500, 4522, 4999])
async def test_agent_gives_up_after(code: int, autojump_clock: trio.testing.MockClock) -> None:
    """These codes mean do not come back: the block is cancelled and the reason raised."""
    async with open_stream_peer(Script().close_with(code, "because of this")) as peer:
        with pytest.raises(GatewayRefused, match="because of this") as caught:
            await attach(peer)
    assert caught.value.status == code


async def test_the_gateways_error_frame_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    """S0.16: the words of the error frame explain the 1011 that follows."""
    script = Script()
    async with attached(script.close_with(1011, error="the log is gone"), script.serve_batches) as (_, agent):
        await anext(agent)
        assert agent.statistics().last_error == "the gateway closed the stream, code 1011 (the log is gone)"


@pytest.mark.parametrize("text", ["not json", "[]", '{"no": "type"}', '{"type":"events","messages":5}'])
async def test_a_frame_that_cannot_be_read_is_raised(text: str, autojump_clock: trio.testing.MockClock) -> None:
    """It is no gateway, or one with a bug; coming back would show the same."""
    async with open_stream_peer(Script().say(text)) as peer:
        with pytest.raises(GatewayBroken):
            await attach(peer)


async def test_a_frame_of_an_unknown_type_is_passed_over(autojump_clock: trio.testing.MockClock) -> None:
    """A newer gateway may say more than this client knows."""

    async def serve(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await socket.send_message('{"type":"hello","version":9}')
        await send_batch(socket, "b1", FRAME)
        with pytest.raises(ConnectionClosed):
            await socket.get_message()

    async with attached(serve) as (_, agent):
        assert (await anext(agent)).id == "b1"


async def test_what_the_block_raises_comes_out_unchanged(autojump_clock: trio.testing.MockClock) -> None:
    """The agent's nursery does not wrap the error of the code that uses it."""

    async def fail(peer: StreamPeer) -> None:
        async with Client(peer.url) as client, client.agent(durable="d") as agent:
            await anext(agent)
            raise ZeroDivisionError

    async with open_stream_peer(Script().serve_batches) as peer:
        with pytest.raises(ZeroDivisionError):
            await fail(peer)
