"""`python -m bench`: choose a scenario, run it, see a table; `--json` and `--plot` keep it.

Rules of the file:
- What cannot be written in the end (a plot without matplotlib, a folder that is not there) is refused in the beginning.
- Progress goes to standard error, the tables to standard output.
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import App, Parameter
from rich.console import Console

from bench import plot
from bench.events import EventSize
from bench.machine import describe
from bench.options import Options
from bench.report import paragraphs_of, show, show_machine, write_json
from bench.scenarios import SCENARIOS, STATEMENTS
from bench.workers import LoadFailedError

_HELP: Final = """Measure headgate against what it is built on, in the same run.

The gateway and what it is compared with are child processes with folders of
their own; the load comes from further processes. Both sides take turns; a
figure is the median over the rounds, its smallest and largest value under it.

  python -m bench list              what can be measured, and to which question
  python -m bench ingest            both durability classes, 1 to 500 events
  python -m bench ingest --case 100 --durability fsync --event full
  python -m bench stream --case backlog --json drain.json --plot drain.png
  python -m bench catalog --backlog 1000000 --rounds 1
  python -m bench all --json bench.json           everything, about 20 minutes
  python -m bench smoke             everything in tiny sizes: does it work?

Quote CPU time and ratios: those hold on other machines, events a second do not.
"""

app = App(
    name="python -m bench",
    help=_HELP,
    help_format="plaintext",
    version_flags=[],
    usage="Usage: python -m bench SCENARIO [OPTIONS]",
)
app["--help"].show = False


@app.default
def measure(
    scenario: Literal[
        "list",
        "smoke",
        "all",
        "ingest",
        "hashes",
        "stream",
        "express",
        "memory",
        "catalog",
        "guard",
        "http2",
        "query",
        "workers",
        "overload",
    ]
    | None = None,
    /,
    *,
    event: EventSize = "small",
    durability: Literal["fsync", "buffered", "both"] | None = None,
    case: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    rounds: int = 3,
    seconds: float = 4.0,
    connections: int = 16,
    backlog: int = 1_000_000,
    entries: int = 1_000_000,
    folder: Path | None = None,
    json: Path | None = None,
    plot_file: Annotated[Path | None, Parameter(name="--plot")] = None,
) -> int:
    """Run one scenario, or all of them.

    Args:
        scenario: what to measure.
        event: 240 bytes, or 600 with every field of a scanner.
        durability: by default, what the scenario is about.
        case: only cases that begin so; may be repeated.
        rounds: how often each side is measured.
        seconds: length of a measured window.
        connections: requests in flight in a closed loop.
        backlog: events waiting in the drain of stream, or to become rows in catalog.
        entries: files that memory teaches the cache.
        folder: on the disk that is to be synced.
        json: write everything measured to this file.
        plot_file: draw it as .png or .svg.
    """
    console, progress = Console(), Console(stderr=True)
    if scenario is None:
        app.help_print([])
        return 2
    if scenario == "list":
        return _list(console)
    where = folder or Path(tempfile.gettempdir())
    options = Options(
        where,
        event,
        _classes(durability),
        case,
        rounds,
        seconds,
        connections=connections,
        backlog=backlog,
        entries=entries,
    )
    if scenario == "smoke":
        options = options.tiny()
    try:
        if plot_file is not None:
            plot.check(plot_file)
        machine = describe(where)
        show_machine(console, machine)
        begun = time.monotonic()

        def say(what: str) -> None:
            progress.print(f"[dim]{time.monotonic() - begun:6.1f} s  {what}[/]", highlight=False)

        reports = []
        for name in SCENARIOS if scenario in {"all", "smoke"} else (scenario,):
            reports.append(SCENARIOS[name](options, say))
            show(console, reports[-1])
            if json is not None:
                chosen = {
                    key: str(value) if isinstance(value, Path) else value
                    for key, value in dataclasses.asdict(options).items()
                }
                write_json(json, machine, chosen, reports)
        if plot_file is not None:
            plot.draw(plot_file, reports)
    except (LoadFailedError, plot.NoPlotError, OSError) as error:
        progress.print(f"[red]bench: {error}[/]", highlight=False)
        return 1
    return 0


def _classes(durability: str | None) -> tuple[str, ...]:
    if durability is None:
        return ()
    return ("fsync", "buffered") if durability == "both" else (durability,)


def _list(console: Console) -> int:
    """Print what can be measured: the question, the arrivals, what it is compared with."""
    for name, statement in STATEMENTS.items():
        title, *paragraphs = paragraphs_of(statement)
        console.print(f"[bold]{name}[/]  {title}", highlight=False)
        for paragraph in paragraphs:
            console.print(f"  [dim]{paragraph}[/]", highlight=False)
        console.print()
    return 0


if __name__ == "__main__":
    sys.exit(app())
