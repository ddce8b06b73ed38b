"""One connection to a NATS server, on Trio: it reconnects, resubscribes, and never guesses.

Rules of the file:
- A request whose bytes may have left this process is never sent again: when the connection breaks
  its outcome is `LOST`, and only its owner may know how to repeat it safely. A request that had not
  left yet is `UNSENT`.
- Handlers and outcomes are called synchronously from the reader; they must not block or raise.
- Whatever is delivered to nobody and can be answered is handed to `on_stray`, never dropped in silence.

What must change with it: `engine/jetstream.py` is what the rest of the house uses.
"""

import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from engine import nats_wire
from engine.endpoints import Locate
from engine.log import Lost, Reply
from engine.nats_wire import Info, Message, Parser, Ping, ServerError, WireError

CONNECT_TIMEOUT_S: Final = 2.0
RECONNECT_FIRST_S: Final = 0.02
RECONNECT_MOST_S: Final = 0.5
STEADY_S: Final = 1.0
"""A connection that lived shorter was none: the pauses go on growing."""
"""A broker that is back must be in use within two seconds (T2), so the pause between tries stays short."""
PING_EVERY_S: Final = 5.0
RECEIVE_BYTES: Final = 64 * 1024
"""From 128 KiB on glibc maps and unmaps a buffer each time: 15 µs more a message, whatever it holds."""
OUTGOING_MOST_BYTES: Final = 64 * 1024 * 1024
"""Above this `send_nowait` refuses: the frames in flight and a full window of acknowledgements are far below."""


OnReply = Callable[[Reply], None]
OnMessage = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class NatsStatistics:
    """What the connection has done so far."""

    is_up: bool
    connects: int
    messages_in: int
    requests_waiting: int
    strays: int
    outgoing_bytes: int


class Subscription:
    """One subject of ours; survives reconnections.

    Closes: whoever opened it.
    """

    def __init__(self, connection: "NatsConnection", subject: str, sid: int, handler: OnMessage) -> None:
        self.subject = subject
        self.sid = sid
        self.handler = handler
        self._connection = connection

    def close(self) -> None:
        """Take no more messages; calling it twice is harmless."""
        self._connection.forget(self)


