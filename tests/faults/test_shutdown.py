"""T22: a gateway that is told to stop stops, whatever its clients do (section 8 of the design)."""

import random
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import orjson
import pytest
import trio

from tests.support.agent import AgentClosed, open_agent, stream_target
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import Connection, ConnectionLost, ask, open_connection, post_json
from tests.support.ingest import STREAM, some_events
from tests.support.nats_client import open_embedded_log
from tests.support.processes import ProcessName, freeze_process, is_alive, thaw_process
from tests.support.waiting import wait_until

DRAIN_S = 2
EXIT_LIMIT_S = DRAIN_S + 5
SMALL_BUFFER_BYTES = 4096
UPGRADE_HEADERS = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@asynccontextmanager
async def open_deaf_connection(gateway: Gateway) -> AsyncIterator[Connection]:
    """A connection whose client has a tiny receive buffer and will not read."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    await sock.connect((gateway.host, gateway.port))
    stream = trio.SocketStream(sock)
    try:
        yield Connection(stream, f"{gateway.host}:{gateway.port}")
    finally:
        sock.close()


async def send_until_stuck(connection: Connection, request: bytes, most_bytes: int = 4 << 20) -> bool:
    """Send a request again and again without reading; True when the gateway no longer takes any."""
    for _ in range(most_bytes // len(request)):
        with trio.move_on_after(0.5) as waited:
            await connection.send(request)
        if waited.cancelled_caught:
            return True
    return False


async def make_deaf_clients(gateway: Gateway, stack: AsyncExitStack) -> int:
    """Fifty clients that do not read: both lanes, WebSockets, half requests. Returns how many are stuck."""
    probes = orjson.dumps([{"path": "/a", "size": 1, "mtime": 1}] * 1000)
    stuck: list[bool] = []

    async def jam(connection: Connection, request: bytes) -> None:
        stuck.append(await send_until_stuck(connection, request))

    async with trio.open_nursery() as nursery:
        for _ in range(15):
            express = await stack.enter_async_context(open_deaf_connection(gateway))
            nursery.start_soon(jam, express, express.encode("POST", "/cache/batch", {}, probes))
        for _ in range(15):
            quart = await stack.enter_async_context(open_deaf_connection(gateway))
            nursery.start_soon(jam, quart, quart.encode("GET", "/actors") * 50)
    for number in range(15):
        agent = await stack.enter_async_context(open_deaf_connection(gateway))
        target = stream_target("snapfs.files", f"deaf-{number % 3}")
        await agent.send(agent.encode("GET", target, UPGRADE_HEADERS))
    for head in (
        b"",
        b"GET",
        b"POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{",
        b"GET /actors HTTP/1.1\r\n",
    ):
        half = await stack.enter_async_context(open_deaf_connection(gateway))
        await half.send(head)
    pipelined = await stack.enter_async_context(open_deaf_connection(gateway))
    await pipelined.send(pipelined.encode("GET", "/healthz"))
    return sum(stuck)


async def test_shutdown_with_fifty_clients_that_do_not_read(tmp_path: Path) -> None:
    """T22: exit 0 within the drain time and 5 s; children gone; no orphan."""
    env = {"HEADGATE_DRAIN_S": str(DRAIN_S)}
    async with open_gateway(tmp_path / "data", env=env) as gateway, AsyncExitStack() as stack:
        events = {"events": [{"type": "note", "data": {"pad": "x" * 4000}} for _ in range(100)]}
        for _ in range(5):
            assert (await post_json(gateway.url, "/ingest", events)).status == 200
        stuck_count = await make_deaf_clients(gateway, stack)
        print(f"{stuck_count} of 30 HTTP clients have the gateway stuck in a send")
        assert stuck_count >= 10, "the clients do not hold the gateway up: the test proves nothing"
        assert (await ask(gateway.url, "GET", "/healthz")).status == 200
        children = [name for pid in gateway.children() if (name := ProcessName.of(pid)) is not None]
        assert children
        began = time.monotonic()
        exit_code = await gateway.terminate(timeout_s=EXIT_LIMIT_S + 10)
        took_s = time.monotonic() - began
        print(f"exit code {exit_code} after {took_s:.2f} s")
        assert exit_code == 0, gateway.tail()
        assert took_s < EXIT_LIMIT_S
        assert not [child for child in children if is_alive(child)]
        assert "Traceback" not in gateway.log_text(), gateway.tail()


async def test_an_idle_gateway_stops_at_once(tmp_path: Path) -> None:
    """Nothing to drain, nothing to wait for: the drain time is a limit, not a sentence."""
    async with open_gateway(tmp_path / "data") as gateway, open_agent(gateway.url, "idle") as agent:
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        with pytest.raises(AgentClosed) as closed:
            await agent.receive()
        assert closed.value.code in (1001, 1012), "agents are told to come back"
        assert await gateway.wait_exit() == 0
        took_s = time.monotonic() - began
        print(f"stopped after {took_s:.2f} s")
        assert took_s < 3


async def test_a_second_sigterm_means_now(tmp_path: Path) -> None:
    """SIGTERM twice ends the drain; the children are stopped all the same."""
    env = {"HEADGATE_DRAIN_S": "30"}
    async with open_gateway(tmp_path / "data", env=env) as gateway, AsyncExitStack() as stack:
        await post_json(gateway.url, "/ingest", some_events(1000))
        deaf = await stack.enter_async_context(open_deaf_connection(gateway))
        probes = orjson.dumps([{"path": "/a", "size": 1, "mtime": 1}] * 1000)
        assert await send_until_stuck(deaf, deaf.encode("POST", "/cache/batch", {}, probes))
        agent = await stack.enter_async_context(open_agent(gateway.url, "holder"))
        await agent.receive()
        children = [name for pid in gateway.children() if (name := ProcessName.of(pid)) is not None]
        gateway.signal(signal.SIGTERM)
        began = time.monotonic()
        await wait_until(lambda: "drain" in gateway.log_text(), "the drain has begun", timeout_s=3)
        gateway.signal(signal.SIGTERM)
        await gateway.wait_exit(timeout_s=10)
        took_s = time.monotonic() - began
        print(f"exit code {gateway.exit_code} after {took_s:.2f} s")
        assert took_s < 3
        await wait_until(lambda: not any(map(is_alive, children)), "the children are gone", timeout_s=2)


async def test_requests_in_flight_are_answered_before_the_end(tmp_path: Path) -> None:
    """What waits for the log when SIGTERM comes is flushed and answered; then exit 0."""
    async with open_gateway(tmp_path / "data") as gateway, AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(open_connection(gateway.url)) for _ in range(8)]
        log = ProcessName.of(int(gateway.nats_child()["pid"]))
        assert log is not None
        await freeze_process(log)
        for connection in connections:
            body = orjson.dumps(some_events(5))
            await connection.send(connection.encode("POST", "/ingest", {"Content-Type": "application/json"}, body))
        for _ in range(2):  # what came before these is read by the time they are answered
            assert (await ask(gateway.url, "GET", "/healthz")).status == 200
        gateway.signal(signal.SIGTERM)
        await wait_until(lambda: "draining" in gateway.log_text(), "the drain has begun")
        thaw_process(log)
        answers = [await connection.read_answer() for connection in connections]
        assert [answer.status for answer in answers] == [200] * 8
        assert await gateway.wait_exit() == 0
        last = max(answer.json()["seq"] for answer in answers)
        await gateway.start()
        async with open_embedded_log(gateway) as client:
            stored = await client.read_stream(STREAM)
        assert sum(len(orjson.loads(message.data)["events"]) for message in stored) == 40
        assert stored[-1].sequence == last


async def test_a_stop_under_load_loses_nothing_that_was_acked(tmp_path: Path, chance: random.Random) -> None:
    """SIGTERM in the middle of a load: every 200 is in the log of the next life, every other answer is a 503."""
    acked: list[int] = []
    unanswered_count = 0
    async with open_gateway(tmp_path / "data") as gateway:

        async def produce() -> None:
            nonlocal unanswered_count
            while True:
                try:
                    answer = await post_json(gateway.url, "/ingest", some_events(100))
                except ConnectionLost:
                    unanswered_count += 1  # a connection that was never accepted looks like this
                except OSError:
                    return  # nobody listens any more
                else:
                    if answer.status != 200:
                        answer.problem(503)
                        continue
                    acked.append(answer.json()["seq"])

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(produce)
            target = chance.randrange(20, 200)
            await wait_until(lambda: len(acked) > target, "the load runs")
            assert await gateway.terminate() == 0
        await gateway.start()
        async with open_embedded_log(gateway) as log:
            stored = {message.sequence for message in await log.read_stream(STREAM)}
    print(f"{len(acked)} requests acked, {unanswered_count} connections closed without an answer")
    assert stored.issuperset(acked)
    assert unanswered_count <= 8, "one a producer: the connection that was on its way when the listener closed"
