"""What the house relies on the log for, held against a real server: outcomes, pulls, verdicts, what is stored.

Rules of the file:
- Nothing here is about our bytes (`test_jetstream.py`) but about the server's answers: a new release of it that answers
  otherwise fails here first.
"""

from pathlib import Path

import pytest
import trio

from engine.frames import batch_messages, keyed_message, merged_message
from engine.log import DUPLICATE_IN_BATCH, NotStored, PullRequest, PullStatus, Stored, Verdict
from tests.support.real_log import Inbox, deliveries_of, open_real_log

WITHIN_S = 5.0


async def test_a_stored_message_has_a_position_and_its_header(tmp_path: Path) -> None:
    """Positions rise, in the order of publishing, and the header can be read by them."""
    async with open_real_log(tmp_path) as log:
        messages = [merged_message([b'{"a":1}'], 1), keyed_message(b'{"a":2}', 1, "id-1", "d" * 32)]
        assert await log.publish(*messages) == [Stored("S", 1, False), Stored("S", 2, False)]
        fields = await log.data.read_header("S", 2, WITHIN_S)
        assert fields is not None
        assert (fields["nats-msg-id"], fields["headgate-digest"]) == ("id-1", "d" * 32)
        assert await log.data.read_header("S", 3, WITHIN_S) is None
        assert [one.data for one in await log.client.read_stream("S")] == [
            b'{"events":[{"a":1}]}',
            b'{"events":[{"a":2}]}',
        ]


async def test_a_known_message_id_is_a_duplicate(tmp_path: Path) -> None:
    """The answer names the first one's position, whatever the body, and nothing more is stored."""
    async with open_real_log(tmp_path) as log:
        first = keyed_message(b"1", 1, "id-1", "d")
        assert await log.publish(first) == [Stored("S", 1, False)]
        await log.publish(merged_message([b"2"], 1))
        assert await log.publish(first, keyed_message(b"other", 1, "id-1", "e")) == [Stored("S", 1, True)] * 2
        assert (await log.client.stream_state("S"))["messages"] == 2


async def test_a_subject_that_no_stream_takes_is_not_stored(tmp_path: Path) -> None:
    """The server says that nobody is there: 503, which is worth another try."""
    async with open_real_log(tmp_path) as log:
        [outcome] = await log.publish((b"", b"{}"), subject="nobody.here")
        assert isinstance(outcome, NotStored)
        assert outcome.code == 503


async def test_a_full_stream_refuses(tmp_path: Path) -> None:
    """A refusal has the log's code and words, and is not one of those that are tried again."""
    async with open_real_log(tmp_path, max_msgs=1, discard="new") as log:
        assert await log.publish((b"", b"{}")) == [Stored("S", 1, False)]
        [outcome] = await log.publish((b"", b"{}"))
        assert isinstance(outcome, NotStored)
        assert outcome.code == 10077
        assert "maximum messages exceeded" in outcome.reason


async def test_a_batch_is_answered_by_its_last_message(tmp_path: Path) -> None:
    """Stored together at consecutive positions; of the earlier messages no answer is an acknowledgement."""
    async with open_real_log(tmp_path) as log:
        await log.publish((b"", b"{}"))
        *earlier, last = await log.publish(*batch_messages([(1, b"1"), (1, b"2"), (1, b"3")], "b-1", "id-1", "d"))
        assert last == Stored("S", 4, False)
        assert not any(isinstance(one, Stored | NotStored) for one in earlier)
        assert (await log.client.stream_state("S"))["messages"] == 4


async def test_a_known_id_rejects_a_whole_batch(tmp_path: Path) -> None:
    """Error 10201 and nothing stored; the first message alone, repeated, tells where the batch is."""
    async with open_real_log(tmp_path) as log:
        messages = batch_messages([(1, b"1"), (1, b"2")], "b-1", "id-1", "d")
        await log.publish(*messages)
        outcomes = await log.publish(*batch_messages([(1, b"1"), (1, b"2")], "b-2", "id-1", "d"))
        refused = [one for one in outcomes if isinstance(one, NotStored)]
        assert {one.code for one in refused} == {DUPLICATE_IN_BATCH}
        assert await log.publish(keyed_message(b"1", 1, "id-1", "d")) == [Stored("S", 1, True)]
        assert (await log.client.stream_state("S"))["messages"] == 2


async def test_a_batch_without_its_end_is_not_stored(tmp_path: Path) -> None:
    """What a gateway began and never finished is nowhere."""
    async with open_real_log(tmp_path) as log:
        await log.publish(*batch_messages([(1, b"1"), (1, b"2"), (1, b"3")], "b-1", "", "")[:2])
        await log.publish((b"", b"{}"))
        assert [one.data for one in await log.client.read_stream("S")] == [b"{}"]


