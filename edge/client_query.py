"""What a client asks of the catalog and hears from it.

Rules of the file:
- The fields are the wire's, name for name.
- A stream that was cut raises: a part is never taken for the whole.

What must change with it: the wire of `POST /query/sql`, see `edge/query.py`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import httpx2
import msgspec

from edge.client_retry import GatewayBroken, GatewayUnreachable, explain_answer

T = TypeVar("T")


class QueryColumn(msgspec.Struct, frozen=True):
    """A column: its name, which no other one has, and PostgreSQL's name of its type."""

    name: str
    type: str


class QueryResult(msgspec.Struct, frozen=True, rename="camel"):
    """What a query gave.

    Args:
        rows: by column name; a number with a fraction is a float, whatever PostgreSQL's digits were.
        columns: in order.
        row_count: how many rows came.
        truncated: a limit left further rows out.
        elapsed_ms: how long the gateway took.
    """

    rows: list[dict[str, Any]]
    columns: list[QueryColumn]
    row_count: int
    truncated: bool
    elapsed_ms: float


class QueryingClient:
    """The part of a client that asks the catalog; `edge/client.py` has the rest."""

    base_url: str
    _http: httpx2.AsyncClient

    async def query(self, sql: str, params: Mapping[str, object] | None = None) -> QueryResult:
        """Ask the catalog in SQL; the parameters stand in it as `:name` or `%(name)s`. Repeated until `give_up_s`.

        Raises:
            GatewayRefused: the query cannot be answered; the text has PostgreSQL's words and the place.
            GatewayError: nothing succeeded for `give_up_s`.
        """
        answer = await self.query_json(sql, params)
        try:
            return msgspec.json.decode(answer, type=QueryResult)
        except msgspec.MsgspecError as error:
            raise GatewayBroken(f"the answer is not what a gateway says: {error}") from error

    async def query_json(self, sql: str, params: Mapping[str, object] | None = None) -> bytes:
        """Ask as `query` does, and give the answer's JSON text, in which numbers have all their digits."""
        body = encode_query(sql, params)
        return await self._repeat(lambda: self._send("POST", "/query/sql", body), is_harmless=True)

    def query_stream(
        self, sql: str, params: Mapping[str, object] | None = None, *, media_type: str = "application/x-ndjson"
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Ask for more rows than one answer holds: `async with client.query_stream(…) as pieces: async for …`.

        Args:
            media_type: `application/x-ndjson` or `text/csv`.

        Raises:
            GatewayError: out of the `async with`; tried once. GatewayBroken: the stream was cut, rows are missing.
        """
        headers = {"content-type": "application/json", "accept": media_type}
        url = self.base_url + "/query/sql"
        return open_pieces(
            self._http, self._http.build_request("POST", url, content=encode_query(sql, params), headers=headers)
        )

    async def _send(self, method: str, path: str, content: bytes | None) -> bytes:
        raise NotImplementedError

    async def _repeat(self, attempt: Callable[[], Awaitable[T]], *, is_harmless: bool) -> T:
        raise NotImplementedError


def encode_query(sql: str, params: Mapping[str, object] | None) -> bytes:
    """Give the body of a query.

    Raises:
        ValueError: a parameter is no JSON value.
    """
    body: dict[str, object] = {"sql": sql}
    if params:
        body["params"] = dict(params)
    try:
        return msgspec.json.encode(body)
    except (TypeError, OverflowError) as problem:
        raise ValueError(f"a parameter is no JSON value: {problem}") from problem


@asynccontextmanager
async def open_pieces(http: httpx2.AsyncClient, request: httpx2.Request) -> AsyncIterator[AsyncIterator[bytes]]:
    """Give the pieces of a streamed answer as they come.

    Raises:
        GatewayError: nobody answered, the query was refused, or the stream was cut.
    """
    try:
        answer = await http.send(request, stream=True)
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise GatewayUnreachable(f"no gateway answers at {request.url.copy_with(path='/')}: {error}") from error
    except httpx2.RequestError as error:
        raise GatewayBroken(f"the gateway broke off before its answer: {error}") from error
    try:
        if answer.status_code != 200:
            raise explain_answer(answer.status_code, answer.headers, await answer.aread())
        yield answer.aiter_bytes()
    except httpx2.RequestError as error:
        raise GatewayBroken(f"the answer was cut, rows are missing: {error}") from error
    finally:
        await answer.aclose()
