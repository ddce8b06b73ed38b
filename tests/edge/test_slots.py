"""A slot is given back whatever becomes of its request, on both lanes: answered, crashed, refused, left, cancelled."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing

from actors.identity import Authenticator
from actors.limits import Limiter
from edge.express import Connection
from edge.guard import Guard
from edge.http import Request, Response, json_response
from edge.quart_lane import QuartLane
from edge.routes import Lane, Route, RouteTable
from edge.tcp_stream import TcpStream
from engine.keys import KeyRing
from engine.keys_file import KeysFile
from engine.limits import Policy
from engine.metrics import Metrics
from engine.slots import SlotPolicy
from tests.support import http

Handler = Callable[[Request], Awaitable[Response]]
LANES = pytest.mark.parametrize("lane", list(Lane), ids=[one.value for one in Lane])
MOST = 2


class Scene:
    """One route with slots, and connections to it."""

    def __init__(self, folder: Path, lane: Lane, handler: Handler) -> None:
        self.limiter = Limiter({"few": Policy("few", 5, 3600)}, None, [SlotPolicy("uploads", MOST)])
        ring = KeyRing()
        authenticator = Authenticator(ring, ring, KeysFile(folder), b"s" * 32, 900, lambda: 0.0)
        guard = Guard(authenticator, is_open=True, origins=frozenset())
        guard.limiter = self.limiter
        names = ("uploads", "few") if handler is answer_well else ("uploads",)
        route = Route("POST", "/x", handler, lane, "a test", scope=None, limits=names)
        self.table = RouteTable([route], Metrics(), guard=guard)
        self.quart = QuartLane(self.table)
        self.port = 0

    @property
    def in_use(self) -> int:
        """How many slots are held."""
        return self.limiter.statistics().slots["uploads"][0]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[http.Connection]:
        """A client's end of a connection."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield http.Connection(stream, "x")


@asynccontextmanager
async def open_scene(folder: Path, lane: Lane, handler: Handler) -> AsyncIterator[Scene]:
    """Serve it for the length of the block."""
    scene = Scene(folder, lane, handler)

    async def no_upgrade(*_: object) -> None:
        """Nobody asks for a WebSocket."""

    async def serve(stream: trio.SocketStream) -> None:
        async with TcpStream(stream) as client:
            await Connection(client, "127.0.0.1", scene.table, scene.quart.serve, no_upgrade, lambda: False).run()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        scene.port = listener.socket.getsockname()[1]
        yield scene
        nursery.cancel_scope.cancel()


async def answer_well(request: Request) -> Response:
    """Answer."""
    await request.read_body(10)
    return json_response({"is": "well"})


async def crash(_: Request) -> Response:
    """Fall."""
    raise ZeroDivisionError("a bug")


async def read_a_little(request: Request) -> Response:
    """Refuse what is longer than it takes."""
    await request.read_body(10)
    return json_response({})


async def wait_idle(scene: Scene) -> None:
    """Wait until nothing is held."""
    with trio.fail_after(10):
        while scene.in_use:
            await trio.testing.wait_all_tasks_blocked(0.01)


@LANES
async def test_a_slot_is_back_after_an_answer(tmp_path: Path, lane: Lane) -> None:
    """With and without a body; and after a refusal of the other policy, which comes later."""
    async with open_scene(tmp_path, lane, answer_well) as scene, scene.connect() as connection:
        for number in range(5):
            answer = await connection.request("POST", "/x", (), b"{}" if number % 2 else None)
            assert answer.status == 200
            assert answer.header("ratelimit-policy") == '"few";q=5;w=3600, "uploads";q=2;qu="concurrent-requests"'
            await wait_idle(scene)
    async with open_scene(tmp_path, lane, answer_well) as scene:
        statuses = []
        for number in range(8):
            async with scene.connect() as connection:
                statuses.append((await connection.request("POST", "/x", (), b"{}" if number % 2 else None)).status)
        assert statuses == [200] * 5 + [429] * 3
        await wait_idle(scene)


@LANES
async def test_a_slot_is_back_after_a_crash(tmp_path: Path, lane: Lane) -> None:
    """The handler's bug is one answer of 500, and no slot is lost with it."""
    with structlog.testing.capture_logs():
        async with open_scene(tmp_path, lane, crash) as scene:
            for number in range(3 * MOST):
                async with scene.connect() as connection:
                    answer = await connection.request("POST", "/x", (), b"{}" if number % 2 else None)
                    assert answer.status == 500
            await wait_idle(scene)


@LANES
async def test_a_slot_is_back_after_a_refused_body(tmp_path: Path, lane: Lane) -> None:
    """Too large for the handler, or for the lane; announced, or in broken chunks."""
    async with open_scene(tmp_path, lane, read_a_little) as scene:
        for headers, body in (
            ({"Content-Length": "100"}, b"x" * 100),
            ({"Content-Length": "900000000"}, b""),
            ({"Transfer-Encoding": "chunked"}, b"zz\r\n"),
        ):
            async with scene.connect() as connection:
                await connection.send(connection.encode("POST", "/x", headers) + body)
                assert (await connection.read_answer()).status in {400, 413}
        await wait_idle(scene)


@LANES
@pytest.mark.parametrize("has_body", [False, True], ids=["without a body", "with a body"])
async def test_a_slot_is_held_while_its_handler_runs(tmp_path: Path, lane: Lane, has_body: bool) -> None:
    """Also when its client is long gone: what still works still counts."""
    go_on = trio.Event()

    async def handle(_: Request) -> Response:
        await go_on.wait()
        return json_response({})

    body = b"{}" if has_body else None
    async with open_scene(tmp_path, lane, handle) as scene:
        for _ in range(MOST):
            async with scene.connect() as connection:
                await connection.send(connection.encode("POST", "/x", (), body))
                await trio.testing.wait_all_tasks_blocked(0.05)
        assert scene.in_use == MOST
        async with scene.connect() as connection:
            answer = await connection.request("POST", "/x", (), body)
            assert answer.problem(429)["violated-policies"] == ["uploads"]
        go_on.set()
        await wait_idle(scene)


@LANES
async def test_cancelled_here_a_slot_is_back(tmp_path: Path, lane: Lane) -> None:
    """The listener's end, or a client that sends half a body and leaves."""

    async def handle(request: Request) -> Response:
        await request.read_body(100)
        await trio.sleep_forever()
        raise AssertionError("it was cancelled")

    async with open_scene(tmp_path, lane, handle) as scene:
        limiter = scene.limiter
        async with scene.connect() as connection:
            await connection.send(connection.encode("POST", "/x", {"Content-Length": "50"}) + b"half")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert scene.in_use == 1
        await wait_idle(scene)
        async with scene.connect() as connection:
            await connection.send(connection.encode("POST", "/x", (), b"whole"))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert scene.in_use == 1
    assert limiter.statistics().slots["uploads"] == (0, MOST)
