"""`headgate scan --agent` end to end: a real gateway, a real folder, and the command as a process of its own."""

import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.command import Command, open_command, run_command
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask
from tests.support.nats_client import open_embedded_log
from tests.support.scanner import get_scan, post_scan
from tests.support.waiting import wait_until

LONG_AGO = 1_700_000_000
ENDED = {"complete", "failed", "lost"}


def make_tree(folder: Path, count: int = 30) -> Path:
    """Make a folder with files of an mtime that is long over, and an outside beside it."""
    root = folder / "root"
    for number in range(count):
        path = root / f"d{number % 3}" / f"file-{number:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content {number}")
        os.utime(path, (LONG_AGO, LONG_AGO))
    (folder / "outside").mkdir()
    (folder / "outside" / "secret").write_text("secret")
    (root / "way-out").symlink_to(folder / "outside")
    (root / "way-round").symlink_to(root / "d1")
    return root


@asynccontextmanager
async def open_agent(gateway: Gateway, folder: Path, root: Path, *more: str) -> AsyncIterator[tuple[Command, str]]:
    """Run an agent beside the block; it is connected when the block is entered."""
    agent_id = f"agent-{uuid.uuid4().hex[:8]}"
    out = folder / f"out-{agent_id}"
    out.mkdir()
    arguments = ("scan", str(root), "--agent", "--agent-id", agent_id, "--gateway", gateway.url, "--json", *more)
    async with open_command(out, *arguments) as command:
        await wait_connected(gateway, agent_id)
        yield command, agent_id


async def wait_connected(gateway: Gateway, agent_id: str) -> None:
    """Wait until an agent is there."""

    async def is_there() -> bool:
        answer = await ask(gateway.url, "GET", f"/agents/{agent_id}")
        return answer.status == 200 and str(answer.json()["state"]) == "connected"

    await wait_until(is_there, "the agent is connected", timeout_s=20)


async def start(gateway: Gateway, agent_id: str, root: str, **more: Any) -> str:
    """Start a scan."""
    answer = await post_scan(gateway.url, agent_id, root=root, **more)
    assert answer.status == 202, answer
    return str(answer.json()["command_id"])


async def wait_ended(gateway: Gateway, command_id: str, timeout_s: float = 20) -> dict[str, Any]:
    """Wait until a scan is over."""

    async def is_over() -> dict[str, Any] | None:
        scan = await get_scan(gateway.url, command_id)
        return scan if scan["state"] in ENDED else None

    scan: dict[str, Any] | None = await wait_until(is_over, "the scan is over", timeout_s=timeout_s)
    assert scan is not None
    return scan


async def events_of(gateway: Gateway, scan_id: str) -> list[dict[str, Any]]:
    """Read a scan's events from the log."""
    async with open_embedded_log(gateway) as log:
        frames = await log.read_stream("SNAPFS_FILES")
    events = [event for frame in frames for event in orjson.loads(frame.data)["events"]]
    return [event for event in events if event["data"].get("scan_id") == scan_id]


async def test_a_scan_that_was_ordered_is_on_the_log_and_told(gateway: Gateway, tmp_path: Path) -> None:
    """E17: the events carry the command's id as their scan's; the summary has the figures; `force` hashes all again."""
    root = make_tree(tmp_path)
    async with open_agent(gateway, tmp_path, root) as (command, agent_id):
        command_id = await start(gateway, agent_id, str(root))
        scan = await wait_ended(gateway, command_id)
        assert scan["state"] == "complete", scan
        summary = scan["summary"]
        assert (summary["files"], summary["hits"], summary["events"]) == (30, 0, 32)
        assert summary["took_s"] >= 0
        assert scan["took_s"] >= 0
        events = await events_of(gateway, command_id)
        assert [event["type"] for event in events][::31] == ["scan.started", "scan.completed"]
        assert {event["data"]["root_path"] for event in events} == {str(root)}
        again = await wait_ended(gateway, await start(gateway, agent_id, "."))
        forced = await wait_ended(gateway, await start(gateway, agent_id, ".", options={"force": True}))
        assert (again["summary"]["hits"], again["summary"]["hashed"]) == (30, 0)
        assert (forced["summary"]["hits"], forced["summary"]["hashed"]) == (0, 30)
        said = [orjson.loads(line) for line in command.out.splitlines()]
        assert [one["type"] for one in said] == ["SCAN_COMPLETE"] * 3


@pytest.mark.parametrize("target", ["../outside", "/", "way-out", "d1/../../outside", "missing", "d0/file-000"])
async def test_nothing_outside_the_folder_is_scanned(gateway: Gateway, tmp_path: Path, target: str) -> None:
    """`..`, absolute paths, symbolic links and what is no folder are refused with SCAN_ERROR, and leave no event."""
    root = make_tree(tmp_path)
    async with open_agent(gateway, tmp_path, root) as (_, agent_id):
        command_id = await start(gateway, agent_id, target)
        scan = await wait_ended(gateway, command_id)
        assert scan["state"] == "failed"
        assert "this agent scans" in scan["error"] or "no folder" in scan["error"]
        assert await events_of(gateway, command_id) == []
        inside = await wait_ended(gateway, await start(gateway, agent_id, str(root / "way-round")))
        assert inside["summary"]["root_path"] == str(root / "d1")


