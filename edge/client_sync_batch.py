"""A batch for those who do not write `async`: the same as `edge/client_batch.py`, with plain methods.

Rules of the file:
- It holds nothing of its own: the batch behind it knows what was answered.
"""

from collections.abc import Iterator

from edge.client import Event, Gap, Message, Settled, StreamBatch
from edge.client_batch import Items
from edge.client_portal import Call


class SyncBatch:
    """A batch whose methods are plain; see `edge/client_batch.py` for what they mean."""

    def __init__(self, batch: StreamBatch, call: Call) -> None:
        self._batch = batch
        self._call = call
        self.id = batch.id
        self.messages = batch.messages
        self.gaps: tuple[Gap, ...] = batch.gaps
        self.bytes = batch.bytes

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def epoch(self) -> str:
        """The life of the log that the positions belong to."""
        return self._batch.epoch

    @property
    def is_over(self) -> bool:
        """Whether the connection that it came on has ended."""
        return self._batch.is_over

    @property
    def unanswered(self) -> tuple[Message, ...]:
        """The messages that nothing was said of yet, and whose lease still runs."""
        return self._batch.unanswered

    @property
    def lost(self) -> tuple[Message, ...]:
        """The messages whose lease ran out before they were answered."""
        return self._batch.lost

    def events(self) -> list[Event]:
        """Give the events of all its messages, in order."""
        return self._batch.events()

    def ack(self, *, confirm: bool = False) -> Settled:
        """Say that whatever was not answered yet is done."""
        return self.settle(ack=self.unanswered, confirm=confirm)

    def nak(self, delay_s: float | None = None, *, confirm: bool = False) -> Settled:
        """Give back whatever was not answered yet."""
        return self.settle(nak=self.unanswered, delay_s=delay_s, confirm=confirm)

    def term(self, reason: str, *, confirm: bool = False) -> Settled:
        """Say that whatever was not answered yet must not come again."""
        return self.settle(term=self.unanswered, reason=reason, confirm=confirm)

    def settle(
        self,
        *,
        ack: Items = (),
        nak: Items | dict[int, float | None] = (),
        term: Items | dict[int, str] = (),
        delay_s: float | None = None,
        reason: str = "the agent gave no reason",
        confirm: bool = False,
    ) -> Settled:
        """Answer messages of this batch with mixed verdicts."""

        async def settle() -> Settled:
            return await self._batch.settle(
                ack=ack, nak=nak, term=term, delay_s=delay_s, reason=reason, confirm=confirm
            )

        return self._call(settle)

    def progress(self, messages: Items | None = None) -> bool:
        """Ask for a fresh lease; False means that the connection is gone."""
        return self._call(self._batch.progress, messages)
