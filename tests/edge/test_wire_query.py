"""`POST /query/sql` as a client sees it: the answer's bytes, both streams, every refusal, and what limits do."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.http import Answer, ConnectionLost, ask, open_connection, post_json
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a catalog, shared by the tests of this module."""
    with running_gateway(tmp_path_factory.mktemp("gateway") / "data", env={"HEADGATE_CATALOG": "on"}) as running:
        yield running


async def query(gateway: Gateway, sql: object, params: object = None, headers: dict[str, str] | None = None) -> Answer:
    """Ask once; a catalog that is not ready yet is waited for."""

    async def asked() -> Answer | None:
        body = {"sql": sql} if params is None else {"sql": sql, "params": params}
        answer = await post_json(gateway.url, "/query/sql", body, headers)
        return None if answer.status == 503 else answer

    answer = await wait_until(asked, "the catalog answers", timeout_s=20)
    assert answer is not None
    return answer


async def rows_of(gateway: Gateway, sql: str, params: object = None) -> list[dict[str, Any]]:
    """The rows of a query that succeeds."""
    answer = await query(gateway, sql, params)
    assert answer.status == 200, answer.body
    rows: list[dict[str, Any]] = answer.json()["rows"]
    return rows


async def test_the_answer_is_exactly_the_wires(gateway: Gateway) -> None:
    """S0.18: rows as objects, columns with types, a count, whether it is all, and how long it took; under /api too."""
    answer = await query(gateway, "select 1 as a, 'x' as b")
    assert answer.header("content-type") == "application/json"
    assert list(answer.json()) == ["rows", "columns", "rowCount", "truncated", "elapsedMs"]
    assert answer.body.startswith(
        b'{"rows":[{"a":1,"b":"x"}],"columns":[{"name":"a","type":"int4"},{"name":"b","type":"text"}],'
        b'"rowCount":1,"truncated":false,"elapsedMs":'
    )
    again = await post_json(gateway.url, "/api/query/sql", {"sql": "select 1 as a, 'x' as b"})
    assert again.json()["rows"] == answer.json()["rows"]


async def test_parameters_are_values_in_both_spellings(gateway: Gateway) -> None:
    """S0.18, S0.19: a value is bound, whatever is in it; its type is what PostgreSQL infers, arrays and JSON too."""
    hostile = "x'; drop table files; --"
    sql = (
        "select :a as a, %(b)s::bigint as b, 7 %% 4 as c, 'x' = any(:list) as d, "
        ":j::jsonb as j, '2026-01-01' < :t::date as t"
    )
    params = {"a": hostile, "b": 2**53 + 1, "list": ["x", None], "j": {"k": [1.10, "ü"]}, "t": "2026-06-01"}
    (row,) = await rows_of(gateway, sql, params)
    assert row == {"a": hostile, "b": 2**53 + 1, "c": 3, "d": True, "j": {"k": [1.1, "ü"]}, "t": True}
    wrong = (await query(gateway, "select :a::bigint", {"a": "five"})).problem(400)
    assert (wrong["code"], wrong["sqlstate"]) == ("query.wrong", "22P02")
    assert "five" in wrong["detail"]


async def test_every_kind_of_value_keeps_its_digits(gateway: Gateway) -> None:
    """Numbers are PostgreSQL's own digits; what JSON has no word for is a text."""
    answer = await query(
        gateway,
        "select 9223372036854775807 as big, 1.10::numeric as exact, 'NaN'::numeric as nan, '-infinity'::float8 as low, "
        "'\\x00ff'::bytea as bytes, interval '1 day 2h' as span, timestamptz '2026-01-02 03:04:05.678+00' as at, "
        "array[1, null] as list, array['a,b'] as texts, '{\"b\": 1,\n \"a\": 2}'::json as json, null as nothing",
    )
    assert answer.body.startswith(
        b'{"rows":[{"big":9223372036854775807,"exact":1.10,"nan":"NaN","low":"-Infinity","bytes":"\\\\x00ff",'
        b'"span":"1 day 02:00:00","at":"2026-01-02T03:04:05.678+00:00","list":[1,null],"texts":["a,b"],'
    )
    assert answer.json()["rows"][0]["json"] == {"b": 1, "a": 2}


async def test_repeated_names_and_no_columns_have_an_answer(gateway: Gateway) -> None:
    """A repeated name gets a number; a row without columns is an empty object."""
    assert await rows_of(gateway, "select 1 as a, 2 as a, 3 as a_2") == [{"a": 1, "a_3": 2, "a_2": 3}]
    assert await rows_of(gateway, "select from generate_series(1, 2)") == [{}, {}]
    assert await rows_of(gateway, "select 1 as a where false; -- nothing") == []


async def test_an_answer_that_is_cut_short_says_so(gateway: Gateway) -> None:
    """S0.19: rows and bytes have limits, and `truncated` is true exactly when one of them left something out."""
    answer = (await query(gateway, "select g from generate_series(1, 10000) g")).json()
    assert (answer["rowCount"], answer["truncated"]) == (10_000, False)
    answer = (await query(gateway, "select g from generate_series(1, 10001) g")).json()
    assert (answer["rowCount"], answer["truncated"], len(answer["rows"])) == (10_000, True, 10_000)
    answer = await query(gateway, "select repeat('x', 500000) as x from generate_series(1, 1000)")
    assert answer.json()["truncated"] is True
    assert len(answer.body) < 9_000_000
    wide = (await query(gateway, "select repeat('x', 2000000) as x")).problem(422)
    assert wide["code"] == "query.too-large"


