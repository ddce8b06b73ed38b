"""Group commit: which waiting requests become the next frame, and what each is answered.

A *frame* is one log message, `{"events":[…]}`. Requests that arrive while a frame is in flight wait and
share the next one, and one acknowledgement answers them all; a frame that cannot grow any more leaves beside it.
Idle, a request is a frame at once: there is no linger. With `sync_interval: always` the log does one fsync a message,
so merging is what makes durable ingest fast (`bench/scenarios/ingest.py`).

Rules of the file:
- No clock, no I/O: methods take `now` and return what the actor must do.
- Order is kept: requests become frames in the order in which they came.
- A request with an idempotency key has a frame of its own, because the key becomes the message id.
- A request larger than a frame becomes an atomic batch of messages, stored together or not at all.
- A frame that certainly did not leave goes back to the head of the queue until its time is up; one
  whose outcome is unknown goes back only if its message id makes the repetition safe.

What must change with it: `actors/ingest.py` carries out what is decided here.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from engine.errors import Fault, Refused, Unavailable, Unknown
from engine.frames import (
    FRAME_BYTES,
    FRAME_EVENTS,
    OVERHEAD_BYTES,
    MessageBytes,
    batch_messages,
    chunks_of,
    digest_of,
    keyed_message,
    merged_message,
    name_traces,
)
from engine.log import DUPLICATE_IN_BATCH, Ambiguous, NotStored, Outcome, Stored

IN_FLIGHT_FRAMES: Final = 8
"""Frames that cannot grow leave while others are in flight: enough to keep the broker's disk and our processor busy
at once, also while a pass of our loop is long (`bench overload`)."""
WAITING_EVENTS: Final = 200_000
WAITING_BYTES: Final = 64 * 1024 * 1024
"""About a second's work of the log: whoever comes later is better off asking another gateway."""
NOT_NOW: Final = frozenset({0, 503})
"""Not stored because it never left (0), or because the stream is not back yet (503): worth another try."""
ANSWER_WITHIN_S: Final = 1.8
"""A request is answered within two seconds even when the log is away (P5)."""


class Publication(NamedTuple):
    """What the caller learns of its stored events.

    Args:
        stream: the stream's name.
        sequence: position of the frame that holds the (last of the) events.
        duplicate: the key had stored them before.
    """

    stream: str
    sequence: int
    duplicate: bool


@dataclass(eq=False, slots=True)
class Submission:
    """One request's events on their way to the log.

    Args:
        subject: where to publish.
        joined: the events' JSON, comma-separated.
        count: how many.
        pieces: one bytes an event when the submission is larger than a frame, else None.
        message_id: from the idempotency key; empty when there is none.
        expires: when the caller stops waiting, seconds of the clock behind `now`.
        notify: to be called by the actor once there is an answer.
        answer: set once, by `GroupCommit`.
        number: its place in the order in which requests came.
        in_doubt: an earlier try may have stored it.
        trace: the trace that its request belongs to, empty when nobody asked.
        batch_tail: stored before as a batch, which takes consecutive positions: repeat only the first
            message, whose answer names its position; the last one's is so many further. None otherwise.
    """

    subject: str
    joined: bytes
    count: int
    pieces: list[bytes] | None
    message_id: str
    expires: float
    notify: Callable[[], None]
    answer: Publication | Fault | None = None
    number: int = 0
    in_doubt: bool = False
    trace: str = ""
    batch_tail: int | None = None

    @property
    def stands_alone(self) -> bool:
        """It has a frame of its own: it carries a key, or is larger than a frame."""
        return bool(self.message_id) or self.pieces is not None


class FrameState(Enum):
    """The life of a frame."""

    BUILT = "built"
    IN_FLIGHT = "in flight"
    SETTLED = "settled"


@dataclass(eq=False, slots=True)
class Frame:
    """What is published as one, and whom its outcome answers.

    Args:
        subject: where to publish.
        messages: one, or several.
        is_batch: the messages are one atomic batch, which its last message's answer settles.
        submissions: who waits for it.
        message_id: its `Nats-Msg-Id`, empty when none.
    """

    subject: str
    messages: list[MessageBytes]
    submissions: list[Submission]
    message_id: str
    is_batch: bool = False
    state: FrameState = FrameState.BUILT


@dataclass(frozen=True, slots=True)
class IngestStatistics:
    """Depths now, and totals since the start."""

    waiting_requests: int
    waiting_events: int
    waiting_bytes: int
    in_flight_frames: int
    frames: int
    events_stored: int
    requests_refused: int


