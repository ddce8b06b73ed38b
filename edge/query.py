"""`POST /query/sql`: SQL over the catalog's views, in one piece or streamed.

Rules of the file:
- A stream begins when PostgreSQL has answered: what fails before is an ordinary problem. What fails later is said in
  the last line where the format can say it, and the body is cut either way.
- A limit that cuts an answer in one piece short is said with `truncated`; one that is met in a stream is a failure,
  for a stream has no place to say it.
- When the client leaves, its query ends.

Source: S0.18 to S0.21; what must change with it: the wire reference in the README, `edge/client_query.py`.
"""

from collections.abc import Callable
from typing import Final

import orjson
import trio

from actors.query import Queries, Rows
from edge.bodies import read_decoded_body
from edge.http import JSON, Request, Response, SendPiece
from edge.node import Node
from edge.nursery import open_plain_nursery
from edge.problems import problem_response
from engine.errors import Fault, Refused
from engine.query import ANSWER, STREAM, one_line
from engine.query_text import QueryText, read_query
from engine.query_values import MAX_BODY_BYTES, QueryRequest, csv_line, read_request

NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv; charset=utf-8"
PIECE_BYTES: Final = 32 * 1024
_FORMATS: Final = {
    "application/json": JSON,
    "application/x-ndjson": NDJSON,
    "application/ndjson": NDJSON,
    "text/csv": CSV,
    "*/*": JSON,
    "application/*": JSON,
    "text/*": CSV,
}


async def post_query_sql(node: Node, request: Request) -> Response:
    """Read the query, run it, answer in the format that is asked for."""
    queries = _queries(node)
    began = trio.current_time()
    asked = read_request(await read_decoded_body(request, MAX_BODY_BYTES))
    query = read_query(asked.sql, asked.params.keys())
    content_type = format_of(request.headers.get("accept", ""))
    response: Response | None = None
    async with open_plain_nursery() as nursery:
        nursery.start_soon(_cancel_when_left, request, nursery.cancel_scope)
        if content_type == JSON:
            response = await _answer(queries, query, asked, began)
            request.on_end = queries.keep_answer(len(response.body))
        else:
            response = await _stream(queries, query, asked, content_type, request)
        nursery.cancel_scope.cancel()
    if response is None:
        raise trio.BrokenResourceError("the client left before its answer")
    return response


def check_query_room(node: Node) -> None:
    """Refuse before the body is read.

    Raises:
        Refused: there is no catalog.
        Unavailable: too many queries run.
    """
    _queries(node).check_room()


def format_of(accept: str) -> str:
    """Choose the media type of the answer; JSON where nothing that is asked for is known."""
    best, best_quality = JSON, 0.0
    for one in accept.split(","):
        name, *parameters = (part.strip().lower() for part in one.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                text = parameter[2:]
                quality = float(text) if text.replace(".", "", 1).isdecimal() and len(text) < 6 else 0.0
        if name in _FORMATS and quality > best_quality:
            best, best_quality = _FORMATS[name], quality
    return best


def _queries(node: Node) -> Queries:
    if node.query is None:
        raise Refused("query.off", "this gateway keeps no catalog to query: HEADGATE_CATALOG is off")
    return node.query


async def _cancel_when_left(request: Request, scope: trio.CancelScope) -> None:
    await request.wait_left()
    scope.cancel()


async def _answer(queries: Queries, query: QueryText, asked: QueryRequest, began: float) -> Response:
    rows: list[str] = []
    async with queries.open_query(query, asked.params, ANSWER) as running:
        while more := await running.next_rows():
            rows += more
    rest = {
        "columns": [column._asdict() for column in running.columns],
        "rowCount": len(rows),
        "truncated": running.is_truncated,
        "elapsedMs": round((trio.current_time() - began) * 1000, 3),
    }
    body = f'{{"rows":[{",".join(rows)}],'.encode() + orjson.dumps(rest)[1:]
    return Response(200, body)


async def _stream(
    queries: Queries, query: QueryText, asked: QueryRequest, content_type: str, request: Request
) -> Response:
    response = Response(200, content_type=content_type)
    is_csv = content_type == CSV
    async with queries.open_query(query, asked.params, STREAM, as_texts=is_csv) as running:
        rows = await running.next_rows()
        send = await request.begin(response)
        try:
            await send(csv_line([column.name for column in running.columns]).encode() if is_csv else b"")
            await _send_rows(running, rows, _csv_row if is_csv else _json_row, send)
        except Fault as fault:
            if not is_csv:
                problem = problem_response(fault, request.request_id, request.path)
                await send(b'{"problem":' + problem.body + b"}\n")
            raise
    return response


async def _send_rows(running: Rows, rows: list[str], encode: Callable[[str], bytes], send: SendPiece) -> None:
    """Send rows in pieces of some size, until there are none.

    Raises:
        Refused: a limit was met before the end.
    """
    piece = bytearray()
    while rows:
        for row in rows:
            piece += encode(row)
        if len(piece) >= PIECE_BYTES:
            await send(bytes(piece))
            piece.clear()
        rows = await running.next_rows()
    await send(bytes(piece))
    if running.is_truncated:
        raise Refused(
            "query.too-large",
            f"the stream ends after {running.count} rows: "
            f"the limits are {STREAM.rows} rows and {STREAM.size_bytes} bytes",
        )


def _json_row(row: str) -> bytes:
    return one_line(row) + b"\n"


def _csv_row(row: str) -> bytes:
    return csv_line(orjson.loads(row)).encode()
