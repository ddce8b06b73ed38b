"""HTTP/2 with several workers: a stream is answered by the worker that its request belongs to, on any connection."""

from contextlib import AsyncExitStack
from pathlib import Path

import orjson
from trio_websocket import open_websocket_url

from tests.support.gateway import open_gateway
from tests.support.http import ask
from tests.support.http2 import Http2Client, open_http2
from tests.support.waiting import wait_until

CONNECTIONS = 5


async def test_streams_of_one_connection_belong_to_many_workers(tmp_path: Path) -> None:
    """Pulled batches are settled, durables counted and scanners listed, whichever connection a stream is on."""
    env = {"HEADGATE_WORKERS": "2", "HTTP2": "on"}
    async with open_gateway(tmp_path / "data", env=env) as gateway, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_http2(gateway.url)) for _ in range(CONNECTIONS)]
        event = {"type": "t", "data": {"n": 1}}
        body = orjson.dumps({"events": [event] * 3})
        assert (await clients[0].ask("POST", "/ingest", {}, body)).status == 200
        for number in range(6):
            await pull_and_settle(clients[number % CONNECTIONS], clients[number - 1], f"p{number}")
        socket_url = gateway.url.replace("http", "ws", 1)
        async with open_websocket_url(f"{socket_url}/agents") as scanner:
            hello = {"type": "AGENT_HELLO", "agent_id": "s1", "agent_type": "scanner", "version": "1", "root_path": "/"}
            await scanner.send_message(orjson.dumps({**hello, "capabilities": ["scan.fs"]}).decode())
            await scanner.send_message('{"type":"PING"}')
            await scanner.get_message()
            for client in clients:
                old = await ask(gateway.url, "GET", "/agents")
                new = await client.ask("GET", "/agents")
                assert [one["agent_id"] for one in new.json()["agents"]] == ["s1"]
                assert new.header("connection") is None
                assert {name for name, _ in new.headers[1:]} == {name for name, _ in old.headers} - {"connection"}
                head = await client.ask("HEAD", "/agents")
                assert (head.status, bytes(head.body)) == (200, b"")
                large = await client.ask("POST", "/agents/s1/scan", {}, b" " * 70_000)
                assert (large.status, large.json()["code"]) == (413, "request.too-large")
                assert (await client.ask("POST", "/agents/s1/scan", {}, b"{")).status == 400
                assert (await client.ask("GET", "/agents/nobody")).status == 404
        await who_leaves_is_noticed(clients)
        assert not any(client.goaways for client in clients)


async def pull_and_settle(one: Http2Client, another: Http2Client, durable: str) -> None:
    """A batch that is pulled on one connection and settled on another is confirmed."""
    answer = await one.ask("GET", f"/stream/pull?subject=snapfs.files&durable={durable}&wait=10")
    batch = answer.json()
    last = len(batch["messages"]) - 1
    words = {"type": "settle", "batch": batch["batch"], "ack": [[0, last]], "durable": durable}
    settled = (await another.ask("POST", "/stream/settle", {}, orjson.dumps(words))).json()
    assert (settled["confirmed"], settled["late"]) == ([[0, last]], [])


async def who_leaves_is_noticed(clients: list[Http2Client]) -> None:
    """A pull that is reset while it waits holds up no other of its durable: what comes goes to who is there."""
    for client in clients:
        number = await client.begin("GET", "/stream/pull?subject=snapfs.files&durable=left&wait=30&from=new")
        client.h2.reset_stream(number, 8)
        await client.flush()

    async def is_delivered() -> bool:
        body = orjson.dumps({"events": [{"type": "t", "data": {"n": 2}}]})
        assert (await clients[0].ask("POST", "/ingest", {}, body)).status == 200
        answer = await clients[1].ask("GET", "/stream/pull?subject=snapfs.files&durable=left&wait=2")
        return answer.json()["batch"] is not None

    await wait_until(is_delivered, "whoever is there gets it", timeout_s=20)
