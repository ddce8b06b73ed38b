"""Figures over rounds, and what is said about them.

Rules of the file:
- A figure keeps every round; median, smallest and largest are taken when it is shown.
- A figure's name ends in its unit, and a row without a durability class cannot be made.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def percentile(ordered: Sequence[float], share: float) -> float:
    """Give the smallest value that `share` of all are not above; NaN of nothing.

    Args:
        ordered: the values, sorted.
        share: 0 to 1.
    """
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def short(value: float) -> str:
    """Write a number with three figures that matter."""
    if math.isnan(value):
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


@dataclass(slots=True)
class Row:
    """One line of a report: one case, measured on one side.

    Args:
        case: what was asked of it, `100 events a request`.
        side: who was measured, `headgate` or what it is compared with.
        durability: the class that the figures hold for.
        load: the arrival schedule and the number in flight.
    """

    case: str
    side: str
    durability: str
    load: str
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """Add one round's values."""
        for name, value in values.items():
            self.rounds.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """Give the median over the rounds, NaN when it was not measured."""
        values = [value for value in self.rounds.get(name, ()) if not math.isnan(value)]
        return statistics.median(values) if values else math.nan

    def as_json(self) -> dict[str, Any]:
        """Give the row as plain values."""
        figures = {
            name: {
                "median": _plain(self.median(name)),
                "min": _plain(min(values)),
                "max": _plain(max(values)),
                "rounds": [_plain(value) for value in values],
            }
            for name, values in self.rounds.items()
        }
        return {
            "case": self.case,
            "side": self.side,
            "durability": self.durability,
            "load": self.load,
            "figures": figures,
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """One side's figure divided by the other's.

    Args:
        case: the case both were measured in.
        durability: the class both had.
        name: which figure.
        of: `headgate / raw JetStream publisher` and the like.
        value: the ratio of the medians.
    """

    case: str
    durability: str
    name: str
    of: str
    value: float


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that was promised.

    Args:
        name: what was promised, with its unit.
        durability: the class it was promised for.
        limit: the promised value.
        value: the measured one.
        at_least: True when more is better.
    """

    name: str
    durability: str
    limit: float
    value: float
    at_least: bool = False

    @property
    def is_reached(self) -> bool:
        """Tell whether the measured value keeps the promise."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(slots=True)
class Report:
    """What one scenario found.

    Args:
        scenario: its name.
        statement: its docstring: question, arrivals, what it is compared with.
        event: what an event looked like, in words.
    """

    scenario: str
    statement: str
    event: str
    rows: list[Row] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compare(self, name: str, ours: Row, theirs: Row) -> None:
        """Add the ratio of two rows' medians."""
        ratio = ours.median(name) / theirs.median(name) if theirs.median(name) else math.nan
        self.ratios.append(Ratio(ours.case, ours.durability, name, f"{ours.side} / {theirs.side}", ratio))

    def as_json(self) -> dict[str, Any]:
        """Give the report as plain values."""
        return {
            "scenario": self.scenario,
            "statement": self.statement,
            "event": self.event,
            "rows": [row.as_json() for row in self.rows],
            "ratios": [
                {"case": r.case, "durability": r.durability, "figure": r.name, "of": r.of, "ratio": _plain(r.value)}
                for r in self.ratios
            ],
            "targets": [
                {
                    "name": t.name,
                    "durability": t.durability,
                    "limit": t.limit,
                    "value": _plain(t.value),
                    "at_least": t.at_least,
                    "reached": t.is_reached,
                }
                for t in self.targets
            ],
            "notes": self.notes,
        }


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) or math.isinf(value) else round(value, 4)
