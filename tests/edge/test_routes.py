"""The route table: every route once, on one lane, and an answer whatever happens."""

from collections.abc import Awaitable, Callable

import orjson
import pytest
import structlog.testing
import trio

from edge.http import Request, Response
from edge.routes import Lane, Route, RouteTable, SocketRoute, respond
from engine.errors import KINDS, Broken, Fault, Refused, Situation, Unavailable, Unknown
from engine.metrics import Metrics


async def fine(_: Request) -> Response:
    """Answer."""
    return Response(200, b"{}")


async def no_session(_: Request) -> Callable[[object], Awaitable[None]]:
    """Never called: upgrades are not the table's to answer."""
    raise AssertionError


def route(method: str, path: str, lane: Lane = Lane.EXPRESS, *, admit: Callable[[], None] | None = None) -> Route:
    """One route."""
    return Route(method, path, fine, lane, "words", admit, scope=None)


def make_table(*routes: Route) -> RouteTable:
    """A table of these and a WebSocket path."""
    return RouteTable(list(routes), Metrics(), {"/stream": SocketRoute("/stream", no_session, "words", scope=None)})


def request(method: str, path: str) -> Request:
    """A request without a body."""

    async def read(_: int) -> bytes:
        return b""

    return Request(method, path, "", {}, "127.0.0.1", "id-1", read)


def refusal(table: RouteTable, method: str, path: str) -> Refused:
    """What is said of a request that has no route."""
    with pytest.raises(Refused) as caught:
        table.find(method, path)
    return caught.value


def test_a_route_is_found_by_method_and_path() -> None:
    """GET also answers HEAD; the path is compared as it is."""
    get, post = route("GET", "/a"), route("POST", "/a")
    table = make_table(get, post)
    assert table.find("GET", "/a") is get
    assert table.find("HEAD", "/a") is get
    assert table.find("POST", "/a") is post


@pytest.mark.parametrize("path", ["/", "/A", "/a/", "//a", "/a/b", "", "/ab"])
def test_an_unknown_path_is_404(path: str) -> None:
    """No guessing: another case, a slash more, a prefix."""
    assert refusal(make_table(route("GET", "/a")), "GET", path).kind.status == 404


def test_a_wrong_method_is_405_with_what_is_allowed() -> None:
    """Each method of the path is named, HEAD with GET; and for a WebSocket path the upgrade's."""
    table = make_table(route("GET", "/a"), route("POST", "/a"), route("POST", "/b"))
    for method in ("PUT", "get", "OPTIONS", "A" * 20):
        caught = refusal(table, method, "/a")
        assert (caught.kind.status, caught.members["allow"]) == (405, "GET, HEAD, POST")
    assert refusal(table, "GET", "/b").members["allow"] == "POST"
    caught = refusal(table, "POST", "/stream")
    assert (caught.kind.status, caught.members["allow"]) == (405, "GET")
    assert refusal(table, "GET", "/stream").kind.status == 426


def test_a_path_has_one_lane() -> None:
    """What nobody knows is the express lane's to refuse."""
    table = make_table(route("GET", "/a"), route("GET", "/q", Lane.QUART), route("POST", "/q", Lane.QUART))
    assert (table.lane("/a"), table.lane("/q"), table.lane("/x")) == (Lane.EXPRESS, Lane.QUART, Lane.EXPRESS)
    with pytest.raises(ValueError, match="two lanes"):
        make_table(route("GET", "/a"), route("POST", "/a", Lane.QUART))


@pytest.mark.parametrize("methods", [("GET", "GET"), ("GET", "HEAD"), ("POST", "POST")])
def test_a_route_is_there_once(methods: tuple[str, str]) -> None:
    """Two handlers for one request are our bug, found at the start."""
    with pytest.raises(ValueError, match="twice"):
        make_table(*(route(method, "/a") for method in methods))


