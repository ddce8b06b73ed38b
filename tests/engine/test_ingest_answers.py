"""What callers are told of their events, whatever the log says or does not say."""

from collections.abc import Callable

import pytest

from engine.errors import Refused, Situation, Unavailable, Unknown
from engine.frames import FRAME_EVENTS, OVERHEAD_BYTES
from engine.ingest import (
    NOT_NOW,
    WAITING_BYTES,
    WAITING_EVENTS,
    Frame,
    GroupCommit,
    Publication,
    Submission,
    combine,
)
from engine.log import DUPLICATE_IN_BATCH, Ambiguous, NotStored, Outcome, Stored
from engine.nats_wire import read_headers
from tests.support.commits import LATER, MAX_PAYLOAD, NOW, leave, make_commit, nobody, offer, situation


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
