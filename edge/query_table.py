"""Rows as a table of text.

Rules of the file:
- What comes out of a database may hold anything: control characters are shown, never sent to the terminal.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from rich.cells import cell_len

from edge.client_query import QueryResult

NUMBERS: Final = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric", "oid"})


def to_table(result: QueryResult) -> str:
    """Give a result as lines: names, a rule, rows, and how many they are."""
    names = [_clean(column.name) for column in result.columns]
    is_number = [column.type in NUMBERS for column in result.columns]
    lines = [[_say(row.get(column.name)) for column in result.columns] for row in result.rows]
    widths = [max([cell_len(name), *(cell_len(line[at]) for line in lines)]) for at, name in enumerate(names)]
    said = [_line(names, widths, is_number), "-+-".join("-" * width for width in widths)] if names else []
    said += [_line(line, widths, is_number) for line in lines if names]
    count = f"{result.row_count:,} row{'s' * (result.row_count != 1)}"
    cut = ", cut short by the gateway's limit" if result.truncated else ""
    return "\n".join([*said, f"({count}{cut}, {result.elapsed_ms:.1f} ms)"])


def _line(cells: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> str:
    padded = [
        " " * (width - cell_len(cell)) + cell if right else cell + " " * (width - cell_len(cell))
        for cell, width, right in zip(cells, widths, is_number, strict=True)
    ]
    return " | ".join(padded).rstrip()


def _say(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return _clean(value)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
    return _clean(json.dumps(value, ensure_ascii=False))


def _clean(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