@pytest.mark.parametrize(
    ("template", "path", "parameters"),
    [
        ("/a/{x}", "/a/b", {"x": "b"}),
        ("/a/{x}", "/a/{x}", {"x": "{x}"}),
        ("/a/{x}", "/a/é b%", {"x": "é b%"}),
        ("/a/{x}/z", "/a/b/z", {"x": "b"}),
        ("/{x}/{y}", "/b/c", {"x": "b", "y": "c"}),
        ("/a/{x}", "/a/", None),
        ("/a/{x}", "/a", None),
        ("/a/{x}", "/a/b/", None),
        ("/a/{x}", "/a/b/c", None),
        ("/a/{x}", "/A/b", None),
        ("/a/{x}", "//b", None),
        ("/a/{x}/z", "/a//z", None),
        ("/a/{x}/z", "/a/b/{x}", None),
    ],
)
async def test_a_template_takes_one_segment_for_each_name(
    template: str, path: str, parameters: dict[str, str] | None
) -> None:
    """The handler finds what stood there; it is not decoded a second time, not empty, and not two segments."""
    seen: list[dict[str, str]] = []

    async def note(asked: Request) -> Response:
        seen.append(asked.path_parameters)
        return Response(200)

    table = make_table(Route("DELETE", template, note, Lane.QUART, "words", scope=None))
    response = await respond(table, request("DELETE", path))
    assert (response.status, seen) == ((404, []) if parameters is None else (200, [parameters]))
    assert table.lane(path) is (Lane.EXPRESS if parameters is None else Lane.QUART)


def test_an_exact_path_wins_whole() -> None:
    """With its lane and its methods: the template beside it answers nothing for it."""
    exact, template = route("GET", "/a/b"), route("DELETE", "/a/{x}", Lane.QUART)
    for table in (make_table(exact, template), make_table(template, exact)):
        assert (table.find("GET", "/a/b"), table.find("DELETE", "/a/c")) == (exact, template)
        assert (table.lane("/a/b"), table.lane("/a/c")) == (Lane.EXPRESS, Lane.QUART)
        assert refusal(table, "DELETE", "/a/b").members["allow"] == "GET, HEAD"
        assert refusal(table, "GET", "/a/c").members["allow"] == "DELETE"
        assert refusal(table, "GET", "/a/{x}").members["allow"] == "DELETE"


@pytest.mark.parametrize(
    ("one", "other"), [("/a/{x}", "/a/{y}"), ("/{x}/b", "/a/{y}"), ("/a/{x}", "/{y}/{z}"), ("/a/{x}/c", "/a/b/{y}")]
)
def test_no_path_fits_two_templates(one: str, other: str) -> None:
    """Which of them would answer is nobody's to guess: it is our bug, found at the start."""
    with pytest.raises(ValueError, match="fit the same paths"):
        make_table(route("GET", one), route("POST", other))
    make_table(route("GET", one), route("POST", one), route("GET", one + "/more"), route("GET", "/z" + one))


async def test_a_template_makes_one_label() -> None:
    """Whatever stands in the path: names that clients make up are no label."""
    table = make_table(route("GET", "/a/{x}"))
    for number in range(50):
        await respond(table, request("GET", f"/a/{number}"))
        await respond(table, request("PUT", f"/a/{number}"))
    assert table.metrics.requests == {("/a/{x}", "GET", 200): 50, ("unknown", "PUT", 405): 50}


async def test_a_handlers_answer_is_given_and_counted() -> None:
    """By route, method and status; HEAD counts as itself."""
    table = make_table(route("GET", "/a"))
    for method in ("GET", "GET", "HEAD"):
        assert (await respond(table, request(method, "/a"))).status == 200
    assert table.metrics.requests == {("/a", "GET", 200): 2, ("/a", "HEAD", 200): 1}


CLASSES = {
    Situation.REFUSED: Refused,
    Situation.UNAVAILABLE: Unavailable,
    Situation.UNKNOWN: Unknown,
    Situation.BROKEN: Broken,
}


@pytest.mark.parametrize("code", KINDS)
async def test_a_fault_is_its_problem(code: str) -> None:
    """Each kind of the table becomes its status and body; only a malformed request ends the connection."""

    async def fail(_: Request) -> Response:
        raise CLASSES[KINDS[code].situation](code, "why")

    table = make_table(Route("GET", "/a", fail, Lane.EXPRESS, "words", scope=None))
    response = await respond(table, request("GET", "/a"))
    body = orjson.loads(response.body)
    assert response.status == KINDS[code].status
    assert (body["code"], body["detail"], body["instance"], body["request_id"]) == (code, "why", "/a", "id-1")
    assert response.close is (code == "request.malformed")
    assert table.metrics.requests == {("/a", "GET", KINDS[code].status): 1}


