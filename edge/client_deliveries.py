"""The agent's side of `/stream` on `headgate.stream.v1`: batches for ever, over however many connections.

    async with client.stream("snapfs.files", durable="mysql") as stream:
        async for batch in stream:
            for message in batch:
                store(message.events())
            await batch.ack()

Rules of the file:
- A batch belongs to the connection it came on. What was not handed over when that ends is dropped: it comes again.
- Batches waiting here are bounded by the credit: the connection breaks with a gateway that sends more.
- A position is asked for again only in the life of the log that it is of; another epoch is reported, and begun anew.

What must change with it: `edge/client_session.py` is one connection, `edge/client_stream.py` the older wire.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, NoReturn, Self

import trio

from edge.client_batch import StreamBatch
from edge.client_frames import (
    SUBPROTOCOL,
    Attached,
    Complaint,
    Credit,
    EpochChanged,
    Gap,
    Hello,
    LeasesLost,
    Notice,
    Status,
    Trouble,
)
from edge.client_reconnect import Destination, stay_connected
from edge.client_retry import Backoff, GatewayBroken, GatewayError, GatewayUnavailable
from edge.client_session import Session
from edge.client_socket import Socket
from edge.nursery import open_plain_nursery

MOST_BATCHES: Final = 65_536
"""Batches in memory; the credit binds long before, unless every batch has a message or two."""

OnNotice = Callable[[Notice], None]
"""Called, at once, with whatever happens beside batches."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a stream asks the gateway for.

    Args:
        subject: what it listens to.
        durable: the name under which the gateway remembers; None for a consumer that is gone with the connection.
        from_: where a new consumer begins: `all`, `new`, `last`, `seq:N` or `time:ISO`; None is the gateway's choice.
        filter: event types, a trailing `*` allowed; none means all.
        batch: the most messages in one batch; None is the gateway's choice.
        exclusive: whether nobody else may hold the durable.
        max_lease_s: the longest time a message may be held; None is the gateway's choice.
    """

    subject: str
    durable: str | None = None
    from_: str | None = None
    filter: Sequence[str] = ()
    batch: int | None = None
    exclusive: bool = False
    max_lease_s: float | None = None

    def parameters(self) -> dict[str, str | int]:
        """Give the query of the upgrade."""
        asked = {
            "subject": self.subject,
            "durable": self.durable,
            "from": self.from_,
            "filter": ",".join(self.filter) or None,
            "batch": self.batch,
            "exclusive": 1 if self.exclusive else None,
            "max_lease_s": None if self.max_lease_s is None else f"{self.max_lease_s:g}",
        }
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """What a stream has done so far.

    Args:
        connections: how often the gateway let it in.
        batches, messages: handed over or waiting to be.
        gaps: positions that were announced as removed from the log.
        lost: messages whose lease ran out.
        epochs: how often the log turned out to have been made anew.
        last_error: why the latest connection ended or did not come about, None while nothing went wrong.
    """

    connections: int = 0
    batches: int = 0
    messages: int = 0
    gaps: int = 0
    lost: int = 0
    epochs: int = 0
    last_error: str | None = None


class Stream:
    """The batches of one consumer: an async iterator, for one task or several. Made by `Client.stream`."""

    def __init__(
        self, subscription: Subscription, credit: Credit | None, *, grants_back: bool, on_notice: OnNotice | None
    ) -> None:
        self._give, self._take = trio.open_memory_channel[StreamBatch](MOST_BATCHES)
        self._subscription = subscription
        self._credit = credit
        self._grants_back = grants_back
        self._tell = on_notice
        self._session: Session | None = None
        self._connected = trio.Event()
        self._epoch: str | None = None
        self._statistics = StreamStatistics()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamBatch:
        while True:
            try:
                batch = await self._take.receive()
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
            if not batch.is_over:
                return batch

    @property
    def hello(self) -> Hello | None:
        """What the gateway said first on the latest connection; None before the first."""
        return None if self._session is None else self._session.hello

    @property
    def held_count(self) -> int:
        """How many messages are here and not answered."""
        return 0 if self._session is None or self._session.is_over else self._session.held.messages

    async def wait_connected(self) -> Hello:
        """Wait until the gateway has let this agent in, and give what it said."""
        await self._connected.wait()
        return Hello() if self._session is None else self._session.hello

    async def status(self) -> Status:
        """Ask how the consumer stands; waits for a connection first.

        Raises:
            GatewayUnavailable: the connection ended before the answer.
        """
        await self._connected.wait()
        if self._session is None:
            raise GatewayUnavailable("there is no connection")
        return await self._session.status()

    async def grant(self, messages: int, size_bytes: int) -> bool:
        """Let so much more come, on this connection; for those who opened the stream with `auto=False`.

        Returns:
            Whether it was said: False means that the connection is gone.
        """
        return self._session is not None and await self._session.grant(Credit(messages, size_bytes))

    def statistics(self) -> StreamStatistics:
        """Say what the stream has done so far."""
        return self._statistics

    async def run_stream(self, destination: Destination) -> NoReturn:
        """Stay connected; hand over what comes.

        Raises:
            GatewayRefused: coming back would be of no use.
            GatewayBroken: what the gateway says cannot be understood.
        """
        with self._give:
            await stay_connected(destination, self._parameters, self._serve, self._note_trouble, [SUBPROTOCOL])

    # ------------------------------------------------------------------ inside

    def _parameters(self) -> dict[str, str | int]:
        return self._subscription.parameters()  # asked again for each connection: the position moves on

    async def _serve(self, socket: Socket, backoff: Backoff) -> NoReturn:
        session = Session(
            socket,
            self._credit,
            grants_back=self._grants_back,
            hand_over=lambda batch: self._hand_over(batch, backoff),
            on_notice=self._note,
        )
        hello = await session.greet()
        self._check_epoch(hello)
        self._session = session
        self._connected.set()
        self._count(connections=1)
        self._note(Attached(hello))
        try:
            await session.run()
        finally:
            self._connected = trio.Event()
            self._remember(session)

    def _check_epoch(self, hello: Hello) -> None:
        before, self._epoch = self._epoch, hello.epoch
        if before is None or before == hello.epoch:
            return
        self._note(EpochChanged(before, hello.epoch))
        if self._subscription.durable is None and self._subscription.from_ != "all":
            self._subscription = replace(self._subscription, from_="all")
            raise GatewayUnavailable("the log was made anew: going on from its beginning")

    def _remember(self, session: Session) -> None:
        """Note where a consumer that has no durable must go on: its place is kept nowhere else."""
        if self._subscription.durable is not None:
            return
        next_seq = session.next_seq()
        if next_seq is None and self._subscription.from_ == "new":
            next_seq = session.hello.last_seq + 1
        if next_seq is not None:
            self._subscription = replace(self._subscription, from_=f"seq:{next_seq}")

    def _hand_over(self, batch: StreamBatch, backoff: Backoff) -> None:
        backoff.reset()
        self._count(batches=1, messages=len(batch))
        try:
            self._give.send_nowait(batch)
        except trio.WouldBlock:
            raise GatewayBroken(f"the gateway sent more than {MOST_BATCHES} batches that nobody took") from None

    def _note(self, notice: Notice) -> None:
        match notice:
            case Gap():
                self._count(gaps=notice.count)
            case LeasesLost():
                self._count(lost=len(notice.indexes))
            case EpochChanged():
                self._count(epochs=1)
            case Complaint():
                self._statistics = replace(self._statistics, last_error=notice.message)
            case _:
                pass
        if self._tell is not None:
            self._tell(notice)

    def _note_trouble(self, error: GatewayError, delay_s: float) -> None:
        self._statistics = replace(self._statistics, last_error=str(error))
        self._note(Trouble(error, delay_s))

    def _count(self, **more: int) -> None:
        now = self._statistics
        self._statistics = replace(now, **{name: getattr(now, name) + count for name, count in more.items()})


@asynccontextmanager
async def open_stream(
    destination: Destination,
    subscription: Subscription,
    credit: Credit | None,
    *,
    grants_back: bool,
    on_notice: OnNotice | None = None,
) -> AsyncIterator[Stream]:
    """Attach to a stream for the length of the block.

    Args:
        credit: how much may be held, in messages and bytes; None leaves the window to the gateway.
        grants_back: whether credit is granted again for what was answered.
        on_notice: told of gaps, lost leases, another epoch, complaints and lost connections.

    Raises:
        GatewayRefused, GatewayBroken: the block is cancelled and this raised in its place.

    Closes: the connection; what was not answered is delivered again, to whoever is attached.
    """
    stream = Stream(subscription, credit, grants_back=grants_back, on_notice=on_notice)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(stream.run_stream, destination)
        yield stream
        nursery.cancel_scope.cancel()
