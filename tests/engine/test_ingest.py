"""Group commit, rule by rule: what becomes a frame, what is answered, and what is refused (3.2, P5)."""

from collections.abc import Callable

import orjson
import pytest

from engine.errors import Fault, Refused, Situation, Unavailable, Unknown
from engine.frames import FRAME_BYTES, FRAME_EVENTS, OVERHEAD_BYTES
from engine.ingest import (
    IN_FLIGHT_FRAMES,
    NOT_NOW,
    WAITING_BYTES,
    WAITING_EVENTS,
    Frame,
    FrameState,
    GroupCommit,
    Publication,
    Submission,
    combine,
)
from engine.log import DUPLICATE_IN_BATCH, Ambiguous, NotStored, Outcome, Stored
from engine.nats_wire import read_headers

MAX_PAYLOAD = 1024 * 1024
NOW = 100.0
LATER = 200.0


def nobody() -> None:
    """Be told an answer and do nothing."""


def make_commit(*, atomic: bool = True) -> GroupCommit:
    """An empty queue."""
    return GroupCommit(new_id=lambda: "made-up", atomic=atomic)


def offer(
    commit: GroupCommit, count: int = 1, *, subject: str = "s", key: str = "", size: int = 1, expires: float = LATER
) -> Submission:
    """Offer a request of this many events of this size."""
    pieces = [b"1" * size] * count
    joined = b",".join(pieces)
    needs = commit.needs_pieces(count, len(joined))
    submission = Submission(subject, joined, count, pieces if needs else None, key, expires, nobody)
    commit.offer(submission, MAX_PAYLOAD)
    return submission


def leave(commit: GroupCommit, now: float = NOW) -> Frame:
    """Take the next frame, which there is."""
    frame, expired = commit.next_frame(now)
    assert frame is not None
    assert expired == []
    return frame


def situation(submission: Submission) -> tuple[Situation, str]:
    """What a submission was answered: the situation and the code."""
    assert isinstance(submission.answer, Fault)
    return submission.answer.situation, submission.answer.kind.code


def test_idle_a_request_is_a_frame_at_once() -> None:
    """There is no linger: with nothing in flight the first request leaves alone."""
    commit = make_commit()
    assert commit.is_idle
    only = offer(commit)
    frame = leave(commit)
    assert frame.submissions == [only]
    assert frame.state is FrameState.IN_FLIGHT
    assert commit.next_frame(NOW) == (None, [])
    assert commit.statistics().in_flight_frames == 1
    assert commit.settle(frame, Stored("S", 7, False), NOW) == [only]
    assert only.answer == Publication("S", 7, False)
    assert commit.statistics().in_flight_frames == 0


def test_what_comes_while_a_frame_is_in_flight_shares_the_next() -> None:
    """Requests that could share a frame wait for it together, and one acknowledgement answers them all."""
    commit = make_commit()
    offer(commit)
    first = leave(commit)
    waiting = [offer(commit, 3) for _ in range(5)]
    assert commit.next_frame(NOW) == (None, [])
    commit.settle(first, Stored("S", 1, False), NOW)
    frame = leave(commit)
    assert frame.submissions == waiting
    [message] = frame.messages
    assert orjson.loads(message.payload) == {"events": [1] * 15}
    assert read_headers(message.header).fields == {"headgate-events": "15"}
    assert commit.settle(frame, Stored("S", 2, False), NOW) == waiting
    assert {one.answer for one in waiting} == {Publication("S", 2, False)}
    assert commit.statistics().events_stored == 16


@pytest.mark.parametrize(
    "fill",
    [
        lambda commit: offer(commit, FRAME_EVENTS),
        lambda commit: offer(commit, 1, size=FRAME_BYTES),
        lambda commit: offer(commit, 1, key="k"),
        lambda commit: offer(commit, FRAME_EVENTS + 1),
    ],
    ids=["events", "bytes", "a key", "larger than a frame"],
)
def test_a_frame_that_cannot_grow_leaves_beside_others(fill: Callable[[GroupCommit], Submission]) -> None:
    """Waiting would put nothing more into it: it leaves while others are in flight, and never more than four."""
    commit = make_commit()
    for number in range(IN_FLIGHT_FRAMES):
        mine = fill(commit)
        frame = leave(commit)
        assert frame.submissions == [mine], number
    fill(commit)
    assert commit.next_frame(NOW) == (None, [])
    assert commit.statistics().in_flight_frames == IN_FLIGHT_FRAMES


def test_a_frame_takes_exactly_its_limit_of_events() -> None:
    """A thousand events share a frame; the request that would make it one more waits for the next."""
    commit = make_commit()
    together = [offer(commit, FRAME_EVENTS - 10), offer(commit, 10)]
    after = offer(commit, 1)
    assert leave(commit).submissions == together
    commit = make_commit()
    together = [offer(commit, FRAME_EVENTS - 10)]
    after = offer(commit, 11)
    assert leave(commit).submissions == together
    assert commit.statistics().waiting_events == after.count


