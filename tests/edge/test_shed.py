"""Told at once to come back: the same answer as the long way gives, counted, and for nobody who must get in."""

import orjson
import pytest
import trio

from actors.turns import Turns
from edge.express import Connection
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
