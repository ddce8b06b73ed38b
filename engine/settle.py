"""The batches in an agent's hands, and what a settle frame does to them.

`{"type":"settle","batch":B,"ack":[[0,57]],"nak":[{"i":58,"delay_ms":5000}],"term":[{"i":77,"reason":"…"}],"progress":[[78,99]],"confirm":true}`

Rules of the file:
- No clock, no I/O: methods return what the actor must do.
- A frame is applied whole or not at all: an index that is out of range or named twice refuses all of it.
- An index that was settled before is passed over, so that a frame may be said twice.
- Work is bounded by the batch's size, whatever the frame says: ranges are compared before they are walked.
- Confirmed is said only for what the log answered while the lease certainly ran (`engine/leases.py`); otherwise late.
  A verdict that is to be confirmed and whose lease is in doubt is not sent at all: it could settle another's delivery.

What must change with it: `engine/settle_words.py` reads the frames; /stream in the README's wire reference.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from engine.leases import Held
from engine.settle_words import BadFrame, Settle, Span

_HELD: Final = 0
_ASKED: Final = 1
"""Its verdict was sent and waits for the log's answer."""
_OVER: Final = 2
FINISHED_REMEMBERED: Final = 1024
"""Batches that were settled whole and whose settle frames may still be repeated."""


class Batch:
    """One batch that was handed over.

    Args:
        id: its name, unique in the gateway.
        held: its deliveries, by index.
        since: when it was handed over.
    """

    __slots__ = ("bytes_left", "held", "id", "left", "since", "states")

    def __init__(self, id: str, held: list[Held], since: float) -> None:  # noqa: A002  # the wire's word
        self.id = id
        self.held = held
        self.since = since
        self.states = bytearray(len(held))
        self.left = len(held)
        self.bytes_left = sum(one.size_bytes for one in held)

    def open_indexes(self, span: Span) -> list[int]:
        """Give the indexes of a range that are still in the agent's hands."""
        first, last = span
        found: list[int] = []
        at = self.states.find(_HELD, first, last + 1)
        while at >= 0:
            found.append(at)
            at = self.states.find(_HELD, at + 1, last + 1)
        return found

    def still_held(self) -> Iterator[Held]:
        """Give what is in the agent's hands and has no verdict yet."""
        return (one for one, state in zip(self.held, self.states, strict=True) if state == _HELD)


class Decision(NamedTuple):
    """What to tell the log about a batch; indexes of deliveries that the agent still held.

    Args:
        batch: which.
        ack: done.
        nak: to be delivered again, each with its delay in milliseconds, None when the agent named none.
        term: never again, each with its reason.
        progress: more time is wanted.
        confirmation: takes the log's answers, None when none are wanted.
    """

    batch: Batch
    ack: list[int]
    nak: list[tuple[int, int | None]]
    term: list[tuple[int, str]]
    progress: list[int]
    confirmation: "Confirmation | None"


