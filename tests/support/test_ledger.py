"""The ledger finds every broken promise that is planted: it must not be the part that is too kind."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.ledger import Ledger, Request, Run
from tests.support.nats_client import LogMessage


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on a file of its own."""
    made = Ledger(tmp_path / "ledger.jsonl")
    yield made
    made.close()


class Story:
    """Three acked requests of two events, stored as three frames, delivered in one run."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.run: Run = ledger.begin_run("d")
        self.requests: list[Request] = []
        self.frames: list[dict[str, Any]] = []
        for sequence in (1, 2, 3):
            request = ledger.new_request(2, random.Random(sequence), key=None)
            ledger.note_send(request)
            answer = {"seq": sequence, "duplicate": False, "received": 2}
            ledger.note_answer(request, 200, answer)
            self.requests.append(request)
            self.frames.append(orjson.loads(request.body))

    def stored(self) -> list[LogMessage]:
        """The stream as it would be read."""
        return [LogMessage(number, "s", orjson.dumps(frame), b"") for number, frame in enumerate(self.frames, start=1)]


def test_a_clean_story_is_clean(ledger: Ledger) -> None:
    """Everything acked, stored, delivered in order, one frame again in a later run."""
    story = Story(ledger)
    ledger.note_delivery(story.run, story.frames)
    ledger.note_delivery(ledger.begin_run("d"), story.frames[:1])
    report = ledger.check(story.stored(), ["d"])
    assert (report.acked, report.delivered, report.redelivered) == (6, {"d": 6}, {"d": 2})


def test_a_lost_acked_event_is_found(ledger: Ledger) -> None:
    """Acked, and not in the stream."""
    story = Story(ledger)
    ledger.note_delivery(story.run, story.frames)
    with pytest.raises(AssertionError, match="acked, but only 0"):
        ledger.check(story.stored()[:2], ["d"])


def test_an_undelivered_event_is_found(ledger: Ledger) -> None:
    """In the stream, and never at the agent."""
    story = Story(ledger)
    ledger.note_delivery(story.run, story.frames[1:])
    with pytest.raises(AssertionError, match="never reached d"):
        ledger.check(story.stored(), ["d"])


def test_a_wrong_order_is_found(ledger: Ledger) -> None:
    """Delivered 1, 3, 2 in a first run."""
    story = Story(ledger)
    ledger.note_delivery(story.run, [story.frames[0], story.frames[2], story.frames[1]])
    with pytest.raises(AssertionError, match="received 2 after 3"):
        ledger.check(story.stored(), ["d"])


def test_what_an_agent_is_told_is_a_redelivery_has_no_order(ledger: Ledger) -> None:
    """Delivered 1, 3, and 2 again: it counts as delivered, and its order is nobody's promise."""
    story = Story(ledger)
    ledger.note_delivery(story.run, [story.frames[0], story.frames[2]])
    ledger.note_delivery(story.run, [story.frames[1]], is_again=True)
    assert ledger.check(story.stored(), ["d"]).delivered == {"d": 6}


def test_a_second_copy_in_the_stream_is_found(ledger: Ledger) -> None:
    """One request stored twice."""
    story = Story(ledger)
    ledger.note_delivery(story.run, story.frames)
    story.frames.append(story.frames[0])
    with pytest.raises(AssertionError, match="stored at 1 and again at 4"):
        ledger.check(story.stored(), ["d"])


def test_foreign_bytes_are_found(ledger: Ledger) -> None:
    """One letter of a delivered event is another."""
    story = Story(ledger)
    story.frames[0]["events"][0]["data"]["size"] += 1
    with pytest.raises(AssertionError, match="foreign bytes"):
        ledger.note_delivery(story.run, story.frames)


def test_a_torn_unknown_request_is_found(ledger: Ledger) -> None:
    """A request without an answer may be stored or not, but not by half."""
    story = Story(ledger)
    torn = ledger.new_request(2, random.Random(9), key=None)
    ledger.note_send(torn)
    ledger.note_lost(torn, "test")
    ledger.note_delivery(story.run, story.frames)
    assert ledger.check(story.stored(), ["d"]).unknown == 2
    story.frames.append({"events": orjson.loads(torn.body)["events"][:1]})
    with pytest.raises(AssertionError, match="torn"):
        ledger.check(story.stored(), ["d"])


def test_events_that_nobody_sent_are_found(ledger: Ledger) -> None:
    """A stream holds what producers sent, and nothing else."""
    story = Story(ledger)
    ledger.note_delivery(story.run, story.frames)
    del ledger.requests[story.requests[2].id]
    with pytest.raises(AssertionError, match="nobody sent"):
        ledger.check(story.stored(), ["d"])
