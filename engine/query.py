"""What a query may cost, how it is wrapped, and how its parameters and columns go over the wire.

PostgreSQL itself turns rows into JSON and parameters from text: what it writes is exact (numbers keep every digit,
and NaN is the string "NaN"), and the gateway spends nothing on values it only passes on.

Rules of the file:
- A query is wrapped twice: once to be described, once with the limits. A row that is too wide never leaves PostgreSQL.
- Parameters are bound as text and cast to the type that PostgreSQL inferred; none is ever part of the statement.

What must change with it: the wire reference in the README; `engine/migrations` has the role that is the wall.
Source: S0.18, S0.19, `RELIABILITY.md` 4.4.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from engine.errors import Fault, Refused, Unavailable
from engine.query_text import QueryText, Rendered, place_members
from engine.query_values import ParameterType, quote_name

MAX_ROWS: Final = 10_000
"""Of an answer in one piece; what is beyond is left out, and `truncated` says so."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
MAX_STREAMED_ROWS: Final = 5_000_000
MAX_STREAMED_BYTES: Final = 1024 * 1024 * 1024
MAX_ROW_BYTES: Final = 1024 * 1024
MAX_NAME_BYTES: Final = 63
"""PostgreSQL cuts longer names, silently."""
FIRST_FETCH_ROWS: Final = 8
MOST_FETCH_ROWS: Final = 500
FETCH_BYTES: Final = 64 * 1024
"""What one crossing brings, about: the next fetch asks for as many rows as fitted into it so far."""
ANSWER_WITHIN_S: Final = 10.0
STREAM_WITHIN_S: Final = 120.0

_DESCRIBE: Final = "SELECT * FROM ("
_LIMITED: Final = "SELECT CASE WHEN octet_length(j) <= {row} THEN j END FROM (SELECT CASE WHEN pg_column_size(_r.*) <= {row} THEN {json}::text END AS j FROM (SELECT * FROM ("  # noqa: E501  # one line: the user's text begins at a fixed place


class Column(NamedTuple):
    """A column of the result.

    Args:
        name: unique; a repeated one gets `_2`, `_3`, ….
        type: as PostgreSQL calls it.
    """

    name: str
    type: str


class Limits(NamedTuple):
    """What one answer may have."""

    rows: int
    size_bytes: int
    within_s: float


ANSWER: Final = Limits(MAX_ROWS, MAX_ANSWER_BYTES, ANSWER_WITHIN_S)
STREAM: Final = Limits(MAX_STREAMED_ROWS, MAX_STREAMED_BYTES, STREAM_WITHIN_S)


def describing(query: QueryText) -> Rendered:
    """Wrap a query so that PostgreSQL describes its columns and parameters."""
    return query.render(_DESCRIBE, "\n) _q LIMIT 0")


def limited(
    query: QueryText, columns: Sequence[Column], types: Sequence[ParameterType], limit: int, *, as_texts: bool = False
) -> Rendered:
    """Wrap a query so that each row is one JSON text, NULL where the row is too wide.

    Args:
        query: the query.
        columns: as `name_columns` gave them.
        types: of its parameters.
        limit: rows at most.
        as_texts: a row is a list of its values as PostgreSQL writes them, not an object.
    """
    names = [quote_name(column.name) for column in columns]
    json = "row_to_json(_r.*)"
    if as_texts:
        json = f"array_to_json(ARRAY[{', '.join(f'_r.{name}::text' for name in names)}]::text[])"
    before = _LIMITED.format(row=MAX_ROW_BYTES, json=json)
    after = f"\n) _q LIMIT {limit}) _r{'(' + ', '.join(names) + ')' if names else ''} OFFSET 0) _g"
    return query.render(before, after, [one.cast for one in types])


def name_columns(columns: Sequence[tuple[str, str]]) -> list[Column]:
    """Make the names of columns unique, so that an object can have them all."""
    taken = {name for name, _ in columns}
    seen: set[str] = set()
    named: list[Column] = []
    for name, type_name in columns:
        unique, number = name, 1
        while unique in seen or (number > 1 and unique in taken):
            number += 1
            unique = _cut(name, MAX_NAME_BYTES - len(f"_{number}")) + f"_{number}"
        seen.add(unique)
        named.append(Column(unique, type_name))
    return named


def next_fetch_rows(rows: int, size_bytes: int) -> int:
    """Say how many rows to fetch next, after so many of this size; few at first, for they may be wide."""
    if not rows:
        return FIRST_FETCH_ROWS
    fitting = FETCH_BYTES * rows // max(1, size_bytes)
    return max(1, min(fitting, MOST_FETCH_ROWS, 4 * rows))


def one_line(row: str) -> bytes:
    """Keep a row on one line: what a stored JSON text has of line ends is white space between its values."""
    return row.replace("\n", " ").replace("\r", " ").encode()


def too_wide(number: int) -> Refused:
    """Give the refusal of a row that is too wide."""
    return Refused(
        "query.too-large", f"row {number} is wider than the limit of {MAX_ROW_BYTES} bytes", limit=MAX_ROW_BYTES
    )


def in_users_text(fault: Fault, rendered: Rendered, sql: str) -> Fault:
    """Say a failure of PostgreSQL's in terms of the user's text.

    Args:
        fault: with `sqlstate`, and `position` in the wrapped statement where PostgreSQL gave one.
        rendered: the wrapped statement.
        sql: the user's text.
    """
    if "sqlstate" not in fault.members:
        return fault  # it is ours
    members = dict(fault.members)
    position = members.pop("position", None)
    state = str(members.get("sqlstate") or "")
    place = rendered.place_of(position) if isinstance(position, int) else None
    if place is not None:
        members |= place_members(sql, place)
    if isinstance(fault, Unavailable) and state != "57014" and not state.startswith("53"):
        return fault
    return Refused(_code_of(state), fault.detail, **members)


def _cut(name: str, size_bytes: int) -> str:
    return name.encode()[:size_bytes].decode(errors="ignore")


def _code_of(state: str) -> str:
    if state == "57014":
        return "query.too-slow"
    if state in {"42501", "25006"}:
        return "query.forbidden"
    return "query.too-large" if state[:2] in {"53", "54"} else "query.wrong"