class Confirmation:
    """One settle frame's wait for the log's answers."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.confirmed: list[int] = []
        self.late: list[int] = []
        self.failed: list[int] = []
        self._waiting: dict[int, Held] = {}

    @property
    def is_complete(self) -> bool:
        """Everything is known."""
        return not self._waiting

    def wait_for(self, index: int) -> None:
        """Note that a verdict is on its way."""
        self._waiting[index] = self.batch.held[index]

    def answered(self, index: int, now: float) -> bool | None:
        """Note that the log answered; gives whether that is a confirmation, None when nobody waits for it any more."""
        held = self._waiting.pop(index, None)
        if held is None:
            return None
        is_confirmed = held.is_certain(now)
        (self.confirmed if is_confirmed else self.late).append(index)
        return is_confirmed

    def fail(self, index: int) -> bool:
        """Note that the log could not say; False when nobody waits for it any more."""
        if self._waiting.pop(index, None) is None:
            return False
        self.failed.append(index)
        return True

    def expire(self, now: float) -> list[int]:
        """Give up on what can only be late by now, and say which that is."""
        over = [index for index, held in self._waiting.items() if not held.is_certain(now)]
        for index in over:
            del self._waiting[index]
        self.late += over
        return over


class Outstanding:
    """Every batch in the hands of one agent (or of one durable's HTTP agents)."""

    def __init__(self) -> None:
        self.batches: dict[str, Batch] = {}
        self.messages = 0
        self.bytes = 0
        self._finished: OrderedDict[str, int] = OrderedDict()

    def hand_over(self, batch: Batch) -> None:
        """Note that a batch goes to the agent.

        Raises:
            ValueError: it is there already, or empty; nothing changed.
        """
        if batch.id in self.batches or not batch.held:
            raise ValueError(f"batch {batch.id} is outstanding already, or empty")
        self.batches[batch.id] = batch
        self.messages += batch.left
        self.bytes += batch.bytes_left

    def judge(self, words: Settle, now: float) -> Decision | BadFrame | None:
        """Say what a settle frame means; None when all of it was settled before.

        What is decided on counts as settled from now on, or as asked about when it is to be confirmed.
        """
        batch = self.batches.get(words.batch)
        size = len(batch.held) if batch is not None else self._finished.get(words.batch)
        if size is None:
            text = f"batch {words.batch!r} is not outstanding here"
            return BadFrame("stream.unknown-batch", text, words.batch)
        problem = words.complaint(size)
        if problem is not None:
            return problem
        if batch is None:
            return None
        confirmation = Confirmation(batch) if words.confirm else None

        def take(span: Span, *, is_nak: bool = False) -> list[int]:
            return [one for one in batch.open_indexes(span) if self._take(batch, one, confirmation, now, is_nak=is_nak)]

        return Decision(
            batch,
            [index for span in words.ack for index in take(span)],
            [(index, delay_ms) for span, delay_ms in words.nak for index in take(span, is_nak=True)],
            [(index, reason) for span, reason in words.term for index in take(span)],
            [index for span in words.progress for index in batch.open_indexes(span)],
            confirmation,
        )

    def close_asked(self, batch: Batch, index: int) -> None:
        """Note that an asked verdict is over: confirmed, or late."""
        if batch.states[index] == _ASKED:
            self._put_down(batch, index)

    def reopen(self, batch: Batch, index: int) -> None:
        """Note that an asked verdict failed: the agent holds it again and may settle it again."""
        if batch.states[index] == _ASKED and batch.id in self.batches:
            batch.states[index] = _HELD

    def give_up(self, batch: Batch) -> list[int]:
        """Take back what the agent still holds of a batch, and say which indexes that was."""
        indexes = batch.open_indexes((0, len(batch.held) - 1))
        for index in indexes:
            self._put_down(batch, index)
        return indexes

    def overdue(self, now: float, max_lease_s: float) -> list[Batch]:
        """Give the batches that were held for too long."""
        return [one for one in self.batches.values() if now - one.since >= max_lease_s]

    def held(self) -> Iterator[Held]:
        """Give everything that is in the agent's hands and has no verdict yet."""
        for batch in self.batches.values():
            yield from batch.still_held()

    def everything(self) -> Iterator[Held]:
        """Give everything whose end is not known, verdicts on their way included."""
        for batch in self.batches.values():
            yield from batch.held

    def _take(self, batch: Batch, index: int, confirmation: Confirmation | None, now: float, *, is_nak: bool) -> bool:
        is_certain = batch.held[index].is_certain(now)
        if confirmation is None:
            self._put_down(batch, index)
            return is_certain or not is_nak
        if not is_certain:
            confirmation.late.append(index)
            self._put_down(batch, index)
            return False
        batch.states[index] = _ASKED
        confirmation.wait_for(index)
        return True

    def _put_down(self, batch: Batch, index: int) -> None:
        batch.states[index] = _OVER
        batch.left -= 1
        size = batch.held[index].size_bytes
        batch.bytes_left -= size
        self.messages -= 1
        self.bytes -= size
        if not batch.left:
            del self.batches[batch.id]
            self._finished[batch.id] = len(batch.held)
            if len(self._finished) > FINISHED_REMEMBERED:
                self._finished.popitem(last=False)
