"""The values of a query: the request's body, parameters as PostgreSQL reads them, lines of CSV.

Rules of the file:
- A number keeps every digit that the client wrote.
- Parameters become text that PostgreSQL parses by itself: its rules and its messages are the ones that hold.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple, NoReturn

import msgspec
import orjson

from engine.bad_json import json_refusal
from engine.errors import Refused
from engine.json_depth import check_depth

MAX_BODY_BYTES: Final = 1024 * 1024
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
_SPECIAL: Final = frozenset('",\r\n')


class QueryRequest(NamedTuple):
    """What a client asks.

    Args:
        sql: the text.
        params: the parameters by name, JSON values; a number with a fraction or an exponent is a Decimal.
    """

    sql: str
    params: dict[str, Any]


def read_request(body: bytes) -> QueryRequest:
    """Read `{"sql": "…", "params": {…}}`.

    Raises:
        Refused: it is not JSON, or has another shape.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise json_refusal(body, problem) from None
    if not isinstance(value, dict):
        raise Refused("request.wrong-shape", 'expected an object {"sql": "…", "params": {…}}')
    check_depth(body, 4)
    strange = sorted(value.keys() - {"sql", "params"})
    if strange:
        raise Refused("request.wrong-shape", f"{strange[0]!r} is not known here; expected sql and params")
    sql, params = value.get("sql"), value.get("params")
    if not isinstance(sql, str):
        raise Refused("request.wrong-shape", "sql: expected a text with one query")
    if params is not None and not isinstance(params, dict):
        raise Refused("request.wrong-shape", "params: expected an object of names and values")
    return QueryRequest(sql, _exact(body)["params"] if params else {})


class ParameterType(NamedTuple):
    """What PostgreSQL takes a parameter for.

    Args:
        name: as PostgreSQL calls it, with `[]` behind an array's.
        schema: where the type lives.
    """

    name: str
    schema: str

    @property
    def is_array(self) -> bool:
        """Whether it takes a list."""
        return self.name.endswith("[]")

    @property
    def cast(self) -> str:
        """The type, quoted, as it stands behind `::`."""
        name = self.name.removesuffix("[]")
        return f"{quote_name(self.schema)}.{quote_name(name)}{'[]' if self.is_array else ''}"


def parameter_texts(
    names: Sequence[str], values: Mapping[str, object], types: Sequence[ParameterType]
) -> list[str | None]:
    """Write parameters as PostgreSQL reads them.

    Args:
        names: in the statement's order.
        values: by name, JSON values.
        types: what PostgreSQL takes each for.

    Raises:
        Refused: a list or an object stands where PostgreSQL takes none.
    """
    return [_parameter_text(name, values[name], kind) for name, kind in zip(names, types, strict=True)]


def csv_line(values: Sequence[str | None]) -> str:
    """Write one line of CSV (RFC 4180): NULL is nothing at all, an empty text is two quotes."""
    return ",".join(["" if value is None else _csv_value(value) for value in values]) + "\r\n"


def quote_name(name: str) -> str:
    """Quote a name for PostgreSQL."""
    return '"' + name.replace('"', '""') + '"'


def _exact(body: bytes) -> dict[str, Any]:
    """Read a body once more, with numbers as they stand; it is known to be JSON."""

    def read_int(text: str) -> int | Decimal:
        return int(text) if len(text) < 19 else Decimal(text)

    value: dict[str, Any] = json.loads(body, parse_float=Decimal, parse_int=read_int, parse_constant=_no_constant)
    return value


def _no_constant(text: str) -> NoReturn:
    raise Refused("request.bad-json", f"{text} is not JSON")


def _csv_value(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if not value or not _SPECIAL.isdisjoint(value) else value


def _parameter_text(name: str, value: object, kind: ParameterType) -> str | None:
    if value is None:
        return None
    if kind.name in {"json", "jsonb"}:
        return _json_text(value)
    if isinstance(value, list):
        if not kind.is_array:
            raise _bad_parameter(name, f"a list, and PostgreSQL takes it for {kind.name}; write = ANY(:{name})")
        return _array_text(name, value)
    if isinstance(value, dict):
        raise _bad_parameter(name, f"an object, and PostgreSQL takes it for {kind.name}; write :{name}::jsonb")
    if kind.is_array and not isinstance(value, str):
        raise _bad_parameter(name, f"no list, and PostgreSQL takes it for {kind.name}")
    return _scalar_text(name, value)


def _scalar_text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if "\0" in value:
            raise _bad_parameter(name, "a text with the character NUL, which PostgreSQL cannot hold")
        return value
    return str(value)


def _array_text(name: str, values: Sequence[object]) -> str:
    """Write a list as PostgreSQL's array text."""
    parts: list[str] = []
    for value in values:
        if value is None:
            parts.append("NULL")
        elif isinstance(value, list):
            parts.append(_array_text(name, value))
        elif isinstance(value, dict):
            parts.append(_quote_element(_json_text(value)))
        else:
            parts.append(_quote_element(_scalar_text(name, value)))
    return "{" + ",".join(parts) + "}"


def _quote_element(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _json_text(value: object) -> str:
    return _ENCODER.encode(value).decode()


def _bad_parameter(name: str, what: str) -> Refused:
    return Refused("query.wrong", f"parameter {name!r} is {what}", parameter=name)
