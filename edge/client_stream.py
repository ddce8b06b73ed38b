"""The agent's side of `/stream`: batches in, acknowledgements out, and coming back when the connection is lost.

Rules of the file:
- Never more than two batches in memory: the gateway has one outstanding, and the hand-over holds nothing.
- A batch belongs to the connection it came on. When that is gone, so is the batch: `ack` says False, and the gateway
  delivers its messages again.
- What the gateway sends and this client does not know is passed over; what cannot be read at all is a bug, and raised.

What must change with it: `edge/client_reconnect.py` comes back, `edge/client_deliveries.py` is the newer wire.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn, Self

import msgspec
import trio

from edge.client_reconnect import Destination, OnTrouble, stay_connected
from edge.client_retry import Backoff, GatewayBroken, GatewayError, GatewayUnavailable
from edge.client_socket import Socket
from edge.client_values import Event, Message
from edge.nursery import open_plain_nursery


class BatchState(Enum):
    """A batch is open until the agent has said something about it, which it says once."""

    OPEN = "open"
    ACKED = "acked"
    NAKED = "naked"


class Batch:
    """Messages that the agent has to answer for.

    Attributes:
        id: the gateway's name for it.
        messages: in stream order.
        received_at: `trio.current_time()` when all of it was here.
        state: what the agent has said about it.
    """

    def __init__(
        self, id_: str, messages: tuple[Message, ...], socket: Socket, on_settled: Callable[["Batch"], None]
    ) -> None:
        self.id = id_
        self.messages = messages
        self.received_at = trio.current_time()
        self.state = BatchState.OPEN
        self._socket = socket
        self._on_settled = on_settled

    def events(self) -> list[Event]:
        """Give the events of all its messages, in order."""
        return [event for message in self.messages for event in message.events()]

    async def ack(self) -> bool:
        """Say that all of it is done.

        Returns:
            Whether it was said: False means that the connection is gone, and the messages will come again.

        Raises:
            RuntimeError: the batch was answered before.
        """
        return await self._settle(BatchState.ACKED, "ack")

    async def nak(self) -> bool:
        """Say that it is not done: the gateway delivers it again, at once, to whoever is attached.

        Returns:
            Whether it was said: False means that the connection is gone, and the messages will come again anyway.

        Raises:
            RuntimeError: the batch was answered before.
        """
        return await self._settle(BatchState.NAKED, "nack")

    async def _settle(self, state: BatchState, verdict: str) -> bool:
        if self.state is not BatchState.OPEN:
            raise RuntimeError(f"batch {self.id} was answered before: {self.state.value}")
        self.state = state
        was_said = await self._socket.send(msgspec.json.encode({"type": verdict, "batch": self.id}).decode())
        if was_said:
            self._on_settled(self)
        return was_said


@dataclass(frozen=True, slots=True)
class AgentStatistics:
    """What an agent has done so far.

    Args:
        connections: how often the gateway let it in.
        batches: batches handed over.
        acked: messages acknowledged.
        naked: messages given back.
        last_error: why the latest connection ended or did not come about, None while nothing went wrong.
    """

    connections: int
    batches: int
    acked: int
    naked: int
    last_error: str | None


class Agent:
    """The batches of one durable consumer, for ever: an async iterator. Made by `Client.agent`."""

    def __init__(self, on_trouble: OnTrouble | None) -> None:
        # Capacity 0, policy wait: the gateway sends the next batch after an answer, so there is nothing to hold.
        self._give, self._take = trio.open_memory_channel[Batch](0)
        self._connected = trio.Event()
        self._on_trouble = on_trouble
        self._connections = 0
        self._batches = 0
        self._settled = {BatchState.ACKED: 0, BatchState.NAKED: 0}
        self._last_error: str | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        return await self._take.receive()

    async def wait_connected(self) -> None:
        """Wait until the gateway has let this agent in for the first time."""
        await self._connected.wait()

    def statistics(self) -> AgentStatistics:
        """Say what the agent has done so far."""
        acked, naked = self._settled[BatchState.ACKED], self._settled[BatchState.NAKED]
        return AgentStatistics(self._connections, self._batches, acked, naked, self._last_error)

    async def run_agent(self, destination: Destination, parameters: dict[str, str | int]) -> NoReturn:
        """Stay connected; hand over what comes.

        Raises:
            GatewayRefused: coming back would be of no use.
            GatewayBroken: what the gateway says cannot be understood.
        """
        await stay_connected(destination, lambda: parameters, self._hand_over, self._note_trouble)

    async def _hand_over(self, socket: Socket, backoff: Backoff) -> NoReturn:
        self._connections += 1
        self._connected.set()
        said = ""
        while True:
            try:
                frame = _read_frame(await socket.receive())
            except GatewayUnavailable as error:
                raise GatewayUnavailable(f"{error}{said}", retry_after_s=error.retry_after_s) from error
            if frame.type == "events":
                backoff.reset()
                self._batches += 1
                await self._give.send(Batch(frame.batch, tuple(frame.messages), socket, self._count_settled))
            elif frame.type == "error":
                said = f" ({frame.message})"  # a close frame follows and decides; its own reason may be empty

    def _note_trouble(self, error: GatewayError, delay_s: float) -> None:
        self._last_error = str(error)
        if self._on_trouble is not None:
            self._on_trouble(error, delay_s)

    def _count_settled(self, batch: Batch) -> None:
        self._settled[batch.state] += len(batch.messages)


@asynccontextmanager
async def open_agent(
    destination: Destination, *, durable: str, subject: str, batch: int, on_trouble: OnTrouble | None = None
) -> AsyncIterator[Agent]:
    """Attach an agent for the length of the block.

    Args:
        durable: the consumer's name.
        subject: what it listens to.
        batch: the most messages in one batch.
        on_trouble: told of every lost connection and every failed try.

    Raises:
        GatewayRefused, GatewayBroken: the block is cancelled and this raised in its place.

    Closes: the connection; a batch that was not answered is delivered again, to whoever is attached.
    """
    agent = Agent(on_trouble)
    parameters: dict[str, str | int] = {"subject": subject, "durable": durable, "batch": batch}
    async with open_plain_nursery() as nursery:
        nursery.start_soon(agent.run_agent, destination, parameters)
        yield agent
        nursery.cancel_scope.cancel()


class _Frame(msgspec.Struct):
    type: str
    batch: str = ""
    messages: list[Message] = []
    message: str = ""


def _read_frame(text: str | bytes) -> _Frame:
    try:
        return msgspec.json.decode(text, type=_Frame)
    except msgspec.MsgspecError as error:
        raise GatewayBroken(f"the gateway said something that is no frame of the stream: {error}") from error
