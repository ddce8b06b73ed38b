"""The Quart lane: everything that is not latency-critical, on Hypercorn, guarded.

Rules of the file:
- The same route table, the same checks of the head, the same errors as on the express lane.
- Hypercorn never sees a client's bytes: requests come through `edge/gate.py`, one at a time.
- WebSockets stay on the express lane.

Source: `DESIGN.md` sections 2 and 9.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr
from quart import Response as QuartResponse
from quart import request as quart_request
from quart.wrappers.response import DataBody
from quart_trio import QuartTrio

from edge.express import Connection
from edge.gate import ADMITTED, GATE, MOST_BODY_BYTES, Gate
from edge.guard import Passed
from edge.http import Request, Response
from edge.normaliser import MAX_HEAD_BYTES, Head, check_head
from edge.problems import broken, problem_response
from edge.responses import SECURITY, request_id_of
from edge.routes import RouteTable, respond
from engine.errors import Fault, Refused
from engine.limits import headers_of

log = structlog.get_logger("quart")
BODY_WITHIN_S: Final = 30.0
METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class QuartLane:
    """Serves connections that the express lane hands over.

    Args:
        table: the routes.
    """

    def __init__(self, table: RouteTable) -> None:
        self._table = table
        self._app = _make_app(table)
        self._config = Config()
        self._config.alpn_protocols = ["http/1.1"]
        self._config.include_server_header = False
        self._config.h11_max_incomplete_size = 2 * MAX_HEAD_BYTES
        self._config.accesslog = None
        self._config.errorlog = None
        self._context = WorkerContext(None)
        self._wrapped = ASGIWrapper(cast("Any", self._guarded))

    async def serve(self, connection: Connection, head: Head) -> None:
        """Serve a connection's requests to its end.

        Args:
            connection: the connection; whoever accepted it closes it.
            head: the first request's head, already read.
        """
        gate = Gate(connection, head, self._admit)
        await _Server(self._wrapped, self._config, self._context, gate).run()

    async def _admit(self, head: Head, peer: str) -> Passed:
        """Say who asks, before a body is read; a request without a body is looked at by `respond`."""
        label = "unknown"
        try:
            route = self._table.find(head.method, head.path)
            label = route.path
            return await self._table.admit(head.method, head.headers, peer, route, head.target)
        except Fault as fault:
            self._table.metrics.count_request(label, head.method, fault.kind.status, 0.0)
            fault.headers.update(self._table.cors(head.headers))
            raise
        except Exception as problem:  # our bug: the client gets a 500, the log gets the rest
            self._table.metrics.count_request(label, head.method, 500, 0.0)
            log.error("guard failed", path=head.path, exc_info=problem)
            raise broken() from problem

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the head as the express lane does, before the framework sees the request."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4001})  # before the upgrade: Hypercorn answers 403
            return
        if scope["type"] != "http":
            return
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        try:
            scope["headgate.head"] = check_head(
                scope["method"].encode(), target, scope["http_version"], scope["headers"]
            )
        except Refused as refusal:
            request_id = request_id_of({})
            await _send_plain(send, problem_response(refusal, request_id), request_id)
            return
        await self._app(cast("Any", scope), cast("Any", receive), cast("Any", send))


class _Http1(H11Protocol):
    """Hypercorn's HTTP/1.1 without its doors to HTTP/2 (the `h2c` upgrade and the bare preface)."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Stay with HTTP/1.1; the gate lets nothing else through either."""


class _Server(TCPServer):
    """Hypercorn's connection behind a gate."""

    def __init__(self, app: AppWrapper, config: Config, context: WorkerContext, gate: Gate) -> None:
        super().__init__(app, config, context, ConnectionState({}), cast("Any", gate))
        self._gate = gate

    async def run(self) -> None:
        """Serve the connection: Hypercorn's own `run`, less TLS, the choice of a protocol, and its idle timer.

        The gate owns the deadlines.
        """
        try:
            socket = self._gate.socket
            client = parse_socket_addr(socket.family, socket.getpeername()) or (self._gate.peer, 0)
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with TaskGroup() as task_group:
                self._task_group = task_group
                self.protocol = _Http1(  # type: ignore[assignment]  # it is used only by `initiate` and `handle`
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    ConnectionState(self._gate.state),
                    False,
                    client,
                    server,
                    self.protocol_send,
                )
                await self.protocol.initiate()
                await self._read_data()
        except OSError:
            pass  # the client went away
        finally:
            await self._gate.aclose()

    async def protocol_send(self, event: Event) -> None:
        """Pass the answer's bytes on, and tell the gate when it is complete."""
        if isinstance(event, Updated):
            if event.idle:
                self._gate.answered()
        else:
            await super().protocol_send(event)


def _make_app(table: RouteTable) -> QuartTrio:
    app = QuartTrio("headgate", static_folder=None)
    app.url_map.merge_slashes = False
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["MAX_CONTENT_LENGTH"] = MOST_BODY_BYTES

    async def view(path: str) -> QuartResponse:
        head: Head = cast("Any", quart_request.scope)["headgate.head"]
        request_id = request_id_of(head.headers)
        client = quart_request.scope.get("client")
        request = Request(
            head.method,
            head.path,
            head.query,
            head.headers,
            client[0] if client else "",
            request_id,
            _read_body,
            target=head.target,
        )
        state = cast("Any", quart_request.scope)["state"]
        gate: Gate = state[GATE]
        admitted: Passed | None = state.get(ADMITTED)
        request.hold = None if admitted is None else admitted.hold
        gate.begin()
        try:
            response = await respond(table, request, admitted)
        finally:
            gate.end(request.hold)
            if request.on_end is not None:
                request.on_end()
        answered = QuartResponse(DataBody(response.body), response.status, content_type=response.content_type)
        told = {**SECURITY, **headers_of(request.judgements), **response.headers, "x-request-id": request_id}
        for name, value in told.items():
            answered.headers[name] = value
        answered.headers["content-length"] = str(len(response.body))
        answered.timeout = None
        if response.close:
            answered.headers["connection"] = "close"
        return answered

    app.add_url_rule("/", "root", view, defaults={"path": ""}, methods=METHODS, provide_automatic_options=False)
    app.add_url_rule("/<path:path>", "all", view, methods=METHODS, provide_automatic_options=False)
    return app


async def _read_body(limit_bytes: int) -> bytes:
    length = quart_request.content_length
    if length is not None and length > limit_bytes:
        raise Refused("request.too-large", f"the body has {length} bytes; the limit is {limit_bytes}")
    with trio.move_on_after(BODY_WITHIN_S):
        body = await quart_request.get_data(False, False, False)
        if len(body) > limit_bytes:
            raise Refused("request.too-large", f"the body is larger than the limit of {limit_bytes} bytes")
        return body
    raise Refused("request.too-slow", f"the body did not arrive within {BODY_WITHIN_S:g} s")


async def _send_plain(send: Send, response: Response, request_id: str) -> None:
    fields = {
        **SECURITY,
        **response.headers,
        "content-type": response.content_type,
        "content-length": str(len(response.body)),
        "x-request-id": request_id,
        "connection": "close",
    }
    pairs = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": pairs})
    await send({"type": "http.response.body", "body": response.body, "more_body": False})