def test_a_frame_takes_exactly_its_limit_of_bytes() -> None:
    """The events' bytes and the commas between them fill a frame to the byte."""
    half = FRAME_BYTES // 2
    commit = make_commit()
    together = [offer(commit, size=half), offer(commit, size=FRAME_BYTES - half - 1)]
    assert leave(commit).submissions == together
    commit = make_commit()
    together = [offer(commit, size=half)]
    offer(commit, size=FRAME_BYTES - half)
    assert leave(commit).submissions == together


def test_a_frame_has_one_subject_and_order_is_kept() -> None:
    """A request on another subject ends the frame: nobody is passed over."""
    commit = make_commit()
    came = [offer(commit, subject=subject) for subject in "aabab"]
    frames = []
    for _ in range(4):
        frame = leave(commit)
        frames.append(frame.submissions)
        commit.settle(frame, Stored("S", 1, False), NOW)
    assert frames == [came[:2], came[2:3], came[3:4], came[4:5]]


def test_a_key_has_a_frame_of_its_own() -> None:
    """The key becomes the message id, with the digest by which another body under it is told apart."""
    commit = make_commit()
    came = [offer(commit), offer(commit, key="id-1"), offer(commit), offer(commit)]
    first = leave(commit)
    keyed = leave(commit)
    assert (first.submissions, keyed.submissions) == (came[:1], came[1:2])
    fields = read_headers(keyed.messages[0].header).fields
    assert fields["nats-msg-id"] == "id-1"
    assert len(fields["headgate-digest"]) == 32
    commit.settle(first, Stored("S", 1, False), NOW)
    commit.settle(keyed, Stored("S", 2, True), NOW)
    assert came[1].answer == Publication("S", 2, True)
    assert leave(commit).submissions == came[2:]
    assert commit.statistics().events_stored == 1  # a duplicate is not stored again


@pytest.mark.parametrize("key", ["", "id-1"])
def test_a_large_request_is_an_atomic_batch(key: str) -> None:
    """Stored together or not at all, in order, with the id on the first message alone."""
    commit = make_commit()
    offer(commit, 2 * FRAME_EVENTS + 1, key=key)
    frame = leave(commit)
    assert frame.is_batch
    headers = [read_headers(one.header).fields for one in frame.messages]
    assert [one["headgate-events"] for one in headers] == ["1000", "1000", "1"]
    assert [one.get("nats-msg-id", "") for one in headers] == [key, "", ""]


@pytest.mark.parametrize("key", ["", "id-1"])
def test_without_atomic_batches_each_part_has_an_id(key: str) -> None:
    """Where the stream takes no batches, the parts have ids of their own, so that repeating them is safe."""
    commit = make_commit(atomic=False)
    offer(commit, 2 * FRAME_EVENTS + 1, key=key)
    frame = leave(commit)
    assert not frame.is_batch
    name = key or "made-up"
    headers = [read_headers(one.header).fields for one in frame.messages]
    assert [one["nats-msg-id"] for one in headers] == [name, f"{name}.1", f"{name}.2"]


@pytest.mark.parametrize("code", sorted(NOT_NOW))
def test_frames_that_come_back_keep_their_order(code: int) -> None:
    """When several frames come back unstored, they leave again as they came, before what came later."""
    commit = make_commit()
    came = [offer(commit, FRAME_EVENTS) for _ in range(3)] + [offer(commit, 1)]
    frames = [leave(commit) for _ in range(3)]
    for frame in frames:
        assert commit.settle(frame, NotStored(code, "not now"), NOW) == []
    assert commit.statistics().waiting_events == 3 * FRAME_EVENTS + 1
    again = [leave(commit).submissions for _ in range(3)]
    assert again == [[one] for one in came[:3]]


def test_what_comes_back_too_late_was_not_stored() -> None:
    """Its time is up when it comes back: it is answered now, and the others wait on."""
    commit = make_commit()
    late, early = offer(commit, expires=NOW + 1), offer(commit, expires=LATER)
    frame = leave(commit)
    assert commit.settle(frame, NotStored(0, "not connected"), NOW + 1) == [late]
    assert situation(late) == (Situation.UNAVAILABLE, "log.down")
    assert "nothing was stored" in str(late.answer)
    assert leave(commit, NOW + 1).submissions == [early]


def test_what_the_log_refuses_is_not_stored() -> None:
    """A refusal answers everybody in the frame, with the log's reason."""
    commit = make_commit()
    both = [offer(commit), offer(commit)]
    assert commit.settle(leave(commit), NotStored(10077, "maximum bytes exceeded"), NOW) == both
    for one in both:
        assert situation(one) == (Situation.UNAVAILABLE, "log.refused")
        assert "maximum bytes exceeded" in str(one.answer)


