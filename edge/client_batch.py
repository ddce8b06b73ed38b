"""A batch of `headgate.stream.v1` in an agent's hands: its messages, and what the agent says of each.

Rules of the file:
- A message is answered once. What was not answered when the connection ends is delivered again.
- Nothing is lost in silence: `Settled` says whether the answer left this machine, and, confirmed, what became of it.
  Only `confirmed` means that the log has the verdict.

What must change with it: `edge/client_session.py` carries the answers, `edge/client_sync.py` is the same without Trio.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import trio

from edge.client_frames import Gap, Hello
from edge.client_values import Event, Message
from engine.verdicts import Verdicts

Items = Iterable["int | Message"]


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an answer.

    Args:
        said: it left this machine. False: the connection was gone before; nothing of it counts, and the messages come
            again.
        confirmed: the log has the verdict, and the lease still ran. Only of answers that asked for it.
        late: the lease had run out: the message goes, or went, to somebody else.
        unknown: the connection ended, or the log fell silent, before an answer: the verdict may count or not. While the
            connection lives, what the log could not be told is unanswered again.
    """

    said: bool
    confirmed: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()

    @property
    def is_well(self) -> bool:
        """Whether nothing speaks against it: it was said, and nothing of it came too late or is unknown."""
        return self.said and not self.late and not self.unknown


@dataclass(slots=True)
class Tally:
    """What was said of a batch's messages, counted; what turned out late, unknown or unsaid counts as that alone."""

    acked: int = 0
    naked: int = 0
    terminated: int = 0
    late: int = 0
    unknown: int = 0
    unsaid: int = 0

    def count(self, verdicts: Verdicts, settled: Settled) -> None:
        """Count one answer."""
        if not settled.said:
            self.unsaid += len(verdicts.indexes)
            return
        doubtful = {*settled.late, *settled.unknown}
        self.acked += len(verdicts.ack - doubtful)
        self.naked += len(verdicts.nak.keys() - doubtful)
        self.terminated += len(verdicts.term.keys() - doubtful)
        self.late += len(settled.late)
        self.unknown += len(settled.unknown)


class Answering(Protocol):
    """Where answers go: the connection a batch came on."""

    @property
    def hello(self) -> Hello:
        """What the gateway said first on this connection."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended."""
        ...

    async def settle(self, batch: "StreamBatch", verdicts: Verdicts, *, is_confirmed: bool) -> Settled:
        """Send verdicts, and wait for what became of them when that is asked for."""
        ...

    async def extend(self, batch: "StreamBatch", indexes: Iterable[int]) -> bool:
        """Ask for more time."""
        ...


