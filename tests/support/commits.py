"""A queue before the log, and what tests do with it."""

from engine.errors import Fault, Situation
from engine.ingest import (
    Frame,
    GroupCommit,
    Submission,
)

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
