"""What an agent is sent and what its words mean for its batch (S0.11 to S0.16)."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.log import Delivery, Verdict
from engine.stream import PATIENCE_S, BatchWindow, encode_batch, foreign_data

BATCH = "0b5f1c1e-6f5b-4d5c-9b1e-0a1b2c3d4e5f"
EARLIER = "1c6f1c1e-6f5b-4d5c-9b1e-0a1b2c3d4e5f"


def delivery(payload: bytes, *, is_frame: bool = True, sequence: int = 1) -> Delivery:
    """One message in an agent's hands."""
    return Delivery(f"$JS.ACK.S.C.1.{sequence}.1.1.0", payload, is_frame, sequence, 1)


def test_a_frame_is_spliced_in_byte_by_byte() -> None:
    """What a gateway validated is not parsed again: numbers, escapes and white space are as they were published."""
    frame = b'{"events":[{"n":123456789012345678901234567890, "e":"\\u002f"}]}'
    text = encode_batch(BATCH, [delivery(frame), delivery(b'{"events":[]}')])
    head = f'{{"type":"events","batch":"{BATCH}","messages":['
    assert text == f'{head}{{"index":0,"data":{frame.decode()}}},{{"index":1,"data":{{"events":[]}}}}]}}'


FOREIGN: dict[bytes, object] = {
    b'{"a": 1}': {"a": 1},
    b"[1,2]": [1, 2],
    b' "x" ': "x",
    b"7": 7,
    b"null": None,
    b"": {"raw": ""},
    b"hello": {"raw": "hello"},
    b'{"a":1}{"b":2}': {"raw": '{"a":1}{"b":2}'},
    b'"],"x":["': {"raw": '"],"x":["'},
    b'{"a":NaN}': {"raw": '{"a":NaN}'},
    b"\xff\xfe": {"raw": "\ufffd\ufffd"},
    b'quote " backslash \\ and \x00': {"raw": 'quote " backslash \\ and \x00'},
    b'"\\ud800"': {"raw": '"\\ud800"'},
    "é".encode("latin-1"): {"raw": "\ufffd"},
}


@pytest.mark.parametrize(("payload", "data"), FOREIGN.items(), ids=repr)
def test_a_message_of_somebody_else_is_itself_or_raw(payload: bytes, data: object) -> None:
    """What is JSON is passed on as JSON; what is not arrives as its text."""
    [message] = orjson.loads(encode_batch(BATCH, [delivery(payload, is_frame=False)]))["messages"]
    assert message == {"index": 0, "data": data}


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_any_messages_make_a_batch_that_is_json(payloads: list[bytes]) -> None:
    """Whatever lies on the log, the agent's parser never fails on the batch, and every message is in its place."""
    batch = json.loads(encode_batch(BATCH, [delivery(one, is_frame=False) for one in payloads]))
    assert (batch["type"], batch["batch"]) == ("events", BATCH)
    assert [one["index"] for one in batch["messages"]] == list(range(len(payloads)))


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5), st.lists, max_leaves=5)
)
def test_json_of_somebody_else_keeps_its_meaning(value: object) -> None:
    """JSON is handed on byte by byte, not written anew."""
    payload = orjson.dumps(value)
    assert foreign_data(payload) is payload


def words(value: object) -> str:
    """What an agent says, as JSON."""
    return orjson.dumps(value).decode()


