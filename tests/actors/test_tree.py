"""The live tree of actors and its supervisor: restarts, budgets, and leaving (3.6)."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing

from actors.tree import Actor, Mailbox, State, supervise
from engine.restarts import BUDGET_COUNT, BUDGET_WINDOW_S, FIRST_PAUSE_S, MOST_PAUSE_S

Clock = trio.testing.MockClock
Ready = Callable[[], None]


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def make_root() -> Actor:
    """A tree with nothing in it."""
    return Actor("root", trio.current_time())


def names_of(actor: Actor) -> list[str]:
    """The names of an actor's children."""
    return list(actor.children)


class Patient:
    """An actor that falls so many times, and then runs until it is cancelled or told to end."""

    def __init__(self, falls: int, *, is_ready_first: bool = True, after_s: float = 0.0) -> None:
        self.falls = falls
        self.is_ready_first = is_ready_first
        self.after_s = after_s
        self.may_end = trio.Event()
        self.started_at: list[float] = []

    async def run(self, _: Actor, ready: Ready) -> None:
        """Fall, or run."""
        self.started_at.append(trio.current_time())
        if self.is_ready_first:
            ready()
        await trio.sleep(self.after_s)
        if len(self.started_at) <= self.falls:
            raise LookupError(f"fall {len(self.started_at)}")
        if not self.is_ready_first:
            ready()
        await self.may_end.wait()


async def test_entering_is_adding_and_leaving_is_removing() -> None:
    """An actor is in the tree exactly as long as its block runs, whatever ends it."""
    root = make_root()
    with root.child("a") as a, a.child("b"):
        assert names_of(root) == ["a"]
        assert names_of(a) == ["b"]
    assert root.children == {}
    with pytest.raises(LookupError), root.child("a"):
        raise LookupError
    with trio.CancelScope() as scope, root.child("a"):
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert root.children == {}


async def test_siblings_of_one_name_are_told_apart() -> None:
    """A name that is taken gets a number, the lowest that is free; each leaves by itself."""
    root = make_root()
    with root.child("mysql"), root.child("mysql") as second, root.child("mysql"):
        assert names_of(root) == ["mysql", "mysql-2", "mysql-3"]
        assert second.name == "mysql-2"
    first = root.child("mysql")
    with first, root.child("mysql"):
        first.__exit__(None, None, None)
        assert names_of(root) == ["mysql-2"]
        with root.child("mysql"):
            assert names_of(root) == ["mysql-2", "mysql"]
        first = root.child("other")
        first.__enter__()
    first.__exit__(None, None, None)
    assert root.children == {}


async def test_the_tree_is_described_for_a_person(autojump_clock: Clock) -> None:
    """Name, state, age, restarts, mailbox and children, as `/actors` shows them."""
    root = make_root()
    await trio.sleep(2)
    with root.child("ingest", lambda: Mailbox(3, 10)) as ingest:
        ingest.restarts = 1
        await trio.sleep(1.25)
        described = root.describe(trio.current_time())
    assert described == {
        "name": "root",
        "state": "starting",
        "age_s": 3.25,
        "restarts": 0,
        "mailbox": None,
        "children": [
            {
                "name": "ingest",
                "state": "running",
                "age_s": 1.25,
                "restarts": 1,
                "mailbox": {"depth": 3, "bound": 10},
                "children": [],
            }
        ],
    }


async def test_an_actor_that_ends_is_not_started_again(autojump_clock: Clock) -> None:
    """Done is a return: the supervisor returns too, and the place in the tree is empty."""
    root = make_root()
    actor = Patient(0)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervise, root, "a", actor.run)
        assert root.children["a"].state is State.RUNNING
        actor.may_end.set()
    assert root.children == {}
    assert len(actor.started_at) == 1


async def test_an_actor_that_falls_is_started_again_later_each_time(
    autojump_clock: Clock, log_lines: list[MutableMapping[str, Any]]
) -> None:
    """Pauses double, with jitter between half and all of them; the falls are counted."""
    root = make_root()
    actor = Patient(4)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervise, root, "a", actor.run)
        while len(actor.started_at) < 5:  # noqa: ASYNC110  # the clock jumps, nothing is waited for
            await trio.sleep(0.01)
        assert root.children["a"].restarts == 4
        assert root.children["a"].state is State.RUNNING
        nursery.cancel_scope.cancel()
    pauses = [later - earlier for earlier, later in zip(actor.started_at, actor.started_at[1:], strict=False)]
    for number, pause_s in enumerate(pauses):
        most = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2**number)
        assert most / 2 <= pause_s <= most
    assert [(line["event"], line["actor"], line["restarts"]) for line in log_lines] == [
        ("actor fell", "a", number) for number in range(1, 5)
    ]
    assert [str(line["exc_info"]) for line in log_lines] == [f"fall {number}" for number in range(1, 5)]
    assert root.children == {}


async def test_readiness_is_reported_once_and_only_when_it_is_there(autojump_clock: Clock) -> None:
    """Whoever starts it waits over the falls before it was first ready."""
    root = make_root()
    actor = Patient(2, is_ready_first=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervise, root, "a", actor.run)
        assert len(actor.started_at) == 3
        nursery.cancel_scope.cancel()


