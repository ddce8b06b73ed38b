"""Told at once to come back: the same answer as the long way gives, counted, and for nobody who must get in."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
import trio

from actors.tree import Actor
from actors.turns import Turns
from edge.express import HEAD_RECEIVE_BYTES, Connection
from edge.heads import read_head
from edge.http import Request, Response, json_response
from edge.normaliser import Head
from edge.problems import problem_response
from edge.routes import Lane, Route, RouteTable
from edge.shed import encode_shed, overload_of
from edge.tcp_stream import TcpStream
from engine.errors import Unavailable
from engine.metrics import Metrics
from engine.patience import BURST_S
from engine.turns import PASS_BYTES
from tests.support import http
from tests.support.tcp import open_tcp
from tests.support.waiting import wait_until


async def handle(request: Request) -> Response:
    """Read and answer."""
    await request.read_body(1000)
    return json_response({"is": "well"})


def is_full() -> None:
    """Say that the log has no room."""
    raise Unavailable("ingest.full", "much waits", 1.0)


ROUTES = [
    Route("POST", "/work", handle, Lane.EXPRESS, "a test", scope="ingest:write"),
    Route("POST", "/full", handle, Lane.EXPRESS, "a test", is_full, scope="ingest:write", is_early=True),
    Route("POST", "/late", handle, Lane.EXPRESS, "a test", is_full, scope="ingest:write"),
    Route("GET", "/probe", handle, Lane.EXPRESS, "a test", scope=None),
]


class Busy(Turns):
    """Where the first has waited for too long already."""

    def check_room(self) -> None:
        """Refuse."""
        raise Unavailable("server.busy", "much waits", 1.0)


@pytest.fixture
def table() -> RouteTable:
    """Routes that nobody guards."""
    return RouteTable(ROUTES, Metrics())


def head_of(method: str, path: str, *lines: str) -> Head:
    """A request's head."""
    return read_head("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode())


def test_the_answer_is_the_one_of_the_long_way(table: RouteTable) -> None:
    """Status, members, headers; it is counted by its route, and the log's next line says that one had none."""
    head = head_of("POST", "/full")
    overload = overload_of(table, head)
    assert overload is not None
    said = encode_shed(table, overload, head, "id-1", stays=True)
    lines, _, body = said.partition(b"\r\n\r\n")
    wanted = problem_response(overload, "id-1", "/full")
    found, whole = orjson.loads(body), orjson.loads(wanted.body)
    assert found.keys() == whole.keys()
    assert {name for name in found if found[name] != whole[name]} == {"detail", "error"}
    assert lines.startswith(b"HTTP/1.1 503 ")
    for line in (b"content-type: application/problem+json", b"retry-after: 1", b"x-request-id: id-1"):
        assert line in lines.lower().split(b"\r\n")
    assert f"content-length: {len(body)}".encode() in lines
    assert table.metrics.requests == {("/full", "POST", 503): 1}
    assert table.lines.left_out == 1
    again = encode_shed(table, overload, head, "id-2", stays=False)
    assert orjson.loads(again.partition(b"\r\n\r\n")[2])["request_id"] == "id-2"


def test_only_what_is_work_is_turned_away_so_early(table: RouteTable) -> None:
    """Probes get in, so does who may be told more than yes or no; a page and a trace take the long way."""
    assert overload_of(table, head_of("POST", "/work")) is None
    table.turns = Busy()
    assert overload_of(table, head_of("POST", "/work")) is not None
    assert overload_of(table, head_of("GET", "/probe")) is None
    assert overload_of(table, head_of("GET", "/nothing")) is None
    for line in ("Origin: https://app.example", "traceparent: 00-" + "1" * 32 + "-" + "2" * 16 + "-01"):
        assert overload_of(table, head_of("POST", "/work", line)) is None
    table.turns = None
    assert overload_of(table, head_of("POST", "/late")) is None


@pytest.mark.parametrize("path", ["/work", "/full"])
async def test_who_is_turned_away_leaves_nothing_for_the_cycle_collector(table: RouteTable, path: str) -> None:
    """The reason is kept by a frame that its traceback would name: such a ring stays until somebody looks for it."""
    if path == "/work":
        table.turns = Busy()
    async with open_served(table) as (_, client):

        async def ask(count: int) -> None:
            for _ in range(count):
                answer = await client.request("POST", path, {}, b"{}")
                assert answer.status == 503

        await ask(5)
        gc.collect()
        gc.disable()
        try:
            await ask(100)
            assert gc.collect() < 100
        finally:
            gc.enable()


async def test_a_client_hears_it_and_keeps_its_connection(table: RouteTable) -> None:
    """Also for a client that has sent its next request already, and one whose kernel takes nothing for a while."""
    table.turns = Busy()
    ours, theirs = trio.socket.socketpair()

    async def never(*_: object) -> None:
        raise AssertionError("nobody asked for that")

    client = http.Connection(trio.SocketStream(theirs), "x")
    async with TcpStream(trio.SocketStream(ours)) as stream:
        served = Connection(stream, "127.0.0.1", table, never, never, lambda: False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.run)
            count = 500
            with trio.fail_after(10):
                async with trio.open_nursery() as both:
                    both.start_soon(client.send, client.encode("POST", "/work", (), b"{}") * count)
                    for _ in range(count):
                        answer = await client.read_answer()
                        assert answer.problem(503)["code"] == "server.busy"
                        assert answer.header("connection") is None
            nursery.cancel_scope.cancel()
    theirs.close()
    assert table.metrics.requests[("/work", "POST", 503)] == count


@asynccontextmanager
async def open_served(table: RouteTable) -> AsyncIterator[tuple[Connection, http.Connection]]:
    """A connection over TCP that is served, and its client."""

    async def never(*_: object) -> None:
        raise AssertionError("nobody asked for that")

    async with open_tcp() as (stream, theirs), trio.open_nursery() as nursery:
        served = Connection(stream, "127.0.0.1", table, never, never, lambda: False)
        nursery.start_soon(served.run)
        yield served, http.Connection(theirs, "x")
        nursery.cancel_scope.cancel()


async def test_a_large_body_that_nobody_wants_is_thrown_away_and_nothing_else(table: RouteTable) -> None:
    """Whether it looks like a request or not; what is sent behind it is the next request."""
    table.turns = Busy()
    body = b"GET /probe HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    async with open_served(table) as (_, client):
        with trio.fail_after(10):
            for _ in range(20):
                await client.send(client.encode("POST", "/work", (), body) + client.encode("GET", "/probe", (), b""))
                assert (await client.read_answer()).problem(503)["code"] == "server.busy"
                assert (await client.read_answer()).status == 200
    assert table.metrics.requests == {("/work", "POST", 503): 20, ("/probe", "GET", 200): 20}


async def test_a_body_waits_for_its_turn_where_it_is() -> None:
    """It is read when it is worked on, whole; until then the gateway holds its beginning alone."""
    turns, body, seen = Turns(), bytes(range(256)) * 180, list[bytes]()

    async def keep(request: Request) -> Response:
        seen.append(await request.read_body(len(body)))
        return json_response({})

    route = Route("POST", "/work", keep, Lane.EXPRESS, "a test", scope=None)
    table = RouteTable([route], Metrics(), turns=turns)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(turns.take, PASS_BYTES)
        await wait_until(lambda: turns.mailbox().depth == 1, "somebody waits")
        async with open_served(table) as (served, client):
            await client.send(client.encode("POST", "/work", (), body))
            await wait_until(lambda: turns.mailbox().depth == 2, "the body waits")
            assert len(served.taken()) <= HEAD_RECEIVE_BYTES
            assert not seen
            nursery.start_soon(turns.run, Actor("turns", 0.0), lambda: None)
            with trio.fail_after(10):
                assert (await client.read_answer()).status == 200
        nursery.cancel_scope.cancel()
    assert seen == [body]


async def test_turns_that_wait_too_long_are_what_turns_away(table: RouteTable, autojump_clock: object) -> None:
    """The table asks the queue of bodies, whose first has waited longer than a burst may."""
    table.turns = Turns()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(table.turns.take, PASS_BYTES)
        await trio.sleep(BURST_S + 0.1)
        overload = overload_of(table, head_of("POST", "/work"))
        nursery.cancel_scope.cancel()
    assert overload is not None
    assert overload.kind.code == "server.busy"
    assert overload_of(table, head_of("POST", "/work")) is None
