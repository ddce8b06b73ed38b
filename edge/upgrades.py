"""From an HTTP upgrade request to a running WebSocket session.

Rules of the file:
- Everything that can be refused is refused before the upgrade, with an HTTP answer.
"""

import structlog
import trio

from edge.http import Request, Response
from edge.normaliser import Head
from edge.problems import broken, problem_response
from edge.responses import encode_response
from edge.routes import RouteTable
from edge.sockets import Negotiated, check_upgrade, serve_socket
from engine.errors import Fault, Unavailable

log = structlog.get_logger("sockets")
ANSWER_WITHIN_S = 2.0


async def upgrade_connection(
    table: RouteTable,
    draining: trio.Event,
    stream: trio.SocketStream,
    head_bytes: bytes,
    head: Head,
    rest: bytes,
    request_id: str,
) -> None:
    """Check a WebSocket request and run its session, or answer why not.

    Args:
        table: the routes.
        draining: set when no new sessions are taken.
        stream: the connection; whoever accepted it closes it.
        head_bytes: the request's head as it came.
        head: the same, checked.
        rest: what came after it.
        request_id: of the request.
    """
    peer = str(stream.socket.getpeername()[0])
    request = Request(head.method, head.path, head.query, head.headers, peer, request_id, _no_body)
    try:
        if draining.is_set():
            raise Unavailable("server.draining", "the gateway is shutting down")
        check_upgrade(request)
        session = await table.sockets[head.path].open(request)
    except Fault as fault:
        table.metrics.count_request(head.path, head.method, fault.kind.status)
        await _answer(stream, problem_response(fault, request_id, head.path), request_id)
    except Exception as fault:  # our bug: the client gets a 500 with the id, the log gets the rest
        log.error("upgrade failed", path=head.path, request_id=request_id, exc_info=fault)
        await _answer(stream, problem_response(broken(), request_id, head.path), request_id)
    else:
        table.metrics.upgrades[head.path] += 1
        chosen = session.subprotocol if isinstance(session, Negotiated) else None
        talk = session.session if isinstance(session, Negotiated) else session
        await serve_socket(stream, head_bytes, rest, talk, chosen)


async def _answer(stream: trio.SocketStream, response: Response, request_id: str) -> None:
    with trio.move_on_after(ANSWER_WITHIN_S):
        await stream.send_all(encode_response(response, request_id, stays=False, head_only=False))
        await stream.send_eof()
        while await stream.receive_some(4096):
            pass


async def _no_body(_: int) -> bytes:
    return b""
