"""Every route of the real table has a home or is free; what names a durable is where that durable's agents are."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.documents import asyncapi_of, openapi_of
from edge.routes import RouteTable
from edge.table import make_table
from engine.placement import FIRST, home_of, home_of_durable

COUNTS = (1, 2, 3, 7, 64)
FREE = {
    "/": "one answer",
    "/healthz": "each lives for itself",
    "/readyz": "each knows the engines",
    "/health": "likewise",
    "/ready": "likewise",
    "/version": "one answer",
    "/actors": "asks the others",
    "/metrics": "asks the others",
    "/audit": "is on the log",
    "/consumers": "asks the others for what is attached",
    "/ingest": "is on the log",
    "/cache/batch": "each has a cache; deletions are told",
    "/auth/token": "the secret is in a file of all",
    "/query/sql": "is in the database",
    "/stream/settle": "names its durable in the body; edge/pulls.py asks the home",
    "/v1/health": "as /health",
    "/v1/metrics": "as /metrics",
    "/openapi.json": "one answer",
    "/asyncapi.json": "one answer",
    "/docs": "one answer",
    "/docs/{file}": "one answer",
}
"""Paths, without their prefix, that any worker serves, and why. A new path makes somebody decide: here, or a home."""

OF_THE_FIRST = {
    "/agents",
    "/agents/{id}",
    "/agents/{id}/scan",
    "/scans",
    "/scans/{command_id}",
    "/ws/agents",
    "/stream/dead",
    "/stream/dead/{id}/replay",
}
SAYS_DURABLE_ELSEWHERE = {"/stream/dead": "filters letters by it", "/stream/settle": "see FREE"}


class _Anything:
    """Stands where a running gateway's parts would: the table is only read."""

    def __getattr__(self, _: str) -> "_Anything":
        return self

    def __call__(self, *_: object) -> "_Anything":
        return self


TABLE: RouteTable = make_table(cast("Any", _Anything()), cast("Any", _Anything()))
PATHS = sorted({one.path for one in TABLE.routes} | set(TABLE.sockets))


def plain(path: str) -> str:
    """A path without its prefix."""
    return path.removeprefix("/api") if path.startswith("/api/") else path


def filled(path: str, durable: str) -> str:
    """A path that fits a template."""
    segments = [
        durable if segment == "{durable}" else "x" if segment[:1] == "{" else segment for segment in path.split("/")
    ]
    return "/".join(segments)


def home(path: str, query: dict[str, str], count: int) -> int | None:
    """Where a request belongs."""
    return home_of(path, lambda: query, count)


def durables_named() -> Iterator[tuple[str, bool]]:
    """Paths whose documents say that they take a durable, and whether the path itself has it."""
    document = openapi_of(TABLE.routes)
    for path, operations in document["paths"].items():
        named = [one for operation in operations.values() for one in _parameters(operation) if one["name"] == "durable"]
        bodies = [str(_body(document, operation)) for operation in operations.values()]
        if named or any("'durable'" in body for body in bodies):
            yield path, any(one["in"] == "path" for one in named)
    for channel in asyncapi_of(TABLE.sockets.values())["channels"].values():
        if "'durable'" in str(channel.get("bindings", {})):
            yield channel["address"], False


def _parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in operation.get("parameters", []) if "name" in one]


def _body(document: dict[str, Any], operation: dict[str, Any]) -> list[object]:
    contents = operation.get("requestBody", {}).get("content", {}).values()
    schemas = [content.get("schema", {}) for content in contents]
    names = [str(schema.get("$ref", "")).rpartition("/")[2] for schema in schemas]
    return [*schemas, *(document["components"]["schemas"].get(name, {}) for name in names)]


@pytest.mark.parametrize("path", PATHS)
def test_every_path_has_a_home_or_is_free(path: str) -> None:
    """Nobody forgets to decide: a path that is new is in one of the tables, or names a durable."""
    where = plain(path)
    is_durable = "{durable}" in where or where in {"/stream", "/stream/pull"}
    assert (where in FREE) + (where in OF_THE_FIRST) + is_durable == 1, f"say where {path} belongs"
    for count in COUNTS:
        found = home(filled(path, "mysql"), {"durable": "mysql"}, count)
        expected = None if where in FREE else FIRST if where in OF_THE_FIRST else home_of_durable("mysql", count)
        assert found == expected


def test_what_names_a_durable_is_at_its_home() -> None:
    """A later path whose document has a durable, in its path, its query or its body, is not forgotten."""
    named = dict(durables_named())
    assert {"/stream", "/api/stream", "/stream/pull", "/consumers/{durable}", "/stream/settle"} <= named.keys()
    for path, is_in_path in named.items():
        if plain(path) in SAYS_DURABLE_ELSEWHERE:
            continue
        for durable in ("mysql", "elastic", "a b", "ü", "x" * 200):
            query = {} if is_in_path else {"durable": durable}
            assert home(filled(path, durable), query, 7) == home_of_durable(durable, 7), path


def test_no_table_has_a_path_that_is_gone() -> None:
    """What is named here is in the route table."""
    assert (FREE.keys() | OF_THE_FIRST | SAYS_DURABLE_ELSEWHERE.keys()) <= {plain(path) for path in PATHS}


@pytest.mark.parametrize("path", ["/stream", "/api/stream", "/stream/pull", "/api/stream/pull"])
def test_without_a_durable_any_worker_will_do(path: str) -> None:
    """A consumer that ends with its socket, and a request that will be refused."""
    for query in ({}, {"durable": ""}):
        assert home(path, query, 7) is None


@given(st.text(max_size=40), st.text(max_size=40), st.integers(1, 64))
def test_whatever_is_asked_for_has_one_home_and_it_exists(path: str, durable: str, count: int) -> None:
    """Nothing falls, and nobody is sent where nobody is; with and without the prefix it is the same."""
    for one in (f"/{path}", f"/consumers/{path}", f"/agents/{path}", f"/stream/{path}"):
        found = home(one, {"durable": durable}, count)
        assert found is None or 1 <= found <= count
        if not one.startswith("/api/"):
            assert home("/api" + one, {"durable": durable}, count) == found


def test_durables_are_spread() -> None:
    """No worker has all of them."""
    homes = [home_of_durable(f"durable-{number}", 4) for number in range(400)]
    assert all(60 < homes.count(index) < 140 for index in range(1, 5))