def test_an_unknown_outcome_without_a_key_is_said_to_be_unknown() -> None:
    """It is never tried again: it may be stored already."""
    commit = make_commit()
    both = [offer(commit), offer(commit)]
    assert commit.settle(leave(commit), Ambiguous("the connection broke"), NOW) == both
    for one in both:
        assert situation(one) == (Situation.UNKNOWN, "ingest.outcome-unknown")
    assert commit.is_idle


def test_an_unknown_outcome_with_a_key_is_tried_again() -> None:
    """The same id again finds out: a duplicate answer means that it was stored the first time."""
    commit = make_commit()
    keyed = offer(commit, key="id-1")
    first = leave(commit)
    assert commit.settle(first, Ambiguous("the connection broke"), NOW) == []
    second = leave(commit)
    assert second.messages == first.messages
    assert commit.settle(second, Stored("S", 5, True), NOW) == [keyed]
    assert keyed.answer == Publication("S", 5, True)


IN_DOUBT: dict[str, Callable[[GroupCommit, Submission], list[Submission]]] = {
    "refused the second time": lambda commit, _: commit.settle(leave(commit), NotStored(10077, "full"), NOW),
    "comes back too late": lambda commit, _: commit.settle(leave(commit), NotStored(0, "down"), LATER),
    "unknown again, too late": lambda commit, _: commit.settle(leave(commit), Ambiguous("again"), LATER),
    "its time is up in the queue": lambda commit, _: commit.next_frame(LATER)[1],
    "its caller gives up in the queue": lambda commit, one: commit.give_up(one, LATER),
    "its caller gives up in flight": lambda commit, one: (leave(commit), commit.give_up(one, LATER))[1],
}


@pytest.mark.parametrize("end", IN_DOUBT.values(), ids=IN_DOUBT.keys())
def test_what_may_be_stored_is_never_said_not_to_be(end: Callable[[GroupCommit, Submission], list[Submission]]) -> None:
    """After one try of unknown outcome, no later failure makes it certain that nothing was stored."""
    commit = make_commit()
    keyed = offer(commit, key="id-1")
    commit.settle(leave(commit), Ambiguous("the connection broke"), NOW)
    assert end(commit, keyed) == [keyed]
    assert situation(keyed)[0] is Situation.UNKNOWN


def test_a_batch_that_was_stored_before_gives_its_first_answer() -> None:
    """The log rejects a known id anywhere in a batch: its first message, repeated alone, tells where the last is."""
    commit = make_commit()
    large = offer(commit, 2 * FRAME_EVENTS + 1, key="id-1")
    first = leave(commit)
    assert commit.settle(first, NotStored(DUPLICATE_IN_BATCH, "duplicate"), NOW) == []
    again = leave(commit)
    assert not again.is_batch
    [message] = again.messages
    assert message.payload == first.messages[0].payload
    assert read_headers(message.header).fields["nats-msg-id"] == "id-1"
    assert commit.settle(again, Stored("S", 41, True), NOW) == [large]
    assert large.answer == Publication("S", 43, True)


def test_a_batch_that_was_stored_before_is_not_said_to_be_lost() -> None:
    """When there is no time left to ask for its position, the answer is unknown: it is stored."""
    commit = make_commit()
    large = offer(commit, 2 * FRAME_EVENTS, key="id-1", expires=NOW + 1)
    frame = leave(commit)
    assert commit.settle(frame, NotStored(DUPLICATE_IN_BATCH, "duplicate"), NOW + 1) == [large]
    assert situation(large)[0] is Situation.UNKNOWN


def test_giving_up_says_what_is_certain() -> None:
    """In the queue nothing was stored; in flight nobody knows; and everybody else whose time is up is told too."""
    commit = make_commit()
    flying = offer(commit, expires=NOW + 1)
    frame = leave(commit)
    waiting = [offer(commit, expires=NOW + 1), offer(commit, expires=NOW + 1)]
    later = offer(commit, expires=LATER)
    assert commit.give_up(waiting[0], NOW + 1) == waiting
    assert {situation(one) for one in waiting} == {(Situation.UNAVAILABLE, "log.down")}
    assert commit.give_up(waiting[0], NOW + 1) == []
    assert commit.give_up(flying, NOW + 1) == [flying]
    assert situation(flying) == (Situation.UNKNOWN, "ingest.outcome-unknown")
    assert commit.settle(frame, Stored("S", 1, False), NOW + 1) == []  # answered already: nobody is told twice
    assert situation(flying)[0] is Situation.UNKNOWN
    assert leave(commit, NOW + 1).submissions == [later]


