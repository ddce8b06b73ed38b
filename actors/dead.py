"""The dead letters: buried before the original is given up, listed, replayed.

Why the gateway counts deliveries itself: a consumer's own `max_deliver` makes the log forget a message after the last
delivery, with one advisory that nobody may be there to hear. Here nothing is forgotten: what came too often is buried,
and only then terminated. Killed in between, the message comes again, and its letter is known by its id.

Rules of the file:
- True is said of a burial only when the log acknowledged the letter, or the message is gone from its stream.
- A replayed letter is removed after its message was stored again; killed in between, it is there once more than needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from engine import dead
from engine.dead import Letter, Origin, read_letter
from engine.errors import Refused, Unavailable, Unknown
from engine.jetstream import JetStream
from engine.log import Ambiguous, Lost, Outcome, Stored, StoredMessage
from engine.log_control import LogControl

log = structlog.get_logger("dead")
WITHIN_S: Final = 2.0
"""For each question to the log; a burial that takes longer is tried again when the message comes again."""
PAGE_BYTES: Final = 4 * 1024 * 1024
"""A page of letters ends after the one that goes beyond this."""


@dataclass(slots=True)
class DeadCounts:
    """What has been counted since the start.

    Args:
        buried: letters stored.
        repeated: letters that were there already.
        failed: burials that the log did not acknowledge; the message comes again.
        gone: messages that were removed from their stream before they could be buried.
        replayed: messages published again.
    """

    buried: int = 0
    repeated: int = 0
    failed: int = 0
    gone: int = 0
    replayed: int = 0


class DeadLetters:
    """What the edge and the consumers hold of the dead letters.

    Args:
        data: the log's data plane.
        control: its control plane.
        stream: the stream whose messages die.
        name: the stream of letters; made with the first of them.
    """

    def __init__(self, data: JetStream, control: LogControl, stream: str, name: str) -> None:
        self.counts = DeadCounts()
        self._data = data
        self._control = control
        self._stream = stream
        self._name = name
        self._is_made = False

    async def bury(self, consumer: str, sequence: int, delivered: int, reason: str) -> bool:
        """Put a message among the dead letters.

        Args:
            consumer: whose agents gave up on it.
            sequence: its position in the stream.
            delivered: how often it was delivered.
            reason: for a person.

        Returns:
            True when its letter is stored, or the message is gone: it may be terminated.

        Raises:
            Unavailable: the log's control plane does not answer.

        Cancellation: the letter may have been stored; another burial of the same message stores no second one.
        """
        message = await self._data.read_message(self._stream, {"seq": sequence}, WITHIN_S)
        if message is None:
            log.warning("a message was removed before it could be buried", durable=consumer, sequence=sequence)
            self.counts.gone += 1
            return True
        if isinstance(message, Lost):
            self.counts.failed += 1
            return False
        await self._make_stream()
        origin = Origin(
            consumer,
            self._stream,
            await self._epoch(),
            message.subject,
            sequence,
            message.time,
            delivered,
            reason,
            len(message.payload),
        )
        subject, header = dead.write_letter(self._name, origin, message)
        fits = len(header) + len(message.payload) <= self._data.connection.info.max_payload_bytes
        outcome = await self._publish(subject, message.payload if fits else b"", header)
        if not isinstance(outcome, Stored):
            self._is_made = False  # it may have been removed: look again next time
            self.counts.failed += 1
            log.warning("a dead letter was not stored", durable=consumer, sequence=sequence, outcome=str(outcome))
            return False
        if outcome.duplicate:
            self.counts.repeated += 1
        else:
            self.counts.buried += 1
            log.warning("a message is a dead letter now", durable=consumer, sequence=sequence, reason=reason)
        return True

    async def list_all(self, durable: str, after: int, limit: int) -> tuple[list[dict[str, object]], int | None]:
        """Give a page of letters, oldest first, and after which the next page begins.

        Args:
            durable: whose, empty for all.
            after: letters above this id.
            limit: at most so many.

        Raises:
            Unavailable: the log does not answer.
        """
        subject = f"{dead.LETTERS_SUBJECT}.{durable or '>'}"
        found: list[dict[str, object]] = []
        size = 0
        while True:
            message = await self._read({"seq": after + 1, "next_by_subj": subject})
            if message is None:
                return found, None
            if len(found) >= limit or size > PAGE_BYTES:
                return found, after
            found.append(dead.describe_letter(read_letter(message)))
            size += len(message.payload)
            after = message.sequence

    async def replay(self, letter_id: int, check: Callable[[Letter], None] = lambda _: None) -> dict[str, object]:
        """Publish a letter's message again where it came from, and remove the letter.

        Every durable of its subject gets it again, as a new message.

        Args:
            letter_id: which.
            check: raises where whoever asks may not have this letter replayed.

        Raises:
            Refused: there is no such letter, it is not theirs, or its message is not to be had.
            Unavailable: the log does not answer, or did not store it.
            Unknown: it may be stored or not; ask again within ten minutes and it is stored once.
        """
        message = await self._read({"seq": letter_id})
        if message is None:
            raise Refused("request.not-found", f"there is no dead letter {letter_id}; a replayed one is gone")
        letter = read_letter(message)
        check(letter)
        payload = await self._payload_of(letter)
        header = dead.write_replay(self._name, letter)
        if len(header) + len(payload) > self._data.connection.info.max_payload_bytes:
            raise Refused("request.conflict", f"the message of letter {letter_id} is too large to be published again")
        outcome = await self._publish(letter.origin.subject, payload, header)
        if isinstance(outcome, Ambiguous):
            raise Unknown("ingest.outcome-unknown", f"the log did not say whether it stored letter {letter_id}")
        if not isinstance(outcome, Stored):
            raise Unavailable("log.refused", f"the log did not store the message again: {outcome.reason}")
        self.counts.replayed += 1
        answer = await self._control.request_api(
            f"STREAM.MSG.DELETE.{self._name}", {"seq": letter_id, "no_erase": True}
        )
        return {
            "id": letter_id,
            "replayed": True,
            "stream": outcome.stream,
            "seq": outcome.sequence,
            "removed": not answer.error,
        }

    # ------------------------------------------------------------------ inside

    async def _payload_of(self, letter: Letter) -> bytes:
        origin = letter.origin
        if not origin.stream:
            raise Refused(
                "request.conflict", f"letter {letter.id} was not written by a gateway; it says not from where"
            )
        if not letter.is_reference:
            return letter.payload
        original = None
        if origin.stream == self._stream and origin.epoch == await self._epoch():
            original = await self._data.read_message(origin.stream, {"seq": origin.seq}, WITHIN_S)
        if not isinstance(original, StoredMessage):
            raise Refused("request.conflict", f"letter {letter.id} only names its message, which is gone")
        return original.payload

    async def _read(self, query: dict[str, object]) -> StoredMessage | None:
        message = await self._data.read_message(self._name, query, WITHIN_S)
        if isinstance(message, Lost):
            raise Unavailable("log.down", "the log does not answer")
        return message

    async def _make_stream(self) -> None:
        if self._is_made:
            return
        answer = await self._control.request_api(f"STREAM.INFO.{self._name}")
        if answer.error:
            config = dead.letters_config(self._name)
            answer = await self._control.request_api(f"STREAM.CREATE.{self._name}", config)
        if answer.error:
            raise Unavailable("log.refused", f"the stream of dead letters cannot be made: {answer.reason}")
        self._is_made = True

    async def _epoch(self) -> str:
        answer = await self._control.request_api(f"STREAM.INFO.{self._stream}")
        if answer.error:
            raise Unavailable("log.refused", f"the log refused: {answer.reason}")
        return str(answer.fields.get("created", ""))

    async def _publish(self, subject: str, payload: bytes, header: bytes) -> Outcome:
        done = trio.Event()
        outcomes: list[Outcome] = []

        def take(outcome: Outcome) -> None:
            outcomes.append(outcome)
            done.set()

        number = self._data.publish_nowait(subject, payload, take, header)
        try:
            with trio.move_on_after(WITHIN_S):
                await done.wait()
        finally:
            self._data.abandon(number)
        return outcomes[0] if outcomes else Ambiguous("the log did not answer in time")
