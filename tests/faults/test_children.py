"""T34: the embedded log's process lives and dies with its gateway (3.7)."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import trio

from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask, post_json
from tests.support.ingest import some_events
from tests.support.nats_server import nats_server_path
from tests.support.processes import ProcessName, is_alive, kill_process, spawn, start_time
from tests.support.waiting import wait_stays, wait_until

DATA_FOLDER_IN_USE = 5


def log_child(gateway: Gateway) -> ProcessName:
    """The embedded log's process, by child.json."""
    recorded = gateway.nats_child()
    name = ProcessName.of(int(recorded["pid"]))
    assert name is not None, "child.json names a process that is gone"
    assert name.start_time == int(recorded["start_time"])
    assert os.readlink(f"/proc/{name.pid}/exe") == recorded["exe"]
    assert name.pid in gateway.children()
    return name


async def is_ready(gateway: Gateway) -> bool:
    """Whether /readyz says so."""
    return (await ask(gateway.url, "GET", "/readyz")).status == 200


async def wait_new_child(gateway: Gateway, old: ProcessName, timeout_s: float) -> ProcessName:
    """Wait until another process than `old` is the log, and the gateway is ready."""

    async def is_back() -> bool:
        return int(gateway.nats_child()["pid"]) != old.pid and await is_ready(gateway)

    await wait_until(is_back, "the child was restarted and the gateway is ready", timeout_s=timeout_s)
    return log_child(gateway)


async def test_a_killed_child_is_restarted_with_backoff(tmp_path: Path) -> None:
    """T34: kill -9 of the log's process; it is back, and each time in a row the pause before it is longer."""
    async with open_gateway(tmp_path / "data") as gateway:
        took_s: list[float] = []
        for _ in range(3):
            child = log_child(gateway)
            began = time.monotonic()
            kill_process(child)
            await wait_new_child(gateway, child, timeout_s=15)
            took_s.append(time.monotonic() - began)
            assert (await post_json(gateway.url, "/ingest", some_events(1))).status == 200
        print(f"back after {[round(s, 2) for s in took_s]} s")
        assert took_s[2] > took_s[0], "no backoff"
        assert gateway.is_running
        actors = (await ask(gateway.url, "GET", "/actors")).json()["actors"]
        assert sum_restarts(actors, "nats") >= 3


async def test_a_fall_is_logged_without_local_variables(tmp_path: Path) -> None:
    """4.7: the log line of a fallen actor says what and where; variables of its frames could be secrets or payloads."""
    async with open_gateway(tmp_path / "data") as gateway:
        child = log_child(gateway)
        kill_process(child)
        await wait_new_child(gateway, child, timeout_s=15)
        falls = [line for line in gateway.log_lines() if line.get("level") == "error"]
        assert falls, "the fall is not in the log"
        assert "nats-server" in str(falls)
        assert "'locals'" not in str(falls)
        assert (gateway.data_dir / "nats" / "secret").read_text().strip() not in gateway.log_text()


def sum_restarts(actor: dict[str, object], name: str) -> int:
    """The restarts that the actor tree shows for actors whose name ends so."""
    own = int(str(actor["restarts"])) if str(actor["name"]).endswith(name) else 0
    children = actor["children"]
    assert isinstance(children, list)
    return own + sum(sum_restarts(child, name) for child in children)


async def test_a_killed_gateway_takes_its_children_with_it(tmp_path: Path) -> None:
    """T34: kill -9 of the gateway; its children are dead within 2 s, and the next gateway starts at once."""
    async with open_gateway(tmp_path / "data") as gateway:
        log_child(gateway)
        children = [name for pid in gateway.children() if (name := ProcessName.of(pid)) is not None]
        began = time.monotonic()
        gateway.kill()
        await wait_until(lambda: not any(map(is_alive, children)), "its children are dead", timeout_s=2)
        print(f"children dead after {time.monotonic() - began:.3f} s")
        await gateway.start()
        assert (await post_json(gateway.url, "/ingest", some_events(1))).status == 200


async def test_the_children_of_a_quiet_gateway_stay_alive(tmp_path: Path) -> None:
    """T34 (F10): a parent-death signal fires when the starting thread ends; after 16 quiet seconds none has."""
    async with open_gateway(tmp_path / "data") as gateway:
        child = log_child(gateway)
        await wait_stays(lambda: is_alive(child), "the log's process lives", for_s=16)
        assert log_child(gateway) == child
        assert await is_ready(gateway)


async def test_a_second_gateway_on_the_same_data_folder_refuses(tmp_path: Path) -> None:
    """T34: exit code 5 and a sentence that names the folder; the first one is not disturbed."""
    async with open_gateway(tmp_path / "data") as gateway:
        child = log_child(gateway)
        command = [sys.executable, "-m", "edge", "serve", "--port", "0", "--data", str(gateway.data_dir)]
        second = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, cwd=Path(__file__).parents[2]
        )
        assert second.returncode == DATA_FOLDER_IN_USE, second.stderr.decode()
        assert str(gateway.data_dir) in second.stderr.decode()
        assert "Traceback" not in second.stderr.decode()
        assert b"headgate ready" not in second.stdout
        assert log_child(gateway) == child
        assert await is_ready(gateway)


