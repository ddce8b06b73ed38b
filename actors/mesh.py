"""The mesh: how the processes of one gateway talk to each other, and hand over a client's connection.

Each process has one socket that it is told things on; the others hold the other end of it. The parent keeps both ends
of all of them, so what was said to a worker that fell waits for the one that comes after it: a connection that was
handed over in that moment is served a second later and not lost.

Rules of the file:
- Who sends never waits for a process that hangs: what is told waits in a bounded outbox, what is asked has a deadline.
- Another process may be away at any time: an answer of all of them lacks those.
- A process that comes after one that fell gets what was said to that one: answers to questions that it never asked too.
  So each process numbers its questions from somewhere else.
- What one message does wrong ends with that message: nobody else's words are lost for it.

Back-pressure: tells are dropped above the bound, and counted; whoever tells something that must not be missed says so
again by its own means (`told_less`).
"""

import array
import errno
import os
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Final

import structlog
import trio

from actors.tree import Actor, Mailbox
from engine.errors import Fault, Unavailable, fault_of
from engine.mesh_wire import HEAD_BYTES_MOST, MOST_BYTES, PACKET_BYTES, Assembler, Kind, Message, encode

log = structlog.get_logger("mesh")
OUTBOX: Final = 4096
OUTBOX_BYTES: Final = 2 * MOST_BYTES
ANSWER_WITHIN_S: Final = 2.0
_DESCRIPTORS_MOST: Final = 4
_NO_ROOM_FOR_DESCRIPTORS: Final = {errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE}
_INT: Final = array.array("i").itemsize

Answer = Callable[[bytes], Awaitable[bytes]]
Hear = Callable[[int, bytes], None]
Take = Callable[[socket.socket, bytes], None]


class Mesh:
    """One process's end.

    Args:
        index: its own.
        receive: what it is told on.
        send: what the others are told on, by index.

    Closes: with `close`, both.
    """

    def __init__(self, index: int, receive: socket.socket, send: Mapping[int, socket.socket]) -> None:
        self.index = index
        self.others = sorted(send)
        self.dropped = 0
        self.told_less: set[int] = set()
        self._receive = trio.socket.from_stdlib_socket(receive)
        self._outboxes = {other: _Outbox(trio.socket.from_stdlib_socket(end)) for other, end in send.items()}
        self._answers: dict[str, Answer] = {}
        self._hears: dict[str, Hear] = {}
        self._take_connection: Take | None = None
        self._waiting: dict[int, tuple[trio.Event, list[Message]]] = {}
        self._numbers = count(secrets.randbits(32))
        self._receiving = trio.CancelScope()
        self._may_receive = trio.Event()
        self._has_stopped = False
        self._has_run = False

    @property
    def count(self) -> int:
        """How many workers there are: all but the parent; so many are the others, whoever counts."""
        return len(self.others)

    def mailbox(self) -> Mailbox:
        """How much waits to be sent, and how much may wait for each process."""
        return Mailbox(max((len(one) for one in self._outboxes.values()), default=0), OUTBOX)

    def on_ask(self, topic: str, answer: Answer) -> None:
        """Have questions about a topic answered; a fault of ours goes back as one."""
        self._answers[topic] = answer

    def on_tell(self, topic: str, hear: Hear) -> None:
        """Have what is told about a topic heard, with the sender's index."""
        self._hears[topic] = hear

    def on_connection(self, take: Take) -> None:
        """Take connections that others hand over, with what they say about them."""
        self._take_connection = take

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Send and receive, for ever."""
        self._receiving = trio.CancelScope()
        if self._has_stopped:
            self._receiving.cancel()
        if self._has_run:
            self.told_less.update(self.others)  # what waited for them fell with this actor
        self._has_run = True
        async with trio.open_nursery() as nursery:
            for outbox in self._outboxes.values():
                nursery.start_soon(outbox.run)
            ready()
            with self._receiving:
                await self._may_receive.wait()
                await self._hear(nursery)

    def begin_receiving(self) -> None:
        """Take what comes from now on; until then it waits in the socket, so that nothing comes to nobody's hands."""
        self._may_receive.set()

    def stop_receiving(self) -> None:
        """Leave what comes from now on to whoever comes after this process; answers to its questions come no more."""
        self._has_stopped = True
        self._receiving.cancel()

    def close(self) -> None:
        """Close this process's ends; what the others say waits for whoever has the other ends."""
        self._receive.close()
        for outbox in self._outboxes.values():
            outbox.close()

    def tell(self, other: int, topic: str, body: bytes = b"") -> bool:
        """Tell one process something; False when its outbox is full."""
        return self._post(other, Kind.TELL, self._number(), topic, body)

    def tell_all(self, topic: str, body: bytes = b"", *, least: int = 0) -> None:
        """Tell every other process, from index `least` on; `told_less` remembers who could not be told."""
        for other in self.others:
            if other >= least and not self.tell(other, topic, body):
                self.told_less.add(other)

    async def ask(self, other: int, topic: str, body: bytes = b"", within_s: float = ANSWER_WITHIN_S) -> bytes:
        """Ask one process.

        Raises:
            Unavailable: it does not answer in time.
            Fault: what it answered.
        """
        number = self._number()
        arrived, found = trio.Event(), list[Message]()
        self._waiting[number] = (arrived, found)
        try:
            if self._post(other, Kind.ASK, number, topic, body):
                with trio.move_on_after(within_s):
                    await arrived.wait()
        finally:
            del self._waiting[number]
        if not found:
            raise Unavailable("server.worker-away", f"worker {other} did not answer within {within_s:g} s")
        if found[0].kind is Kind.FAILURE:
            code, _, detail = found[0].body.decode().partition("\n")
            raise fault_of(code, detail)
        return found[0].body

    async def ask_all(self, topic: str, body: bytes = b"", within_s: float = ANSWER_WITHIN_S) -> dict[int, bytes]:
        """Ask every other process; who does not answer is left out."""
        found: dict[int, bytes] = {}

        async def ask_one(other: int) -> None:
            try:
                found[other] = await self.ask(other, topic, body, within_s)
            except Fault as fault:
                log.debug("a process did not answer", other=other, topic=topic, error=fault.detail)

        async with trio.open_nursery() as nursery:
            for other in self.others:
                nursery.start_soon(ask_one, other)
        return {other: found[other] for other in sorted(found)}

    def hand_over(self, other: int, connection: socket.socket, about: bytes) -> bool:
        """Hand a connection to another process; False when it cannot take any.

        Args:
            connection: belongs to the mesh from now on, which closes this process's end.
            about: what it has to know.
        """
        return self._post(other, Kind.CONNECTION, self._number(), "", about, connection)

    # ------------------------------------------------------------------ inside

    def _number(self) -> int:
        return next(self._numbers) & 0xFFFFFFFF

    def _post(
        self, other: int, kind: Kind, number: int, topic: str, body: bytes, connection: socket.socket | None = None
    ) -> bool:
        outbox = self._outboxes.get(other)
        packets = list(encode(kind, self.index, number, topic, body)) if len(body) <= MOST_BYTES else []
        if outbox is not None and packets and outbox.post(packets, connection):
            return True
        self.dropped += 1
        if connection is not None:
            connection.close()
        return False

    async def _hear(self, nursery: trio.Nursery) -> None:
        assembler = Assembler(_close_all)
        room = socket.CMSG_SPACE(_DESCRIPTORS_MOST * _INT)
        while True:
            packet, more, _, _ = await self._receive.recvmsg(
                PACKET_BYTES + HEAD_BYTES_MOST, room, socket.MSG_CMSG_CLOEXEC
            )
            if not packet:
                return  # the parent is gone, and so are we
            message = assembler.feed(packet, _descriptors_of(more))
            if message is None:
                continue
            if message.kind is Kind.ASK:
                nursery.start_soon(self._answer, message)
                continue
            try:
                self._take(message)
            except Exception as fault:  # our bug; the next message may be a client's connection
                log.error("a message was not understood", topic=message.topic, sender=message.sender, exc_info=fault)

    def _take(self, message: Message) -> None:
        if message.kind is Kind.CONNECTION:
            self._take_connections(message)
        elif message.kind is Kind.TELL:
            if message.topic in self._hears:
                self._hears[message.topic](message.sender, message.body)
        elif message.number in self._waiting:
            arrived, found = self._waiting[message.number]
            found.append(message)
            arrived.set()

    def _take_connections(self, message: Message) -> None:
        for descriptor in message.descriptors:
            connection = socket.socket(fileno=descriptor)
            if self._take_connection is not None:
                self._take_connection(connection, message.body)
            else:
                connection.close()

    async def _answer(self, question: Message) -> None:
        answer = self._answers.get(question.topic)
        kind, body = Kind.ANSWER, b""
        try:
            if answer is None:
                raise Unavailable("server.worker-away", f"nobody here knows {question.topic}")
            body = await answer(question.body)
        except Fault as fault:
            kind, body = Kind.FAILURE, f"{fault.kind.code}\n{fault.detail}".encode()
        except Exception as fault:  # our bug: the other side gets a failure, the log gets the rest
            log.error("a question failed", topic=question.topic, exc_info=fault)
            kind, body = Kind.FAILURE, b"server.broken\nthe question failed"
        self._post(question.sender, kind, question.number, question.topic, body)


