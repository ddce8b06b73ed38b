"""T26: of a request that hides a second one, exactly one reaches a handler, or none.

What is behind the gateway is a row of `UPSTREAMS`: the express lane's own handlers, a strict recorder in place of
Hypercorn behind the gate of the Quart lane. A proxy is one row more. The same packets go to a whole gateway, whose log
and request lines say what it did.

Rules of the file:
- The controls of the corpus hold two requests, openly, and must be seen as two: a recorder that sees nothing proves
  nothing.
"""

import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import orjson
import pytest
import trio

from edge.express import Connection
from edge.gate import Gate
from edge.guard import Passed
from edge.http import Request, Response
from edge.listener import Listener
from edge.normaliser import Head
from edge.routes import Lane, Route, RouteTable, SocketRoute
from edge.sockets import Session
from engine.identity import NOBODY
from engine.metrics import Metrics
from tests.support.gateway import Gateway, open_gateway
from tests.support.hostile_exchange import cuts_of
from tests.support.hostile_packet import Packet
from tests.support.http import ConnectionLost, ask, open_connection
from tests.support.ingest import STREAM
from tests.support.nats_client import open_embedded_log
from tests.support.smuggling import INNER_MARK, Smuggle, smuggles
from tests.support.strict_recorder import StrictRecorder

AT_ONCE = 16
ENDS_WITHIN_S = 20.0
MOST_BODY_BYTES = 1 << 20
OUTER = "/outer"


@dataclass
class Behind:
    """What stands behind the front: where it is, and what reached it.

    Attributes:
        url: of the front.
        target: where an outer request is to go.
        seen: bodies of the requests that reached it, by the id of the connection's first request.
        complaints: what reached it and was not one request.
    """

    url: str
    target: bytes
    seen: list[tuple[str, bytes]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


Upstream = Callable[[], AbstractAsyncContextManager[Behind]]
"""Opens a front with something behind it that records."""


@asynccontextmanager
async def open_front(behind: Behind, *, reads: bool, is_quart: bool) -> AsyncIterator[Behind]:
    """The real listener with a table whose handlers record; on the Quart lane, a strict recorder behind the gate."""

    async def record(request: Request) -> Response:
        body = await request.read_body(MOST_BODY_BYTES) if reads else b""
        behind.seen.append((request.method + " " + request.path, body))
        return Response(200, b"{}")

    async def admit(_: Head, __: str) -> Passed:
        return Passed(NOBODY)

    async def hand_over(connection: Connection, head: Head) -> None:
        gate, recorder = Gate(connection, head, admit), StrictRecorder()
        while data := await gate.receive_some(100):
            try:
                count = recorder.feed(data)
            except AssertionError as problem:
                behind.complaints.append(str(problem))
                break
            for _ in range(count):
                last = recorder.requests[-1]
                behind.seen.append((f"{last.method} {last.target}", last.body))
                await gate.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                gate.answered()
        if recorder.rest:
            behind.complaints.append(f"the gate let half a request through: {recorder.rest!r}")
        await gate.aclose()

    async def upgrade(*_: object) -> None:
        """Give the connection up: a WebSocket's frames are no requests."""

    async def open_nothing(_: Request) -> Session:
        raise NotImplementedError

    outer_lane = Lane.QUART if is_quart else Lane.EXPRESS
    routes = [
        Route("POST", OUTER, record, outer_lane, "", scope=None),
        Route("POST", "/ingest", record, Lane.EXPRESS, "", scope=None),
        Route("GET", "/healthz", record, Lane.EXPRESS, "", scope=None),
        Route("POST", "/version", record, Lane.QUART, "", scope=None),
    ]
    streams = {"/stream": SocketRoute("/stream", open_nothing, "", scope=None)}
    listener = Listener(RouteTable(routes, Metrics(), streams), hand_over, upgrade, 1000, 1000)
    sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(listener.run, sockets, nursery))
        behind.url = f"http://127.0.0.1:{sockets[0].socket.getsockname()[1]}"
        yield behind
        nursery.cancel_scope.cancel()
    for one in sockets:
        one.socket.close()


UPSTREAMS: dict[str, Upstream] = {
    "express": lambda: open_front(Behind("", OUTER.encode()), reads=True, is_quart=False),
    "express, a handler that reads nothing": lambda: open_front(
        Behind("", OUTER.encode()), reads=False, is_quart=False
    ),
    "behind the gate": lambda: open_front(Behind("", OUTER.encode()), reads=True, is_quart=True),
}