class StreamBatch:
    """Messages that the agent has to answer for, all at once or each by itself.

    Attributes:
        id: the gateway's name for it.
        messages: in stream order.
        gaps: what the log had removed before these messages, and since the batch before.
        received_at: `trio.current_time()` when all of it was here.
        bytes: of its messages' JSON.
        tally: what was said of them so far.
    """

    def __init__(self, id_: str, messages: tuple[Message, ...], gaps: tuple[Gap, ...], session: Answering) -> None:
        self.id = id_
        self.messages = messages
        self.gaps = gaps
        self.received_at = trio.current_time()
        self.bytes = sum(len(bytes(message.data)) for message in messages)
        self.tally = Tally()
        self._open = set(range(len(messages)))
        self._lost: set[int] = set()
        self._session = session

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def stream(self) -> str:
        """The name of the stream that the positions belong to."""
        return self._session.hello.stream

    @property
    def epoch(self) -> str:
        """The life of the log that the positions belong to."""
        return self._session.hello.epoch

    @property
    def is_over(self) -> bool:
        """Whether the connection that it came on has ended: it cannot be answered any more, and comes again."""
        return self._session.is_over

    @property
    def unanswered(self) -> tuple[Message, ...]:
        """The messages that nothing was said of yet, and whose lease still runs."""
        return tuple(self.messages[index] for index in sorted(self._open))

    @property
    def lost(self) -> tuple[Message, ...]:
        """The messages whose lease ran out before they were answered."""
        return tuple(self.messages[index] for index in sorted(self._lost))

    def events(self) -> list[Event]:
        """Give the events of all its messages, in order."""
        return [event for message in self.messages for event in message.events()]

    async def ack(self, *, confirm: bool = False) -> Settled:
        """Say that whatever was not answered yet is done."""
        return await self.settle(ack=self.unanswered, confirm=confirm)

    async def nak(self, delay_s: float | None = None, *, confirm: bool = False) -> Settled:
        """Give back whatever was not answered yet; it comes again, to whoever is attached, after `delay_s`.

        None leaves the delay to the gateway: at once at first, later and later for what was delivered often.
        """
        return await self.settle(nak=self.unanswered, delay_s=delay_s, confirm=confirm)

    async def term(self, reason: str, *, confirm: bool = False) -> Settled:
        """Say that whatever was not answered yet must not come again: it goes to the dead letters."""
        return await self.settle(term=self.unanswered, reason=reason, confirm=confirm)

    async def settle(
        self,
        *,
        ack: Items = (),
        nak: Items | Mapping[int, float | None] = (),
        term: Items | Mapping[int, str] = (),
        delay_s: float | None = None,
        reason: str = "the agent gave no reason",
        confirm: bool = False,
    ) -> Settled:
        """Answer messages of this batch, by index or as they are, with mixed verdicts.

        Args:
            ack: done.
            nak: to come again; a mapping gives each index its own seconds of delay.
            term: never to come again; a mapping gives each index its own reason.
            delay_s: for the naks that have none of their own; None leaves it to the gateway.
            reason: for the terms that have none of their own.
            confirm: wait until the log has said what became of it.

        Raises:
            ValueError: a message is named twice, was answered before, or is not in this batch. Nothing was said.

        Cancellation: the answer may have been said or not; the batch counts it as said.
        """
        naks: Mapping[int, float | None] = (
            nak if isinstance(nak, Mapping) else dict.fromkeys(map(_index_of, nak), delay_s)
        )
        terms = term if isinstance(term, Mapping) else dict.fromkeys(map(_index_of, term), reason)
        return await self.say(Verdicts(frozenset(map(_index_of, ack)), naks, terms), confirm=confirm)

    async def say(self, verdicts: Verdicts, *, confirm: bool = False) -> Settled:
        """Answer with verdicts that are put together already; see `settle`."""
        indexes = verdicts.indexes
        if len(verdicts.ack) + len(verdicts.nak) + len(verdicts.term) != len(indexes):
            raise ValueError(f"batch {self.id}: a message is given two verdicts")
        wrong = indexes - self._open - self._lost
        if wrong:
            is_there = min(wrong) in range(len(self.messages))
            why = "was answered before" if is_there else f"is not one of its {len(self.messages)}"
            raise ValueError(f"batch {self.id}: message {min(wrong)} {why}")
        late = tuple(sorted(indexes & self._lost))
        if late:
            verdicts = _without(verdicts, self._lost)
            self._lost -= indexes
        if not verdicts.indexes:
            self.tally.late += len(late)
            return Settled(not self.is_over, late=late)
        self._open -= verdicts.indexes
        answer = await self._session.settle(self, verdicts, is_confirmed=confirm)
        settled = Settled(answer.said, answer.confirmed, tuple(sorted({*answer.late, *late})), answer.unknown)
        self.tally.count(verdicts, settled)
        return settled

    async def progress(self, messages: Items | None = None) -> bool:
        """Ask for a fresh lease of these messages, or of all that are unanswered.

        The gateway does it by itself while the connection lives, up to its longest lease; this says that work goes on.

        Returns:
            Whether it was said.
        """
        indexes = self._open if messages is None else self._open.intersection(map(_index_of, messages))
        return await self._session.extend(self, indexes) if indexes else not self.is_over

    def hold_again(self, indexes: Iterable[int]) -> None:
        """Take verdicts back that the log could not be told: these messages can be answered again."""
        self._open.update(indexes)

    def note_lost(self, indexes: Iterable[int]) -> tuple[int, ...]:
        """Take leases away, as the gateway said; gives those that were still open."""
        lost = tuple(sorted(self._open.intersection(indexes)))
        self._open.difference_update(lost)
        self._lost.update(lost)
        return lost


def _index_of(item: int | Message) -> int:
    return item.index if isinstance(item, Message) else item


def _without(verdicts: Verdicts, indexes: set[int]) -> Verdicts:
    return Verdicts(
        verdicts.ack - indexes,
        {index: delay_s for index, delay_s in verdicts.nak.items() if index not in indexes},
        {index: reason for index, reason in verdicts.term.items() if index not in indexes},
    )
