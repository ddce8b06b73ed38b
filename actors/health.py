"""How the gateway is: one place that every health path renders.

Rules of the file:
- Asking changes nothing and waits for nothing: what dependencies said last is remembered here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from actors.tree import Actor
from engine.jetstream import JetStream


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


class Health:
    """What is known of the gateway and its dependencies.

    Args:
        log: the log's data plane.
        root: the tree of actors.
        redis: says since when Redis answers or does not, and why; None when there is none.
        is_draining: shutdown has begun.
    """

    def __init__(
        self,
        log: JetStream,
        root: Actor,
        redis: Callable[[], tuple[float, str | None]] | None,
        is_draining: Callable[[], bool],
    ) -> None:
        self._log = log
        self._root = root
        self._redis = redis
        self._is_draining = is_draining
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
        return "ready" if self._log.connection.is_up and not self._root.failing() else "unavailable"

    def dependencies(self) -> dict[str, Dependency]:
        """Give every dependency by its name."""
        connection = self._log.connection
        facts = {**self._log_facts, "server": connection.info.fields.get("version")}
        state = "up" if connection.is_up else "down"
        known = {"log": Dependency(state, self._log_since, self.log_error, facts, True)}
        if self._redis is not None:
            since, error = self._redis()
            known["redis"] = Dependency("down" if error else "up", since, error, {}, False)
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
