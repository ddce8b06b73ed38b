"""The frames of `headgate.stream.v1`, and the words of a stalled stream."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.credit import Amount, Credit
from engine.errors import Refused
from engine.leases import Held
from engine.log import Delivery
from engine.settle_words import BadFrame
from engine.stalls import Situation, why_stalled
from engine.stream_v1 import Grant, Ready, data_of, encode_events, moment, read_options, read_words


def ready(payload: bytes, *, is_frame: bool = False, sequence: int = 5) -> Ready:
    """A message to be sent."""
    delivery = Delivery(f"$JS.ACK.S.d.3.{sequence}.9.1763640000123456789.0", payload, is_frame, sequence, 3)
    return Ready(delivery, data_of(delivery), Held(delivery.reply, sequence, 3, 1, 1.0))


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_a_batch_is_json_whatever_is_on_the_log(payloads: list[bytes]) -> None:
    """Index, sequence, count and time stand beside the data; what is no JSON is its text."""
    frame = orjson.loads(encode_events("ab-1", [ready(one) for one in payloads]))
    assert frame.keys() == {"type", "batch", "messages"}
    for index, (one, payload) in enumerate(zip(frame["messages"], payloads, strict=True)):
        assert (one["index"], one["seq"], one["delivered"]) == (index, 5, 3)
        assert one["time"] == "2025-11-20T12:00:00.123456789Z"
        try:
            assert one["data"] == orjson.loads(payload)
        except orjson.JSONDecodeError:
            assert one["data"] == {"raw": payload.decode(errors="replace")}


@given(st.integers(0, 2**63 - 1))
def test_a_moment_has_all_its_nanoseconds(ns: int) -> None:
    """Whatever the log says."""
    text = moment(ns).decode()
    assert text.endswith(f".{ns % 10**9:09d}Z")


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"subject": ""},
        {"subject": "s", "from": "never"},
        {"subject": "s", "from": "seq:0"},
        {"subject": "s", "filter": "a b"},
        {"subject": "s", "exclusive": "yes"},
        {"subject": "s", "batch": "0"},
        {"subject": "s", "batch": "1001"},
        {"subject": "s", "batch": "many"},
        {"subject": "s", "max_lease_s": "0"},
        {"subject": "s", "max_lease_s": "nan"},
        {"subject": "s", "max_lease_s": "inf"},
        {"subject": "s", "max_lease_s": "long"},
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, str]) -> None:
    """With the parameter's name."""
    with pytest.raises(Refused, match=next(reversed(parameters), "subject")):
        read_options(parameters)


def test_where_one_begins_unless_it_says() -> None:
    """A durable at the beginning, a dashboard at what is new."""
    assert read_options({"subject": "s", "durable": "d"}).start.policy == "all"
    assert read_options({"subject": "s"}).start.policy == "new"


def test_credit_is_whole_numbers() -> None:
    """And more than nothing."""
    assert read_words('{"type":"credit","messages":3,"bytes":0}') == Grant(Amount(3, 0))
    assert read_words('{"type":"credit","mode":"auto"}') == Grant(None)
    for bad in ("-1", "1.5", "true", '"1"', "9223372036854775808", "null"):
        assert isinstance(read_words(f'{{"type":"credit","messages":{bad},"bytes":1}}'), BadFrame)
    assert isinstance(read_words('{"type":"credit","messages":0,"bytes":0}'), BadFrame)


def situation(credit: Credit, **more: object) -> Situation:
    """A stream with work waiting and nothing in the way but what is said."""
    at = Situation(credit, Amount(2, 200), 1, 0, 0, 10, True, 0.0)
    return at._replace(**more)  # type: ignore[arg-type]  # the test names the members


def test_why_it_is_stalled_in_words() -> None:
    """What the agent can do something about comes first."""
    credit = Credit()
    assert "no credit was ever granted" in (why_stalled(situation(credit)) or "")
    assert "does not read" in (why_stalled(situation(credit, sending_s=3.0)) or "")
    credit.grant(Amount(5, 500))
    assert why_stalled(situation(credit)) is None
    assert "not reachable" in (why_stalled(situation(credit, is_log_up=False)) or "")
    assert "larger than the byte credit of 500" in (why_stalled(situation(credit, too_large_for=500)) or "")
    assert "1000 unsettled batches" in (why_stalled(situation(credit, batches=1000)) or "")
    assert "10000 unsettled messages" in (why_stalled(situation(credit, in_flight=Amount(10_000, 1))) or "")
    credit.spend(Amount(1, 600))
    assert "byte credit is used up; 2 messages" in (why_stalled(situation(credit)) or "")
    credit.spend(Amount(4, 0))
    assert "message credit is used up" in (why_stalled(situation(credit)) or "")
    assert why_stalled(situation(credit, pending=0)) is None, "there is nothing to send"
    credit.automate()
    assert "window is full" in (why_stalled(situation(credit, in_flight=Amount(100, 1))) or "")
