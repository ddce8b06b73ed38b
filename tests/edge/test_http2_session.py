"""One HTTP/2 connection in process: what is cancelled leaves nothing, what fails is told apart, places are shared."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from edge.express import Connection
from edge.http import Request, Response, json_response
from edge.http2 import Http2
from edge.http2_session import LARGE_BODIES, MOST_TASKS
from edge.normaliser import Head
from edge.phase import Phase
from edge.routes import Lane, Route, RouteTable
from edge.tcp_stream import TcpStream
from engine.errors import Refused, Unavailable
from engine.identity import Scope
from engine.metrics import Metrics
from tests.support.http2 import Http2Client, frame

Handler = Callable[[Request], Awaitable[Response]]
LIMIT_BYTES = 1_000_000


@dataclass
class Scene:
    """A connection that is served, and the client's end of it."""

    client: Http2Client
    served: Connection
    shared: Http2
    draining: trio.Event


async def _no_lane(*_: object) -> None:
    """No route of these tests is on the other lane, and none is a WebSocket."""


@asynccontextmanager
async def open_scene(
    handler: Handler,
    *,
    peer: str = "127.0.0.1",
    most: int = 1000,
    scope: Scope | None = None,
    admit: Callable[[], None] | None = None,
) -> AsyncIterator[Scene]:
    """Serve one route to one client, on either lane's word."""
    ours, theirs = trio.socket.socketpair()
    routes = [
        Route("POST", "/x", handler, Lane.EXPRESS, "a test", admit, scope=scope, is_early=admit is not None),
        Route("GET", "/y", handler, Lane.QUART, "a test", scope=None),
    ]
    shared = Http2(RouteTable(routes, Metrics()), trio.Event(), most)

    async def not_over(_: Connection, __: Head) -> None:
        raise AssertionError("a stream never reaches the other lane's server")

    served = Connection(
        TcpStream(trio.SocketStream(ours)), peer, shared.table, not_over, _no_lane, shared.draining.is_set, shared.serve
    )

    async def serve() -> None:
        try:
            await served.run()
        finally:
            served.stream.socket.close()

    client = Http2Client(trio.SocketStream(theirs), "h")
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await client.start()
            yield Scene(client, served, shared, shared.draining)
            theirs.close()  # or its last words would wait for a client that reads them
            nursery.cancel_scope.cancel()
    assert shared.streams == 0


async def read_all(request: Request) -> Response:
    """Say how long the body is."""
    return json_response(len(await request.read_body(LIMIT_BYTES)))


async def wait_forever(_: Request) -> Response:
    """Never answer."""
    await trio.sleep_forever()
    raise AssertionError


async def test_both_lanes_routes_are_answered_here() -> None:
    """A lane is who reads HTTP/1.1; a stream has been read."""
    async with open_scene(read_all) as scene:
        assert bytes((await scene.client.ask("POST", "/x", {}, b"x" * 200_000)).body) == b"200000"
        assert bytes((await scene.client.ask("GET", "/y")).body) == b"0"
        assert scene.served.phase is Phase.IDLE


@pytest.mark.parametrize("what", ["a handler", "a body", "a place", "a window", "nothing"])
async def test_cancelled_here(what: str) -> None:
    """Wherever a connection is cut, its streams end, their places are free, and the client is told."""
    ended: list[str] = []

    async def handle(request: Request) -> Response:
        try:
            if what == "a handler":
                return await wait_forever(request)
            if what == "a window":
                return Response(200, b"x" * 200_000)
            return await read_all(request)
        finally:
            ended.append(what)

    async with open_scene(handle) as scene:
        client, count = scene.client, 0 if what == "nothing" else LARGE_BODIES + 2
        client.opens_windows = False
        for _ in range(count):
            headers = {"content-length": "500000"} if what == "a place" else {}
            await client.begin("POST", "/x", headers, ends=what in {"a handler", "a window"})
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert scene.shared.streams == count
        scene.served.scope.cancel()
        last = await client.end()
        assert last is not None
        assert last.code == 0
        assert (scene.shared.streams, len(ended)) == (0, count)


async def test_a_reset_ends_its_handler_at_once_and_frees_its_place() -> None:
    """Nobody works for who does not want it any more; who watches for that ends by itself."""
    ended: list[str] = []

    async def handle(request: Request) -> Response:
        if request.method == "GET":
            await request.wait_left()
            ended.append("watched")
            raise trio.BrokenResourceError("it has left")
        try:
            return await wait_forever(request)
        finally:
            ended.append("cancelled")

    async with open_scene(handle) as scene:
        numbers = [await scene.client.begin("POST", "/x"), await scene.client.begin("GET", "/y")]
        await trio.testing.wait_all_tasks_blocked(0.01)
        for number in numbers:
            scene.client.h2.reset_stream(number, 8)
        await scene.client.flush()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert sorted(ended) == ["cancelled", "watched"]
        assert scene.shared.streams == 0
        assert scene.shared.counts["reset"] == 2


