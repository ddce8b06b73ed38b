"""T32: every route of the table, asked by nobody, with the wrong scope, by another tenant, and rightly.

The matrix is made from the route table, so a new route is in it without a line here, and one that says nothing of its
scope does not pass the type checker. What a tenant's allow lists keep apart is named in `OBJECTS`.
"""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from edge.routes import Lane
from edge.table import make_table
from engine.identity import SCOPES
from tests.support.gateway import Gateway, running_gateway
from tests.support.http import Answer, ask

AnyRoute = tuple[str, str, str | None, Lane | None]
"""Method, path, scope and lane of a route; a WebSocket has no lane."""
PUBLIC = {
    "/openapi.json",
    "/asyncapi.json",
    "/",
    "/healthz",
    "/readyz",
    "/health",
    "/ready",
    "/api/v1/health",
    "/version",
    "/auth/token",
    "/api/auth/token",
}
# What an allow list is about, by path: the query that names another tenant's.
OBJECTS = {
    "/ingest": ["subject=snapfs.theirs"],
    "/api/ingest": ["subject=snapfs.theirs", ""],
    "/stream": ["subject=snapfs.theirs&durable=ours-1", "subject=snapfs.ours&durable=theirs"],
    "/stream/dead": ["", "durable=theirs"],
    "/audit": [""],
    "/query/sql": [""],
    "/api/query/sql": [""],
    "/api/stream": ["subject=snapfs.theirs&durable=ours-1", "subject=snapfs.ours&durable=theirs"],
}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


class _Anything:
    """Stands where a running gateway's parts would: the table is only read."""

    def __getattr__(self, _: str) -> "_Anything":
        return self

    def __call__(self, *_: object) -> "_Anything":
        return self


def all_routes() -> list[AnyRoute]:
    """Method, path, scope and lane of every route; a WebSocket's lane is None."""
    table = make_table(cast("Any", _Anything()), cast("Any", _Anything()))
    routes: list[AnyRoute] = [(one.method, one.path, one.scope, one.lane) for one in table.routes]
    return routes + [("GET", path, one.scope, None) for path, one in table.sockets.items()]


ROUTES = all_routes()
GUARDED = [one for one in ROUTES if one[2] is not None]


def name_of(route: AnyRoute) -> str:
    """A test's name."""
    return f"{route[0]} {route[1]}" if route[3] else f"WS {route[1]}"


def key_of(word: str, scope: str) -> str:
    """The test's own key with a scope, or with all but it."""
    return f"secret-{word}-{scope.replace(':', '-')}-0123"


def some_keys() -> str:
    """HEADGATE_API_KEYS: for each scope one key with it, one with every other, one of another tenant."""
    keys = []
    for scope in sorted(SCOPES):
        others = "+".join(sorted(one for one in SCOPES - {scope, "admin"} if not is_implied(scope, one)))
        name = scope.replace(":", "-")
        keys.append(f"only-{name}={key_of('only', scope)};scopes={scope}")
        keys.append(f"but-{name}={key_of('but', scope)};scopes={others}")
        keys.append(
            f"other-{name}={key_of('other', scope)};scopes={scope};subjects=snapfs.ours;durables=ours-*;paths=/ours"
        )
    return ",".join(keys)


