"""`headgate demo`: the figures, the exit codes, and that nothing is left behind."""

import os
import signal
from pathlib import Path

import orjson
import pytest
import trio
import trio.testing

from edge.client import Client, Event
from edge.demo_ledger import Ledger
from tests.support.command import open_command, run_command
from tests.support.gateway import open_gateway
from tests.support.processes import is_alive
from tests.support.waiting import wait_until

KEYS = ["files", "bytes", "events", "hits_first", "hits_second", "events_per_s", "latency_ms", "agents", "durability"]
KEYS += ["directories", "duplicates"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three hundred files of a second that is long over."""
    folder = tmp_path / "tree"
    for number in range(300):
        path = folder / f"d{number // 50}" / f"{number}.exr"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content {number}" if number % 100 else "everywhere")  # three files are the same
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Take the commands' output, and be their TMPDIR's neighbour."""
    folder = tmp_path / "output"
    folder.mkdir()
    (tmp_path / "tmp").mkdir()
    return folder


async def test_demo_once_says_the_figures_and_leaves_nothing(tree: Path, output: Path, tmp_path: Path) -> None:
    """The keys of `--json` are exact, both agents acknowledged every event, and the temporary folder is gone."""
    env = {"TMPDIR": str(tmp_path / "tmp")}
    ended = await run_command(output, "demo", str(tree), "--once", "--json", env=env, timeout_s=60)
    assert ended.code == 0, ended.err
    figures = orjson.loads(ended.out)
    assert list(figures) == KEYS
    assert (figures["files"], figures["hits_first"], figures["hits_second"]) == (300, 0, 300)
    assert figures["events"] == 2 * (300 + 2)
    assert figures["agents"] == [{"durable": name, "acked": 604} for name in ("demo-a", "demo-b")]
    assert figures["durability"] == "fsync"
    assert figures["directories"][0] == {"directory": str(tree), "files": 300, "bytes": figures["bytes"]}
    assert sorted(one["directory"] for one in figures["directories"][1:]) == [str(tree / f"d{n}") for n in range(6)]
    assert figures["duplicates"] == {"contents": 1, "copies": 2, "bytes": 20}
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
    assert figures["events_per_s"] > 0
    assert os.listdir(tmp_path / "tmp") == []


async def test_demo_serves_until_ctrl_c(tree: Path, output: Path, tmp_path: Path) -> None:
    """After the table it says where it serves; Ctrl-C ends it with 0, and no process is left."""
    env = {"TMPDIR": str(tmp_path / "tmp")}
    async with open_command(output, "demo", str(tree), env=env) as command:
        await wait_until(lambda: "until Ctrl-C" in command.out, "the demo serves", timeout_s=60)
        assert "acknowledged by demo-b" in command.out
        url = command.out.split("serving at ")[1].split()[0]
        async with Client(url) as client:
            assert (await client.ready()).is_ready
        children = command.children()
        assert len(children) >= 2  # the gateway and its log
        command.signal(signal.SIGINT)
        ended = await command.wait_ended()
    assert ended.code == 0, ended.err
    assert not [child for child in children if is_alive(child)]
    assert os.listdir(tmp_path / "tmp") == []


async def test_demo_keeps_its_data_where_it_is_told(tree: Path, output: Path, tmp_path: Path) -> None:
    """`--data` keeps the log; SIGTERM in the middle ends it with 130 and stops the gateway."""
    data = tmp_path / "kept"
    async with open_command(output, "demo", str(tree), "--data", str(data), "--json") as command:
        await wait_until(lambda: "gateway ready at" in command.err, "the gateway is ready", timeout_s=30)
        children = command.children()
        command.signal(signal.SIGTERM)
        ended = await command.wait_ended()
    assert ended.code in {130, 0}  # 0 when it was faster than the signal
    assert (data / "nats").is_dir()
    assert not [child for child in children if is_alive(child)]


async def test_demo_that_is_killed_leaves_no_gateway(tree: Path, output: Path, tmp_path: Path) -> None:
    """SIGKILL of the demo: the gateway and its log are gone within two seconds."""
    async with open_command(output, "demo", str(tree), "--data", str(tmp_path / "data")) as command:
        await wait_until(lambda: "until Ctrl-C" in command.out, "the demo serves", timeout_s=60)
        children = command.children()
        command.signal(signal.SIGKILL)
        await wait_until(lambda: not any(map(is_alive, children)), "its children are gone", timeout_s=2)


async def test_demo_says_why_its_gateway_did_not_start(tree: Path, output: Path, tmp_path: Path) -> None:
    """A data folder in use: exit code 5, and the gateway's own words."""
    async with open_gateway(tmp_path / "data"):
        ended = await run_command(output, "demo", str(tree), "--data", str(tmp_path / "data"), "--once")
    assert ended.code == 5
    assert "in use" in ended.err
    assert "Traceback" not in ended.err


async def test_demo_ends_when_its_gateway_does(tree: Path, output: Path, tmp_path: Path) -> None:
    """It does not wait for a gateway that is gone."""
    async with open_command(output, "demo", str(tree), "--data", str(tmp_path / "data")) as command:
        await wait_until(lambda: "until Ctrl-C" in command.out, "the demo serves", timeout_s=60)
        gateway = command.children()[0]
        os.kill(gateway.pid, signal.SIGKILL)
        ended = await command.wait_ended()
    assert ended.code == 1
    assert "the gateway ended with exit code -9" in ended.err


def event(number: int) -> Event:
    """Give one of many."""
    return Event("file.upsert", {"scan_id": "s", "path": f"/{number}"})


async def test_the_ledger_counts_an_event_once_for_each_agent() -> None:
    """Redelivered events and events of others count nothing."""
    ledger = Ledger(["a", "b"])
    ledger.note_sent([event(1), event(2)], 10.0)
    ledger.note_acked("a", [event(1), event(1), event(99)], 10.5)
    ledger.note_acked("a", [event(1), event(2)], 12.0)
    assert (ledger.acked("a"), ledger.acked("b")) == (2, 0)
    assert (ledger.latency_ms(0.0), ledger.latency_ms(0.99)) == (500.0, 2000.0)


async def test_the_ledger_waits_until_all_is_acknowledged(autojump_clock: trio.testing.MockClock) -> None:
    """It waits as long as somebody makes progress, and gives up when nobody does."""
    ledger = Ledger(["a"])
    ledger.note_sent([event(number) for number in range(3)], 0.0)

    async def acknowledge() -> None:
        for number in range(3):
            await trio.sleep(8)
            ledger.note_acked("a", [event(number)], trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(acknowledge)
        assert await ledger.wait_all_acked(stall_s=10)
    ledger.note_sent([event(4)], 0.0)
    began = trio.current_time()
    assert not await ledger.wait_all_acked(stall_s=10)
    assert trio.current_time() - began == pytest.approx(10)


def test_latency_of_nothing_is_nothing() -> None:
    """No delivery, no division by zero."""
    assert Ledger(["a"]).latency_ms(0.5) == 0.0