async def test_streams_that_end_late_keep_their_places() -> None:
    """However many are opened and reset, so many tasks and no more run for a connection that cannot be hurried."""
    running = most = 0
    go = trio.Event()

    async def handle(_: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        with trio.CancelScope(shield=True):
            await go.wait()
        running -= 1
        return json_response(1)

    async def send(client: Http2Client) -> None:
        pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/y")]
        for number in range(1, 4 * MOST_TASKS, 2):
            with suppress(trio.BrokenResourceError):  # it has been ended
                await client.raw(frame(1, 5, number, client.h2.encoder.encode(pairs)))
                await trio.testing.wait_all_tasks_blocked()
                await client.raw(frame(3, 0, number, b"\0\0\0\x08"))

    async with open_scene(handle) as scene, trio.open_nursery() as nursery:
        scene.client.believes = False
        nursery.start_soon(send, scene.client)
        while not scene.client.goaways:
            await scene.client.pump()
        assert 100 < most <= MOST_TASKS
        go.set()
        await scene.client.end()
        nursery.cancel_scope.cancel()


async def test_one_address_has_half_of_the_places() -> None:
    """An address that is not loopback cannot take all of them from the others."""
    for peer, refused in (("192.0.2.7", 4), ("127.0.0.1", 0)):
        async with open_scene(wait_forever, peer=peer, most=20) as scene:
            numbers = [await scene.client.begin("GET", "/y") for _ in range(14)]
            await trio.testing.wait_all_tasks_blocked(0.01)
            with trio.move_on_after(0.05):
                while True:
                    await scene.client.pump()
            assert sum(scene.client.answers[number].reset == 7 for number in numbers) == refused


async def test_too_much_is_told_before_anything_else() -> None:
    """Above capacity a stream is turned away by its head, as a request of HTTP/1.1 is, and its body stays away."""

    def have_no_room() -> None:
        raise Unavailable("server.draining", "no room", 1.0)

    async with open_scene(wait_forever, scope="ingest:write", admit=have_no_room) as scene:
        number = await scene.client.begin("POST", "/x", {"content-length": "500000"}, ends=False)
        answer = await scene.client.answer(number)
        assert (answer.status, answer.json()["code"]) == (503, "server.draining")
        assert answer.header("retry-after") == "1"


async def test_a_bug_is_one_500_and_the_connection_goes_on() -> None:
    """The client gets a problem with an id; the streams beside it do not notice."""
    calls = 0

    async def handle(_: Request) -> Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        return json_response(calls)

    async with open_scene(handle) as scene:
        answer = await scene.client.ask("POST", "/x", {}, b"")
        assert (answer.status, answer.json()["code"]) == (500, "server.broken")
        assert (await scene.client.ask("GET", "/y")).json() == 2


@pytest.mark.parametrize("how", ["refused", "another answer", "a bug", "whole"])
async def test_a_streamed_answer_that_fails_is_never_taken_for_whole(how: str) -> None:
    """What fails in the middle is reset; only what is whole ends its stream."""

    async def handle(request: Request) -> Response:
        response = Response(200, content_type="text/plain")
        send = await request.begin(response)
        await send(b"x" * 100_000)
        if how == "refused":
            raise Refused("request.too-slow", "no")
        if how == "a bug":
            raise ZeroDivisionError
        return json_response(1) if how == "another answer" else response

    async with open_scene(handle) as scene:
        answer = await scene.client.ask("POST", "/x", {}, b"")
        assert answer.is_whole is (how == "whole")
        assert (answer.reset is None) is (how == "whole")
        assert len(answer.body) == 100_000


async def test_a_body_has_its_deadline_and_its_least_rate(autojump_clock: trio.testing.MockClock) -> None:
    """A body that stops is 408 after its grace; one that goes on, slowly enough to bear, is whole."""
    async with open_scene(read_all) as scene:
        number = await scene.client.begin("POST", "/x", {"content-length": "9000"}, ends=False)
        began = trio.current_time()
        answer = await scene.client.answer(number, timeout_s=60)
        assert (answer.status, round(trio.current_time() - began)) == (408, 10)
        number = await scene.client.begin("POST", "/x", {}, ends=False)
        for _ in range(30):
            scene.client.h2.send_data(number, b"x" * 1500)
            await scene.client.flush()
            await trio.sleep(1)
        scene.client.h2.send_data(number, b"", end_stream=True)
        await scene.client.flush()
        assert (await scene.client.answer(number)).json() == 45_000


async def test_a_window_that_stays_shut_is_reset_and_one_that_opens_is_served(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each sixteen kilobytes of an answer have ten seconds, whatever the whole takes."""

    async def handle(_: Request) -> Response:
        return Response(200, b"x" * 200_000)

    async with open_scene(handle) as scene:
        client = scene.client
        client.opens_windows = False
        client.h2.increment_flow_control_window(10_000_000)
        shut = await client.begin("GET", "/y")
        assert (await client.answer(shut, timeout_s=60)).reset == 8
        slow = await client.begin("GET", "/y")
        while not client.answers[slow].is_whole:
            assert client.answers[slow].reset is None
            with trio.move_on_after(9):
                while not client.answers[slow].is_whole:
                    await client.pump()
            if not client.answers[slow].is_whole:
                client.h2.increment_flow_control_window(16_384, slow)
                await client.flush()
        assert len(client.answers[slow].body) == 200_000


async def test_going_is_said_when_it_is_quiet_or_after_a_second(autojump_clock: trio.testing.MockClock) -> None:
    """Who gives up what a GOAWAY finds loses nothing that ends soon; what takes longer is answered."""
    go = trio.Event()

    async def handle(_: Request) -> Response:
        await go.wait()
        return json_response(1)

    for is_short in (True, False):
        go = trio.Event()
        async with open_scene(handle) as scene:
            number = await scene.client.begin("GET", "/y")
            await trio.testing.wait_all_tasks_blocked(0.01)
            scene.draining.set()
            if is_short:
                go.set()
                answer = await scene.client.answer(number)
            else:
                await trio.sleep(3)
                go.set()
                answer = await scene.client.answer(number)
                assert [one.last for one in scene.client.goaways] == [2**31 - 1, number]
            assert answer.status == 200
            await scene.client.end()
            assert scene.client.goaways[0].found == (0 if is_short else 1)
