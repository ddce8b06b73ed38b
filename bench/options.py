"""What can be chosen about a run, the same for every scenario, and the tiny sizes that prove a scenario works."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.events import EventSize

Say = Callable[[str], None]
"""Tells a person what is being measured at the moment."""


@dataclass(frozen=True, slots=True)
class Options:
    """One run's choices.

    Args:
        folder: where data folders are made; the disk under it is the one that is synced.
        event: the size of an event.
        durability: the classes to measure, in order; empty for what the scenario is about.
        cases: measure only the cases whose name begins with one of these; empty for all.
        rounds: how often both sides of a comparison are measured, in turns.
        seconds: length of one measured window.
        warm_s: load before each window that does not count.
        connections: requests in flight in closed-loop runs.
        backlog: events waiting in the drain of `stream`.
        waiting: events waiting for the stalled agent of `memory`.
        entries: files that `memory` lets the cache learn.
        is_tiny: measure one case of a kind, not all, as `smoke` does.
    """

    folder: Path
    event: EventSize = "small"
    durability: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    rounds: int = 3
    seconds: float = 4.0
    warm_s: float = 1.0
    connections: int = 16
    backlog: int = 1_000_000
    waiting: int = 200_000
    entries: int = 1_000_000
    is_tiny: bool = False

    def wants(self, case: str) -> bool:
        """Tell whether a case is among those asked for."""
        return not self.cases or any(case.startswith(prefix) for prefix in self.cases)

    def tiny(self) -> "Options":
        """Give the same choices in sizes that show only that a scenario works."""
        return replace(
            self,
            rounds=1,
            seconds=0.3,
            warm_s=0.05,
            connections=4,
            backlog=5_000,
            waiting=5_000,
            entries=5_000,
            is_tiny=True,
        )
