"""The agent loop against scripted peers: batches, answers, and when it comes back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketRequest

from edge.client import Agent, Client, GatewayBroken, GatewayError, GatewayRefused
from tests.support.peers import StreamPeer, StreamStep, open_http_peer, open_stream_peer, send_batch

FRAME = {"events": [{"type": "file.upsert", "data": {"path": "/a"}}, {"type": "file.delete", "data": {"path": "/b"}}]}


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Jump only after the run was idle for a while: loopback sockets need a moment that is not Trio's."""
    return trio.testing.MockClock(autojump_threshold=0.03)


class Script:
    """Steps of a stream peer, and what the agent said to them."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.close_codes: list[int | None] = []

    async def serve_batches(self, request: WebSocketRequest) -> None:
        """Send batch after batch, each when the one before was answered."""
        socket = await request.accept()
        number = 0
        try:
            while True:
                number += 1
                await send_batch(socket, f"b{number}", FRAME)
                self.said.append(orjson.loads(await socket.get_message()))
        except ConnectionClosed as closed:
            self.close_codes.append(closed.reason.code if closed.reason else None)

    def close_with(self, code: int, reason: str = "", *, error: str = "") -> StreamStep:
        """Accept, say an error where there is one, and close."""

        async def step(request: WebSocketRequest) -> None:
            socket = await request.accept()
            if error:
                await socket.send_message(orjson.dumps({"type": "error", "message": error}).decode())
            await socket.aclose(code, reason)

        return step

    def reject_with(self, status: int, *headers: tuple[bytes, bytes], body: bytes = b"{}") -> StreamStep:
        """Refuse the upgrade."""

        async def step(request: WebSocketRequest) -> None:
            await request.reject(status, extra_headers=list(headers), body=body)

        return step

    def say(self, text: str) -> StreamStep:
        """Accept, say this, and wait for the end."""

        async def step(request: WebSocketRequest) -> None:
            socket = await request.accept()
            await socket.send_message(text)
            with pytest.raises(ConnectionClosed):
                await socket.get_message()

        return step

    @staticmethod
    async def cut(request: WebSocketRequest) -> None:
        """Accept and end the connection without a word."""
        socket = await request.accept()
        await trio.aclose_forcefully(socket._stream)


@asynccontextmanager
async def attached(*steps: StreamStep, batch: int = 100) -> AsyncIterator[tuple[StreamPeer, Agent]]:
    """Attach an agent to a peer that follows these steps."""
    async with (
        open_stream_peer(*steps) as peer,
        Client(peer.url, "secret") as client,
        client.agent(durable="mysql", subject="snapfs.files", batch=batch) as agent,
    ):
        yield peer, agent


async def attach(peer: StreamPeer) -> None:
    """Attach an agent that acknowledges everything, and never return."""
    async with Client(peer.url) as client, client.agent(durable="mysql") as agent:
        async for batch in agent:
            await batch.ack()


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


async def test_what_the_block_raises_comes_out_unchanged(autojump_clock: trio.testing.MockClock) -> None:
    """The agent's nursery does not wrap the error of the code that uses it."""

    async def fail(peer: StreamPeer) -> None:
        async with Client(peer.url) as client, client.agent(durable="d") as agent:
            await anext(agent)
            raise ZeroDivisionError

    async with open_stream_peer(Script().serve_batches) as peer:
        with pytest.raises(ZeroDivisionError):
            await fail(peer)


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
