"""Every line on the real process's stderr is JSON, and a request's line says who asked what, and how it went."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from tests.support.gateway import PROJECT_ROOT, Gateway, open_gateway
from tests.support.http import ask, open_connection
from tests.support.waiting import wait_until

KEY = "a-key-of-a-service-0123456789"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


async def line_of(gateway: Gateway, request_id: str) -> dict[str, Any]:
    """Wait for a request's line."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [one for one in map(orjson.loads, written(gateway)) if one.get("request_id") == request_id]
        return bool(found)

    await wait_until(look, f"the line of {request_id}")
    return found[0]


def written(gateway: Gateway) -> list[bytes]:
    """The whole lines of its stderr."""
    return gateway.log_path.read_bytes().split(b"\n")[:-1]


async def test_every_line_is_json_and_says_who_asked_what(tmp_path: Path) -> None:
    """On both lanes, for what is answered and what is refused, beside broken connections and a log that was killed."""
    env = {"AUTH": "on", "HEADGATE_API_KEYS": f"scanner={KEY};scopes=ingest:write+stream:manage"}
    env |= {"HEADGATE_LOG_EXPRESS": "all", "HEADGATE_LOG_LEVEL": "debug"}
    body = b'{"events":[{"type":"note","data":{}}]}'
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        headers = {"X-API-Key": KEY, "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
        for request_id, method, target, route, status, principal, more in (
            ("express", "POST", "/ingest?token=geheim", "/ingest", 200, "scanner", headers),
            ("quart", "GET", "/consumers/geheim-not", "/consumers/{durable}", 404, "scanner", headers),
            ("stranger", "GET", "/consumers", "/consumers", 401, "nobody", {"X-API-Key": "geheim"}),
        ):
            sent = {"X-Request-Id": request_id, **more}
            answer = await ask(gateway.url, method, target, sent, body if method == "POST" else None)
            assert answer.status == status, answer
            line = await line_of(gateway, request_id)
            assert line.keys() >= {"request_id", "trace_id", "principal", "route", "status", "duration_ms", "method"}
            assert (line["route"], line["status"], line["level"]) == (route, status, "info")
            assert (line["trace_id"] == TRACE_ID) is ("traceparent" in more)
            assert (line["principal"] == "scanner") is (principal == "scanner")
            assert isinstance(line["duration_ms"], float)
        async with open_connection(gateway.url) as connection:
            await connection.send(b"GET /\xff\x00 HTTP/1.1\r\nHost: a\r\n\r\n")
            await connection.read_to_end()
        os.kill(gateway.nats_child()["pid"], signal.SIGKILL)
        await wait_until(lambda: b"actor fell" in gateway.log_path.read_bytes(), "the fall is in the log")
        assert await gateway.terminate() == 0
        lines = written(gateway)
        assert len(lines) >= 5
        for raw in lines:
            line = orjson.loads(raw)
            assert line.keys() >= {"message", "level", "time"}, line
        assert b"geheim" not in b"".join(one for one in lines if b"geheim-not" not in one)
        assert KEY.encode() not in gateway.log_path.read_bytes()


def test_what_libraries_say_is_a_line_like_ours() -> None:
    """Through `logging`, with and without an exception, and Python's own warnings; below warnings nothing."""
    program = """
import logging, warnings
from edge.logs import configure_logs
configure_logs("info")
log = logging.getLogger("some.library")
log.info("not %s", "this")
log.warning("but %s", "this")
try:
    raise ValueError("on purpose")
except ValueError:
    log.exception("and this")
log.warning("%d", "what cannot be formatted")
warnings.warn("careful")
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, check=True)
    lines = [orjson.loads(one) for one in ran.stderr.splitlines()]
    assert [one["message"] for one in lines[:3]] == ["but this", "and this", "%d"]
    assert (lines[0]["level"], lines[0]["library"]) == ("warning", "some.library")
    assert lines[1]["exception"][0]["exc_type"] == "ValueError"
    assert "careful" in lines[-1]["message"]
