"""Too much waits for the log: refused at once, before the body is read, and over as soon as the log answers (P5)."""

import time
from contextlib import AsyncExitStack
from pathlib import Path

import orjson

from tests.support.gateway import Gateway, open_gateway
from tests.support.http import Answer, ask, open_connection, post_json
from tests.support.ingest import MAX_EVENTS, some_events
from tests.support.processes import ProcessName, freeze_process, read_rss_bytes, thaw_process
from tests.support.waiting import wait_until

# Twenty would fill the queue's 200,000 events; some frames are in flight and do not count.
REQUESTS_COUNT = 30
SHED_LIMIT_S = 0.5
HEALTH_LIMIT_S = 0.5
GROWTH_LIMIT_BYTES = 300 << 20


async def ask_with_a_head_alone(gateway: Gateway) -> Answer:
    """Announce a body, send none of it, and take the answer that comes all the same."""
    async with open_connection(gateway.url) as connection:
        headers = {"Content-Type": "application/json", "Content-Length": "1000000"}
        await connection.send(connection.encode("POST", "/ingest", headers))
        return await connection.read_answer(timeout_s=5)


async def test_too_much_waiting_is_refused_before_the_body_is_read(tmp_path: Path) -> None:
    """P5: with a log that hangs, ingest sheds with 503 and Retry-After; /healthz answers; then all is well again."""
    async with open_gateway(tmp_path / "data") as gateway, AsyncExitStack() as stack:
        assert (await post_json(gateway.url, "/ingest", some_events(1))).status == 200
        before = read_rss_bytes(gateway.pid)
        log = ProcessName.of(int(gateway.nats_child()["pid"]))
        assert log is not None
        body = orjson.dumps(some_events(MAX_EVENTS))
        connections = [await stack.enter_async_context(open_connection(gateway.url)) for _ in range(REQUESTS_COUNT)]
        await freeze_process(log)
        try:
            for connection in connections:
                await connection.send(connection.encode("POST", "/ingest", {}, body))
            began = time.monotonic()
            shed = await ask_with_a_head_alone(gateway)
            shed_s = time.monotonic() - began
            began = time.monotonic()
            assert (await ask(gateway.url, "GET", "/healthz")).status == 200
            health_s = time.monotonic() - began
            growth = read_rss_bytes(gateway.pid) - before
            answers = [await connection.read_answer() for connection in connections]
        finally:
            thaw_process(log)
        print(f"shed after {shed_s:.3f} s, /healthz in {health_s:.3f} s, {growth >> 20} MiB more")
        shed.problem(503)
        assert int(shed.header("retry-after") or "0") >= 1
        assert shed_s < SHED_LIMIT_S
        assert health_s < HEALTH_LIMIT_S
        assert growth < GROWTH_LIMIT_BYTES
        for answer in answers:
            answer.problem(503)
            assert int(answer.header("retry-after") or "0") >= 1

        async def is_taken() -> bool:
            return (await post_json(gateway.url, "/ingest", some_events(1))).status == 200

        await wait_until(is_taken, "ingest takes events again", timeout_s=10)
