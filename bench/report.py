"""A report for people: tables on the terminal, and the JSON object beside them.

Rules of the file:
- Every line with figures names the durability class they hold for.
- A cell is the median over the rounds, with the smallest and largest value under it.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Report, Row


def show(console: Console, report: Report) -> None:
    """Print a report's tables."""
    console.print(f"\n[bold]{report.scenario}[/]  [dim]{report.event}[/]")
    for paragraph in paragraphs_of(report.statement):
        console.print(f"[dim]{paragraph}[/]", highlight=False)
    console.print(_figures(report.rows))
    if report.ratios:
        table = Table("case", "durability", "figure", "ratio of medians", title="Compared", title_justify="left")
        table.add_column("", justify="right")
        for ratio in report.ratios:
            table.add_row(ratio.case, ratio.durability, ratio.name, ratio.of, f"[bold]{_short(ratio.value)}[/]")
        console.print(table)
    if report.targets:
        table = Table("promised", "durability", title="Promises", title_justify="left")
        for heading in ("limit", "measured", ""):
            table.add_column(heading, justify="right")
        for target in report.targets:
            verdict = "[green]kept[/]" if target.is_reached else "[red]missed[/]"
            sign = "≥" if target.at_least else "≤"
            table.add_row(
                target.name, target.durability, f"{sign} {_short(target.limit)}", _short(target.value), verdict
            )
        console.print(table)
    for note in report.notes:
        console.print(f"[dim]{note}[/]", highlight=False)


def paragraphs_of(statement: str) -> list[str]:
    """Give a scenario's statement, one line a paragraph: title, question, arrivals, what it is compared with."""
    found = [""]
    for line in statement.strip().splitlines():
        if not line or line.startswith(("Arrivals:", "Compared with:")):
            found.append(line)
        else:
            found[-1] = f"{found[-1]} {line}".strip()
    return [paragraph for paragraph in found if paragraph]


def show_machine(console: Console, machine: dict[str, Any]) -> None:
    """Print what the figures were measured on."""
    console.print(
        f"{machine['cores']} cores of {machine['cpu']}, load {machine['load_average']:.1f}, Linux {machine['kernel']}, "
        f"Python {machine['python']}; {machine['file_system']}, one fsync {machine['fsync_ms']} ms",
        highlight=False,
        style="dim",
    )


def write_json(path: Path, machine: dict[str, Any], options: dict[str, Any], reports: Sequence[Report]) -> None:
    """Write one object with everything that was measured."""
    found = {"machine": machine, "options": options, "scenarios": [report.as_json() for report in reports]}
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def _figures(rows: Sequence[Row]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row.rounds))
    table = Table("case", "side", "durability", "load", show_lines=True)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        cells = [_cell(row, name) for name in names]
        table.add_row(row.case, row.side, row.durability, row.load, *cells)
    return table


def _cell(row: Row, name: str) -> str:
    values = row.rounds.get(name)
    if values is None:
        return ""
    spread = f"\n[dim]{_short(min(values))} to {_short(max(values))}[/]" if len(values) > 1 else ""
    return f"[bold]{_short(row.median(name))}[/]{spread}"


def _short(value: float) -> str:
    """Write a number with three figures that matter."""
    if math.isnan(value):
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