async def test_a_gateway_killed_in_the_middle_of_a_scan_learns_how_it_ended(tmp_path: Path) -> None:
    """SIGKILL: the scan goes on, and the gateway that comes after it knows the scan and its end."""
    root = make_tree(tmp_path)
    young = root / "young"
    async with open_gateway(tmp_path / "data") as gateway, open_agent(gateway, tmp_path, root) as (_, agent_id):
        young.write_text("its mtime's second must be over before it is hashed")
        os.utime(young)
        command_id = await start(gateway, agent_id, ".")

        async def is_running() -> bool:
            return str((await get_scan(gateway.url, command_id))["state"]) == "running"

        await wait_until(is_running, "the scan runs")
        gateway.kill()
        await gateway.start()
        await wait_connected(gateway, agent_id)
        scan = await wait_ended(gateway, command_id, timeout_s=30)
        assert (scan["state"], scan["agent_id"]) == ("complete", agent_id), scan
        assert scan["summary"]["files"] == 31


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_ends_an_agent_in_order(
    gateway: Gateway, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """What ran is said to have been stopped, on the wire and on the log; the exit code says which signal it was."""
    root = make_tree(tmp_path)
    young = root / "young"
    async with open_agent(gateway, tmp_path, root) as (command, agent_id):
        future = 4_000_000_000
        young.write_text("x")
        os.utime(young, (future, future))
        command_id = await start(gateway, agent_id, ".")
        await wait_ended(gateway, command_id)
        os.utime(young)
        stopped_id = await start(gateway, agent_id, ".")

        async def is_on_the_log() -> bool:
            return bool(await events_of(gateway, stopped_id))

        await wait_until(is_on_the_log, "the scan has begun")
        command.signal(number)
        ended = await command.wait_ended(10)
        assert ended.code == code, ended
        assert "Traceback" not in ended.err
        scan = await wait_ended(gateway, stopped_id)
        assert scan["state"] in {"failed", "complete"}
        if scan["state"] == "failed":
            assert scan["error"] == "the agent was stopped"
            assert (await events_of(gateway, stopped_id))[-1]["type"] == "scan.error"


async def test_a_second_agent_of_the_same_name_ends_the_first(gateway: Gateway, tmp_path: Path) -> None:
    """Taken over: exit code 4, and the reason in words."""
    root = make_tree(tmp_path)
    async with open_agent(gateway, tmp_path, root) as (first, agent_id):
        out = tmp_path / "second"
        out.mkdir()
        arguments = ("scan", str(root), "--agent", "--agent-id", agent_id, "--gateway", gateway.url)
        async with open_command(out, *arguments):
            ended = await first.wait_ended(20)
            assert ended.code == 4
            assert "newer connection" in ended.err


async def test_the_command_line_lists_orders_and_waits(gateway: Gateway, tmp_path: Path) -> None:
    """`agents`, `agents scan --wait`, `scans`, `scans show`, each with JSON."""
    root = make_tree(tmp_path)
    out = tmp_path / "commands"
    out.mkdir()
    to = ("--gateway", gateway.url)
    async with open_agent(gateway, tmp_path, root, "--max-concurrency", "3") as (_, agent_id):
        listed = orjson.loads((await run_command(out, "agents", *to, "--json")).out)
        [own] = [one for one in listed["agents"] if one["agent_id"] == agent_id]
        assert (own["state"], own["root_path"], own["max_concurrency"]) == ("connected", str(root), 3)
        assert agent_id in (await run_command(out, "agents", *to)).out
        done = await run_command(out, "agents", "scan", agent_id, str(root), "--wait", "--json", *to)
        assert done.code == 0, done
        scan = orjson.loads(done.out)
        assert (scan["state"], scan["trigger_type"], scan["summary"]["files"]) == ("complete", "cli", 30)
        failed = await run_command(out, "agents", "scan", agent_id, "/", "--wait", *to)
        assert failed.code == 1
        assert "failed" in failed.out
        shown = await run_command(out, "scans", "show", scan["command_id"], *to)
        assert "complete" in shown.out
        table = await run_command(out, "scans", "--agent", agent_id, "--state", "complete", *to)
        assert scan["command_id"] in table.out
        assert (await run_command(out, "agents", "scan", "nobody", "/", *to)).code == 4
        assert (await run_command(out, "scans", "show", "nothing", *to)).code == 4


async def test_an_agent_with_a_key_lives_on_short_tokens(tmp_path: Path) -> None:
    """S0.27: the key is exchanged at /auth/token, again before a token's life is over; a wrong key ends it with 4."""
    root = make_tree(tmp_path)
    key, boss = "secret-of-the-agent-1", "secret-of-the-boss-22"
    env = {"AUTH": "on", "HEADGATE_TOKEN_TTL_S": "10", "HEADGATE_API_KEYS": f"agent={key},boss={boss};scopes=admin"}
    out = tmp_path / "out"
    out.mkdir()
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        to = ("--gateway", gateway.url)
        arguments = ("scan", str(root), "--agent", "--agent-id", "keyed", *to)
        wrong = await run_command(out, *arguments, "--api-key", "a-wrong-one-of-many")
        assert wrong.code == 4
        async with open_command(out, *arguments, env={"HEADGATE_API_KEY": key}) as command:
            await wait_until(lambda: "connected to" in command.err, "it is connected", timeout_s=20)
            for _ in range(2):
                done = await run_command(
                    out, "agents", "scan", "keyed", ".", "--wait", "--json", *to, env={"HEADGATE_TOKEN": boss}
                )
                assert orjson.loads(done.out)["summary"]["files"] == 30, done
            command.signal(signal.SIGTERM)
            assert (await command.wait_ended(10)).code == 0
            assert key not in command.err
