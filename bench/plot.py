"""A report as a picture: one panel a figure, one bar a row, with the spread over the rounds.

matplotlib is the extra `bench`; nothing else of the bench needs it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.figures import Report, Row, short

FORMATS: Final = (".png", ".svg")
_COLUMNS: Final = 2
_LOGARITHMIC_FROM: Final = 30
"""Beyond this ratio of the largest to the smallest, a linear axis shows the small ones as nothing."""
_OURS, _OTHERS = "#1f6feb", "#9aa4af"
_PANEL_INCHES: Final = (8.0, 0.24)
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

    panels = [panel for report in reports for panel in _panels(report)]
    lines = [panels[index : index + _COLUMNS] for index in range(0, len(panels), _COLUMNS)]
    heights = [1.0 + _PANEL_INCHES[1] * max(len(rows) for _, _, rows in line) for line in lines]
    figure, axes = plt.subplots(
        len(lines),
        _COLUMNS,
        figsize=(_PANEL_INCHES[0] * _COLUMNS, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (scenario, name, rows) in zip(axes.flat, panels, strict=False):
        medians = [row.median(name) for row in rows]
        below = [median - min(row.rounds[name]) for median, row in zip(medians, rows, strict=True)]
        above = [max(row.rounds[name]) - median for median, row in zip(medians, rows, strict=True)]
        colours = [_OURS if row.side.startswith("headgate") else _OTHERS for row in rows]
        bars = axis.barh(range(len(rows)), medians, xerr=[below, above], color=colours, capsize=2)
        axis.bar_label(bars, [short(median) for median in medians], fontsize=6, padding=2)
        if min(medians) > 0 and max(medians) > _LOGARITHMIC_FROM * min(medians):
            axis.set_xscale("log")
        axis.margins(x=0.2)
        axis.set_yticks(range(len(rows)), [_label(row) for row in rows])
        axis.invert_yaxis()
        axis.set_title(f"{scenario}: {name.replace('_', ' ')}", fontsize=10, loc="left")
        axis.tick_params(labelsize=7)
    figure.savefig(path)
    plt.close(figure)


def _panels(report: Report) -> list[tuple[str, str, list[Row]]]:
    """Give each figure that is not zero everywhere, with the rows that have it."""
    names = dict.fromkeys(name for row in report.rows for name in row.rounds)
    panels = [
        (report.scenario, name, [row for row in report.rows if not math.isnan(row.median(name))]) for name in names
    ]
    return [panel for panel in panels if any(row.median(panel[1]) for row in panel[2])]


def _label(row: Row) -> str:
    return f"{row.case}, {row.load.partition(',')[0]}: {row.side} ({row.durability})"
