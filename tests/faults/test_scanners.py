"""Remote scanners that come and go, die at any moment, say anything, or do not read: the gateway is as before."""

import random
from pathlib import Path

import pytest
import trio

from tests.support.agent import AgentClosed
from tests.support.baseline import take_baseline, wait_back_at
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask
from tests.support.scanner import get_scan, open_scanner, post_scan
from tests.support.waiting import wait_until

AT_ONCE = 20
KEYS = {
    "AUTH": "on",
    "HEADGATE_API_KEYS": "own=secret-of-the-owner-1,other=secret-of-the-other-2,"
    "boss=secret-of-the-boss-33;scopes=admin",
}


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.long)])
async def test_agents_that_came_and_went_leave_nothing(tmp_path: Path, chance: random.Random, count: int) -> None:
    """Politely, by reset, in the middle of a scan, without a hello: actors and descriptors are back at the baseline."""
    async with open_gateway(tmp_path / "data", env={"HEADGATE_SCAN_GRACE_S": "0.5"}) as gateway:
        async with open_scanner(gateway.url, "first"):
            pass
        baseline = await take_baseline(gateway)
        numbers = iter(range(count))

        async def churn() -> None:
            for number in numbers:
                way = chance.randrange(5)
                agent_id = None if way == 0 else f"agent-{number % 300}"
                try:
                    async with open_scanner(gateway.url, agent_id) as scanner:
                        if way == 1:
                            await post_scan(gateway.url, f"agent-{number % 300}")
                        if way == 2:
                            scanner.reset()
                        if way == 3:
                            await scanner.say_raw("x" * 1_050_000)
                        if way == 4:
                            await scanner.websocket.aclose()
                except AgentClosed:
                    continue  # another took over, or what it said was too big: that is the point

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(churn)
        await wait_back_at(gateway, baseline)
        live = (await ask(gateway.url, "GET", "/scans?state=running&limit=500")).json()["scans"]

        async def none_is_live() -> bool:
            found = [
                (await ask(gateway.url, "GET", f"/scans?state={state}")).json()["scans"]
                for state in ("running", "queued")
            ]
            return found == [[], []]

        await wait_until(none_is_live, f"no scan is live ({len(live)} were)", timeout_s=10)
        listed = (await ask(gateway.url, "GET", "/agents")).json()["agents"]
        assert {one["state"] for one in listed} == {"away"}
        assert len(listed) <= 302


async def test_a_scan_is_lost_after_the_grace_and_a_late_report_corrects_it(tmp_path: Path) -> None:
    """Lost means that nobody knows; the agent that comes back later does."""
    async with open_gateway(tmp_path / "data", env={"HEADGATE_SCAN_GRACE_S": "0.5"}) as gateway:
        async with open_scanner(gateway.url, "a") as scanner:
            command_id = (await post_scan(gateway.url, "a")).json()["command_id"]
            waiting_ids = [(await post_scan(gateway.url, "a")).json()["command_id"] for _ in range(3)]
            await scanner.receive_target()

        async def is_lost() -> bool:
            return str((await get_scan(gateway.url, command_id))["state"]) == "lost"

        await wait_until(is_lost, "the scan is lost")
        assert "did not come back" in (await get_scan(gateway.url, command_id))["error"]
        assert (await get_scan(gateway.url, waiting_ids[-1]))["state"] == "lost"
        async with open_scanner(gateway.url, "a") as scanner:
            await scanner.complete(command_id)
            await scanner.ping()
            corrected = await get_scan(gateway.url, command_id)
            assert (corrected["state"], corrected["error"]) == ("complete", None)


async def test_a_scan_that_takes_too_long_is_lost_and_frees_its_agent(gateway: Gateway) -> None:
    """`timeout_s`: the agent lives, and says nothing about it."""
    async with open_scanner(gateway.url, "slow", max_concurrency=1) as scanner:
        first = (await post_scan(gateway.url, "slow", timeout_s=1)).json()["command_id"]
        second = (await post_scan(gateway.url, "slow")).json()["command_id"]
        assert (await scanner.receive_target())["command_id"] == first
        assert (await scanner.receive_target())["command_id"] == second
        assert (await get_scan(gateway.url, first))["state"] == "lost"
        assert (await get_scan(gateway.url, second))["state"] == "running"
        await scanner.complete(second)
        await scanner.ping()


async def test_an_agent_that_does_not_read_slows_nobody_down(gateway: Gateway) -> None:
    """Pings whose answers nobody takes fill its own socket; others are served meanwhile."""
    async with open_scanner(gateway.url, "deaf") as deaf, open_scanner(gateway.url, "well") as well:

        async def flood() -> None:
            try:
                while True:
                    await deaf.say_raw('{"type":"PING"}')
            except AgentClosed:
                return

        with trio.move_on_after(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                for _ in range(20):
                    with trio.fail_after(2):
                        await well.ping()
                nursery.cancel_scope.cancel()
    assert (await ask(gateway.url, "GET", "/healthz")).status == 200


async def test_a_name_is_its_principals(tmp_path: Path) -> None:
    """With authentication on, nobody takes over somebody else's agent, and only managers start scans."""
    async with open_gateway(tmp_path / "data", env=KEYS) as gateway:
        own, other, boss = (
            {"Authorization": f"Bearer secret-of-the-{name}"} for name in ("owner-1", "other-2", "boss-33")
        )
        async with open_scanner(gateway.url, "nas", headers=own) as scanner:
            async with open_scanner(gateway.url, headers=other) as thief:
                await thief.say({"type": "AGENT_HELLO", "agent_id": "nas"})
                assert "somebody else" in (await thief.receive())["error"]
                assert (await thief.wait_closed()).code == 4503
            await scanner.ping()
            assert (await post_scan(gateway.url, "nas", headers=own)).problem(403)["scope"] == "agents:manage"
            assert (await post_scan(gateway.url, "nas")).status == 401
            started = await post_scan(gateway.url, "nas", headers=boss)
            assert started.status == 202
            assert (await scanner.receive_target())["command_id"] == started.json()["command_id"]
