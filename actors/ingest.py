"""The publisher: it carries out what group commit decides.

Rules of the file:
- An answer goes out only for an outcome of the log, or for a time that is up.
- A caller that goes away changes nothing: its events are published, and nobody hears the answer.

Back-pressure: sheds; `engine/ingest.py` holds the bounds.
"""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Final

import trio

from actors.tree import Actor, Mailbox
from engine.errors import Broken, Fault, Refused, Unavailable
from engine.events import EventBytes
from engine.frames import digest_of
from engine.ingest import ANSWER_WITHIN_S, NOT_NOW, WAITING_EVENTS, Frame, GroupCommit, Publication, Submission, combine
from engine.jetstream import JetStream
from engine.log import DIGEST_HEADER, Ambiguous, NotStored, Outcome, Stored
from engine.metrics import COUNT_BOUNDS, Histogram
from engine.patience import RETRY_AFTER_S, Patience

RETRY_PAUSE_S: Final = 0.01
"""After a frame came back unstored: the log is up but its stream is not yet."""
READ_ORIGINAL_S: Final = 1.0


@dataclass(eq=False, slots=True)
class _Flight:
    """A frame that the log has not answered yet: until when it may, and its requests' numbers."""

    deadline: float
    numbers: list[int] = field(default_factory=list)


