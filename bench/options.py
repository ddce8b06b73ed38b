"""What can be chosen about a run, the same for every scenario, and the tiny sizes that prove a scenario works."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.events import EventSize
from bench.machine import Meter
from bench.workers import Job, Run, run_for

Say = Callable[[str], None]
"""Tells a person what is being measured at the moment."""

_TINY_TRIES: Final = 5


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

    def run_window(self, meter: Meter, *jobs: Job, seconds: float | None = None) -> Run:
        """Run jobs for a window and measure it.

        A tiny run shows only that a scenario works. Where the machine was busy elsewhere for the whole of its short
        window, so that some worker got no answer in it, it is measured again and twice as long.

        Args:
            meter: whose CPU time is read.
            jobs: one worker process each.
            seconds: length of the window, None for the run's.

        Raises:
            LoadFailedError: a worker failed or did not end.
        """
        length_s = seconds or self.seconds
        run = run_for(length_s, self.warm_s, meter, *jobs)
        tries = 1
        while self.is_tiny and tries < _TINY_TRIES and not all(one.units or one.refused for one in run.tallies):
            length_s, tries = 2 * length_s, tries + 1
            run = run_for(length_s, self.warm_s, meter, *jobs)
        return run

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
