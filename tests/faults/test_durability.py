"""T5: what the answers say about durability is true (P1, 3.1)."""

import re
import shutil
from pathlib import Path

import pytest
import trio

from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask, post_json
from tests.support.ingest import some_events
from tests.support.nats_server import open_nats_server
from tests.support.processes import spawn
from tests.support.waiting import wait_until

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="no strace on PATH (Debian: apt-get install strace)"
)

REQUESTS_COUNT = 40
# One call that puts bytes on the disk before it returns, finished in one line or in a resumed one.
SYNC_CALL = re.compile(r"(?:fsync|fdatasync|sync_file_range|msync)\b.*= 0$", re.MULTILINE)
OPENED = re.compile(r'openat\(\w+, "(?P<path>[^"]+)", (?P<flags>[A-Z_|]+)')


async def durability_of(gateway: Gateway) -> set[str]:
    """Every place that names the class: the ready line, /readyz and an answer."""
    ready = (await ask(gateway.url, "GET", "/readyz")).json()["durability"]
    answer = await post_json(gateway.url, "/ingest", some_events(1))
    assert answer.status == 200, answer.body
    return {gateway.durability, ready, answer.json()["durability"]}


async def embedded_varz(gateway: Gateway) -> dict[str, object]:
    """What the embedded server's monitoring says about JetStream's configuration."""
    monitor = (await ask(gateway.url, "GET", "/readyz")).json()["dependencies"]["log"]["monitor_url"]
    config: dict[str, object] = (await ask(monitor, "GET", "/varz")).json()["jetstream"]["config"]
    return config


async def test_the_embedded_log_syncs_always(tmp_path: Path) -> None:
    """T5: embedded, the class is fsync everywhere, and the server itself says that it syncs always."""
    async with open_gateway(tmp_path / "data") as gateway:
        assert await durability_of(gateway) == {"fsync"}
        assert (await embedded_varz(gateway))["sync_always"] is True


async def test_the_embedded_log_can_be_told_to_buffer_and_says_so(tmp_path: Path) -> None:
    """T5: HEADGATE_DURABILITY=buffered is an explicit opt-out that every answer names."""
    async with open_gateway(tmp_path / "data", env={"HEADGATE_DURABILITY": "buffered"}) as gateway:
        assert await durability_of(gateway) == {"buffered"}
        assert not (await embedded_varz(gateway)).get("sync_always")


@needs_strace
@pytest.mark.parametrize("durability", ["fsync", "buffered"])
async def test_every_answered_request_was_synced_before(tmp_path: Path, durability: str) -> None:
    """T5: strace counts at least one sync (or write to an O_SYNC file) a sequential request; the control has none.

    What nats-server does with `sync_interval: always`: it writes the message block and then calls fsync on it
    before it acknowledges; opened files carry no O_SYNC.
    """
    async with open_gateway(tmp_path / "data", env={"HEADGATE_DURABILITY": durability}) as gateway:
        assert (await post_json(gateway.url, "/ingest", some_events(1))).status == 200
        trace_path = tmp_path / "strace.out"
        pid = int(gateway.nats_child()["pid"])
        calls = "trace=fsync,fdatasync,sync_file_range,msync,openat,pwrite64"
        tracer = spawn(["strace", "-f", "-e", calls, "-o", str(trace_path), "-p", str(pid)], tmp_path / "strace.log")
        try:
            await wait_until(
                lambda: f"Process {pid} attached" in (tmp_path / "strace.log").read_text() or tracer.poll() is not None,
                "strace is attached",
            )
            if tracer.poll() is not None:
                pytest.skip(f"strace may not trace here: {(tmp_path / 'strace.log').read_text().strip()}")
            before = len(SYNC_CALL.findall(trace_path.read_text()))
            for _ in range(REQUESTS_COUNT):
                answer = await post_json(gateway.url, "/ingest", some_events(10))
                assert answer.status == 200, answer.body
        finally:
            tracer.terminate()
            with trio.move_on_after(5, shield=True):  # it detaches and ends; bounded
                await wait_until(lambda: tracer.poll() is not None, "strace has ended", timeout_s=4)
        trace = trace_path.read_text()
        syncs_count = len(SYNC_CALL.findall(trace)) - before
        sync_opens = [match["path"] for match in OPENED.finditer(trace) if "SYNC" in match["flags"]]
        print(f"{durability}: {syncs_count} syncs for {REQUESTS_COUNT} requests; O_SYNC files {sync_opens}")
        if durability == "fsync":
            assert syncs_count >= REQUESTS_COUNT or sync_opens
        else:
            assert syncs_count < REQUESTS_COUNT, "the control must fail, or the count proves nothing"


@pytest.mark.parametrize("is_told_the_monitor", [True, False])
async def test_an_external_log_is_buffered_until_it_proves_otherwise(tmp_path: Path, is_told_the_monitor: bool) -> None:
    """T5: a server that syncs at intervals, or that cannot be asked, is class buffered, with a warning."""
    async with open_nats_server(tmp_path / "nats", is_syncing_always=not is_told_the_monitor) as server:
        env = {"NATS_URL": server.url}
        if is_told_the_monitor:
            env["NATS_MONITOR_URL"] = server.monitor_url
        async with open_gateway(tmp_path / "data", env=env) as gateway:
            assert await durability_of(gateway) == {"buffered"}
            warnings = [line for line in gateway.log_lines() if line.get("level") == "warning"]
            assert any("buffered" in str(line) or "durab" in str(line) for line in warnings), gateway.tail()


async def test_an_external_log_that_syncs_always_is_fsync(tmp_path: Path) -> None:
    """T5: with NATS_MONITOR_URL showing sync_always the class is fsync, and there is nothing to warn of."""
    async with open_nats_server(tmp_path / "nats", is_syncing_always=True) as server:
        env = {"NATS_URL": server.url, "NATS_MONITOR_URL": server.monitor_url}
        async with open_gateway(tmp_path / "data", env=env) as gateway:
            assert await durability_of(gateway) == {"fsync"}
            assert not any("buffered" in str(line) for line in gateway.log_lines()), gateway.tail()
