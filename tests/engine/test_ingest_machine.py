"""Group commit under every order of offers, outcomes and time: a machine plays the log, honest and not."""

import itertools
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.errors import Fault, Situation
from engine.frames import FRAME_BYTES, FRAME_EVENTS, OVERHEAD_BYTES
from engine.ingest import ANSWER_WITHIN_S, IN_FLIGHT_FRAMES, Frame, GroupCommit, Publication, Submission, combine
from engine.log import DUPLICATE_IN_BATCH, Ambiguous, NotStored, Outcome, Stored
from engine.nats_wire import read_headers

ANSWERS: dict[str, Outcome | None] = {
    "stored": None,
    "stored, and the answer lost": Ambiguous("the connection broke"),
    "lost": Ambiguous("the connection broke"),
    "never left": NotStored(0, "the log is not connected"),
    "no stream yet": NotStored(503, "no stream takes this subject"),
    "refused": NotStored(10077, "maximum bytes exceeded"),
}


@dataclass
class Log:
    """A stream as JetStream keeps it: message ids are known for ever, a batch is stored whole or not at all."""

    messages: list[tuple[str, list[int]]] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)

    def publish(self, frame: Frame) -> Outcome:
        """Store a frame and answer as the server would."""
        if frame.is_batch:
            headers = [read_headers(one.header).fields for one in frame.messages]
            assert [one["nats-batch-sequence"] for one in headers] == [str(n + 1) for n in range(len(headers))]
            assert len({one["nats-batch-id"] for one in headers}) == 1
            assert [one.get("nats-batch-commit") for one in headers] == [None] * (len(headers) - 1) + ["1"]
            known = [one["nats-msg-id"] for one in headers if one.get("nats-msg-id") in self.ids]
            if known:
                return NotStored(DUPLICATE_IN_BATCH, "batch publish contains duplicate message id")
            return [self._store(frame.subject, *one) for one in frame.messages][-1]
        return combine([self._store(frame.subject, *one) for one in frame.messages])

    def _store(self, subject: str, header: bytes, payload: bytes) -> Outcome:
        fields = read_headers(header).fields
        message_id = fields.get("nats-msg-id", "")
        if message_id in self.ids:
            return Stored("S", self.ids[message_id], True)
        events = orjson.loads(payload)["events"]
        assert fields["headgate-events"] == str(len(events))
        self.messages.append((subject, events))
        if message_id:
            self.ids[message_id] = len(self.messages)
        return Stored("S", len(self.messages), False)

    def holds(self, events: list[int]) -> bool:
        """Say that every one of these events is stored."""
        stored = {one for _, message in self.messages for one in message}
        return stored.issuperset(events)


@dataclass
class Request:
    """One caller, and what it was told."""

    submission: Submission
    events: list[int]
    told: int = 0


