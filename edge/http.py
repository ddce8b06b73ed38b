"""Requests and responses as plain values, the same on both lanes.

Rules of the file:
- No framework and no I/O: a handler that takes and returns these can change lanes by one word in the route table.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

import orjson
import trio

from engine.errors import Refused
from engine.identity import NOBODY, Principal
from engine.limits import Judgement
from engine.slots import Hold
from engine.trace import Trace

JSON: Final = "application/json"
SendPiece = Callable[[bytes], Awaitable[None]]
"""Sends a piece of a body; it waits for a slow client, who has a deadline for each."""


async def cannot_stream(_: object, __: object) -> SendPiece:
    """Refuse to begin a body in pieces, where whoever asks cannot take one."""
    raise Refused("request.not-implemented", "an answer in pieces needs HTTP/1.1 on a connection of its own")


@dataclass(slots=True)
class Request:
    """One request, its body not read yet.

    Args:
        method: upper case.
        path: canonical path.
        query: the raw query, without `?`.
        headers: names in lower case to values; repeated ones joined by `, `.
        peer: address of the client.
        request_id: echoed from the client or made up.
        read_body: reads the whole body, decoded from its transfer coding, within the given limit.
        path_parameters: what the path holds where its route has names; decoded, never empty, without a slash.
        stream: carries out `begin`, given the request: a function that knew its request would keep it alive until the
            garbage collector finds them.
        wait_left: returns when the client has closed its end, or its connection broke.
        told: headers that the answer gets where the handler says none of the same name.
        judgements: how much more they may ask, which the answer says.
        principal: who asks; the guard says so before a handler sees the request.
        trace: where it is traced; None on the express lane where the client asked for none.
        hold: slots that it holds; the lane that serves it gives them back after its answer, whatever becomes of it.
        on_end: called like that, for what a handler holds until its answer is with the client.
        is_told: a collector hears of it.
        target: path and query as sent.
        facts: what its handler wants remembered of the change it makes; never a secret.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    peer: str
    request_id: str
    read_body: Callable[[int], Awaitable[bytes]]
    path_parameters: dict[str, str] = field(default_factory=dict)
    stream: "Callable[[Request, Response], Awaitable[SendPiece]]" = cannot_stream
    wait_left: Callable[[], Awaitable[None]] = trio.sleep_forever
    principal: Principal = NOBODY
    told: dict[str, str] = field(default_factory=dict)
    judgements: Sequence[Judgement] = ()
    trace: Trace | None = None
    hold: Hold | None = None
    on_end: Callable[[], None] | None = None
    is_told: bool = False
    target: str = ""
    facts: dict[str, object] = field(default_factory=dict)

    def end(self) -> None:
        """Give back what was held for it, once its answer was sent or never will be."""
        if self.hold is not None:
            self.hold.release()
        if self.on_end is not None:
            self.on_end()

    def begin(self, response: "Response") -> Awaitable[SendPiece]:
        """Begin an answer whose body is sent in pieces, and give what sends one.

        The handler then returns the response it began; whatever else it ends with, the body is cut, which a client can
        tell from its end.
        """
        return self.stream(self, response)

    def parameters(self) -> dict[str, str]:
        """Give the query's parameters, as `parse_parameters` does."""
        return parse_parameters(self.query)


@dataclass(slots=True)
class Response:
    """One answer.

    Args:
        status: HTTP status.
        body: the whole body.
        content_type: its media type.
        headers: more headers.
        close: the connection ends after it.
    """

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False


Handler = Callable[[Request], Awaitable[Response]]


def parse_parameters(query: str) -> dict[str, str]:
    """Give a query's parameters; the last of a repeated one wins.

    Raises:
        Refused: it is not UTF-8 once decoded, or has absurdly many parameters.
    """
    if not query:
        return {}
    try:
        return dict(parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100))
    except ValueError as problem:
        raise Refused("request.bad-parameter", f"the query cannot be decoded: {problem}") from None


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Give a JSON answer."""
    return Response(status, orjson.dumps(value), JSON, headers or {})
