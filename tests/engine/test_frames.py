"""Frames: what the bytes on the log are, and how a large request is cut."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.frames import (
    FRAME_EVENTS,
    OVERHEAD_BYTES,
    batch_messages,
    chunks_of,
    digest_of,
    keyed_message,
    merged_message,
)
from engine.log import DIGEST_HEADER, EVENTS_HEADER, Delivery, read_delivery
from engine.nats_wire import Message, read_headers


def test_a_merged_frame_holds_its_parts_in_order() -> None:
    """The events of several requests, joined as they came, and their number in the header."""
    header, payload = merged_message([b'{"a":1},{"a":2}', b'{"a":3}'], 3)
    assert payload == b'{"events":[{"a":1},{"a":2},{"a":3}]}'
    assert read_headers(header).fields == {EVENTS_HEADER.lower(): "3"}


def test_a_keyed_frame_says_its_key_and_digest() -> None:
    """The message id is what the log remembers; the digest is what tells another body apart."""
    header, payload = keyed_message(b'{"a":1}', 1, "id-1", "d" * 32)
    assert payload == b'{"events":[{"a":1}]}'
    assert read_headers(header).fields == {
        EVENTS_HEADER.lower(): "1",
        "nats-msg-id": "id-1",
        DIGEST_HEADER.lower(): "d" * 32,
    }


@pytest.mark.parametrize("message_id", ["", "id-1"])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_batch_is_numbered_and_committed_once(message_id: str, parts: int) -> None:
    """Numbers from one, the commit on the last message, the id and digest on the first, if there is one."""
    messages = batch_messages([(1, b"1")] * parts, "batch-1", message_id, "d")
    headers = [read_headers(header).fields for header, _ in messages]
    assert [one["nats-batch-sequence"] for one in headers] == [str(number + 1) for number in range(parts)]
    assert {one["nats-batch-id"] for one in headers} == {"batch-1"}
    assert [one.get("nats-batch-commit") for one in headers] == [None] * (parts - 1) + ["1"]
    assert [one.get("nats-msg-id", "") for one in headers] == [message_id] + [""] * (parts - 1)
    assert [one.get("headgate-digest", "") for one in headers] == ["d" if message_id else ""] + [""] * (parts - 1)


def test_every_frame_is_known_as_one_to_a_consumer() -> None:
    """Each kind of frame carries the header by which it is spliced into a batch without being parsed."""
    messages = [
        merged_message([b"1"], 1),
        keyed_message(b"1", 1, "k", "d"),
        *batch_messages([(1, b"1"), (1, b"2")], "b", "", ""),
    ]
    for header, payload in messages:
        item = read_delivery(Message(1, "in", "$JS.ACK.S.C.1.1.1.1.0", header, payload))
        assert isinstance(item, Delivery)
        assert item.is_frame
        assert len(header) + len(b'{"events":[]}') < OVERHEAD_BYTES


@given(
    st.lists(st.binary(min_size=1, max_size=30).map(lambda data: orjson.dumps(data.hex())), min_size=1, max_size=60),
    st.integers(10, 200),
)
def test_cutting_loses_nothing_and_cuts_no_event(pieces: list[bytes], most_bytes: int) -> None:
    """Every chunk is a run of whole events within the limit; a single event may be larger; together they are all."""
    chunks = chunks_of(pieces, most_bytes)
    assert [count for count, _ in chunks] == [len(orjson.loads(b"[" + joined + b"]")) for _, joined in chunks]
    assert b",".join(joined for _, joined in chunks) == b",".join(pieces)
    for count, joined in chunks:
        assert len(joined) <= most_bytes or count == 1


def test_a_chunk_has_no_more_events_than_a_frame() -> None:
    """A thousand small events are a chunk; one more begins the next."""
    assert [count for count, _ in chunks_of([b"1"] * FRAME_EVENTS, 10**6)] == [FRAME_EVENTS]
    assert [count for count, _ in chunks_of([b"1"] * (2 * FRAME_EVENTS + 1), 10**6)] == [FRAME_EVENTS, FRAME_EVENTS, 1]


def test_another_body_has_another_digest() -> None:
    """The digest is of every byte, and the same for the same bytes in every process."""
    assert digest_of(b'{"a":1}') == digest_of(b'{"a":1}') != digest_of(b'{"a":1} ')
    assert digest_of(b"") == "99aa06d3014798d86001c324468d497f"