@pytest.mark.parametrize(
    ("sql", "status", "code", "place"),
    [
        ("select *\nfrom files\nwhere nonsense = 1", 400, "query.wrong", (3, 7)),
        ("select :a + nonsense", 400, "query.wrong", (1, 13)),
        ("selec 1", 400, "query.wrong", (1, 7)),
        ("select 1; select 2", 400, "query.wrong", (1, 11)),
        ("select (1", 400, "query.wrong", (1, 8)),
        ("select :nobody", 400, "query.wrong", (1, 8)),
        ("select * from catalog.files", 403, "query.forbidden", (1, 15)),
        ("select 1/0", 400, "query.wrong", None),
    ],
)
async def test_a_failing_query_says_postgresqls_words_and_the_place(
    gateway: Gateway, sql: str, status: int, code: str, place: tuple[int, int] | None
) -> None:
    """The problem has PostgreSQL's message and state, and the place in the text that the client sent."""
    problem = (await query(gateway, sql, {"a": 1} if ":a" in sql else {})).problem(status)
    assert problem["code"] == code
    assert (problem.get("line"), problem.get("column")) == (place or (None, None))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"sql":1}', b'{"sql":"select 1","more":1}', b'{"sql":""}'])
async def test_a_body_of_another_shape_is_refused(gateway: Gateway, body: bytes) -> None:
    """Each such body is a problem that says what was expected."""
    await query(gateway, "select 1")
    answer = await ask(gateway.url, "POST", "/query/sql", {}, body)
    answer.problem(answer.status)
    assert answer.status in {400, 422}


async def test_ndjson_streams_more_than_one_answer_holds(gateway: Gateway) -> None:
    """One row a line, far beyond the limit of an answer in one piece; the connection serves the next request."""
    await query(gateway, "select 1")
    async with open_connection(gateway.url) as connection:
        for count in (200_000, 1, 0):
            sql = f"select g as n, '{{\"a\":\n1}}'::json as j from generate_series(1, {count}) g"  # noqa: S608  # a test
            answer = await connection.request(
                "POST", "/query/sql", {"Accept": "application/x-ndjson"}, orjson.dumps({"sql": sql})
            )
            assert answer.header("content-type") == "application/x-ndjson"
            lines = answer.body.splitlines()
            assert len(lines) == count
            assert not lines or orjson.loads(lines[-1]) == {"n": count, "j": {"a": 1}}


async def test_csv_has_a_header_and_tells_null_from_nothing(gateway: Gateway) -> None:
    """RFC 4180, with PostgreSQL's own texts."""
    sql = 'select 1.10 as a, null as a, \'\' as "q""x", E\'l\\n"q"\' as d, true as e, array[1] as f'
    answer = await query(gateway, sql, headers={"Accept": "text/csv"})
    assert answer.header("content-type") == "text/csv; charset=utf-8"
    assert answer.body == b'a,a_2,"q""x",d,e,f\r\n1.10,,"","l\n""q""",true,{1}\r\n'
    many = await query(gateway, "select g from generate_series(1, 20000) g", headers={"Accept": "text/csv"})
    assert len(list(csv.reader(io.StringIO(many.body.decode())))) == 20_001


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/csv"])
async def test_a_stream_that_fails_has_no_end(gateway: Gateway, accept: str) -> None:
    """A failure in the middle is no end that could be taken for one: no last chunk, and NDJSON says what it was."""
    await query(gateway, "select 1")
    sql = "select 100000 / (50000 - g) as x from generate_series(1, 100000) g"
    async with open_connection(gateway.url) as connection:
        body = orjson.dumps({"sql": sql})
        await connection.send(connection.encode("POST", "/query/sql", {"Accept": accept}, body))
        with pytest.raises(ConnectionLost):
            await connection.read_answer()
    async with open_connection(gateway.url) as connection:
        await connection.send(connection.encode("POST", "/query/sql", {"Accept": accept}, body))
        raw = await connection.read_to_end()
    assert not raw.endswith(b"0\r\n\r\n")
    if accept == "application/x-ndjson":
        last = orjson.loads(raw.rstrip().splitlines()[-1])
        assert last["problem"]["sqlstate"] == "22012"


async def test_a_stream_that_fails_at_once_is_an_ordinary_problem(gateway: Gateway) -> None:
    """Before the first row the status still tells."""
    for accept in ("application/x-ndjson", "text/csv"):
        (await query(gateway, "select nonsense", headers={"Accept": accept})).problem(400)


async def test_a_gateway_without_a_catalog_says_so(tmp_path: Path) -> None:
    """HEADGATE_CATALOG=off: a clear refusal, before the body is read."""
    async with open_gateway(tmp_path / "data") as off:
        problem = (await post_json(off.url, "/query/sql", {"sql": "select 1"})).problem(501)
        assert problem["code"] == "query.off"
        assert "HEADGATE_CATALOG" in problem["detail"]
