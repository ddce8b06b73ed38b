"""`/docs`, `/openapi.json` and `/asyncapi.json`: the gateway explains itself, with no other network.

Rules of the file:
- The page comes from files beside this one and loads nothing from elsewhere: the policy says so to the browser.
- Swagger UI is vendored whole and unchanged; `docs_page/CHECKSUMS` says which release, and
  `tests/edge/test_docs_page.py` holds the files to it.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import trio

from edge.http import Request, Response, json_response
from edge.routes import Lane, Route, SocketRoute
from edge.shapes_documents import PAGE, PAGE_FILES
from engine.errors import Refused

FOLDER: Final = Path(__file__).with_name("docs_page")
POLICY: Final = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""`data:` for images alone: Swagger UI's style sheet draws its arrows so."""
HEADERS: Final = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


class Documents:
    """The documents of a route table.

    Args:
        routes: the table's routes; read when a document is first asked for, by when they are all there.
        sockets: the table's WebSocket paths.
    """

    def __init__(self, routes: Sequence[Route], sockets: dict[str, SocketRoute]) -> None:
        self._routes = routes
        self._sockets = sockets
        self._openapi: Response | None = None
        self._asyncapi: Response | None = None

    def routes(self) -> list[Route]:
        """Give the routes that serve them."""
        return [
            Route("GET", "/openapi.json", self._get_openapi, Lane.QUART, "This, for programs", scope=None),
            Route("GET", "/asyncapi.json", self._get_asyncapi, Lane.QUART, "The WebSockets, for programs", scope=None),
            Route("GET", "/docs", _get_page, Lane.QUART, "This, for people", scope=None),
            Route("GET", "/docs/{file}", _get_file, Lane.QUART, "What the page for people loads", scope=None),
        ]

    async def _get_openapi(self, _: Request) -> Response:
        if self._openapi is None:
            from edge.documents import openapi_of  # noqa: PLC0415  # with every shape, which few ever ask for

            self._openapi = json_response(openapi_of(self._routes))
        return self._openapi

    async def _get_asyncapi(self, _: Request) -> Response:
        if self._asyncapi is None:
            from edge.documents import asyncapi_of  # noqa: PLC0415  # with every shape, which few ever ask for

            self._asyncapi = json_response(asyncapi_of(self._sockets.values()))
        return self._asyncapi


async def _get_page(_: Request) -> Response:
    return await _read("index.html", PAGE)


async def _get_file(request: Request) -> Response:
    name = request.path_parameters["file"]
    if name not in PAGE_FILES:
        raise Refused("request.no-such-path", f"the page has no {name!r}; it has {', '.join(PAGE_FILES)}")
    return await _read(name, PAGE_FILES[name])


async def _read(name: str, media: str) -> Response:
    return Response(200, await trio.to_thread.run_sync(_content, name), media, dict(HEADERS))


@cache
def _content(name: str) -> bytes:
    return (FOLDER / name).read_bytes()