JUDGED: dict[str, tuple[str | bytes, Verdict | None]] = {
    "the acknowledgement": (words({"type": "ack", "batch": BATCH}), Verdict.ACK),
    "the acknowledgement as bytes": (words({"type": "ack", "batch": BATCH}).encode(), Verdict.ACK),
    "the acknowledgement with more": (words({"type": "ack", "batch": BATCH, "n": 3}), Verdict.ACK),
    "of an earlier batch": (words({"type": "ack", "batch": EARLIER}), None),
    "nak of an earlier batch": (words({"type": "nak", "batch": EARLIER}), None),
    "nak": (words({"type": "nak", "batch": BATCH}), Verdict.NAK),
    "an error": (words({"type": "error", "batch": BATCH, "message": "x"}), Verdict.NAK),
    "no type": (words({"batch": BATCH}), Verdict.NAK),
    "ack without batch": (words({"type": "ack"}), Verdict.NAK),
    "ack in capitals": (words({"type": "ACK", "batch": BATCH}), Verdict.NAK),
    "ack as a list": (words({"type": ["ack"], "batch": BATCH}), Verdict.NAK),
    "type as a list": (words({"type": []}), Verdict.NAK),
    "type as an object": (words({"type": {"type": "ack"}}), Verdict.NAK),
    "type is null": (words({"type": None}), Verdict.NAK),
    "batch is null": (words({"type": "ack", "batch": None}), Verdict.NAK),
    "batch is a number": (words({"type": "ack", "batch": 7}), Verdict.NAK),
    "batch is a list": (words({"type": "ack", "batch": [BATCH]}), Verdict.NAK),
    "batch is nonsense": (words({"type": "ack", "batch": "x"}), Verdict.NAK),
    "batch is empty": (words({"type": "ack", "batch": ""}), Verdict.NAK),
    "batch with a space": (words({"type": "ack", "batch": BATCH + " "}), Verdict.NAK),
    "a ping about the batch": (words({"type": "ping", "batch": BATCH}), Verdict.NAK),
    "ping": (words({"type": "ping"}), None),
    "pong": (words({"type": "pong"}), None),
    "hello": (words({"type": "hello", "name": "x"}), None),
    "another type": (words({"type": "bye"}), Verdict.NAK),
    "an empty object": ("{}", Verdict.NAK),
    "a list": ('["ack"]', Verdict.NAK),
    "a number": ("1", Verdict.NAK),
    "null": ("null", Verdict.NAK),
    "no JSON": ("hello", Verdict.NAK),
    "nothing": ("", Verdict.NAK),
    "no bytes": (b"", Verdict.NAK),
    "no text": (b"\xff\x00", Verdict.NAK),
    "half a surrogate": ('{"type":"ack","batch":"\\ud800"}', Verdict.NAK),
    "a lone surrogate": ('{"type":"ack","batch":"\ud800"}', Verdict.NAK),
    "deep": ("[" * 5_000, Verdict.NAK),
}


@pytest.mark.parametrize(("text", "verdict"), JUDGED.values(), ids=JUDGED.keys())
def test_an_agents_words_are_judged(text: str | bytes, verdict: Verdict | None) -> None:
    """Only the batch's own acknowledgement acknowledges it; whatever else is said about it means the contrary."""
    window = BatchWindow()
    assert window.judge(text) is None  # nothing is outstanding
    window.hand_over(BATCH, [delivery(b"{}")], 0.0)
    assert window.judge(text) is verdict
    assert len(window) == 1  # judging changes nothing


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["ack", "ping", BATCH, EARLIER, "x"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "batch", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(json_values.map(json.dumps) | st.binary(max_size=20) | st.text(max_size=20))
def test_no_words_raise_and_only_the_right_ones_acknowledge(text: str | bytes) -> None:
    """Whatever an agent sends, there is a verdict or none."""
    window = BatchWindow()
    window.hand_over(BATCH, [delivery(b"{}")], 0.0)
    if window.judge(text) is Verdict.ACK:
        said = json.loads(text)
        assert (said["type"], said["batch"]) == ("ack", BATCH)


def test_one_batch_is_outstanding() -> None:
    """A second one is refused and changes nothing; releasing gives everything back once."""
    window = BatchWindow()
    assert window.is_empty
    held = [delivery(b"{}", sequence=number) for number in (1, 2)]
    window.hand_over(BATCH, held, 0.0)
    with pytest.raises(ValueError, match=BATCH):
        window.hand_over(EARLIER, [delivery(b"{}")], 1.0)
    assert (window.batch_id, len(window)) == (BATCH, 2)
    assert window.release(1.0) == held
    assert window.is_empty
    assert window.release(1.0) == []


def test_a_lease_is_extended_until_the_agent_had_it_too_long() -> None:
    """While the time is not up everything held is extended, and nothing from then on."""
    window = BatchWindow()
    assert window.leased(0.0, 10.0) == []
    held = [delivery(b"{}")]
    window.hand_over(BATCH, held, 100.0)
    assert window.leased(100.0, 10.0) == held
    assert window.leased(109.9, 10.0) == held
    assert window.leased(110.0, 10.0) == []


def test_an_agent_that_keeps_up_is_read_ahead_for() -> None:
    """Answering within the patience counts, taking longer does not; one quick answer is enough to begin again."""
    window = BatchWindow()
    for took_s, keeps_up in ((PATIENCE_S, True), (PATIENCE_S + 0.01, False), (0.0, True)):
        window.hand_over(BATCH, [delivery(b"{}")], 100.0)
        window.release(100.0 + took_s)
        assert window.reads_ahead is keeps_up
    window.hand_over(BATCH, [delivery(b"{}")], 100.0)
    window.falls_behind()
    window.release(100.1)
    assert window.reads_ahead
    window.falls_behind()
    window.release(200.0)  # nothing was held: nothing is learned from it
    assert not window.reads_ahead