def is_implied(scope: str, by: str) -> bool:
    """Whether the second scope brings the first with it."""
    family, _, level = scope.partition(":")
    levels = ["read", "write", "admin"]
    return family == "filestore" and by.startswith("filestore:") and levels.index(by[10:]) > levels.index(level)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that asks everybody who they are."""
    env = {"AUTH": "on", "HEADGATE_API_KEYS": some_keys()}
    with running_gateway(tmp_path_factory.mktemp("guarded") / "data", env=env) as running:
        yield running


async def send(gateway: Gateway, route: AnyRoute, key: str | None, query: str = "") -> Answer:
    """Ask a route, with a body where the method has one."""
    method, path, _, lane = route
    target = "/".join("x" if part.startswith("{") else part for part in path.split("/")) + (query and f"?{query}")
    headers = dict(UPGRADE) if lane is None else {}
    if key is not None:
        headers["X-API-Key"] = key
    body = b"{}" if method in {"POST", "PUT", "PATCH"} else None
    return await ask(gateway.url, method, target, headers, body)


@pytest.mark.parametrize("route", GUARDED, ids=name_of)
async def test_nobody_gets_in(guarded: Gateway, route: AnyRoute) -> None:
    """Without credentials 401 and a challenge; with wrong ones as well, and it says so."""
    answer = await send(guarded, route, None)
    assert answer.problem(401)["code"] == "identity.no-credentials"
    assert answer.header("www-authenticate") == 'Bearer realm="headgate"'
    answer = await send(guarded, route, "demo-api-key-2024")
    assert answer.problem(401)["code"] == "identity.bad-credentials"
    assert answer.header("www-authenticate") == 'Bearer realm="headgate", error="invalid_token"'
    assert b"demo-api-key" not in answer.body + answer.raw_head


@pytest.mark.parametrize("route", GUARDED, ids=name_of)
async def test_a_wrong_scope_is_not_enough(guarded: Gateway, route: AnyRoute) -> None:
    """Every other scope together is 403, and the answer names the one that is missing."""
    scope = str(route[2])
    answer = await send(guarded, route, key_of("but", scope))
    assert answer.problem(403)["scope"] == scope
    assert f'scope="{scope}"' in str(answer.header("www-authenticate"))


@pytest.mark.parametrize("route", GUARDED, ids=name_of)
async def test_the_right_scope_is_enough(guarded: Gateway, route: AnyRoute) -> None:
    """The one scope that the route names lets its handler answer, whatever that says; so does `admin`."""
    for scope in (str(route[2]), "admin"):
        assert (await send(guarded, route, key_of("only", scope))).status not in {401, 403, 500}


@pytest.mark.parametrize("route", [one for one in GUARDED if one[1] in OBJECTS or "{durable}" in one[1]], ids=name_of)
async def test_another_tenants_objects_are_not_for_the_right_scope(guarded: Gateway, route: AnyRoute) -> None:
    """What an allow list does not name is 403, on each route that takes a name."""
    for query in OBJECTS.get(route[1], [""]):
        answer = await send(guarded, route, key_of("other", str(route[2])), query)
        assert answer.problem(403)["code"] == "identity.not-allowed"


@pytest.mark.parametrize("route", [one for one in ROUTES if one[2] is None], ids=name_of)
async def test_what_is_public_is_named_here(guarded: Gateway, route: AnyRoute) -> None:
    """A route without a scope is public on purpose; its answer depends on nobody's credentials."""
    assert route[1] in PUBLIC or route[1].startswith("/docs")
    if route[0] == "GET":
        first = await send(guarded, route, None)
        assert first.status == (404 if "{" in route[1] else 200)
        assert (await send(guarded, route, "not-a-key-of-anybody")).status == first.status


async def test_v1_keeps_tenants_apart_too(guarded: Gateway) -> None:
    """The same path in another subprotocol; a consumer without a name is nobody else's."""
    headers = {**UPGRADE, "Sec-WebSocket-Protocol": "headgate.stream.v1", "X-API-Key": key_of("other", "stream:read")}
    for query in [*OBJECTS["/stream"], "subject=snapfs.theirs"]:
        answer = await ask(guarded.url, "GET", f"/stream?{query}", headers)
        assert answer.problem(403)["code"] == "identity.not-allowed"
    assert (await ask(guarded.url, "GET", "/stream?subject=snapfs.ours", headers)).status == 101


def test_every_scope_that_the_routes_name_is_one() -> None:
    """And every path of `OBJECTS` is there."""
    assert {one[2] for one in GUARDED} <= SCOPES
    assert OBJECTS.keys() <= {one[1] for one in ROUTES}
