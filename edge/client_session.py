"""One connection of `headgate.stream.v1`: what came on it, what was answered, and how much may still come.

Rules of the file:
- Reading never waits for the agent: confirmations and statuses must pass while batches lie unread. What lies is bounded
  by the credit; a gateway that sends twice as much is broken, and left.
- Credit is granted back for what was settled or lost, never for what is still held.
- When the connection ends, everybody who waits is told so: what was asked is unknown.

What must change with it: `edge/client_frames.py`, the wire.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import msgspec
import trio

from edge.client_batch import Settled, StreamBatch
from edge.client_frames import (
    SUBPROTOCOL,
    Complaint,
    Credit,
    ErrorFrame,
    EventsFrame,
    Gap,
    Hello,
    LeasesLost,
    LostFrame,
    Notice,
    Ranges,
    SettledFrame,
    Status,
    read_frame,
)
from edge.client_retry import GatewayBroken, GatewayUnavailable
from edge.client_socket import Socket
from engine.verdicts import Verdicts, pack_ranges, unpack_ranges

HELLO_TIMEOUT_S: Final = 10.0
CONFIRM_TIMEOUT_S: Final = 30.0
"""Far above what a log takes that lives; the gateway itself says `failed` before."""
STATUS_TIMEOUT_S: Final = 10.0
MOST_HELD: Final = Credit(1_000_000, 256 << 20)
"""Of a gateway that keeps the window itself and did not say its limits."""


@dataclass(eq=False)
class _Confirmation:
    """Verdicts that somebody waits to hear about."""

    waiting: set[int]
    confirmed: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    done: trio.Event = field(default_factory=trio.Event)


class Session:
    """One connection, from hello to its end.

    Args:
        credit: granted after hello and again for what was settled; None leaves the window to the gateway.
        grants_back: whether credit is granted again by itself.
        hand_over: takes each batch.
        on_notice: takes what else there is to know.
    """

    def __init__(
        self,
        socket: Socket,
        credit: Credit | None,
        *,
        grants_back: bool,
        hand_over: Callable[[StreamBatch], None],
        on_notice: Callable[[Notice], None],
    ) -> None:
        self.hello = Hello()
        self.is_over = False
        self.held = Credit(0, 0)
        self.open: dict[str, StreamBatch] = {}
        self._highest_seq = 0
        self._returned_seqs: set[int] = set()
        self._socket = socket
        self._credit = credit
        self._grants_back = grants_back
        self._owed = Credit(0, 0)
        self._hand_over = hand_over
        self._on_notice = on_notice
        self._gaps: list[Gap] = []
        self._said = ""
        self._confirmations: dict[str, list[_Confirmation]] = {}
        self._status: Status | None = None
        self._status_came = trio.Event()

    async def greet(self) -> Hello:
        """Read the gateway's first word.

        Raises:
            GatewayUnavailable: none came in time.
            GatewayBroken: it speaks another protocol.
        """
        if self._socket.subprotocol != SUBPROTOCOL:
            raise GatewayBroken(f"the gateway does not speak {SUBPROTOCOL}: it chose {self._socket.subprotocol!r}")
        with trio.move_on_after(HELLO_TIMEOUT_S):
            first = read_frame(await self._receive())
            if isinstance(first, ErrorFrame):
                self._note_error(first)
                await self._receive()  # the close that follows explains it, and is raised
            if not isinstance(first, Hello):
                raise GatewayBroken(f"the gateway said {type(first).__name__} before hello")
            self.hello = first
            return first
        raise GatewayUnavailable(f"the gateway did not say hello within {HELLO_TIMEOUT_S:g} s")

    async def run(self) -> NoReturn:
        """Ask for messages, and hand over what comes until the connection ends.

        Raises:
            GatewayUnavailable, GatewayRefused: how it ended.
            GatewayBroken: the gateway said something that cannot be understood.
        """
        try:
            if self._credit is None:
                await self._send({"type": "credit", "mode": "auto"})
            elif self._credit.messages:
                await self.grant(self._credit)
            while True:
                frame = read_frame(await self._receive())
                match frame:
                    case EventsFrame():
                        self._take(frame)
                    case SettledFrame():
                        self._note_settled(frame)
                    case LostFrame():
                        await self._note_lost(frame)
                    case Gap():
                        self._gaps.append(frame)
                        self._on_notice(frame)
                    case Status():
                        self._status = frame
                        self._status_came.set()
                        self._status_came = trio.Event()
                    case ErrorFrame():
                        self._note_error(frame)
                    case _:
                        pass
        finally:
            self.is_over = True
            self._status_came.set()
            for confirmations in self._confirmations.values():
                for confirmation in confirmations:
                    confirmation.done.set()

    async def settle(self, batch: StreamBatch, verdicts: Verdicts, *, is_confirmed: bool) -> Settled:
        """Send verdicts, and wait for what became of them when that is asked for."""
        if self.is_over:
            return Settled(said=False)
        confirmation = _Confirmation(set(verdicts.indexes))
        waiting = self._confirmations.setdefault(batch.id, [])
        if is_confirmed:
            waiting.append(confirmation)
        try:
            if not await self._send(verdicts.frame(batch.id, is_confirmed=is_confirmed)):
                return Settled(said=False)
            self._returned_seqs.update(batch.messages[index].seq for index in verdicts.nak)
            try:
                if not is_confirmed:
                    return Settled(said=True)
                with trio.move_on_after(CONFIRM_TIMEOUT_S):
                    await confirmation.done.wait()
            finally:
                batch.hold_again(confirmation.failed)
                await self._give_back(batch, verdicts.indexes - confirmation.failed)
        finally:
            if is_confirmed:
                waiting.remove(confirmation)
            if not waiting:
                self._confirmations.pop(batch.id, None)
        return Settled(
            True,
            tuple(sorted(confirmation.confirmed)),
            tuple(sorted(confirmation.late)),
            tuple(sorted(verdicts.indexes - confirmation.confirmed - confirmation.late)),
        )

    def next_seq(self) -> int | None:
        """Say where a consumer that is gone with its connection must go on; None when nothing came on it.

        It is the first message that is held, or was given back and has not come again.
        """
        held = {message.seq for batch in self.open.values() for message in batch.unanswered}
        return min(held | self._returned_seqs, default=self._highest_seq + 1 if self._highest_seq else None)

    async def extend(self, batch: StreamBatch, indexes: Iterable[int]) -> bool:
        """Ask for fresh leases."""
        return await self._send({"type": "settle", "batch": batch.id, "progress": pack_ranges(indexes)})

    async def grant(self, credit: Credit) -> bool:
        """Let so much more come."""
        return await self._send({"type": "credit", "messages": credit.messages, "bytes": credit.bytes})

    async def status(self) -> Status:
        """Ask how the consumer stands.

        Raises:
            GatewayUnavailable: the connection ended, or no answer came in time.
        """
        came = self._status_came
        with trio.move_on_after(STATUS_TIMEOUT_S):
            if await self._send({"type": "status"}):
                await came.wait()
        if not came.is_set() or self.is_over or self._status is None:
            raise GatewayUnavailable("the connection ended before the gateway had said how the consumer stands")
        return self._status

    # ------------------------------------------------------------------ inside

    async def _receive(self) -> str | bytes:
        try:
            return await self._socket.receive()
        except GatewayUnavailable as error:
            raise GatewayUnavailable(f"{error}{self._said}", retry_after_s=error.retry_after_s) from error

    async def _send(self, frame: dict[str, Any]) -> bool:
        return not self.is_over and await self._socket.send(msgspec.json.encode(frame).decode())

    def _take(self, frame: EventsFrame) -> None:
        batch = StreamBatch(frame.batch, tuple(frame.messages), tuple(self._gaps), self)
        self._gaps = []
        if [message.index for message in batch] != list(range(len(batch))):
            raise GatewayBroken(f"batch {batch.id}: its messages are not numbered from 0 on")
        self.held = Credit(self.held.messages + len(batch), self.held.bytes + batch.bytes)
        limits = self.hello.limits
        most = self._credit or Credit(
            limits.credit_messages or MOST_HELD.messages, limits.credit_bytes or MOST_HELD.bytes
        )
        # Twice, because bytes may be counted otherwise there; and a message above all credit may come alone.
        is_alone = self.held.messages == 1
        if (
            self._grants_back
            and not is_alone
            and (self.held.messages > 2 * most.messages or self.held.bytes > 2 * most.bytes + batch.bytes)
        ):
            raise GatewayBroken(f"the gateway sent {self.held}, twice what it was granted ({most})")
        self.open[batch.id] = batch
        seqs = {message.seq for message in batch}
        self._highest_seq = max(self._highest_seq, *seqs, 0)
        self._returned_seqs -= seqs
        self._hand_over(batch)

    def _note_settled(self, frame: SettledFrame) -> None:
        for confirmation in self._confirmations.get(frame.batch, ()):
            confirmed, late, failed = (_read(ranges) for ranges in (frame.confirmed, frame.late, frame.failed))
            confirmation.confirmed |= confirmation.waiting & confirmed
            confirmation.late |= confirmation.waiting & late
            confirmation.failed |= confirmation.waiting & failed
            confirmation.waiting -= confirmed | late | failed
            if not confirmation.waiting:
                confirmation.done.set()

    async def _note_lost(self, frame: LostFrame) -> None:
        batch = self.open.get(frame.batch)
        if batch is not None:
            lost = batch.note_lost(_read(frame.messages))
            if lost:
                self._returned_seqs.update(batch.messages[index].seq for index in lost)
                self._on_notice(LeasesLost(batch.id, lost, frame.reason))
                await self._give_back(batch, lost)

    def _note_error(self, frame: ErrorFrame) -> None:
        self._said = f" ({frame.message})" if frame.fatal else ""
        self._on_notice(Complaint(frame.code, frame.message))
        for confirmation in self._confirmations.get(frame.batch, ()):
            confirmation.done.set()

    async def _give_back(self, batch: StreamBatch, indexes: Iterable[int]) -> None:
        """Count messages as answered, and grant their credit again: at half of it, or when nothing else is held."""
        sizes = [len(bytes(batch.messages[index].data)) for index in indexes]
        self.held = Credit(self.held.messages - len(sizes), self.held.bytes - sum(sizes))
        if not batch.unanswered:
            self.open.pop(batch.id, None)
        if self._credit is None or not self._grants_back:
            return
        owed = Credit(self._owed.messages + len(sizes), self._owed.bytes + sum(sizes))
        is_due = not self.held.messages or 2 * owed.messages >= self._credit.messages
        is_due = is_due or 2 * owed.bytes >= self._credit.bytes
        self._owed = Credit(0, 0) if is_due else owed
        if is_due:
            await self.grant(owed)


def _read(ranges: Ranges) -> set[int]:
    """Read ranges of a batch whose size was checked when it came; what lies outside is nobody's."""
    try:
        return set(unpack_ranges(ranges, 1 << 20))
    except ValueError as error:
        raise GatewayBroken(f"the gateway said ranges that are none: {error}") from error
