"""Answers in pieces: whole ones end with the last chunk, cut ones without it, and a client that leaves is noticed."""

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from edge.express import Connection
from edge.http import Request, Response, json_response
from edge.normaliser import Head
from edge.routes import Lane, Route, RouteTable
from edge.tcp_stream import TcpStream
from engine.errors import Refused
from engine.metrics import Metrics
from tests.support import http
from tests.support.tcp import open_tcp

Handler = Callable[[Request], Awaitable[Response]]


async def no_hand_over(_: Connection, __: Head) -> None:
    """No route of these tests is on the other lane."""


async def no_upgrade(*_: object) -> None:
    """Nor a WebSocket."""


@asynccontextmanager
async def open_served(handler: Handler) -> AsyncIterator[tuple[http.Connection, Connection]]:
    """A connection that the lane serves with one route, and the client's end of it; small buffers."""
    ours, theirs = trio.socket.socketpair()
    for one in (ours, theirs):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    table = RouteTable([Route("POST", "/x", handler, Lane.EXPRESS, "a test", scope=None)], Metrics())
    served = Connection(TcpStream(trio.SocketStream(ours)), "127.0.0.1", table, no_hand_over, no_upgrade, lambda: False)

    async def serve() -> None:
        with served.stream.socket:
            await served.run()

    client = http.Connection(trio.SocketStream(theirs), "x")
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield client, served
            nursery.cancel_scope.cancel()


async def test_a_whole_body_comes_in_chunks_and_the_connection_stays() -> None:
    """Large pieces too; then the next request is answered."""
    pieces = [b"one\n", b"", b"x" * 200_000, b"end\n"]

    async def answer(request: Request) -> Response:
        response = Response(200, content_type="text/plain")
        send = await request.begin(response)
        for piece in pieces:
            await send(piece)
        return response

    async with open_served(answer) as (client, _):
        for _ in range(2):
            got = await client.request("POST", "/x", body=b"")
            assert got.status == 200
            assert got.header("transfer-encoding") == "chunked"
            assert got.header("content-length") is None
            assert got.header("x-content-type-options") == "nosniff"
            assert got.body == b"".join(pieces)


@pytest.mark.parametrize("fault", [Refused("query.wrong", "no"), RuntimeError("a bug")])
async def test_a_body_that_fails_in_the_middle_has_no_end(fault: Exception) -> None:
    """A client sees that it has a part only; nothing else is written into it."""

    async def answer(request: Request) -> Response:
        send = await request.begin(Response(200))
        await send(b"a part")
        raise fault

    async with open_served(answer) as (client, _):
        with pytest.raises(http.ConnectionLost):
            await client.request("POST", "/x", body=b"")


async def test_a_fault_before_the_body_is_a_problem() -> None:
    """Nothing was begun, so the answer is an ordinary one."""

    async def answer(_: Request) -> Response:
        raise Refused("query.wrong", "no")

    async with open_served(answer) as (client, _):
        (await client.request("POST", "/x", body=b"")).problem(400)


async def test_http_1_0_gets_no_pieces() -> None:
    """It could not tell a part from the whole, so it is refused."""

    async def answer(request: Request) -> Response:
        await request.begin(Response(200))
        raise AssertionError("begun")

    async with open_served(answer) as (client, _):
        await client.send(b"POST /x HTTP/1.0\r\ncontent-length: 0\r\n\r\n")
        assert b" 501 " in await client.read_to_end()


async def test_a_client_that_leaves_is_noticed_while_it_is_answered() -> None:
    """Its end of the connection closes, and the handler learns of it; bytes of a next request are no leaving."""
    left = trio.Event()

    async def answer(request: Request) -> Response:
        with trio.move_on_after(3):
            await request.wait_left()
            left.set()
        return json_response({})

    async with open_served(answer) as (client, _):
        await client.send(client.encode("POST", "/x", body=b""))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.aclose()
        with trio.fail_after(2):
            await left.wait()


async def test_a_connection_that_breaks_is_one_that_was_left() -> None:
    """It breaks for whoever waits for that and for whoever sends; the one who waits says only that nobody is there."""
    left = trio.Event()

    async def answer(request: Request) -> Response:
        await request.wait_left()
        left.set()
        return json_response({})

    table = RouteTable([Route("POST", "/x", answer, Lane.EXPRESS, "a test", scope=None)], Metrics())
    async with open_tcp() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(Connection(ours, "127.0.0.1", table, no_hand_over, no_upgrade, lambda: False).run)
        await theirs.send_all(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed with a reset
        await theirs.aclose()
        with trio.fail_after(2):
            await left.wait()


async def test_a_client_that_reads_nothing_meets_the_lanes_deadline() -> None:
    """A write into a full connection waits, and carries the deadline that the listener's reaper looks at."""

    async def answer(request: Request) -> Response:
        send = await request.begin(Response(200))
        while True:
            await send(b"x" * 65_536)

    async with open_served(answer) as (client, served):
        await client.send(client.encode("POST", "/x", body=b""))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert served.deadline < trio.current_time() + 11
        served.scope.cancel()


async def test_many_requests_in_one_packet_do_not_go_before_others() -> None:
    """Who sends twenty at once is answered one at a time, in turns with everybody else."""
    answered: list[str] = []

    async def note(request: Request) -> Response:
        answered.append(request.headers["who"])
        return Response(200)

    def twenty(who: str) -> bytes:
        return f"POST /x HTTP/1.1\r\nHost: x\r\nWho: {who}\r\n\r\n".encode() * 20

    async with open_served(note) as (one, _), open_served(note) as (other, _):
        await one.send(twenty("one"))
        await other.send(twenty("other"))
        for _ in range(20):
            assert (await one.read_answer()).status == (await other.read_answer()).status == 200
    assert "other" in answered[:19]
