"""How the gateway is: one place that every health path renders.

Rules of the file:
- Asking changes nothing and waits for nothing: what dependencies said last is remembered here, and the probe alone
  goes and looks.

Source: X3; `edge/health.py` has the shapes of the paths.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from actors.tree import Actor
from engine.jetstream import JetStream

LOOK_EVERY_S: Final = 5.0
LOOK_WITHIN_S: Final = 10.0
"""A file system that hangs is a reason too; the thread that asked it is left behind, at most one."""
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Dependency:
    """One thing the gateway needs.

    Args:
        state: `up` or `down`.
        since: when that began, Trio's clock.
        last_error: the last reason it was down, None when there was none.
        facts: more about it, JSON values.
        is_needed: without it the gateway is not ready.
    """

    state: str
    since: float
    last_error: str | None
    facts: dict[str, object]
    is_needed: bool


class Disk:
    """The room that is left for the embedded engines.

    Args:
        folder: where they write.
        limit_mib: with less than this the gateway asks to be left alone, while there is room to end well.
    """

    def __init__(self, folder: Path, limit_mib: int) -> None:
        self._folder = folder
        self._limit_mib = limit_mib
        self._free_mib: int | None = None
        self._since = trio.current_time()
        self.problem: str | None = None

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Look at the disk every few seconds, for ever."""
        while True:
            await self._look()
            ready()
            await trio.sleep(LOOK_EVERY_S)

    def dependency(self) -> Dependency:
        """Give what is known of it."""
        facts: dict[str, object] = {"free_mib": self._free_mib, "limit_mib": self._limit_mib}
        return Dependency("down" if self.problem else "up", self._since, self.problem, facts, True)

    async def _look(self) -> None:
        problem: str | None = None
        try:
            with trio.fail_after(LOOK_WITHIN_S):
                found = await trio.to_thread.run_sync(partial(os.statvfs, self._folder), abandon_on_cancel=True)
            self._free_mib = found.f_bavail * found.f_frsize // MIB
            if self._free_mib < self._limit_mib:
                problem = f"disk low: {self._free_mib} MiB are free, expected {self._limit_mib} or more"
        except trio.TooSlowError:
            problem = f"the file system did not answer within {LOOK_WITHIN_S:g} s"
        except OSError as fault:
            problem = f"the file system does not answer: {fault.strerror}"
        if bool(problem) is not bool(self.problem):
            self._since = trio.current_time()
        self.problem = problem


class Health:
    """What is known of the gateway and its dependencies.

    Args:
        log: the log's data plane.
        root: the tree of actors.
        redis: says since when Redis answers or does not, and why; None when there is none.
        is_draining: shutdown has begun.
        disk: the room for the embedded engines, None when there are none.
    """

    def __init__(
        self,
        log: JetStream,
        root: Actor,
        redis: Callable[[], tuple[float, str | None]] | None,
        is_draining: Callable[[], bool],
        disk: Disk | None = None,
    ) -> None:
        self._log = log
        self._root = root
        self._redis = redis
        self._is_draining = is_draining
        self._disk = disk
        self._pending: list[Callable[[], str | None]] = []
        self._log_since = trio.current_time()
        self._log_error: str | None = None
        self._log_facts: dict[str, object] = {}
        self._started = False
        self._others: dict[str, tuple[Callable[[], tuple[float, str | None]], Callable[[], dict[str, object]]]] = {}
        self._durability = "buffered"
        log.connection.watchers.append(self._on_change)

    @property
    def state(self) -> str:
        """`ready`, `starting`, `draining` or `unavailable`."""
        if self._is_draining():
            return "draining"
        if not self._started:
            return "starting"
        return "unavailable" if self.reasons() else "ready"

    def reasons(self) -> list[str]:
        """Say in words why requests should go elsewhere; nothing when they are welcome."""
        reasons = ["the gateway is shutting down"] if self._is_draining() else []
        if not self._log.connection.is_up:
            reasons.append(f"the log is not reachable: {self.log_error or 'not connected yet'}")
        elif not self._started:
            reasons.append("the log is being prepared")
        reasons += [reason for ask in self._pending if (reason := ask()) is not None]
        if self._disk is not None and self._disk.problem is not None:
            reasons.append(self._disk.problem)
        reasons += [f"the actor {name} falls too often" for name in self.failing()]
        return reasons

    def wait_for(self, reason: Callable[[], str | None]) -> None:
        """Count a reason not to be ready: what it gives, None when there is none."""
        self._pending.append(reason)

    def dependencies(self) -> dict[str, Dependency]:
        """Give every dependency by its name."""
        connection = self._log.connection
        facts = {**self._log_facts, "server": connection.info.fields.get("version")}
        state = "up" if connection.is_up else "down"
        known = {"log": Dependency(state, self._log_since, self.log_error, facts, True)}
        if self._redis is not None:
            since, error = self._redis()
            known["redis"] = Dependency("down" if error else "up", since, error, {}, False)
        if self._disk is not None:
            known["disk"] = self._disk.dependency()
        for name, (ask, describe) in self._others.items():
            since, error = ask()
            known[name] = Dependency("down" if error else "up", since, error, describe(), False)
        return known

    def add(
        self, name: str, state: Callable[[], tuple[float, str | None]], facts: Callable[[], dict[str, object]]
    ) -> None:
        """Count something else as a dependency; without it the gateway is ready all the same.

        Args:
            name: what it is called.
            state: says since when it answers or does not, Trio's clock, and why it does not.
            facts: gives more about it, JSON values.
        """
        self._others[name] = (state, facts)

    @property
    def durability(self) -> str:
        """What an acknowledged event survives: `fsync`, `replicated` or `buffered`."""
        return self._durability

    def prepared(self, durability: str, facts: dict[str, object]) -> None:
        """Take over what the log is worth, after it was prepared."""
        self._durability = durability
        self._log_facts = facts
        self._started = True

    @property
    def log_error(self) -> str | None:
        """The last reason the log was not reachable."""
        return self._log.connection.last_error or self._log_error

    def failing(self) -> list[str]:
        """Give the actors that fall too often."""
        return self._root.failing()

    def _on_change(self) -> None:
        self._log_since = trio.current_time()
        self._log_error = self.log_error
