"""The agent's connection against scripted peers: opened, refused, kept alive, lost, closed."""

import orjson
import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketRequest

from edge.client import Client, GatewayError, GatewayRefused
from tests.support.agent_script import FRAME, Script, attach, attached
from tests.support.peers import open_http_peer, open_stream_peer, send_batch


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Jump only after the run was idle for a while: loopback sockets need a moment that is not Trio's."""
    return trio.testing.MockClock(autojump_threshold=0.03)


async def test_agent_comes_back_when_the_connection_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    """Neither a cut connection nor one cut in the handshake ends the agent, and it waits no handshake time out."""
    script = Script()

    async def cut_in_handshake(request: WebSocketRequest) -> None:
        await trio.aclose_forcefully(request._connection._stream)

    async with attached(cut_in_handshake, script.cut, script.serve_batches) as (peer, agent):
        assert (await anext(agent)).id == "b1"
    assert peer.at[-1] - peer.at[0] < 1


async def test_agent_waits_for_a_gateway_that_is_not_there_yet(autojump_clock: trio.testing.MockClock) -> None:
    """Somebody else answers, then nobody: the agent keeps trying, and is told of each failure."""
    troubles: list[str] = []

    def on_trouble(error: GatewayError, delay_s: float) -> None:
        troubles.append(str(error))

    async with (
        open_http_peer(b"220 mail.example\r\n") as garbage,
        Client(garbage.url) as client,
        client.agent(durable="d", on_trouble=on_trouble),
    ):
        await trio.sleep(3)
    async with Client(garbage.url) as client, client.agent(durable="d", on_trouble=on_trouble):
        await trio.sleep(3)
    assert "the connection ended before the gateway had answered the upgrade" in troubles[0]
    assert "no gateway answers at" in troubles[-1]


async def test_agent_waits_as_long_as_retry_after_says(autojump_clock: trio.testing.MockClock) -> None:
    """A 503 of the upgrade is waited out."""
    script = Script()
    draining = script.reject_with(503, (b"retry-after", b"9"))
    async with attached(draining, script.serve_batches) as (peer, agent):
        await anext(agent)
    assert 9 <= peer.at[1] - peer.at[0] < 10


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refused_upgrade_is_raised(status: int, autojump_clock: trio.testing.MockClock) -> None:
    """The gateway's words come out of the `async with`."""
    body = orjson.dumps({"code": "request.bad-parameter", "detail": "durable has a dot"})
    async with open_stream_peer(Script().reject_with(status, body=body)) as peer:
        with pytest.raises(GatewayRefused, match="durable has a dot") as caught:
            await attach(peer)
    assert (caught.value.status, caught.value.code) == (status, "request.bad-parameter")


async def test_an_ack_on_a_lost_connection_is_false(autojump_clock: trio.testing.MockClock) -> None:
    """The batch of a connection that is gone cannot be answered any more, and says so without raising."""
    script = Script()

    async def send_and_cut(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await send_batch(socket, "lost", FRAME)
        await trio.aclose_forcefully(socket._stream)

    async with attached(send_and_cut, script.serve_batches) as (_, agent):
        lost = await anext(agent)
        again = await anext(agent)
        assert (lost.id, again.id) == ("lost", "b1")
        assert not await lost.ack()
        assert await again.ack()
        assert agent.statistics().acked == 1


async def test_a_gateway_that_answers_no_ping_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    """A connection that TCP believes in and the gateway does not answer on is given up."""
    script = Script()

    async def fall_silent(request: WebSocketRequest) -> None:
        socket = await request.accept()
        socket._reader_running = False  # the peer is stuck: it reads no more
        await trio.sleep_forever()

    async with attached(fall_silent, script.serve_batches) as (peer, agent):
        await anext(agent)
    assert 40 <= peer.at[1] - peer.at[0] < 44


async def test_an_agent_at_work_stays_connected(autojump_clock: trio.testing.MockClock) -> None:
    """The agent works for five minutes on one batch; pings are answered all the while, from both ends."""
    script = Script()

    async def ping_and_serve(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await send_batch(socket, "b1", FRAME)
        for _ in range(15):
            await trio.sleep(20)
            with trio.fail_after(1):
                await socket.ping()
        script.said.append(orjson.loads(await socket.get_message()))

    async with attached(ping_and_serve) as (_, agent):
        batch = await anext(agent)
        await trio.sleep(301)
        assert await batch.ack()
        assert agent.statistics().connections == 1


async def test_cancelled_agent_says_goodbye(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelled while it waits for a batch: the peer gets a proper close, so it can deliver elsewhere at once."""
    script = Script()
    async with open_stream_peer(script.serve_batches) as peer, Client(peer.url) as client:
        with trio.move_on_after(5) as scope:
            async with client.agent(durable="d") as agent:
                await anext(agent)
                await trio.sleep_forever()
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() < 6
    assert script.close_codes == [1000]


async def test_a_large_batch_fits(autojump_clock: trio.testing.MockClock) -> None:
    """100 frames of half a MiB, the most that a default batch can be, come through."""
    frame = {"events": [{"type": "file.upsert", "data": {"path": "x" * 500_000}}]}

    async def serve(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await send_batch(socket, "b1", *[frame] * 100)
        with pytest.raises(ConnectionClosed):
            await socket.get_message()

    async with attached(serve) as (_, agent):
        assert len((await anext(agent)).events()) == 100
