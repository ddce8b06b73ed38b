"""A report as a picture: one panel a figure, one bar a row, with the spread over the rounds.

matplotlib is the extra `bench`; nothing else of the bench needs it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.figures import Report, Row

FORMATS: Final = (".png", ".svg")
_PANEL_INCHES: Final = (7.5, 0.42)
"""Width of a panel, and its height for each bar."""


class NoPlotError(Exception):
    """A picture cannot be made; the text says why and what to do."""


def check(path: Path) -> None:
    """Refuse before the measuring begins what could not be drawn after it.

    Raises:
        NoPlotError: matplotlib is missing, or the file name has another ending than .png or .svg.
    """
    if path.suffix not in FORMATS:
        raise NoPlotError(f"--plot writes {' or '.join(FORMATS)}, not {path.name!r}")
    try:
        import matplotlib as mpl  # noqa: PLC0415 (an extra)
    except ImportError:
        raise NoPlotError("--plot needs matplotlib: pip install 'headgate[bench]'") from None
    mpl.use("Agg")


def draw(path: Path, reports: Sequence[Report]) -> None:
    """Draw every figure of the reports into one file."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 (an extra)

    panels = [
        (report, name, [row for row in report.rows if not math.isnan(row.median(name))])
        for report in reports
        for name in dict.fromkeys(name for row in report.rows for name in row.rounds)
    ]
    panels = [panel for panel in panels if panel[2]]
    heights = [1.2 + _PANEL_INCHES[1] * len(rows) for _, _, rows in panels]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(_PANEL_INCHES[0], sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, (report, name, rows) in zip(axes[:, 0], panels, strict=True):
        medians = [row.median(name) for row in rows]
        below = [median - min(row.rounds[name]) for median, row in zip(medians, rows, strict=True)]
        above = [max(row.rounds[name]) - median for median, row in zip(medians, rows, strict=True)]
        colours = ["#1f6feb" if row.side == "headgate" else "#9aa4af" for row in rows]
        axis.barh([_label(row) for row in rows], medians, xerr=[below, above], color=colours, capsize=2)
        axis.invert_yaxis()
        axis.set_title(f"{report.scenario}: {name.replace('_', ' ')}", fontsize=10, loc="left")
        axis.tick_params(labelsize=7)
    figure.savefig(path)
    plt.close(figure)


def _label(row: Row) -> str:
    return f"{row.case}, {row.side} ({row.durability})"