async def test_a_request_is_refused_before_its_handler() -> None:
    """What is not admitted costs nothing more: neither its body nor its handler."""

    def admit() -> None:
        raise Unavailable("ingest.full", "too much waits")

    async def read(_: int) -> bytes:
        raise AssertionError("the body was read")

    async def handle(_: Request) -> Response:
        raise AssertionError("it was handled")

    table = make_table(Route("POST", "/a", handle, Lane.EXPRESS, "words", admit, scope=None))
    refused = Request("POST", "/a", "", {}, "127.0.0.1", "id-1", read)
    response = await respond(table, refused)
    assert (response.status, response.headers["Retry-After"]) == (503, "1")


async def test_a_bug_is_a_500_that_says_nothing_but_the_id() -> None:
    """The client learns where to ask, the log has the rest, and no label is made of what the client sent."""

    async def fail(_: Request) -> Response:
        raise LookupError("secret of the house")

    table = make_table(Route("GET", "/a", fail, Lane.EXPRESS, "words", scope=None))
    with structlog.testing.capture_logs() as lines:
        response = await respond(table, request("GET", "/a"))
    assert response.status == 500
    assert b"secret" not in response.body
    assert orjson.loads(response.body)["request_id"] == "id-1"
    [line, request_line] = lines
    assert (request_line["log_level"], request_line["request_id"], request_line["status"]) == ("info", "id-1", 500)
    assert line["log_level"] == "error"
    assert (line["request_id"], line["path"], str(line["exc_info"])) == ("id-1", "/a", "secret of the house")


async def test_unknown_paths_and_methods_make_no_labels() -> None:
    """Whatever clients invent, the counters stay few."""
    table = make_table(route("GET", "/a"))
    for number in range(50):
        await respond(table, request("GET", f"/{number}"))
        await respond(table, request("A" * (number % 20 + 1), "/a"))
    assert table.metrics.requests == {("unknown", "GET", 404): 50, ("unknown", "other", 405): 50}


@pytest.mark.parametrize("error", [trio.BrokenResourceError, trio.ClosedResourceError, ConnectionResetError])
async def test_a_client_that_left_is_not_answered(error: type[Exception]) -> None:
    """A connection that broke under the handler is not a bug: it goes to whoever owns the connection."""

    async def fail(_: Request) -> Response:
        raise error

    table = make_table(Route("GET", "/a", fail, Lane.EXPRESS, "words", scope=None))
    with pytest.raises(error):
        await respond(table, request("GET", "/a"))


async def test_cancelled_here_nothing_is_answered() -> None:
    """Cancellation passes through a handler: it is nobody's 500."""

    async def wait(_: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    table = make_table(Route("GET", "/a", wait, Lane.EXPRESS, "words", scope=None))
    with trio.move_on_after(0) as scope:
        await respond(table, request("GET", "/a"))
    assert scope.cancelled_caught
    assert table.metrics.requests == {}


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=1&a=2", {"a": "2"}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("a=%20+%2B", {"a": "  +"}),
        ("%61=%C3%A9", {"a": "é"}),
        ("a;b=1", {"a;b": "1"}),
    ],
)
def test_a_query_has_parameters(query: str, parameters: dict[str, str]) -> None:
    """Decoded once; the last of a repeated one wins; an empty one is there."""
    asked = request("GET", "/a")
    asked.query = query
    assert asked.parameters() == parameters


@pytest.mark.parametrize(
    "query", ["a=%ff", "%c0%af=1", "&".join(["a=1"] * 101)], ids=["not UTF-8", "overlong", "too many"]
)
def test_a_query_that_cannot_be_read_is_refused(query: str) -> None:
    """400, and the text says so."""
    asked = request("GET", "/a")
    asked.query = query
    with pytest.raises(Fault) as caught:
        asked.parameters()
    assert caught.value.kind.code == "request.bad-parameter"
