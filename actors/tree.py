"""The live tree of actors: who runs, since when, how full its mailbox is, how often it fell.

The same tree is shown at `/actors` and asserted by the tests to be back at its baseline.

Rules of the file:
- Entering is adding, leaving is removing: an actor is in the tree exactly as long as its block runs.
- Only supervisors start actors that may fall; see `supervise`.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush
from random import random
from typing import NamedTuple

import structlog
import trio

from engine.restarts import RestartBudget

log = structlog.get_logger("actors")


class State(Enum):
    """What an actor is doing, for a person."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "waiting to restart"
    DRAINING = "draining"


class Mailbox(NamedTuple):
    """How full an actor's mailbox is, and how full it may be."""

    depth: int
    bound: int


@dataclass(eq=False, slots=True)
class Namesakes:
    """The numbers of siblings who share a name: the lowest free one is found without trying those that are taken."""

    count: int = 0
    highest: int = 0
    free: list[int] = field(default_factory=list)

    def take(self) -> int:
        """Take the lowest free number; 1 is the name without a number."""
        self.count += 1
        if self.free:
            return heappop(self.free)
        self.highest += 1
        return self.highest

    def give_back(self, number: int) -> None:
        """Let another have it."""
        self.count -= 1
        heappush(self.free, number)


@dataclass(eq=False, slots=True)
class Actor:
    """One place in the tree.

    Args:
        name: unique among its siblings.
        since: when it started, Trio's clock.
        mailbox: asks for the mailbox's depth, None when it has none.
    """

    name: str
    since: float
    mailbox: Callable[[], Mailbox] | None = None
    state: State = State.STARTING
    restarts: int = 0
    budget: RestartBudget | None = None
    children: dict[str, "Actor"] = field(default_factory=dict)
    namesakes: dict[str, Namesakes] = field(default_factory=dict)

    @contextmanager
    def child(self, name: str, mailbox: Callable[[], Mailbox] | None = None) -> Iterator["Actor"]:
        """Put an actor under this one for as long as the block runs."""
        namesakes = self.namesakes.setdefault(name, Namesakes())
        while True:
            number = namesakes.take()
            unique = name if number == 1 else f"{name}-{number}"
            if unique not in self.children:
                break
            namesakes.count -= 1  # somebody is called like that by himself: the number stays his
        actor = Actor(unique, trio.current_time(), mailbox, State.RUNNING)
        self.children[unique] = actor
        try:
            yield actor
        finally:
            del self.children[unique]
            namesakes.give_back(number)
            if not namesakes.count:
                del self.namesakes[name]

    def describe(self, now: float) -> dict[str, object]:
        """Give the tree below and including this actor, JSON values."""
        mailbox = self.mailbox() if self.mailbox is not None else None
        return {
            "name": self.name,
            "state": self.state.value,
            "age_s": round(now - self.since, 3),
            "restarts": self.restarts,
            "mailbox": mailbox._asdict() if mailbox is not None else None,
            "children": [one.describe(now) for one in self.children.values()],
        }

    def failing(self) -> list[str]:
        """Give the names of actors that spent their restart budget."""
        names = [self.name] if self.budget is not None and self.budget.is_spent(trio.current_time()) else []
        for one in self.children.values():
            names += one.failing()
        return names


async def supervise(
    parent: Actor,
    name: str,
    run: Callable[[Actor, Callable[[], None]], Awaitable[None]],
    *,
    mailbox: Callable[[], Mailbox] | None = None,
    is_needed: bool = True,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run an actor, and run it again whenever it falls.

    Args:
        parent: where it stands in the tree.
        run: the actor; it calls its second argument when it is ready, returns when it is done, raises when it fell.
        is_needed: when it falls too often, the gateway is not ready.
        task_status: reports the first readiness.

    Cancellation: ends the actor.
    """
    budget = RestartBudget()
    announced = False
    with parent.child(name, mailbox) as actor:
        actor.budget = budget if is_needed else None

        def ready() -> None:
            nonlocal announced
            actor.state = State.RUNNING
            if not announced:
                announced = True
                task_status.started()

        while True:
            actor.state = State.STARTING
            try:
                await run(actor, ready)
                return
            except Exception as fault:  # an actor's fall is what a supervisor is for; it is logged and counted
                now = trio.current_time()
                pause_s = budget.fell(now, random())  # noqa: S311  # jitter, not a secret
                actor.restarts = budget.count
                actor.state = State.PAUSED
                log.error("actor fell", actor=name, restarts=budget.count, pause_s=round(pause_s, 3), exc_info=fault)
            await trio.sleep(pause_s)
