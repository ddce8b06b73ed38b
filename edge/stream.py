"""WebSocket `/stream`: batches of events out, acknowledgements in (the old wire, S0.10 to S0.17).

Who offers the subprotocol `headgate.stream.v1` is served by `edge/stream_v1.py`; for all others nothing changed.

Rules of the file:
- One batch is outstanding; the acknowledgement's path never waits behind a delivery.
- Whatever ends the session, what the agent held goes back to the log at once.
"""

import uuid

import orjson
import structlog
import trio
from trio_websocket import WebSocketConnection

from actors.stream import Consumer
from edge.http import Request
from edge.node import Node
from edge.sockets import Negotiated, Session, close_socket
from edge.stream_v1 import asks_for_v1, open_stream_v1
from engine.errors import Fault, Refused
from engine.log import Verdict
from engine.stream import DEFAULT_BATCH, encode_batch

log = structlog.get_logger("stream")


async def open_stream(node: Node, request: Request) -> Session | Negotiated:
    """Check an agent's parameters and make its durable, before the upgrade.

    Raises:
        Refused: a parameter is missing or wrong.
        Unavailable: the log is away, or the gateway is shutting down.
    """
    if asks_for_v1(request):
        return await open_stream_v1(node, request)
    parameters = request.parameters()
    missing = [name for name in ("subject", "durable") if not parameters.get(name)]
    if missing:
        raise Refused("request.bad-parameter", f"{' and '.join(missing)}: missing from the query")
    subject, durable = parameters["subject"], parameters["durable"]
    count = _count_of(parameters.get("batch"))
    node.stream.check(subject, durable, count)
    request.principal.check_subject(subject)
    request.principal.check_durable(durable)
    node.stream_v1.check_free(durable)
    await node.stream.ensure(subject, durable)
    await node.gaps.observe(durable)  # this wire cannot say gaps: they are counted and logged

    async def session(socket: WebSocketConnection) -> None:
        async with node.stream.attach(durable, count) as consumer, trio.open_nursery() as nursery:
            nursery.start_soon(_listen, socket, consumer)
            nursery.start_soon(_leave_when_draining, node, socket, consumer, nursery.cancel_scope)
            await _deliver(node, socket, consumer)
            nursery.cancel_scope.cancel()

    return session


async def _deliver(node: Node, socket: WebSocketConnection, consumer: Consumer) -> None:
    while True:
        try:
            deliveries = await consumer.next_batch()
        except Fault as fault:
            await socket.send_message(orjson.dumps({"type": "error", "message": fault.detail}).decode())
            await close_socket(socket, 1011, fault.kind.title)
            return
        batch_id = str(uuid.uuid4())
        consumer.hand_over(batch_id, deliveries, trio.current_time())
        if node.draining.is_set():
            consumer.settle(Verdict.NAK, trio.current_time())  # it goes back: nobody will answer for it any more
            await trio.sleep_forever()  # the session is about to be ended
        node.gaps.saw(consumer.durable, deliveries)
        await socket.send_message(encode_batch(batch_id, deliveries))
        await consumer.settled.wait()


async def _listen(socket: WebSocketConnection, consumer: Consumer) -> None:
    while True:
        verdict = consumer.window.judge(await socket.get_message())
        if verdict is not None:
            consumer.settle(verdict, trio.current_time())


async def _leave_when_draining(
    node: Node, socket: WebSocketConnection, consumer: Consumer, scope: trio.CancelScope
) -> None:
    await node.draining.wait()
    if not consumer.window.is_empty:
        with trio.move_on_after(node.settings.drain_s / 2):
            await consumer.settled.wait()
    await close_socket(socket, 1001, "the gateway is shutting down; come back in a moment")
    scope.cancel()


def _count_of(text: str | None) -> int:
    if not text:
        return DEFAULT_BATCH
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Refused("request.bad-parameter", f"batch: expected a whole number (it is {text[:40]!r})")
    return int(text)
