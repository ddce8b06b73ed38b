"""The settings, where each came from, and what it is for: `headgate config show`.

Rules of the file:
- No secret leaves: `engine/settings.py` masks them, and a value that is marked secret is masked here whatever it says.
"""

from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from engine.settings import SettingLine

MASK: Final = "***"


def to_json(lines: Sequence[SettingLine]) -> list[dict[str, Any]]:
    """Give the settings as JSON values, one object a setting."""
    return [line._replace(value=_shown(line))._asdict() for line in lines]


def to_table(lines: Sequence[SettingLine]) -> Table:
    """Give the settings as a table for a person; what was changed stands out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("variable", "value", "from", "what it is"):
        table.add_column(name, overflow="fold")
    for line in lines:
        style = "" if line.source == "default" else "bold"
        words = (line.env, _shown(line) or "(empty)", line.source, line.description)
        table.add_row(*(Text(word) for word in words), style=style)
    return table


def _shown(line: SettingLine) -> str:
    """Give the value; of a secret no more than what the masking of addresses leaves."""
    return line.value if not line.secret or MASK in line.value else MASK