class GroupCommitMachine(RuleBasedStateMachine):
    """Offers, outcomes and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log()
        self.now = 100.0
        self.numbers = itertools.count(1)
        self.ids = itertools.count(1)
        self.requests: list[Request] = []
        self.waiting: list[Submission] = []
        self.flying: list[Frame] = []
        self.bodies: dict[str, list[int]] = {}
        self.max_payload_bytes = 1024 * 1024
        self.commit = GroupCommit(new_id=lambda: f"made-up-{next(self.ids)}")

    @initialize(atomic=st.booleans(), max_payload_bytes=st.sampled_from([1024 * 1024, OVERHEAD_BYTES + 200]))
    def connect(self, *, atomic: bool, max_payload_bytes: int) -> None:
        """Learn what the stream can do."""
        self.max_payload_bytes = max_payload_bytes
        self.commit.atomic = atomic
        self.commit.limit_to(max_payload_bytes)
        assert self.commit.frame_bytes == min(FRAME_BYTES, max_payload_bytes - OVERHEAD_BYTES)

    @rule(
        subject=st.sampled_from("aaab"),
        count=st.sampled_from([1, 2, 40, FRAME_EVENTS - 1, FRAME_EVENTS, FRAME_EVENTS + 1, 2500]),
        key=st.sampled_from(["", "", "k", "l"]),
    )
    def offer(self, subject: str, count: int, key: str) -> None:
        """A request comes; under a key it is always the same body."""
        message_id = f"{subject}-{key}" if key else ""
        events = self.bodies.get(message_id) or [next(self.numbers) for _ in range(count)]
        if message_id:
            self.bodies[message_id] = events
        pieces = [b"%d" % one for one in events]
        joined = b",".join(pieces)
        needs = self.commit.needs_pieces(len(events), len(joined))
        submission = Submission(
            subject,
            joined,
            len(events),
            pieces if needs else None,
            message_id,
            self.now + ANSWER_WITHIN_S,
            lambda: None,
        )
        self.requests.append(Request(submission, events))
        self.commit.offer(submission, self.max_payload_bytes)
        self.waiting.append(submission)

    @rule(times=st.integers(1, IN_FLIGHT_FRAMES + 1))
    def leave_all(self, times: int) -> None:
        """The actor asks for frames until there is none."""
        for _ in range(times):
            self.leave()

    def leave(self) -> None:
        """Ask for the next frame."""
        frame, expired = self.commit.next_frame(self.now)
        self.tell(expired)
        if frame is None:
            may_wait_to_grow = bool(self.flying)
            assert not self.waiting or may_wait_to_grow
            return
        assert len(self.flying) < IN_FLIGHT_FRAMES
        self.check_frame(frame)
        self.waiting = [one for one in self.waiting if one not in frame.submissions]
        self.flying.append(frame)

    def check_frame(self, frame: Frame) -> None:
        """Hold a frame to the rules of the file."""
        came = frame.submissions
        assert came == self.waiting[: len(came)]  # in the order in which they came, none passed over
        assert {one.subject for one in came} == {frame.subject}
        if len(came) > 1:
            assert not any(one.message_id or one.pieces for one in came)  # these have frames of their own
        for header, payload in frame.messages:
            count = int(read_headers(header).fields["headgate-events"])
            assert count == len(orjson.loads(payload)["events"])
            assert count <= FRAME_EVENTS
            assert len(payload) <= self.commit.frame_bytes + OVERHEAD_BYTES - len(header)
        published = [one for _, payload in frame.messages for one in orjson.loads(payload)["events"]]
        sent = [int(one) for submission in came for one in submission.joined.split(b",")]
        assert published == sent if came[0].batch_tail is None else published == sent[: len(published)]

    @rule(which=st.integers(0, IN_FLIGHT_FRAMES - 1), what=st.sampled_from(sorted(ANSWERS)))
    def answer(self, which: int, what: str) -> None:
        """The log answers a frame, or its answer never comes."""
        self.leave()
        if not self.flying:
            return
        frame = self.flying.pop(which % len(self.flying))
        outcome = ANSWERS[what]
        if what in {"stored", "stored, and the answer lost"}:
            stored = self.log.publish(frame)
            outcome = outcome or stored
        assert outcome is not None
        self.settle(frame, outcome)

    @rule(what=st.sampled_from(["never left", "no stream yet", "lost"]))
    def connection_breaks(self, what: str) -> None:
        """Every frame in flight comes back, in the order in which they left."""
        flying, self.flying = self.flying, []
        while flying:
            outcome = ANSWERS[what]
            assert outcome is not None
            frame = flying.pop(0)
            self.flying = flying  # still in flight while the first of them is settled
            self.settle(frame, outcome)

    @rule(seconds=st.sampled_from([0.1, 0.1, 1.0, ANSWER_WITHIN_S]))
    def wait(self, seconds: float) -> None:
        """Time passes, and whoever waited long enough gives up."""
        self.now += seconds
        for request in self.requests:
            if request.submission.answer is None and request.submission.expires <= self.now:
                self.tell(self.commit.give_up(request.submission, self.now))
                assert request.submission.answer is not None

    @rule(seconds=st.sampled_from([0.1, 1.0, ANSWER_WITHIN_S]))
    def be_late(self, seconds: float) -> None:
        """Time passes, and an outcome is there before those who waited notice."""
        self.now += seconds

    def settle(self, frame: Frame, outcome: Outcome) -> None:
        """Hand a frame's outcome over; it is taken once."""
        answered = self.commit.settle(frame, outcome, self.now)
        back = [one for one in frame.submissions if one.answer is None]
        self.waiting = sorted(
            [*self.waiting, *back], key=lambda one: [one is two.submission for two in self.requests].index(True)
        )
        self.tell(answered)
        for request in self.requests:
            if request.submission in answered and isinstance(outcome, Stored):
                assert isinstance(request.submission.answer, Publication)
        with pytest.raises(ValueError, match="settled"):
            self.commit.settle(frame, outcome, self.now)

    def tell(self, answered: list[Submission]) -> None:
        """Tell callers, each once, and only what is true."""
        for submission in answered:
            [request] = [one for one in self.requests if one.submission is submission]
            request.told += 1
            answer = submission.answer
            if isinstance(answer, Publication):
                assert self.log.holds(request.events)
                assert self.log.messages[answer.sequence - 1][1][-1] in request.events or not submission.message_id
                if answer.duplicate:
                    assert submission.message_id
                if submission.message_id or submission.pieces:
                    assert self.log.messages[answer.sequence - 1][1][-1] == request.events[-1]
                else:
                    assert set(request.events) <= set(self.log.messages[answer.sequence - 1][1])
            elif isinstance(answer, Fault) and answer.situation is Situation.UNAVAILABLE:
                assert submission.message_id or not self.log.holds(request.events)
                assert not submission.in_doubt
            else:
                assert isinstance(answer, Fault)
                assert answer.situation is Situation.UNKNOWN
        self.waiting = [one for one in self.waiting if one.answer is None or one not in answered]

    @invariant()
    def answers_are_given_once(self) -> None:
        """Whoever has an answer was told it, once; whoever has none was told nothing."""
        for request in self.requests:
            assert request.told == (request.submission.answer is not None)

    @invariant()
    def nothing_is_stored_twice(self) -> None:
        """No event is in the stream twice: what might be stored is repeated only under its message id."""
        stored = [one for _, message in self.log.messages for one in message]
        assert len(stored) == len(set(stored))

    @invariant()
    def the_depths_are_true(self) -> None:
        """The statistics count what waits, and nothing waits that was lost sight of."""
        depths = self.commit.statistics()
        assert depths.in_flight_frames == len(self.flying) <= IN_FLIGHT_FRAMES
        waiting = [one for one in self.waiting if one.answer is None]
        assert depths.waiting_requests >= len(waiting)
        assert depths.waiting_events >= sum(one.count for one in waiting)
        assert self.commit.is_idle == (not depths.waiting_requests and not self.flying)

    def teardown(self) -> None:
        """In the end everybody is answered, and the queue is empty."""
        for _ in range(1000):
            self.leave()
            if not self.flying:
                break
            self.answer(0, "stored")
        self.wait(2 * ANSWER_WITHIN_S)
        self.leave()
        depths = self.commit.statistics()
        assert (depths.waiting_requests, depths.waiting_events, depths.waiting_bytes) == (0, 0, 0)
        assert all(request.told == 1 for request in self.requests)
        for request in self.requests:
            if isinstance(request.submission.answer, Publication):
                assert self.log.holds(request.events)


TestGroupCommit = GroupCommitMachine.TestCase
TestGroupCommit.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
