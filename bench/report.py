"""A report for people: tables on the terminal, and the JSON object beside them.

Rules of the file:
- Every line with figures names the durability class they hold for.
- A cell is the median over the rounds, with the smallest and largest value beside it.
- A ratio is headgate's median divided by the other side's.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Report, Row, short


def show(console: Console, report: Report) -> None:
    """Print a report's tables."""
    console.print(f"\n[bold]{report.scenario}[/]  [dim]{report.event}[/]")
    for paragraph in paragraphs_of(report.statement):
        console.print(f"[dim]{paragraph}[/]", highlight=False)
    for rows in _groups(report.rows):
        console.print(_figures(rows))
    if report.targets:
        table = Table("promised", "durability", title="Promises", title_justify="left")
        for heading in ("limit", "measured", ""):
            table.add_column(heading, justify="right")
        for target in report.targets:
            verdict = "[green]kept[/]" if target.is_reached else "[red]missed[/]"
            sign = "≥" if target.at_least else "≤"
            table.add_row(target.name, target.durability, f"{sign} {short(target.limit)}", short(target.value), verdict)
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


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Put the sides of one case together."""
    groups: list[list[Row]] = []
    for row in rows:
        # A side that stands in the last group already begins the next one.
        last = groups[-1] if groups else []
        if (
            any((row.case, row.load) != (other.case, other.load) or row.side == other.side for other in last)
            or not last
        ):
            groups.append([row])
        else:
            last.append(row)
    return groups


def _figures(rows: Sequence[Row]) -> Table:
    """Make the table of one case: a line a figure, a column a side, headgate first, the others with their ratio."""
    first, *others = rows
    table = Table(title=f"[bold]{first.case}[/] ({first.load})", title_justify="left", title_style="")
    table.add_column("figure")
    table.add_column("durability")
    table.add_column(first.side, justify="right")
    for other in others:
        table.add_column(other.side, justify="right")
        table.add_column("ratio", justify="right")
    for name in dict.fromkeys(name for row in rows for name in row.rounds):
        cells = [_cell(first, name)]
        for other in others:
            below = other.median(name)
            cells += [_cell(other, name), short(first.median(name) / below if below else math.nan)]
        table.add_row(name.replace("_", " "), first.durability, *cells)
    return table


def _cell(row: Row, name: str) -> str:
    values = row.rounds.get(name)
    if values is None:
        return ""
    spread = f" [dim]{short(min(values))} to {short(max(values))}[/]" if len(values) > 1 else ""
    return f"[bold]{short(row.median(name))}[/]{spread}"