class _Outbox:
    """What waits for one process; its socket is written by one task."""

    def __init__(self, end: trio.socket.SocketType) -> None:
        self._end = end
        self._waiting: deque[tuple[bytes, socket.socket | None]] = deque()
        self._bytes = 0
        self._news = trio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def post(self, packets: list[bytes], connection: socket.socket | None) -> bool:
        """Put a message's packets behind the others; False when there is no room."""
        size = sum(map(len, packets))
        if len(self._waiting) + len(packets) > OUTBOX or self._bytes + size > OUTBOX_BYTES:
            return False
        self._waiting += ((packet, connection if at == 0 else None) for at, packet in enumerate(packets))
        self._bytes += size
        self._news.set()
        return True

    def close(self) -> None:
        """Close its socket."""
        self._end.close()

    async def run(self) -> None:
        """Send what waits, for ever.

        Cancellation: what waits is gone, and connections among it are closed.
        """
        try:
            while True:
                while not self._waiting:
                    self._news = trio.Event()
                    await self._news.wait()
                packet, connection = self._waiting[0]
                await self._send(packet, connection)
                self._waiting.popleft()
                self._bytes -= len(packet)
                if connection is not None:
                    connection.close()
        finally:
            for _, left in self._waiting:
                if left is not None:
                    left.close()
            self._waiting.clear()
            self._bytes = 0

    async def _send(self, packet: bytes, connection: socket.socket | None) -> None:
        if connection is None:
            await self._end.send(packet)
            return
        descriptors = array.array("i", [connection.fileno()])
        try:
            await self._end.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        except OSError as problem:  # the kernel lets only so many descriptors be on their way
            if problem.errno not in _NO_ROOM_FOR_DESCRIPTORS:
                raise
            log.warning("a connection could not be handed over", error=str(problem))


def _close_all(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _descriptors_of(more: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    found = array.array("i")
    for level, kind, content in more:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % _INT])
    return tuple(found)
