"""From an HTTP upgrade request to a running WebSocket session.

Rules of the file:
- Everything that can be refused is refused before the upgrade, with an HTTP answer.
"""

from functools import partial

import structlog
import trio

from edge.guard import BEARER_PROTOCOL
from edge.http import Request, Response
from edge.normaliser import Head
from edge.problems import broken, problem_response
from edge.responses import encode_response
from edge.routes import RouteTable
from edge.sockets import Negotiated, Session, check_upgrade, serve_socket
from edge.tls_stream import ClientStream
from engine.errors import Fault, Unavailable

log = structlog.get_logger("sockets")
ANSWER_WITHIN_S = 2.0


async def upgrade_connection(
    table: RouteTable,
    draining: trio.Event,
    stream: ClientStream,
    peer: str,
    head: Head,
    rest: bytes,
    request_id: str,
) -> None:
    """Check a WebSocket request and run its session, or answer why not.

    Args:
        table: the routes.
        draining: set when no new sessions are taken.
        stream: the connection; whoever accepted it closes it.
        peer: the client's address.
        head: the request's head, checked.
        rest: what came after it.
        request_id: of the request.
    """
    request = Request(head.method, head.path, head.query, head.headers, peer, request_id, _no_body, target=head.target)
    try:
        if draining.is_set():
            raise Unavailable("server.draining", "the gateway is shutting down")
        check_upgrade(request)
        watch = await _admit(table, request)
        session = await table.sockets[head.path].open(request)
    except Fault as fault:
        table.metrics.count_request(head.path, head.method, fault.kind.status)
        await _answer(stream, problem_response(fault, request_id, head.path), request_id)
    except Exception as fault:  # our bug: the client gets a 500 with the id, the log gets the rest
        log.error("upgrade failed", path=head.path, request_id=request_id, exc_info=fault)
        await _answer(stream, problem_response(broken(), request_id, head.path), request_id)
    else:
        table.metrics.upgrades[head.path] += 1
        chosen = session.subprotocol if isinstance(session, Negotiated) else _bearer_protocol(request)
        talk = session.session if isinstance(session, Negotiated) else session
        await serve_socket(stream, request.headers["sec-websocket-key"], rest, talk, chosen, watch)


def _bearer_protocol(request: Request) -> str | None:
    """Give the subprotocol to choose where the route chooses none: a page that brings its token wants one."""
    offered = request.headers.get("sec-websocket-protocol", "").split(",")
    return BEARER_PROTOCOL if BEARER_PROTOCOL in [name.strip() for name in offered] else None


async def _admit(table: RouteTable, request: Request) -> Session | None:
    """Note who asks, and give what watches them afterwards; raises when they may not."""
    scope = table.sockets[request.path].scope
    if table.guard is None:
        if scope is not None:
            raise RuntimeError(f"{request.path} asks for a scope, and nobody looks")
        return None
    request.principal = await table.guard.admit_socket(request, scope)
    return None if table.guard.is_open else partial(table.guard.watch_socket, request.principal)


async def _answer(stream: ClientStream, response: Response, request_id: str) -> None:
    with trio.move_on_after(ANSWER_WITHIN_S):
        await stream.send_all(encode_response(response, request_id, stays=False, head_only=False))
        await stream.send_eof()
        while await stream.receive_some(4096):
            pass


async def _no_body(_: int) -> bytes:
    return b""
