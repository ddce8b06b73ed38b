"""Bodies, parameters and lines of CSV: every digit is kept, and what PostgreSQL cannot take is refused."""

import csv
from decimal import Decimal

import pytest
from hypothesis import given, strategies

from engine.errors import Fault, Refused, Unavailable
from engine.query import describing, in_users_text, limited, name_columns, next_fetch_rows
from engine.query_text import read_query
from engine.query_values import ParameterType, csv_line, parameter_texts, read_request

INT8, TEXT, JSONB = (ParameterType(name, "pg_catalog") for name in ("int8", "text", "jsonb"))
TEXTS = ParameterType("text[]", "pg_catalog")


def test_a_body_is_read_with_every_digit() -> None:
    """A number that a double cannot hold is the same number in PostgreSQL."""
    body = b'{"sql":"select 1","params":{"a":0.1000000000000000055511151231257827,"b":123456789012345678901234567890}}'
    request = read_request(body)
    assert request.params == {"a": Decimal("0.1000000000000000055511151231257827"), "b": 123456789012345678901234567890}
    assert parameter_texts(["a", "b"], request.params, [TEXT, JSONB]) == [
        "0.1000000000000000055511151231257827",
        "123456789012345678901234567890",
    ]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "request.bad-json"),
        (b"select 1", "request.bad-json"),
        (b'{"sql":"select 1","params":{"a":NaN}}', "request.bad-json"),
        (b"[]", "request.wrong-shape"),
        (b"{}", "request.wrong-shape"),
        (b'{"sql":1}', "request.wrong-shape"),
        (b'{"sql":"select 1","params":[1]}', "request.wrong-shape"),
        (b'{"sql":"select 1","parameters":{}}', "request.wrong-shape"),
        (b'{"sql":"select 1","params":{"a":' + b"[" * 40 + b"]" * 40 + b"}}", "request.wrong-shape"),
    ],
)
def test_a_body_of_another_shape_is_refused(body: bytes, code: str) -> None:
    """What is not an object with a text and named values says so."""
    with pytest.raises(Refused) as caught:
        read_request(body)
    assert caught.value.kind.code == code


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, INT8, None),
        (5, INT8, "5"),
        (True, INT8, "true"),
        (Decimal("1E+3"), INT8, "1E+3"),
        ("x", TEXT, "x"),
        (["a", None, 'q"\\', ["b"]], TEXTS, '{"a",NULL,"q\\"\\\\",{"b"}}'),
        ([], TEXTS, "{}"),
        ("{a}", TEXTS, "{a}"),
        ({"a": [1, "x"]}, JSONB, '{"a":[1,"x"]}'),
        ("x", JSONB, '"x"'),
    ],
)
def test_a_parameter_is_written_as_postgresql_reads_it(value: object, kind: ParameterType, text: str | None) -> None:
    """Scalars as they stand, lists as arrays, anything as JSON where JSON is taken."""
    assert parameter_texts(["a"], {"a": value}, [kind]) == [text]


@pytest.mark.parametrize(
    ("value", "kind"), [([1], INT8), ({"a": 1}, TEXT), (5, TEXTS), ("a\0b", TEXT), (["\0"], TEXTS)]
)
def test_a_parameter_that_does_not_fit_is_refused_by_name(value: object, kind: ParameterType) -> None:
    """The refusal names the parameter."""
    with pytest.raises(Refused, match="'a'") as caught:
        parameter_texts(["a"], {"a": value}, [kind])
    assert caught.value.members["parameter"] == "a"


@given(strategies.lists(strategies.text(strategies.characters(exclude_categories=["Cs"])), min_size=1))
def test_a_line_of_csv_is_read_back_as_it_was(values: list[str]) -> None:
    """Any text survives, line ends and quotes included."""
    assert next(csv.reader([csv_line(list(values))], strict=True)) == values or "\r" in "".join(values)
    assert list(csv.reader(iter([csv_line(list(values))]))) == [values] or any(c in "".join(values) for c in "\r\n")


def test_null_and_an_empty_text_differ_in_csv() -> None:
    """NULL is nothing at all."""
    assert csv_line([None, "", "a", 'b"c', "d,e", "f\ng"]) == ',"",a,"b""c","d,e","f\ng"\r\n'


def test_column_names_are_unique_and_short_enough() -> None:
    """A repeated name gets a number that no other column has, within PostgreSQL's 63 bytes."""
    columns = [("a", "int4"), ("a", "int4"), ("a_2", "text"), ("b", "text"), ("é" * 31, "text"), ("é" * 31, "text")]
    names = [column.name for column in name_columns(columns)]
    assert names == ["a", "a_3", "a_2", "b", "é" * 31, "é" * 30 + "_2"]
    assert all(len(name.encode()) <= 63 for name in names)


def test_the_limits_stand_outside_of_the_users_text() -> None:
    """A comment at the end hides nothing of what follows it, and parameters are cast from text."""
    query = read_query("select :a --", ("a",))
    assert describing(query).text == "SELECT * FROM (select $1 --\n) _q LIMIT 0"
    text = limited(query, name_columns([('q"', "int8")]), [INT8], 11).text
    assert '(select ($1::text)::"pg_catalog"."int8" --\n) _q LIMIT 11) _r("q""") OFFSET 0) _g' in text


def test_fetches_grow_with_narrow_rows_and_shrink_with_wide_ones() -> None:
    """A fetch brings about as many bytes as one crossing should, whatever a row has."""
    assert next_fetch_rows(0, 0) == 8
    assert next_fetch_rows(8, 80) == 32
    assert next_fetch_rows(5000, 50_000) == 500
    assert next_fetch_rows(8, 8 * 1024 * 1024) == 1


@pytest.mark.parametrize(
    ("state", "fault", "code"),
    [
        ("42601", Refused, "query.wrong"),
        ("22P02", Refused, "query.wrong"),
        ("42501", Refused, "query.forbidden"),
        ("25006", Refused, "query.forbidden"),
        ("54001", Refused, "query.too-large"),
        ("53400", Unavailable, "query.too-large"),
        ("57014", Unavailable, "query.too-slow"),
    ],
)
def test_a_failure_is_told_in_the_users_terms(state: str, fault: type[Fault], code: str) -> None:
    """PostgreSQL's message and state stay, its position becomes the user's."""
    query = read_query("select\n  nonsense")
    rendered = describing(query)
    given_code = "query.wrong" if fault is Refused else "log.down"
    told = in_users_text(
        fault(given_code, "said", sqlstate=state, position=rendered.text.index("nons") + 1), rendered, query.sql
    )
    assert told.kind.code == code
    assert told.detail == "said"
    assert told.members == {"sqlstate": state, "position": 10, "line": 2, "column": 3}


def test_postgresql_away_stays_that() -> None:
    """A database that is not reachable is no matter of the query's."""
    away = Unavailable("log.down", "away")
    assert in_users_text(away, describing(read_query("select 1")), "select 1") is away