class Publisher:
    """What the edge holds of the publisher.

    Args:
        log: the log's data plane.
    """

    def __init__(self, log: JetStream) -> None:
        self._log = log
        self.ack_took = Histogram()
        """How long the log took to answer frames."""
        self.frame_events = Histogram(COUNT_BOUNDS)
        """How many events stored frames held."""
        self.commit = GroupCommit(new_id=partial(secrets.token_hex, 16))
        self.patience = Patience()
        self._wake = trio.Event()
        self._down_since: float | None = None
        self._came_back = False
        self._settled = trio.Event()
        self._flying: dict[Frame, _Flight] = {}
        log.connection.watchers.append(self._on_change)

    def mailbox(self) -> Mailbox:
        """How many events wait, and how many may."""
        return Mailbox(self.commit.statistics().waiting_events, WAITING_EVENTS)

    def check_room(self) -> None:
        """Refuse at once, before a body is read, what would only wait in vain.

        Raises:
            Unavailable: too much waits, or for too long, or the log has been away for longer than a request may wait.
        """
        now = trio.current_time()
        self._check_log(now)
        if not self.commit.depth and self.patience.is_calm:
            return
        oldest_s = self.commit.oldest_s(now)
        if not self.patience.may_come(oldest_s, now):
            raise Unavailable(
                "ingest.full",
                f"{self.commit.depth} requests wait for the log, the first for {oldest_s:.3f} s; nothing was stored",
                RETRY_AFTER_S,
            )

    def _check_log(self, now: float) -> None:
        """Refuse what is beyond the bounds, or would wait in vain."""
        if not self.commit.has_room():
            self.patience.shed += 1
            raise Unavailable("ingest.full", f"more than {WAITING_EVENTS} events wait for the log")
        if self._down_since is not None and now - self._down_since > ANSWER_WITHIN_S:
            reason = self._log.connection.last_error or "not connected"
            raise Unavailable("log.down", f"the log is not reachable ({reason}); nothing was stored")

    async def publish(self, subject: str, content: EventBytes, key: str, trace: str = "") -> Publication:
        """Put a request's events on the log and wait until they are stored.

        Args:
            subject: a subject of the stream.
            content: the checked events, at least one.
            key: the caller's idempotency key, empty when none.
            trace: the trace that the request belongs to, empty when nobody asked.

        Raises:
            Unavailable: nothing was stored.
            Unknown: they may or may not be stored.
            Refused: the key was used for another body, or an event is larger than the log takes.

        Cancellation: the events may be stored.
        """
        now = trio.current_time()
        self._check_log(now)
        count, joined = content.count, content.joined
        answered = trio.Event()
        submission = Submission(
            subject,
            joined,
            count,
            content.split() if self.commit.needs_pieces(count, len(joined)) else None,
            message_id_of(subject, key) if key else "",
            now + ANSWER_WITHIN_S,
            answered.set,
            trace=trace,
        )
        self.commit.offer(submission, self._log.connection.info.max_payload_bytes)
        self._wake.set()
        with trio.move_on_at(submission.expires):
            await answered.wait()
        if submission.answer is None:
            _notify(self.commit.give_up(submission, trio.current_time()))
            self._settled.set()
        answer = submission.answer
        if not isinstance(answer, Publication):
            try:
                raise answer or _never_answered()
            finally:
                # Its traceback names this frame: a ring would keep the events until the cycle collector comes.
                del answer, submission
        if answer.duplicate and key:
            await self._check_same_body(answer.stream, answer.sequence - (submission.batch_tail or 0), joined)
        return answer

    async def wait_idle(self) -> None:
        """Wait until nothing waits for the log and nothing is in flight."""
        while not self.commit.is_idle:
            self._settled = trio.Event()
            await self._settled.wait()

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Send frames as the rules allow, for ever."""
        connection = self._log.connection
        ready()
        while True:
            if not connection.is_up:
                self._down_since = self._down_since or trio.current_time()
                await connection.wait_up()
            self._down_since = None
            if self._came_back:
                self._came_back = False
                await trio.sleep(RETRY_PAUSE_S)
            frame, expired = self.commit.next_frame(trio.current_time())
            if expired:
                _notify(expired)
                self._settled.set()
            if frame is not None:
                self._flying[frame] = _Flight(trio.current_time() + ANSWER_WITHIN_S)
                self._send(frame)
                continue
            with trio.move_on_at(self._first_deadline()):
                await self._wake.wait()
            self._wake = trio.Event()
            self._give_up_lost()

    def _first_deadline(self) -> float:
        return next(iter(self._flying.values())).deadline if self._flying else math.inf

    def _give_up_lost(self) -> None:
        """Stop waiting for answers that the log owes for too long: a lost one must not hold up what comes after it."""
        now = trio.current_time()
        for frame, flight in list(self._flying.items()):
            if flight.deadline > now:
                break
            for number in flight.numbers:
                self._log.abandon(number)
            self._settle(frame, Ambiguous("the log did not answer in time"))

    def _on_change(self) -> None:
        if self._log.connection.is_up:
            self.commit.limit_to(self._log.connection.info.max_payload_bytes)
        self._wake.set()

    def _send(self, frame: Frame) -> None:
        messages = frame.messages
        numbers = self._flying[frame].numbers
        if len(messages) == 1:
            header, payload = messages[0]
            numbers.append(self._log.publish_nowait(frame.subject, payload, partial(self._settle, frame), header))
            return
        outcomes: list[Outcome] = []

        def gather(is_last: bool, outcome: Outcome) -> None:
            # In an atomic batch the last message's answer stands for all, unless an earlier one was refused.
            if frame.is_batch and not is_last and not isinstance(outcome, NotStored):
                return
            outcomes.append(outcome)
            if frame.is_batch:
                if len(outcomes) == 1:
                    self._settle(frame, outcome)
            elif len(outcomes) == len(messages):
                self._settle(frame, combine(outcomes))

        for number, (header, payload) in enumerate(messages, 1):
            is_last = number == len(messages)
            numbers.append(self._log.publish_nowait(frame.subject, payload, partial(gather, is_last), header))

    def _settle(self, frame: Frame, outcome: Outcome) -> None:
        flight = self._flying.pop(frame, None)
        if flight is None:
            return  # given up already
        now = trio.current_time()
        self.ack_took.observe(now - (flight.deadline - ANSWER_WITHIN_S))
        if isinstance(outcome, Stored):
            self.frame_events.observe(sum(one.count for one in frame.submissions))
        if isinstance(outcome, NotStored) and outcome.code in NOT_NOW:
            self._came_back = True
        _notify(self.commit.settle(frame, outcome, now))
        self._settled.set()
        self._wake.set()

    async def _check_same_body(self, stream: str, sequence: int, joined: bytes) -> None:
        """Hold a repeated key to its first body: the digest stands in the stored message's header."""
        header = await self._log.read_header(stream, sequence, READ_ORIGINAL_S)
        if header is None:
            return  # the original is gone by retention: the log still knows the key, and that is the answer
        if header.get(DIGEST_HEADER.lower()) != digest_of(joined):
            raise Refused(
                "ingest.key-conflict",
                "this Idempotency-Key was used for another body within the last ten minutes; "
                "use a new key for new events",
            )


def message_id_of(subject: str, key: str) -> str:
    """Give the message id of an idempotency key: the same key on another subject is another message."""
    return blake2b(f"{subject}\n{key}".encode(), digest_size=16).hexdigest()


def _never_answered() -> Fault:
    return Broken("server.broken", "a submission was woken without an answer")


def _notify(answered: list[Submission]) -> None:
    for one in answered:
        one.notify()
