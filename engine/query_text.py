"""The text of one query: what of it is code, where its named parameters stand, and how it is wrapped.

`:name` and `%(name)s` become `$1`, `$2`, …; a value never becomes text. To find them, the text is cut into tokens as
PostgreSQL's own scanner does (`standard_conforming_strings` is on and nobody may change it): strings, escape strings
and their continuations, dollar quotes, quoted names, nested comments, casts, `:=` and array slices hold no parameter.

Rules of the file:
- The wall is the role (`RELIABILITY.md` 4.4). Balanced parentheses are asked for so that the wrapping, which carries
  the limits, cannot be closed from inside; whatever this scanner were to miss still meets the role.
- Every token keeps its place, so that PostgreSQL's position is told as a place in the user's text.
- An unknown, missing, unused or positional parameter is refused, never guessed.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

from engine.errors import Refused

MAX_TEXT_CHARS: Final = 20_000
"""Reading it takes about a microsecond a token, in the loop that also serves everybody else."""
MAX_PARAMETERS: Final = 1_000
_NAME: Final = r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff]*"
_TOKEN: Final = re.compile(
    rf"""
      (?P<space>[ \t\n\r\f\v]+)
    | (?P<line>--[^\n\r]*)
    | (?P<block>/\*)
    | (?P<escape>[eE]')
    | (?P<text>')
    | (?P<quoted>"(?:[^"]++|"")*+")
    | (?P<dollar>\$(?:{_NAME})?\$)
    | (?P<positional>\$[0-9]+)
    | (?P<word>[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*)
    | (?P<number>[0-9][A-Za-z0-9_.]*)
    | (?P<cast>::|:=)
    | (?P<colon>:)(?P<colon_name>{_NAME})?
    | (?P<format>%\((?P<format_name>{_NAME})\)s(?![A-Za-z0-9_$\u0080-\U0010ffff]))
    | (?P<percent>%%)
    | (?P<bracket>[()\[\]])
    | (?P<semicolon>;)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CONTINUED: Final = re.compile(
    r"(?:[ \t\f\v]|--[^\n\r]*)*+[\n\r](?:[ \t\n\r\f\v]++|--[^\n\r]*[\n\r])*+'"  # a string goes on after a line's end
)
_PLAIN_END: Final = re.compile(r"(?:[^']++|'')*+'")
_ESCAPE_END: Final = re.compile(r"(?:[^'\\]++|''|\\.)*+'", re.DOTALL)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_BEFORE_A_VALUE: Final = frozenset(
    [
        "ALL",
        "AND",
        "ANY",
        "BETWEEN",
        "CASE",
        "ELSE",
        "ESCAPE",
        "FROM",
        "ILIKE",
        "IN",
        "IS",
        "LIKE",
        "NOT",
        "OR",
        "SELECT",
        "SIMILAR",
        "THEN",
        "TO",
        "WHEN",
        "WHERE",
    ]
)
"""After these words a value begins, so that `[x AND :a]` has a parameter where `[x :a]` has a slice."""


class Piece(NamedTuple):
    """A place in the user's text that is not passed on as it is.

    Args:
        start: of the place.
        end: behind it.
        name: the parameter's; empty where `text` stands instead.
        text: what stands there instead.
    """

    start: int
    end: int
    name: str
    text: str = ""


class Rendered(NamedTuple):
    """A statement for PostgreSQL, and the way back.

    Args:
        text: the statement.
        starts: where stretches of it begin, ascending.
        sources: where each of these begins in the user's text.
        ends: where it ends there: a place inside what replaced a parameter is told as the parameter's.
    """

    text: str
    starts: list[int]
    sources: list[int]
    ends: list[int]

    def place_of(self, position: int) -> int | None:
        """Turn PostgreSQL's position, 1 for the first character, into one of the user's text; None outside of it."""
        at = position - 1
        index = bisect_right(self.starts, at) - 1
        if index < 0 or index >= len(self.sources):
            return None
        source = self.sources[index] + at - self.starts[index]
        return min(source, max(self.sources[index], self.ends[index] - 1)) + 1


class QueryText(NamedTuple):
    """One query, understood.

    Args:
        sql: the user's text.
        pieces: what is replaced in it, in order.
        names: the parameters' names; the first becomes `$1`.
    """

    sql: str
    pieces: tuple[Piece, ...]
    names: tuple[str, ...]

    def render(self, before: str, after: str, casts: Sequence[str] | None = None) -> Rendered:
        """Wrap the text.

        Args:
            before: what stands in front of it.
            after: what stands behind it.
            casts: for each parameter the type it is cast to from text, None for no casts.
        """
        parts: list[str] = [before]
        starts: list[int] = []
        sources: list[int] = []
        ends: list[int] = []
        length, position = len(before), 0
        numbers = {name: number for number, name in enumerate(self.names, 1)}

        def add(text: str, source: int, end: int) -> None:
            nonlocal length
            if text:
                starts.append(length)
                sources.append(source)
                ends.append(end)
                parts.append(text)
                length += len(text)

        for piece in self.pieces:
            add(self.sql[position : piece.start], position, piece.start)
            text = piece.text
            if piece.name:
                number = numbers[piece.name]
                text = f"${number}" if casts is None else f"(${number}::text)::{casts[number - 1]}"
            add(text, piece.start, piece.end)
            position = piece.end
        add(self.sql[position:], position, len(self.sql))
        starts.append(length)  # where what stands behind begins: outside of the user's text
        return Rendered("".join([*parts, after]), starts, sources, ends)


def read_query(sql: str, given: Collection[str] = ()) -> QueryText:
    """Find a query's parameters.

    Args:
        sql: the user's text; one statement, a semicolon at its end is no matter.
        given: the names of the parameters that came with it.

    Raises:
        Refused: it is no single balanced statement, or its parameters are not those that came; with the position.
    """
    if len(sql) > MAX_TEXT_CHARS:
        raise Refused(
            "query.wrong", f"the query has {len(sql)} characters; the limit is {MAX_TEXT_CHARS}", limit=MAX_TEXT_CHARS
        )
    if "\0" in sql:
        raise refusal("a query cannot hold the character NUL", sql, sql.index("\0"))
    pieces = list(_find_pieces(sql))
    is_format = any(sql[piece.start] == "%" and piece.name for piece in pieces)
    kept = [piece for piece in pieces if piece.name or piece.text == " " or is_format]
    names = tuple(dict.fromkeys(piece.name for piece in kept if piece.name))
    if len(names) > MAX_PARAMETERS:
        raise Refused("query.wrong", f"the query has {len(names)} parameters; the limit is {MAX_PARAMETERS}")
    for piece in kept:
        if piece.name and piece.name not in given:
            there = ", ".join(sorted(given)) or "none"
            raise refusal(f"parameter {piece.name!r} is not in params (given: {there})", sql, piece.start)
    unused = sorted(set(given) - set(names))
    if unused:
        raise Refused(
            "query.wrong",
            f"params has {', '.join(map(repr, unused))}, which the query does not use; write :{unused[0]}",
        )
    return QueryText(sql, tuple(kept), names)


def is_ended(sql: str) -> bool:
    """Say whether a text that is being typed has its semicolon: outside of strings and comments, that is."""
    try:
        return any(piece.text == " " for piece in _find_pieces(sql))
    except Refused as problem:
        return "has no end" not in problem.detail and sql.rstrip().endswith(";")


def place_members(sql: str, position: int) -> dict[str, object]:
    """Say where a position, 1 for the first character, stands in a text: position, line and column."""
    before = sql[: position - 1]
    return {"position": position, "line": before.count("\n") + 1, "column": len(before) - before.rfind("\n")}


def refusal(detail: str, sql: str, index: int) -> Refused:
    """Refuse a query for what stands at an index of its text."""
    place = place_members(sql, index + 1)
    return Refused("query.wrong", f"{detail}, at line {place['line']} column {place['column']}", **place)


class _Brackets:
    """Which brackets are open, and whether a colon right inside one can be a slice's."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._open: list[tuple[str, int]] = []
        self._sliced: list[bool] = []

    def take(self, bracket: str, index: int) -> None:
        if bracket in "([":
            self._open.append((bracket, index))
            self._sliced.append(False)
            return
        wanted = "(" if bracket == ")" else "["
        if not self._open or self._open[-1][0] != wanted:
            raise refusal(f"{bracket!r} closes nothing", self._sql, index)
        self._open.pop()
        self._sliced.pop()

    def is_slice(self, after_a_value: bool) -> bool:
        """Whether a colon here separates a slice's bounds; there is one such colon between two brackets."""
        if not self._open or self._open[-1][0] != "[" or self._sliced[-1] or not after_a_value:
            return False
        self._sliced[-1] = True
        return True

    def next_element(self) -> None:
        if self._sliced:
            self._sliced[-1] = False

    def check_closed(self) -> None:
        if self._open:
            bracket, index = self._open[-1]
            raise refusal(f"{bracket!r} is never closed", self._sql, index)


def _find_pieces(sql: str) -> Iterator[Piece]:
    """Give the parameters and whatever else is replaced."""
    brackets = _Brackets(sql)
    position, ended_at, has_code, after_a_value = 0, -1, False, False
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None or match.lastgroup is None:  # unreachable: `other` takes anything
            raise refusal("this cannot be read", sql, position)
        start, position, kind = position, match.end(), match.lastgroup
        if kind in {"space", "line"}:
            continue
        if kind == "block":
            position = _end_of_comment(sql, start)
            continue
        if ended_at >= 0:
            raise refusal("only one statement is allowed: something follows the semicolon", sql, start)
        if kind == "semicolon":
            ended_at = start
            yield Piece(start, position, "", " ")
            continue
        has_code = True
        is_value = False
        if kind in {"text", "escape"}:
            position, is_value = _end_of_string(sql, start, position, is_escape=kind == "escape"), True
        elif kind == "dollar":
            end = sql.find(match[0], position)
            if end < 0:
                raise refusal(f"the string that {match[0]} begins has no end", sql, start)
            position, is_value = end + len(match[0]), True
        elif kind == "positional":
            raise refusal(f"parameters have names here: write :name, not {match[0]}", sql, start)
        elif kind == "word":
            is_value = match[0].upper() not in _BEFORE_A_VALUE
        elif kind in {"number", "quoted"}:
            is_value = True
        elif kind in {"colon", "colon_name"}:
            if match["colon_name"] is None:
                brackets.is_slice(after_a_value=True)
            elif brackets.is_slice(after_a_value):
                position = start + 1
            else:
                is_value = True
                yield Piece(start, position, match["colon_name"])
        elif kind in {"format", "format_name"}:
            is_value = True
            yield Piece(start, position, match["format_name"])
        elif kind == "percent":
            yield Piece(start, position, "", "%")
        elif kind == "bracket":
            brackets.take(match[0], start)
            is_value = match[0] in ")]"
        elif match[0] == '"':
            raise refusal("the quoted name that begins here has no end", sql, start)
        elif match[0] == ",":
            brackets.next_element()
        after_a_value = is_value
    if not has_code:
        raise Refused("query.wrong", "the query is empty; expected one SELECT")
    brackets.check_closed()


def _end_of_comment(sql: str, start: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    raise refusal("the comment that begins here has no end", sql, start)


def _end_of_string(sql: str, start: int, position: int, *, is_escape: bool) -> int:
    pattern = _ESCAPE_END if is_escape else _PLAIN_END
    while True:
        end = pattern.match(sql, position)
        if end is None:
            raise refusal("the string that begins here has no end", sql, start)
        more = _CONTINUED.match(sql, end.end())
        if more is None:
            return end.end()
        position = more.end()