def test_expired_requests_are_told_with_the_next_frame() -> None:
    """What waited too long is not published: it is handed out with its answer."""
    commit = make_commit()
    old = [offer(commit, expires=NOW), offer(commit, expires=NOW)]
    young = offer(commit)
    frame, expired = commit.next_frame(NOW)
    assert expired == old
    assert frame is not None
    assert frame.submissions == [young]


def test_above_its_bounds_the_queue_refuses() -> None:
    """Overloaded: what waits stays within the bounds and one request; what is refused changes nothing (P5)."""
    commit = make_commit()
    while commit.has_room():
        offer(commit, 10_000)
    depths = commit.statistics()
    assert WAITING_EVENTS <= depths.waiting_events < WAITING_EVENTS + 10_000
    with pytest.raises(Unavailable) as caught:
        offer(commit)
    assert caught.value.kind.code == "ingest.full"
    assert str(WAITING_EVENTS) in caught.value.detail
    after = commit.statistics()
    assert (after.waiting_events, after.waiting_requests) == (depths.waiting_events, depths.waiting_requests)
    assert after.requests_refused == 1
    commit.settle(leave(commit), Stored("S", 1, False), NOW)
    assert commit.has_room()
    offer(commit)


def test_above_its_bytes_the_queue_refuses() -> None:
    """Overloaded: few large requests are bounded by their bytes."""
    commit = make_commit()
    while commit.has_room():
        offer(commit, 8, size=MAX_PAYLOAD - OVERHEAD_BYTES)
    assert WAITING_BYTES <= commit.statistics().waiting_bytes < WAITING_BYTES + 8 * MAX_PAYLOAD
    with pytest.raises(Unavailable):
        offer(commit)


def test_an_event_larger_than_the_log_takes_is_refused() -> None:
    """The event is named with its size and the limit, and nothing of its request waits."""
    commit = make_commit()
    most = MAX_PAYLOAD - OVERHEAD_BYTES
    offer(commit, 1, size=most)
    pieces = [b"1", b"1" * (most + 1)]
    large = Submission("s", b",".join(pieces), 2, pieces, "", LATER, nobody)
    with pytest.raises(Refused) as caught:
        commit.offer(large, MAX_PAYLOAD)
    assert caught.value.kind.code == "request.too-large"
    assert f"event 1 has {most + 1} bytes; the log takes {most}" in caught.value.detail
    assert commit.statistics().waiting_requests == 1


def test_a_frame_is_settled_once() -> None:
    """A second outcome, or one for a frame that never left, raises and changes nothing."""
    commit = make_commit()
    offer(commit)
    frame = leave(commit)
    commit.settle(frame, Stored("S", 1, False), NOW)
    for wrong in (frame, Frame("s", [], [], "")):
        before = commit.statistics()
        with pytest.raises(ValueError, match="cannot be settled"):
            commit.settle(wrong, Stored("S", 2, False), NOW)
        assert commit.statistics() == before


OUTCOMES: dict[str, tuple[list[Outcome], Outcome]] = {
    "all stored": ([Stored("S", 3, False), Stored("S", 4, False)], Stored("S", 4, False)),
    "all stored, out of order": ([Stored("S", 4, False), Stored("S", 3, False)], Stored("S", 4, False)),
    "all stored before": ([Stored("S", 3, True), Stored("S", 4, True)], Stored("S", 4, True)),
    "some stored before": ([Stored("S", 3, True), Stored("S", 9, False)], Stored("S", 9, False)),
    "none stored": ([NotStored(0, "x"), NotStored(503, "y")], NotStored(0, "x")),
}


@pytest.mark.parametrize(("outcomes", "one"), OUTCOMES.values(), ids=OUTCOMES.keys())
def test_the_outcomes_of_parts_make_one(outcomes: list[Outcome], one: Outcome) -> None:
    """Stored is said only when every part is, not stored only when none is."""
    assert combine(outcomes) == one


@pytest.mark.parametrize(
    "outcomes",
    [
        [Stored("S", 3, False), NotStored(0, "x")],
        [NotStored(0, "x"), Ambiguous("y")],
        [Stored("S", 3, False), Ambiguous("y")],
        [Ambiguous("x"), Ambiguous("y")],
    ],
    ids=repr,
)
def test_mixed_outcomes_are_unknown(outcomes: list[Outcome]) -> None:
    """A part that may be stored makes the whole unknown."""
    assert isinstance(combine(outcomes), Ambiguous)


def test_an_answer_of_doubt_says_what_to_do() -> None:
    """The text says that repeating is safe with a key alone."""
    commit = make_commit()
    only = offer(commit)
    commit.settle(leave(commit), Ambiguous("the connection broke"), NOW)
    assert isinstance(only.answer, Unknown)
    assert "Idempotency-Key" in only.answer.detail