async def test_a_sweep_brings_what_is_there_and_ends(tmp_path: Path) -> None:
    """In order, with positions, as frames or not; then 404, at once; all answers of one pull come together."""
    async with open_real_log(tmp_path) as log:
        await log.make_durable()
        inbox = Inbox(log)
        assert await inbox.pull(PullRequest(5), 1) == [PullStatus(404, "No Messages")]
        await log.publish(merged_message([b"1"], 1), (b"", b"plain"))
        await log.wait_info("num_pending", 2)  # a consumer learns of a message a moment after its publisher
        first, second, end = await inbox.pull(PullRequest(5), 3)
        assert isinstance(end, PullStatus)
        assert end.status in {404, 408}
        one, other = deliveries_of([first, second])
        assert (one.payload, one.is_frame, one.sequence, one.delivered) == (b'{"events":[1]}', True, 1, 1)
        assert (other.payload, other.is_frame, other.sequence, other.delivered) == (b"plain", False, 2, 1)


async def test_a_waiting_pull_is_answered_by_the_first_message(tmp_path: Path) -> None:
    """A new message reaches a waiting consumer at once, and a wait that is over says so."""
    async with open_real_log(tmp_path) as log:
        await log.make_durable()
        inbox = Inbox(log)
        assert await inbox.pull(PullRequest(1, expires_s=0.05), 1) == [PullStatus(408, "Request Timeout")]
        inbox.ask(PullRequest(10, expires_s=30.0))
        await log.publish((b"", b"1"))
        await log.publish((b"", b"2"))
        assert [one.payload for one in deliveries_of(await inbox.take(2))] == [b"1", b"2"]


async def test_a_pull_is_bounded_in_bytes(tmp_path: Path) -> None:
    """The limit stops before it is passed; a message that alone is larger is announced and not delivered."""
    async with open_real_log(tmp_path) as log:
        await log.make_durable()
        await log.publish(*[(b"", b"x" * 600)] * 3)
        await log.wait_info("num_pending", 3)
        inbox = Inbox(log)
        items = await inbox.pull(PullRequest(10, 1500), 3)
        assert len(deliveries_of(items[:2])) == 2
        assert isinstance(items[2], PullStatus)
        [end] = await inbox.pull(PullRequest(10, 500), 1)
        assert isinstance(end, PullStatus)
        assert end.status == 409
        assert "MaxBytes" in end.description


async def test_each_verdict_does_what_it_says(tmp_path: Path) -> None:
    """ACK ends it, NAK brings it again at once and counts, TERM drops it, PROGRESS extends the lease."""
    async with open_real_log(tmp_path) as log:
        await log.make_durable(ack_wait_s=0.3)
        await log.publish(*[(b"", b"%d" % number) for number in range(1, 5)])
        await log.wait_info("num_pending", 4)
        inbox = Inbox(log)
        acked, refused, dropped, extended = deliveries_of(await inbox.pull(PullRequest(4), 4))
        log.data.settle_nowait([acked], Verdict.ACK)
        log.data.settle_nowait([dropped], Verdict.TERM)
        log.data.settle_nowait([refused], Verdict.NAK)
        inbox.ask(PullRequest(10, expires_s=30.0))
        [again] = deliveries_of(await inbox.take(1))
        assert (again.sequence, again.delivered) == (refused.sequence, 2)
        log.data.settle_nowait([again], Verdict.ACK)
        with trio.move_on_after(1.0):
            while True:
                log.data.settle_nowait([extended], Verdict.PROGRESS)
                await trio.sleep(0.1)
        assert inbox.items == []
        [expired] = deliveries_of(await inbox.take(1))  # no word any more: the lease ends
        assert (expired.sequence, expired.delivered) == (extended.sequence, 2)
        log.data.settle_nowait([expired], Verdict.ACK)
        await log.publish((b"", b"5"))
        assert [one.payload for one in deliveries_of(await inbox.take(1))] == [b"5"]
        assert await log.info("num_ack_pending") == 1


async def test_what_comes_to_a_closed_inbox_goes_to_another_at_once(tmp_path: Path) -> None:
    """Whether the log notices or the driver gives the stray delivery back, nothing waits for a lease to end."""
    async with open_real_log(tmp_path) as log:
        await log.make_durable()
        gone, here = Inbox(log), Inbox(log)
        gone.ask(PullRequest(1, expires_s=30.0))
        await log.wait_info("num_waiting", 1)
        log.data.publish_nowait("snapfs.files", b"1", lambda _: None)
        gone.subscription.close()  # before anything can have come to it
        here.ask(PullRequest(1, expires_s=30.0))
        with trio.fail_after(1.0):
            [delivery] = deliveries_of(await here.take(1))
        assert gone.items == []
        assert delivery.payload == b"1"


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_a_consumer_that_is_gone_is_said_so(tmp_path: Path, *, is_waiting: bool) -> None:
    """Deleted under a waiting pull, or before a pull: the agent's session can end with a reason."""
    async with open_real_log(tmp_path) as log:
        await log.make_durable()
        inbox = Inbox(log)
        if is_waiting:
            inbox.ask(PullRequest(1, expires_s=30.0))
            await log.wait_info("num_waiting", 1)
        await log.client.api("CONSUMER.DELETE.S.d")
        if not is_waiting:
            inbox.ask(PullRequest(1, expires_s=30.0))
        [end] = await inbox.take(1)
        assert isinstance(end, PullStatus)
        assert (end.status, end.description) == ((409, "Consumer Deleted") if is_waiting else (503, ""))
