"""WebSocket `/stream` with subprotocol `headgate.stream.v1`: batches by credit, verdicts one by one.

Rules of the file:
- `hello` is the first frame. Words of the agent are followed as they come: their path never waits behind a delivery.
- A frame that cannot be followed changes nothing and is answered with an error; too many of them end the session.
- Whatever ends the session, what the agent held goes back to the log at once.

What must change with it: `engine/stream_v1.py` has the frames; the old wire is `edge/stream.py`.
"""

import time
from typing import Final

import orjson
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from actors.leased import DEAF_PATIENCE_S, OUTBOX_FRAMES, LeasedConsumer
from actors.stream_v1 import Lag
from edge.http import Request
from edge.node import Node
from edge.sockets import Negotiated, close_socket
from engine.errors import Fault, Refused, Unavailable
from engine.settle_words import BadFrame, Settle
from engine.stream_v1 import (
    PROTOCOL,
    Grant,
    Options,
    encode_error,
    encode_events,
    encode_gap,
    encode_hello,
    read_options,
    read_words,
    window_of,
)

ERRORS_MOST: Final = 100
"""Frames of one session that cannot be followed."""
PONG: Final = '{"type":"pong"}'


def asks_for_v1(request: Request) -> bool:
    """Say that an upgrade offers this subprotocol."""
    offered = request.headers.get("sec-websocket-protocol", "")
    return PROTOCOL in (one.strip() for one in offered.split(","))


async def open_stream_v1(node: Node, request: Request) -> Negotiated:
    """Check an agent's parameters and make its consumer, before the upgrade.

    Raises:
        Refused: a parameter is missing or wrong, or the durable is not to be had.
        Unavailable: the log is away.
    """
    streams = node.stream_v1
    options = read_options(request.parameters())
    streams.check(options)
    request.principal.check_subject(options.subject)
    if options.durable is not None:
        request.principal.check_durable(options.durable)
    name, made = await streams.ensure(options)
    facts = await streams.describe(name)
    terms = streams.terms(facts, options.max_lease_s)
    gaps = await node.gaps.observe(name, options.start.sequence if made else 0)

    async def session(socket: WebSocketConnection) -> None:
        live: _Session | None = None
        try:
            async with streams.attach(name, options, terms) as consumer, trio.open_nursery() as nursery:
                hello = encode_hello(
                    options, facts, name, terms, consumer.puller.credit, streams.max_deliver, made=made
                )
                consumer.outbox.put(hello)
                for gap in gaps:
                    consumer.outbox.put(encode_gap(gap))
                live = _Session(node, socket, consumer, name, options)
                nursery.start_soon(live.listen)
                nursery.start_soon(live.report)
                nursery.start_soon(live.leave_when_draining, nursery.cancel_scope)
                live.scope = nursery.cancel_scope
                await live.deliver()
            if live.fault is not None:
                await close_socket(socket, live.fault.kind.close_code, live.fault.kind.title)
        finally:
            if live is not None:
                live.depart()
            if options.durable is None:
                with trio.move_on_after(2, shield=True):  # bounded by its own deadline
                    await streams.delete(name)

    return Negotiated(session, PROTOCOL)


