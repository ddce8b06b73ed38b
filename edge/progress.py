"""The progress line of a scan, on a terminal and nowhere else.

Rules of the file:
- It only looks: it reads the report of a running scan a few times a second and changes nothing.
- It writes to stderr, so that stdout stays the command's result.
"""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from edge.client import ClientStatistics
from edge.nursery import open_plain_nursery
from edge.scan_report import ScanReport, say_bytes

REFRESH_S: Final = 0.1
WORRY_S: Final = 1.0
"""Failures shorter than this are not worth a person's attention."""


@asynccontextmanager
async def shown_progress(
    label: str, report: ScanReport, statistics: Callable[[], ClientStatistics], *, is_wanted: bool = True
) -> AsyncIterator[None]:
    """Show a scan's progress for the length of the block, where stderr is a terminal.

    Args:
        label: the first words of the line.
        report: of the running scan.
        statistics: of its client; says when the gateway does not answer.
        is_wanted: False shows nothing anywhere.
    """
    if not is_wanted or not sys.stderr.isatty():
        yield
        return
    progress = Progress(
        SpinnerColumn(),
        TextColumn(label),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[said]}"),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    with progress:
        line = progress.add_task(label, total=None, said="")
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_refresh, progress, line, report, statistics)
            yield
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def shown_line(say: Callable[[], str], *, is_wanted: bool = True) -> AsyncIterator[None]:
    """Show a line that is asked for again and again, for the length of the block, where stderr is a terminal."""
    if not is_wanted or not sys.stderr.isatty():
        yield
        return
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[said]}"),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    with progress:
        line = progress.add_task("", total=None, said="")
        async with open_plain_nursery() as nursery:

            async def refresh() -> None:
                while True:
                    progress.update(line, said=say())
                    progress.refresh()
                    await trio.sleep(REFRESH_S)

            nursery.start_soon(refresh)
            yield
            nursery.cancel_scope.cancel()


async def _refresh(
    progress: Progress, line: TaskID, report: ScanReport, statistics: Callable[[], ClientStatistics]
) -> None:
    began = trio.current_time()
    while True:
        said = say_progress(report, statistics(), trio.current_time() - began)
        progress.update(line, total=report.found or None, completed=report.files, said=said)
        progress.refresh()
        await trio.sleep(REFRESH_S)


def say_progress(report: ScanReport, client: ClientStatistics, elapsed_s: float) -> str:
    """Say how far a scan is: files, bytes, MB/s, hits, and since when the gateway has been silent."""
    rate = report.bytes / elapsed_s / 1e6 if elapsed_s > 0 else 0.0
    said = f"{report.files:,} files  {say_bytes(report.bytes)}  {rate:,.0f} MB/s  {report.hits:,} hits"
    if client.waiting_s >= WORRY_S:
        said += f"  [yellow]the gateway has not answered for {client.waiting_s:.0f} s, still trying[/yellow]"
    return said
