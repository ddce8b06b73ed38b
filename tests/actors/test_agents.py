"""Remote scanners while they are connected: who is woken, when a scan is lost, and what is left after they went."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from actors.agents import Agents
from actors.tree import Actor, supervise
from engine.agents import QUEUE_COUNT, Roster
from engine.agents_wire import Hello, Report
from engine.errors import Unavailable
from engine.scans import Order, Scan, ScanState

GRACE_S = 30.0


@asynccontextmanager
async def open_agents() -> AsyncIterator[Agents]:
    """Run the storey, with its keeper."""
    root = Actor("agents", trio.current_time())
    agents = Agents(Roster(GRACE_S), root)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(supervise, root, "keeper", agents.run))
        await trio.testing.wait_all_tasks_blocked()
        yield agents
        nursery.cancel_scope.cancel()


def names(agents: Agents) -> list[str]:
    """Which agents are in the tree."""
    return sorted(name for name in agents._actor.children if name != "keeper")


async def test_an_order_reaches_the_agent_that_waits(autojump_clock: trio.testing.MockClock) -> None:
    """No polling: who waits for a scan has it in the same instant."""
    async with open_agents() as agents, agents.attach(Hello("a")) as attachment:
        got: list[Scan] = []

        async def wait() -> None:
            got.append(await attachment.next_scan())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            scan, _ = agents.start("a", Order("/x"), "")
        assert got == [scan]
        assert trio.current_time() == began


async def test_the_next_scan_is_sent_when_a_hand_is_free(autojump_clock: trio.testing.MockClock) -> None:
    """Whatever frees it: a report, a scan's time being over, or somebody giving up."""
    async with open_agents() as agents, agents.attach(Hello("a")) as attachment:
        first, second, third, fourth = (agents.start("a", Order(f"/{n}", timeout_s=100.0), "")[0] for n in range(4))
        assert await attachment.next_scan() is first
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.testing.wait_all_tasks_blocked)
            agents.report(attachment, Report(first.command_id, True))
            assert await attachment.next_scan() is second
        began = trio.current_time()
        assert await attachment.next_scan() is third
        assert trio.current_time() - began == pytest.approx(100.0)
        assert second.state is ScanState.LOST
        agents.give_up(third.command_id)
        assert await attachment.next_scan() is fourth


async def test_an_agent_that_stays_away_loses_its_scan_when_the_grace_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not a moment before, and never later."""
    async with open_agents() as agents:
        async with agents.attach(Hello("a")) as attachment:
            scan, _ = agents.start("a", Order("/x"), "")
            await attachment.next_scan()
        assert names(agents) == []
        await trio.sleep(GRACE_S - 0.01)
        assert scan.state is ScanState.RUNNING
        await trio.sleep(0.02)
        assert str(scan.state.value) == "lost"


async def test_an_agent_that_comes_back_keeps_its_scan(autojump_clock: trio.testing.MockClock) -> None:
    """Within the grace, on a new connection, it says how the scan ended."""
    async with open_agents() as agents:
        async with agents.attach(Hello("a")) as attachment:
            scan, _ = agents.start("a", Order("/x"), "")
            await attachment.next_scan()
        await trio.sleep(GRACE_S - 1)
        async with agents.attach(Hello("a")) as attachment:
            await trio.sleep(GRACE_S * 3)
            agents.report(attachment, Report(scan.command_id, True))
        assert scan.state is ScanState.COMPLETE


async def test_a_newer_connection_is_told_to_the_older_one(autojump_clock: trio.testing.MockClock) -> None:
    """The older one wakes up, the newer one has the work, and the older one's end takes nothing away."""
    async with open_agents() as agents, agents.attach(Hello("a")) as new:
        pass
    async with open_agents() as agents:
        async with trio.open_nursery() as nursery:
            is_in = trio.Event()

            async def be_old() -> None:
                async with agents.attach(Hello("a")) as old:
                    is_in.set()
                    await old.taken_over.wait()

            nursery.start_soon(be_old)
            await is_in.wait()
            async with agents.attach(Hello("a")) as new:
                await trio.testing.wait_all_tasks_blocked()
                assert agents.roster.find("a").is_connected
                scan, _ = agents.start("a", Order("/x"), "")
                assert await new.next_scan() is scan
        assert names(agents) == []


async def test_cancelled_here_an_agents_wait_leaves_the_queue_as_it_was(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A connection that dies while it waits takes no scan with it, and the tree is as before."""
    async with open_agents() as agents:
        with trio.move_on_after(1.0):
            async with agents.attach(Hello("a")) as attachment:
                await attachment.next_scan()
        assert names(agents) == []
        async with agents.attach(Hello("a")) as attachment:
            scan, _ = agents.start("a", Order("/x"), "")
            assert await attachment.next_scan() is scan


async def test_cancelled_here_the_keeper_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """A keeper that is started again looks at what is there."""
    root = Actor("agents", trio.current_time())
    agents = Agents(Roster(GRACE_S), root)
    async with agents.attach(Hello("a")) as attachment:
        scan, _ = agents.start("a", Order("/x", timeout_s=50.0), "")
        await attachment.next_scan()
        for _ in range(3):
            with trio.move_on_after(1.0):
                await supervise(root, "keeper", agents.run)
        with trio.move_on_after(60.0):
            await supervise(root, "keeper", agents.run)
        assert str(scan.state.value) == "lost"


async def test_overloaded_the_queue_sheds(autojump_clock: trio.testing.MockClock) -> None:
    """An agent that takes nothing has a bounded queue, and the next order is refused at once."""
    async with open_agents() as agents, agents.attach(Hello("a")) as attachment:
        agents.start("a", Order("/x"), "")
        await attachment.next_scan()
        for _ in range(QUEUE_COUNT):
            agents.start("a", Order("/x"), "")
        assert agents._actor.children["a"].mailbox is not None
        assert agents._actor.children["a"].mailbox() == (QUEUE_COUNT, QUEUE_COUNT)
        with pytest.raises(Unavailable):
            agents.start("a", Order("/x"), "")