async def send_all_of(url: str, data: bytes, cut: int | None) -> bytes:
    """Send a packet, in one piece or two, say that nothing more comes, and give everything that is answered."""
    with trio.fail_after(ENDS_WITHIN_S):
        async with open_connection(url) as connection:
            try:
                if cut is not None:
                    await connection.send(data[:cut])
                    await ask(url, "GET", "/healthz")  # by its answer the first piece has been seen
                await connection.send(data[cut or 0 :])
                await connection.stream.send_eof()
            except (ConnectionLost, trio.BrokenResourceError):
                pass  # refused before it was whole
            return await connection.read_to_end(timeout_s=ENDS_WITHIN_S)


def count_answers(data: bytes) -> int:
    """How many final answers there are, without a last 400: it refuses what was behind, and ends the connection."""
    statuses = [status for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", data) if status != b"100"]
    return len(statuses) - (len(statuses) > 1 and statuses[-1] == b"400")


async def try_one(behind: Behind, smuggle: Smuggle, cut: int | None = None) -> list[str]:
    """Send one packet, and say what was wrong with what became of it."""
    behind.seen.clear()
    answers = count_answers(await send_all_of(behind.url, smuggle.data, cut))
    requests = [request for request, _ in behind.seen if not request.endswith("/healthz")]
    inner = [request for request in requests if "/ingest" in request]
    found = list(behind.complaints)
    behind.complaints.clear()
    if len(requests) > smuggle.most or len(inner) > smuggle.most - 1:
        found.append(f"{requests} reached a handler")
    if answers > smuggle.most:
        found.append(f"{answers} answers")
    if smuggle.name.startswith("control: two") and len(inner) != 1:
        found.append(f"the control was not seen: {requests}")
    where = "" if cut is None else f" cut after {cut} bytes"
    return [f"{smuggle.name}{where}: {one}" for one in found]


@pytest.mark.parametrize("name", UPSTREAMS)
async def test_of_a_request_that_hides_another_one_or_none_is_seen(name: str) -> None:
    """T26: every trick against what stands behind each lane."""
    async with UPSTREAMS[name]() as behind:
        reads_nothing = "reads nothing" in name
        complaints = []
        for smuggle in smuggles(behind.target):
            if reads_nothing and smuggle.name.startswith("control: two"):
                continue  # its body is unread, so the connection ends with it
            complaints += await try_one(behind, smuggle)
    assert not complaints, f"{len(complaints)} complaints\n" + "\n".join(complaints)


@pytest.mark.long
@pytest.mark.parametrize("name", UPSTREAMS)
async def test_wherever_such_a_request_is_cut_the_same_is_seen(name: str, chance: random.Random) -> None:
    """T26: in two pieces, cut at every sixteenth byte from a random one on."""
    async with UPSTREAMS[name]() as behind:
        complaints = []
        for smuggle in smuggles(behind.target):
            if "reads nothing" in name and smuggle.name.startswith("control: two"):
                continue
            for cut in cuts_of(Packet(smuggle.name, smuggle.data), chance, every=16):
                complaints += await try_one(behind, smuggle, cut)
    assert not complaints, f"{len(complaints)} complaints\n" + "\n".join(complaints)


LIVE = {"express": b"/ingest?subject=snapfs.outer", "quart": b"/consumers/smuggle/resume"}


async def test_a_whole_gateway_does_what_one_request_says_or_nothing(tmp_path: Path) -> None:
    """T26: no hidden event is on the log, no hidden request has a line, and no connection gets an answer too many."""
    complaints: list[str] = []
    async with open_gateway(tmp_path / "data", env={"HEADGATE_LOG_EXPRESS": "all"}) as gateway:
        for lane, target in LIVE.items():
            tricks = iter(smuggles(target))

            async def try_some(lane: str = lane, tricks: Iterator[Smuggle] = tricks) -> None:
                for smuggle in tricks:
                    answers = count_answers(await send_all_of(gateway.url, smuggle.data, None))
                    if answers > smuggle.most:
                        complaints.append(f"{lane}: {smuggle.name}: {answers} answers")

            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(try_some)
        hidden = await count_hidden_events(gateway)
        lines = [line for line in gateway.log_lines() if line.get("request_id") == INNER_MARK.decode()]
        faults = [line for line in gateway.log_lines() if line.get("level") in ("error", "critical")]
    openly = [smuggle for target in LIVE.values() for smuggle in smuggles(target) if smuggle.most == 2]
    complaints += [str(fault) for fault in faults]
    assert not complaints, "\n".join(complaints)
    assert 4 <= hidden <= len(openly), f"{hidden} hidden events were stored; {len(openly)} packets hold one openly"
    assert len(lines) <= len(openly)


async def count_hidden_events(gateway: Gateway) -> int:
    """How many events of inner requests the log holds."""
    async with open_embedded_log(gateway) as log:
        stored = await log.read_stream(STREAM)
    events = [event for message in stored for event in orjson.loads(message.data)["events"]]
    return sum(event["type"] == INNER_MARK.decode() for event in events)
