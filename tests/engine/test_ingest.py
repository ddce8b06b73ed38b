"""Group commit, rule by rule: what becomes a frame, what is answered, and what is refused (3.2, P5)."""

from collections.abc import Callable

import orjson
import pytest

from engine.frames import FRAME_BYTES, FRAME_EVENTS
from engine.ingest import (
    IN_FLIGHT_FRAMES,
    FrameState,
    GroupCommit,
    Publication,
    Submission,
)
from engine.log import Stored
from engine.nats_wire import read_headers
from tests.support.commits import NOW, leave, make_commit, offer


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
