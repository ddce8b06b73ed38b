"""What the keeper of gaps asks the log: the stream, its consumers, their marks, and whose messages are where.

Rules of the file:
- Nothing is decided here, and no answer is taken for another one: what the log does not say is `Unavailable`.

What must change with it: `actors/gaps.py`, which decides.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from engine.consumers import CONSUMER_NOT_FOUND, ConsumerFacts, read_consumer
from engine.errors import Unavailable
from engine.gaps import MOST_DELETED, Mark, Run, StreamState, read_mark, read_state, runs_of
from engine.jetstream import JetStream
from engine.log import Lost, StoredMessage
from engine.log_control import LogControl
from engine.names import is_of_filter

READ_WITHIN_S: Final = 2.0
MOST_CONSUMERS: Final = 1024


class GapsLog:
    """The log, as far as gaps are concerned.

    Args:
        data: its data plane.
        control: its control plane.
        stream: the stream's name.
    """

    def __init__(self, data: JetStream, control: LogControl, stream: str) -> None:
        self.marks = f"{stream}_MARKS"
        self.has_marks = False
        """The stream of marks is there, as far as is known."""
        self._data = data
        self._control = control
        self._stream = stream

    async def own_of_all(self, subjects: Sequence[str], left: list[list[Run]], most: int) -> list[list[Run]]:
        """Look up which sequences are messages of these subjects, or of any where none are named, all at once.

        Args:
            subjects: the subjects.
            left: several times ranges.
            most: in each of them, after so many, the rest is taken for such too.

        Raises:
            Unavailable: the log does not answer.
        """
        found: list[list[Run] | None] = [None] * len(left)

        async def look_up(at: int) -> None:
            with suppress(Unavailable):
                found[at] = await self._own_of(subjects, left[at], most)

        async with trio.open_nursery() as nursery:
            for at in range(len(left)):
                nursery.start_soon(look_up, at)
        answered = [one for one in found if one is not None]
        if len(answered) < len(left):
            raise Unavailable("log.down", "the log does not answer")
        return answered

    async def make_marks(self) -> None:
        """Make the stream of marks, where there is none.

        Raises:
            Unavailable: the log does not answer, or refuses.
        """
        if self.has_marks:
            return
        config = {
            "name": self.marks,
            "subjects": [f"{self.marks}.*"],
            "max_msgs_per_subject": 1,
            "allow_direct": True,
        }
        answer = await self._control.request_api(f"STREAM.CREATE.{self.marks}", config)
        if answer.error:
            raise Unavailable("log.refused", f"the stream of marks cannot be made: {answer.reason}")
        self.has_marks = True

    async def read_mark(self, durable: str) -> Mark | None:
        """Give a durable's mark; None where there is none.

        Raises:
            Unavailable: the log does not answer.
        """
        query = {"last_by_subj": f"{self.marks}.{durable}"}
        message = await self._data.read_message(self.marks, query, READ_WITHIN_S)
        return read_mark(_answered(message).payload) if message is not None else None

    async def state(self) -> StreamState:
        """Give the stream as it is.

        Raises:
            Unavailable: the log does not answer, or refuses.
        """
        answer = await self._control.request_api(f"STREAM.INFO.{self._stream}")
        if not answer.error and 0 < int((answer.fields.get("state") or {}).get("num_deleted", 0)) <= MOST_DELETED:
            answer = await self._control.request_api(f"STREAM.INFO.{self._stream}", {"deleted_details": True})
        if answer.error:
            raise Unavailable("log.refused", f"the log refused: {answer.reason}")
        return read_state(answer.fields)

    async def facts(self, durable: str) -> ConsumerFacts:
        """Give a consumer as it is.

        Raises:
            Unavailable: the log does not answer, or refuses, or the consumer is gone.
        """
        answer = await self._control.request_api(f"CONSUMER.INFO.{self._stream}.{durable}")
        if answer.error == CONSUMER_NOT_FOUND:
            raise Unavailable("log.refused", "the durable consumer is gone from the log")
        if answer.error:
            raise Unavailable("log.refused", f"the log refused: {answer.reason}")
        return read_consumer(answer.fields)

    async def all_facts(self) -> list[ConsumerFacts]:
        """Give the durable consumers of the stream.

        Raises:
            Unavailable: the log does not answer, or refuses.
        """
        found: list[ConsumerFacts] = []
        while len(found) < MOST_CONSUMERS:
            answer = await self._control.request_api(f"CONSUMER.LIST.{self._stream}", {"offset": len(found)})
            if answer.error:
                raise Unavailable("log.refused", f"the log refused: {answer.reason}")
            page = [read_consumer(one) for one in answer.fields.get("consumers") or []]
            found += page
            if not page or len(found) >= int(answer.fields.get("total", 0)):
                break
        return [one for one in found if one.is_durable]

    async def _own_of(self, subjects: Sequence[str], runs: list[Run], most: int) -> list[Run]:
        own: list[int] = []
        for low, high in runs:
            at = low
            while at <= high:
                if len(own) >= most:
                    return runs_of(own) + [(max(at, first), last) for first, last in runs if last >= at]
                at = await (self._first_of(subjects, at) if at == low else self._next_of(subjects, at)) or high + 1
                if at <= high:
                    own.append(at)
                at += 1
        return runs_of(own)

    async def _first_of(self, subjects: Sequence[str], sequence: int) -> int:
        """Give the first message of these subjects from here on, also where the server's index of subjects lacks it.

        Where a stream begins the index alone is asked, and after a purge beside deletions it may be wrong (2.15.1):
        that is why messages are passed over. Behind the first message that is there it is not asked.
        """
        message = await self._read(">", sequence)
        if message is None:
            return 0
        if not subjects or any(is_of_filter(message.subject, one) for one in subjects):
            return message.sequence
        return await self._next_of(subjects, message.sequence + 1)

    async def _next_of(self, subjects: Sequence[str], sequence: int) -> int:
        found = [await self._read(subject, sequence) for subject in subjects or (">",)]
        return min((one.sequence for one in found if one is not None), default=0)

    async def _read(self, subject: str, sequence: int) -> StoredMessage | None:
        query = {"seq": sequence, "next_by_subj": subject}
        message = await self._data.read_message(self._stream, query, READ_WITHIN_S)
        return _answered(message) if message is not None else None


def _answered(message: StoredMessage | Lost) -> StoredMessage:
    if isinstance(message, Lost):
        raise Unavailable("log.down", "the log does not answer")
    return message