async def test_the_state_says_what_the_actor_is_doing(autojump_clock: Clock) -> None:
    """Starting until it is ready, running, and waiting to restart after a fall."""
    root = make_root()
    seen: list[State] = []

    async def run(actor: Actor, ready: Ready) -> None:
        seen.append(actor.state)
        ready()
        seen.append(actor.state)
        await trio.sleep(1)
        raise LookupError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, root, "a", run)
        await trio.sleep(1.01)
        seen.append(root.children["a"].state)
        await trio.sleep(0.2)
        assert root.children["a"].state is State.RUNNING
        nursery.cancel_scope.cancel()
    assert seen[:4] == [State.STARTING, State.RUNNING, State.PAUSED, State.STARTING]


async def test_a_spent_budget_is_a_failure_that_is_seen(autojump_clock: Clock) -> None:
    """More than five falls a minute make the actor failing, wherever it stands; it is started again all the same."""
    root = make_root()
    actor = Patient(10**6)
    async with trio.open_nursery() as nursery:
        with root.child("nest") as nest:
            nursery.start_soon(supervise, nest, "a", actor.run)
            while len(actor.started_at) <= BUDGET_COUNT:
                assert root.failing() == []
                await trio.sleep(0.01)
            await trio.sleep(0.01)
            assert root.failing() == ["a"]
            count = len(actor.started_at)
            await trio.sleep(2 * MOST_PAUSE_S)
            assert len(actor.started_at) > count
            nursery.cancel_scope.cancel()
    assert root.failing() == []


async def test_an_actor_that_runs_again_is_forgiven(autojump_clock: Clock) -> None:
    """A minute after its last fall the budget is whole: one bad minute does not make the gateway unready for ever."""
    root = make_root()
    actor = Patient(BUDGET_COUNT + 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, root, "a", actor.run)
        while len(actor.started_at) <= BUDGET_COUNT + 1:  # noqa: ASYNC110  # the clock jumps, nothing is waited for
            await trio.sleep(0.1)
        assert root.failing() == ["a"]
        await trio.sleep(BUDGET_WINDOW_S + 1)
        nursery.cancel_scope.cancel()
        assert root.children["a"].state is State.RUNNING
        assert root.failing() == []


async def test_several_faults_at_once_are_one_fall(autojump_clock: Clock) -> None:
    """A group of exceptions out of an actor's nursery is a fall like any other."""
    root = make_root()
    starts: list[float] = []

    async def run(_: Actor, ready: Ready) -> None:
        starts.append(trio.current_time())
        ready()
        if len(starts) > 1:
            await trio.sleep_forever()

        async def fall() -> None:
            raise LookupError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fall)
            nursery.start_soon(fall)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, root, "a", run)
        await trio.sleep(1)
        assert root.children["a"].restarts == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("falls", [0, 10**6], ids=["running", "waiting to restart"])
async def test_cancelled_here_it_leaves_the_tree(falls: int, autojump_clock: Clock) -> None:
    """Cancelled while it runs or while it waits to restart, nothing of it is left, and nothing is started again."""
    root = make_root()
    actor = Patient(falls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, root, "a", actor.run)
        await trio.sleep(FIRST_PAUSE_S / 4)
        assert names_of(root) == ["a"]
        nursery.cancel_scope.cancel()
    assert root.children == {}
    started = len(actor.started_at)
    await trio.sleep(100)
    assert len(actor.started_at) == started


async def test_what_is_no_fault_goes_through(autojump_clock: Clock) -> None:
    """A supervisor never stands in the way of the end of the process."""
    root = make_root()

    async def run(_: Actor, __: Ready) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await supervise(root, "a", run)
    assert root.children == {}


async def test_after_many_actors_the_tree_is_as_before(autojump_clock: Clock) -> None:
    """Five hundred actors that came, fell and went leave nothing in the tree."""
    root = make_root()
    async with trio.open_nursery() as nursery:
        for number in range(500):
            nursery.start_soon(supervise, root, "agent", Patient(number % 2).run)
        await trio.sleep(0.01)
        assert len(root.children) == 500
        nursery.cancel_scope.cancel()
    assert root.children == {}


async def test_naming_many_siblings_looks_at_each_once() -> None:
    """Thousands of agents on one durable: a name is found at once, not by trying all that are taken."""

    class Counting(dict[str, Actor]):
        """Counts how often it is asked whether a name is taken."""

        asked = 0

        def __contains__(self, name: object) -> bool:
            self.asked += 1
            return super().__contains__(name)

    children = Counting()
    root = Actor("root", 0.0, children=children)
    with ExitStack() as stack:
        for _ in range(2000):
            stack.enter_context(root.child("stream.mysql"))
        assert len(root.children) == 2000
        assert children.asked <= 2 * 2000
    assert (len(root.children), len(root.namesakes)) == (0, 0)


async def test_a_name_that_looks_numbered_is_no_clash() -> None:
    """Somebody is called like another one's second namesake."""
    root = Actor("root", 0.0)
    with root.child("a-2"), root.child("a"), root.child("a") as third:
        assert third.name == "a-3"
        assert sorted(root.children) == ["a", "a-2", "a-3"]