class NatsConnection:
    """A NATS connection that comes back.

    Args:
        locate: where to connect; asked before every try.
        name: shown in the server's monitoring.
        on_stray: takes messages that came for a subscription that is closed.
    """

    def __init__(self, locate: Locate, name: str, on_stray: OnMessage | None = None) -> None:
        self._locate = locate
        self._name = name
        self._on_stray = on_stray
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"
        self._next_id = 1
        self._subscriptions: dict[int, Subscription] = {}
        self._waiting: dict[int, OnReply] = {}
        self._unsent: list[tuple[bytes, int]] = []
        self._unsent_bytes = 0
        self._writable = trio.Event()
        self._changed = trio.Event()
        self._up = False
        self._connects = 0
        self._messages_in = 0
        self._strays = 0
        self.watchers: list[Callable[[], None]] = []
        """Called, like handlers, whenever the connection went up or down."""
        self.info = Info({})
        self.last_error: str | None = None

    @property
    def is_up(self) -> bool:
        """The connection is usable now."""
        return self._up

    def statistics(self) -> NatsStatistics:
        """Give the counters."""
        return NatsStatistics(
            self._up, self._connects, self._messages_in, len(self._waiting), self._strays, self._unsent_bytes
        )

    async def wait_changed(self) -> None:
        """Wait until the connection goes up or down."""
        await self._changed.wait()

    async def wait_up(self) -> None:
        """Wait until the connection is usable."""
        while not self._up:
            await self._changed.wait()

    # ------------------------------------------------------------------ sending

    def has_room(self) -> bool:
        """Say that there is a server and that it takes our bytes."""
        return self._up and self._unsent_bytes < OUTGOING_MOST_BYTES

    def send_nowait(self, data: bytes) -> bool:
        """Queue encoded commands that expect no answer.

        Returns:
            False when there is no connection or no room: nothing was queued.
        """
        if not self.has_room():
            return False
        self._queue(data, 0)
        return True

    def request_nowait(self, subject: str, payload: bytes, on_reply: OnReply, header: bytes = b"") -> int:
        """Publish with an inbox for the answer, which `on_reply` takes exactly once.

        Returns:
            The request's number, for `forget_request`; 0 when nothing was queued, and then
            `on_reply` has been called with `Lost.UNSENT`.
        """
        if not self.has_room():
            on_reply(Lost.UNSENT)
            return 0
        number = self._next_id
        self._next_id += 1
        self._waiting[number] = on_reply
        self._queue(nats_wire.write_publish(subject, payload, f"{self._inbox}.{number}", header), number)
        return number

    def forget_request(self, number: int) -> bool:
        """Stop waiting for an answer; a late one is ignored.

        Returns:
            False when it was answered already.
        """
        return self._waiting.pop(number, None) is not None

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> Reply | None:
        """Publish and wait for the answer.

        Returns:
            The answer, why there is none, or None after the timeout.

        Cancellation: the request may have been executed.
        """
        answered = trio.Event()
        replies: list[Reply] = []

        def take(reply: Reply) -> None:
            replies.append(reply)
            answered.set()

        number = self.request_nowait(subject, payload, take)
        try:
            with trio.move_on_after(timeout_s):
                await answered.wait()
        finally:
            self.forget_request(number)
        return replies[0] if replies else None

    def subscribe(self, handler: OnMessage) -> Subscription:
        """Open an inbox of its own: a fresh subject whose messages go to `handler`."""
        sid = self._next_id = self._next_id + 1
        subscription = Subscription(self, f"{self._inbox}-{sid}", sid, handler)
        self._subscriptions[sid] = subscription
        if self._up:
            self._queue(nats_wire.write_subscribe(subscription.subject, sid), 0)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Drop a subscription; see `Subscription.close`."""
        if self._subscriptions.pop(subscription.sid, None) is not None and self._up:
            self._queue(nats_wire.write_unsubscribe(subscription.sid), 0)

    def _queue(self, data: bytes, request: int) -> None:
        self._unsent.append((data, request))
        self._unsent_bytes += len(data)
        self._writable.set()

    # ------------------------------------------------------------------ living

    async def run(self) -> None:
        """Keep a connection until cancelled; every break is followed by another try."""
        pause_s = RECONNECT_FIRST_S
        while True:
            try:
                with trio.fail_after(CONNECT_TIMEOUT_S):
                    stream, parser, early = await self._connect()
            except (OSError, trio.TooSlowError, trio.BrokenResourceError, WireError, ssl.SSLError) as problem:
                self.last_error = f"{type(problem).__name__}: {problem}"
                await trio.sleep(pause_s)
                pause_s = min(RECONNECT_MOST_S, pause_s * 2)
                continue
            began = trio.current_time()
            try:
                await self._serve(stream, parser, early)
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, WireError) as group:
                self.last_error = "; ".join(f"{type(one).__name__}: {one}" for one in group.exceptions)
            finally:
                self._went_down()
                await trio.aclose_forcefully(stream)
            if trio.current_time() - began >= STEADY_S:
                pause_s = RECONNECT_FIRST_S
            else:  # it greets and hangs up, perhaps for ever
                await trio.sleep(pause_s)
                pause_s = min(RECONNECT_MOST_S, pause_s * 2)

    async def _connect(self) -> tuple[trio.abc.Stream, Parser, list[nats_wire.Event]]:
        endpoint = self._locate()
        stream: trio.abc.Stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        try:
            parser = Parser()
            events: list[nats_wire.Event] = []
            while not events:
                events = parser.feed(await _receive(stream))
            info = events.pop(0)
            if not isinstance(info, Info):
                raise WireError(f"the server began with {info!r} instead of INFO")
            self.info = info
            if endpoint.tls or info.fields.get("tls_required"):
                stream = trio.SSLStream(stream, ssl.create_default_context(), server_hostname=endpoint.host)
            await stream.send_all(nats_wire.write_connect(self._name, endpoint.credentials) + nats_wire.PING)
            while True:
                for index, event in enumerate(events):
                    if isinstance(event, ServerError):
                        raise WireError(f"the server refused us: {event.text}")
                    if event == nats_wire.Pong():
                        return stream, parser, events[index + 1 :]
                events = parser.feed(await _receive(stream))
        except BaseException:  # not swallowed: the stream must not outlive a failed or cancelled handshake
            await trio.aclose_forcefully(stream)
            raise

    async def _serve(self, stream: trio.abc.Stream, parser: Parser, early: list[nats_wire.Event]) -> None:
        heard = _Heard()
        self._went_up()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, stream)
            nursery.start_soon(self._ping, heard)
            self._dispatch(early)
            while True:
                data = await _receive(stream)
                heard.count += 1
                self._dispatch(parser.feed(data))

    async def _write(self, stream: trio.abc.Stream) -> None:
        while True:
            await self._writable.wait()
            batch, self._unsent = self._unsent, []
            self._unsent_bytes = 0
            self._writable = trio.Event()
            await stream.send_all(b"".join(data for data, _ in batch))

    async def _ping(self, heard: "_Heard") -> None:
        """Break a connection on which nothing was heard between two pings."""
        while True:
            before = heard.count
            self._queue(nats_wire.PING, 0)
            await trio.sleep(PING_EVERY_S)
            if heard.count == before:
                raise WireError(f"nothing heard for {PING_EVERY_S:g} s after a PING")

    def _went_up(self) -> None:
        self._up = True
        self._connects += 1
        self.last_error = None
        self._queue(nats_wire.write_subscribe(f"{self._inbox}.*", 1), 0)
        for subscription in self._subscriptions.values():
            self._queue(nats_wire.write_subscribe(subscription.subject, subscription.sid), 0)
        self._announce()

    def _went_down(self) -> None:
        self._up = False
        unsent = {number for _, number in self._unsent if number}
        self._unsent = []
        self._unsent_bytes = 0
        self._writable = trio.Event()
        waiting, self._waiting = self._waiting, {}
        self._announce()
        for number, on_reply in waiting.items():
            on_reply(Lost.UNSENT if number in unsent else Lost.LOST)

    def _announce(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        for watcher in self.watchers:
            watcher()

    # ------------------------------------------------------------------ receiving

    def _dispatch(self, events: list[nats_wire.Event]) -> None:
        for event in events:
            if isinstance(event, Message):
                self._messages_in += 1
                if event.sid == 1:
                    number = event.subject.rpartition(".")[2]
                    on_reply = self._waiting.pop(int(number), None) if number.isdecimal() else None
                    if on_reply is not None:
                        on_reply(event)
                    continue
                subscription = self._subscriptions.get(event.sid)
                if subscription is not None:
                    subscription.handler(event)
                elif self._on_stray is not None:
                    self._strays += 1
                    self._on_stray(event)
            elif isinstance(event, Ping):
                self._queue(nats_wire.PONG, 0)
            elif isinstance(event, Info):
                self.info = event
            elif isinstance(event, ServerError):
                self.last_error = event.text


class _Heard:
    """How many times something came in."""

    def __init__(self) -> None:
        self.count = 0


async def _receive(stream: trio.abc.Stream) -> bytes:
    data = await stream.receive_some(RECEIVE_BYTES)
    if not data:
        raise trio.BrokenResourceError("the server closed the connection")
    return bytes(data)