@dataclass(slots=True)
class GroupCommit:
    """The queue before the log.

    Args:
        new_id: makes up ids for batches.
        atomic: the stream takes atomic batches.
        frame_bytes: the most events' bytes in a frame, under the server's `max_payload`.
    """

    new_id: Callable[[], str]
    atomic: bool = True
    frame_bytes: int = FRAME_BYTES
    _queue: deque[Submission] = field(default_factory=deque)
    _offered: int = 0
    _alone: int = 0
    _events: int = 0
    _bytes: int = 0
    _in_flight: int = 0
    _frames: int = 0
    _stored: int = 0
    _refused: int = 0

    def statistics(self) -> IngestStatistics:
        """Give depths and totals."""
        return IngestStatistics(
            len(self._queue), self._events, self._bytes, self._in_flight, self._frames, self._stored, self._refused
        )

    @property
    def depth(self) -> int:
        """Requests waiting for a frame."""
        return len(self._queue)

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self._queue and not self._in_flight

    def oldest_s(self, now: float) -> float:
        """Say how long the first request has waited for a frame, 0 where none waits."""
        return max(0.0, now - self._queue[0].expires + ANSWER_WITHIN_S) if self._queue else 0.0

    def has_room(self) -> bool:
        """Say that another request may come; asked before its body is read."""
        return self._events < WAITING_EVENTS and self._bytes < WAITING_BYTES

    def needs_pieces(self, count: int, size_bytes: int) -> bool:
        """Say that a request is larger than a frame, so that its submission must bring its pieces."""
        return count > FRAME_EVENTS or size_bytes > self.frame_bytes

    def limit_to(self, max_payload_bytes: int) -> None:
        """Keep frames under the server's `max_payload`."""
        self.frame_bytes = min(FRAME_BYTES, max_payload_bytes - OVERHEAD_BYTES)

    def offer(self, submission: Submission, max_payload_bytes: int) -> None:
        """Take a submission into the queue.

        Raises:
            Refused: one event is larger than the log's largest message.
            Unavailable: the queue is full; nothing changed.

        Back-pressure: sheds.
        """
        if not self.has_room():
            self._refused += 1
            raise Unavailable(
                "ingest.full",
                f"{self._events} events and {self._bytes} bytes wait for the log; "
                f"the limits are {WAITING_EVENTS} and {WAITING_BYTES}",
            )
        for index, piece in enumerate(submission.pieces or ()):
            if len(piece) > max_payload_bytes - OVERHEAD_BYTES:
                raise Refused(
                    "request.too-large",
                    f"event {index} has {len(piece)} bytes; the log takes {max_payload_bytes - OVERHEAD_BYTES}",
                )
        self._offered += 1
        submission.number = self._offered
        self._push(submission)

    def next_frame(self, now: float) -> tuple[Frame | None, list[Submission]]:
        """Give the next frame, when one may leave, and the submissions whose time was up in the queue.

        The expired ones carry their answer: they were not stored.
        """
        expired = self._drop_expired(now)
        if self._in_flight >= IN_FLIGHT_FRAMES or not self._queue or (self._in_flight and self._may_grow()):
            return None, expired
        first = self._pop()
        if first.stands_alone:
            frame = self._frame_alone(first)
        else:
            together = [first]
            count, size = first.count, len(first.joined)
            while self._queue:
                after = self._queue[0]
                count += after.count
                size += len(after.joined) + 1
                if (
                    after.subject != first.subject
                    or after.stands_alone
                    or count > FRAME_EVENTS
                    or size > self.frame_bytes
                ):
                    count -= after.count
                    break
                together.append(self._pop())
            message = merged_message([one.joined for one in together], count)
            frame = Frame(first.subject, [message], together, "")
        if any(one.trace for one in frame.submissions):
            frame.messages = name_traces(frame.messages, [one.trace for one in frame.submissions])
        frame.state = FrameState.IN_FLIGHT
        self._in_flight += 1
        self._frames += 1
        return frame, expired

    def settle(self, frame: Frame, outcome: Outcome, now: float) -> list[Submission]:
        """Take a frame's outcome.

        Returns:
            The submissions that are answered now; those that went back to the queue are not among them.

        Raises:
            ValueError: the frame is not in flight; nothing changed.
        """
        if frame.state is not FrameState.IN_FLIGHT:
            raise ValueError(f"a frame that is {frame.state.value} cannot be settled")
        frame.state = FrameState.SETTLED
        self._in_flight -= 1
        if isinstance(outcome, Stored):
            tail = frame.submissions[0].batch_tail or 0
            answer: Publication | Fault = Publication(outcome.stream, outcome.sequence + tail, outcome.duplicate)
            if not outcome.duplicate:
                self._stored += sum(one.count for one in frame.submissions)
        elif isinstance(outcome, NotStored):
            if outcome.code in NOT_NOW:
                return self._back_to_queue(frame, now, _log_down(outcome.reason))
            if outcome.code == DUPLICATE_IN_BATCH:
                frame.submissions[0].batch_tail = len(frame.messages) - 1
                frame.submissions[0].in_doubt = True
                return self._back_to_queue(frame, now, _doubt(outcome.reason))
            answer = Unavailable("log.refused", f"the log did not store the events: {outcome.reason}")
            if frame.submissions[0].in_doubt:
                answer = _doubt(outcome.reason)
        else:
            answer = _doubt(outcome.reason)
            if frame.message_id:
                for one in frame.submissions:
                    one.in_doubt = True
                return self._back_to_queue(frame, now, answer)
        answered = [one for one in frame.submissions if one.answer is None]
        for one in answered:
            one.answer = answer
        return answered

    def give_up(self, submission: Submission, now: float) -> list[Submission]:
        """Answer a submission whose time is up: not stored while it waits, unknown while it is in flight.

        Returns:
            The submissions that are answered now: this one, and others in the queue whose time is up.
        """
        answered = self._drop_expired(now)
        if submission.answer is None:
            submission.answer = _doubt("the log did not answer in time")
            answered.append(submission)
        return answered

    # ------------------------------------------------------------------ inside

    def _may_grow(self) -> bool:
        """Say that the next frame is better sent later, with more in it: one fsync then answers more requests."""
        return not self._alone and self._events < FRAME_EVENTS and self._bytes < self.frame_bytes

    def _push(self, submission: Submission, *, at_head: bool = False) -> None:
        (self._queue.appendleft if at_head else self._queue.append)(submission)
        self._alone += submission.stands_alone
        self._events += submission.count
        self._bytes += len(submission.joined)

    def _pop(self) -> Submission:
        submission = self._queue.popleft()
        self._alone -= submission.stands_alone
        self._events -= submission.count
        self._bytes -= len(submission.joined)
        return submission

    def _drop_expired(self, now: float) -> list[Submission]:
        expired: list[Submission] = []
        while self._queue and self._queue[0].expires <= now:
            submission = self._pop()
            if submission.answer is None:
                late = "the log did not take the events in time"
                submission.answer = _doubt(late) if submission.in_doubt else _log_down(late)
                expired.append(submission)
        return expired

    def _back_to_queue(self, frame: Frame, now: float, otherwise: Fault) -> list[Submission]:
        answered: list[Submission] = []
        for one in reversed(frame.submissions):
            if one.answer is not None:
                continue  # its caller gave up meanwhile
            if one.expires > now:
                self._push(one, at_head=True)
            else:
                one.answer = _doubt("the log did not answer in time") if one.in_doubt else otherwise
                answered.append(one)
        self._queue = deque(sorted(self._queue, key=lambda one: one.number))  # several frames may come back
        return answered

    def _frame_alone(self, only: Submission) -> Frame:
        chunks = [(only.count, only.joined)] if only.pieces is None else chunks_of(only.pieces, self.frame_bytes)
        digest = digest_of(only.joined) if only.message_id else ""
        if only.batch_tail is not None or (len(chunks) == 1 and only.message_id):
            count, joined = chunks[0]
            messages = [keyed_message(joined, count, only.message_id, digest)]
        elif len(chunks) == 1:
            messages = [merged_message([chunks[0][1]], chunks[0][0])]
        elif self.atomic:
            messages = batch_messages(chunks, self.new_id(), only.message_id, digest)
            return Frame(only.subject, messages, [only], only.message_id, is_batch=True)
        else:
            identity = only.message_id or self.new_id()
            messages = [
                keyed_message(joined, count, f"{identity}.{number}" if number else identity, digest)
                for number, (count, joined) in enumerate(chunks)
            ]
        return Frame(only.subject, messages, [only], only.message_id)


def combine(outcomes: list[Outcome]) -> Outcome:
    """Give the one outcome of a frame whose messages were answered one by one."""
    stored = [one for one in outcomes if isinstance(one, Stored)]
    if len(stored) == len(outcomes):
        return Stored(stored[-1].stream, max(one.sequence for one in stored), all(one.duplicate for one in stored))
    refused = [one for one in outcomes if isinstance(one, NotStored)]
    if len(refused) == len(outcomes):
        return refused[0]
    return Ambiguous("the log stored a part of the request")


def _doubt(reason: str) -> Unknown:
    return Unknown(
        "ingest.outcome-unknown",
        f"{reason}; the events may or may not be stored; "
        "repeating the request is safe only if it carried an Idempotency-Key",
    )


def _log_down(reason: str) -> Unavailable:
    return Unavailable("log.down", f"{reason}; nothing was stored")