def record_child(gateway: Gateway, pid: int, argv: list[str]) -> None:
    """Write child.json as a gateway that died would have left it."""
    record = {
        "pid": pid,
        "start_time": start_time(pid),
        "exe": os.readlink(f"/proc/{pid}/exe"),
        "argv": argv,
    }
    (gateway.data_dir / "nats" / "child.json").write_text(json.dumps(record))


async def test_a_stale_child_of_a_dead_gateway_is_stopped_at_start(tmp_path: Path) -> None:
    """T34 (F9): a log process that outlived its gateway is stopped before a new one opens its files."""
    async with open_gateway(tmp_path / "data") as gateway:
        assert (await post_json(gateway.url, "/ingest", some_events(1))).json()["seq"] == 1
        argv = [str(word) for word in gateway.nats_child()["argv"]]
        assert await gateway.terminate() == 0
        orphan = spawn(argv, tmp_path / "orphan.log")
        try:
            said = tmp_path / "orphan.log"
            await wait_until(lambda: "Server is ready" in said.read_text(), "the orphan holds the log's files")
            assert orphan.poll() is None, said.read_text()
            record_child(gateway, orphan.pid, argv)
            await gateway.start()
            assert orphan.poll() is not None, "the stale child is still running"
            assert log_child(gateway).pid != orphan.pid
            assert (await post_json(gateway.url, "/ingest", some_events(1))).json()["seq"] == 2
        finally:
            orphan.kill()
            orphan.wait()


@pytest.mark.parametrize("what", ["start time", "executable", "gone", "garbage"])
async def test_a_childs_record_that_means_somebody_else_harms_nobody(tmp_path: Path, what: str) -> None:
    """T34 (F9): a pid that was used again is left alone, and a broken record does not keep a gateway from starting."""
    async with open_gateway(tmp_path / "data") as gateway:
        assert await gateway.terminate() == 0
        command = [str(nats_server_path()), "-a", "127.0.0.1", "-p", "-1"]
        if what == "executable":
            command = [sys.executable, "-c", "import signal; signal.pause()"]
        bystander = spawn(command, tmp_path / "bystander.log")
        try:
            record_child(gateway, bystander.pid, command)
            path = gateway.data_dir / "nats" / "child.json"
            record = json.loads(path.read_text())
            if what == "start time":
                record["start_time"] -= 100
            elif what == "executable":
                record["exe"] = str(nats_server_path())
            elif what == "gone":
                record["pid"] = 2**22 + 1  # above the kernel's largest pid
            path.write_text("{" if what == "garbage" else json.dumps(record))
            await gateway.start()
            assert await is_ready(gateway)
            assert bystander.poll() is None, "somebody else's process was ended"
        finally:
            bystander.kill()
            bystander.wait()


async def test_a_terminated_gateway_leaves_no_process(tmp_path: Path) -> None:
    """SIGTERM and SIGINT: exit 0 (or 130 for the interrupt), no child left, the folder free for the next one."""
    async with open_gateway(tmp_path / "data") as gateway:
        for signal_number, codes in ((signal.SIGTERM, {0}), (signal.SIGINT, {0, 130})):
            children = [name for pid in gateway.children() if (name := ProcessName.of(pid)) is not None]
            gateway.signal(signal_number)
            assert await gateway.wait_exit() in codes, gateway.tail()
            assert not [child for child in children if is_alive(child)]
            await gateway.start()


async def test_secrets_and_folders_are_the_owners_alone(gateway: Gateway) -> None:
    """3.7: the data folder is 0700, the secret 0600, and the log does not let strangers in."""
    nats = gateway.data_dir / "nats"
    assert gateway.data_dir.stat().st_mode & 0o777 == 0o700
    assert (nats / "secret").stat().st_mode & 0o777 == 0o600
    secret = (nats / "secret").read_text().strip()
    assert secret not in gateway.log_text()
    monitor = (await ask(gateway.url, "GET", "/readyz")).json()["dependencies"]["log"]["monitor_url"]
    port = (await ask(monitor, "GET", "/varz")).json()["port"]
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b'CONNECT {"verbose":false}\r\nPING\r\n')
        with trio.fail_after(5):
            received = b""
            while b"-ERR" not in received and b"PONG" not in received:
                received += await stream.receive_some(65_536)
    assert b"Authorization" in received
    # Nobody reads it out of the process list either.
    for pid in gateway.children():
        assert secret not in await trio.Path(f"/proc/{pid}/cmdline").read_text()