class _Session:
    """One agent's session."""

    def __init__(
        self, node: Node, socket: WebSocketConnection, consumer: LeasedConsumer, name: str, options: Options
    ) -> None:
        self._node = node
        self._socket = socket
        self._consumer = consumer
        self._name = name
        self._options = options
        self._errors = 0
        self._departs = False
        self._wants_status = trio.Event()
        self.scope = trio.CancelScope()
        self.fault: Fault | None = None

    def end(self, fault: Fault | None) -> None:
        """End the session, with this close code."""
        self.fault = fault
        self.scope.cancel()

    def depart(self) -> None:
        """Let the next session end, when this one's agent had died."""
        if self._departs:
            self._departs = False
            self._node.stream_v1.departures.release_on_behalf_of(self)

    async def deliver(self) -> None:
        """Send answers first, then batches, until the session ends."""
        consumer, streams = self._consumer, self._node.stream_v1
        puller, outbox = consumer.puller, consumer.outbox
        while True:
            while (frame := outbox.take()) is not None:
                await self._send(frame)
            if self._errors > ERRORS_MOST:
                self.end(Refused("stream.too-many-errors", f"more than {ERRORS_MOST} frames could not be followed"))
            try:
                batch = consumer.next_batch() if not self._node.draining.is_set() else None
            except Fault as fault:
                problem = BadFrame(fault.kind.code, fault.detail)
                await self._send(encode_error(problem, is_fatal=True))
                self.end(fault)
                batch = None
            if batch is None:
                await puller.wait_news()
                continue
            batch_id, messages = batch
            if streams.find_gaps is not None:
                for gap in await streams.find_gaps(self._name, messages):
                    streams.gaps += 1
                    await self._send(encode_gap(gap))
            await self._send(encode_events(batch_id, messages))

    async def listen(self) -> None:
        """Follow what the agent says, as it comes."""
        consumer = self._consumer
        while True:
            if len(consumer.outbox) >= OUTBOX_FRAMES:
                with trio.move_on_after(DEAF_PATIENCE_S) as patience:
                    await consumer.outbox.wait_room()
                if patience.cancelled_caught:
                    self.end(Unavailable("stream.too-slow", "the agent does not read what it is sent"))
            try:
                words = read_words(await self._socket.get_message())
            except ConnectionClosed:
                consumer.close()
                await self._node.stream_v1.departures.acquire_on_behalf_of(self)
                self._departs = True
                raise
            problem: BadFrame | None = None
            if isinstance(words, Settle):
                problem = consumer.settle(words)
            elif isinstance(words, Grant):
                consumer.grant(words)
            elif isinstance(words, BadFrame):
                problem = words
            elif words == "status":
                self._wants_status.set()
            else:
                consumer.outbox.put(PONG)
            if problem is not None:
                self._errors += 1
                consumer.outbox.put(encode_error(problem, is_fatal=self._errors > ERRORS_MOST))
                if self._errors > ERRORS_MOST:
                    await trio.sleep_forever()  # the session is about to be ended

    async def report(self) -> None:
        """Answer `status`, one at a time: requests that come meanwhile share the next answer."""
        while True:
            await self._wants_status.wait()
            self._wants_status = trio.Event()
            lag: Lag | None = None
            with trio.move_on_after(2):
                try:
                    lag = await self._node.stream_v1.lag(self._name, self._options.subject, time.time())
                except Unavailable:
                    lag = None
            self._consumer.outbox.put(self._status(lag))

    async def leave_when_draining(self, scope: trio.CancelScope) -> None:
        """When the gateway shuts down: send nothing more, wait a while for verdicts, say goodbye."""
        await self._node.draining.wait()
        consumer = self._consumer
        consumer.puller.withdraw(for_good=True)
        with trio.move_on_after(self._node.settings.drain_s / 2):
            while consumer.desk.table.messages or len(consumer.outbox):
                await consumer.puller.wait_news()
        await close_socket(self._socket, 1001, "the gateway is shutting down; come back in a moment")
        scope.cancel()

    async def _send(self, frame: str) -> None:
        self._consumer.sending_since = trio.current_time()
        try:
            await self._socket.send_message(frame)
        finally:
            self._consumer.sending_since = None

    def _status(self, lag: Lag | None) -> str:
        consumer = self._consumer
        held, credit = consumer.in_flight, consumer.puller.credit
        left = credit.shown(held)
        last = consumer.desk.last_settle_at
        fields = {
            "type": "status",
            "lag": {"messages": lag.messages, "seconds": round(lag.seconds, 3)} if lag is not None else None,
            "in_flight": {"batches": len(consumer.desk.table.batches), "messages": held.messages, "bytes": held.bytes},
            "window": window_of(credit),
            "credit": {"messages": left.messages, "bytes": left.bytes},
            "last_settle_s": round(trio.current_time() - last, 3) if last is not None else None,
            "stalled": consumer.why_stalled(lag.messages if lag is not None else None),
        }
        return orjson.dumps(fields).decode()
