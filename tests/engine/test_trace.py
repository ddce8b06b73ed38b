"""W3C trace context: what is continued, what is begun anew, and what a frame carries of its requests."""

import pytest

from engine.frames import merged_message, name_traces
from engine.nats_wire import read_headers
from engine.trace import MOST_IN_FRAME, TRACE_HEADER, Trace, add_traces, read_traces, trace_of

TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NEW = "a" * 32 + "b" * 16


@pytest.mark.parametrize(
    "header",
    [f"00-{TRACE_ID}-{PARENT}-01", f"cc-{TRACE_ID}-{PARENT}-01", f"cc-{TRACE_ID}-{PARENT}-01-what-comes-later"],
)
def test_a_callers_trace_goes_on(header: str) -> None:
    """The trace's id and flags stay, the span is ours, the version is the one that we speak."""
    trace = trace_of(header, NEW)
    assert trace == Trace(TRACE_ID, "b" * 16, "01", True, PARENT)
    assert trace.text == f"00-{TRACE_ID}-{'b' * 16}-01"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"ff-{TRACE_ID}-{PARENT}-01",
        f"00-{TRACE_ID.upper()}-{PARENT}-01",
        f"00-{TRACE_ID}-{PARENT}-01-more",
        f"00-{TRACE_ID}-{PARENT}-1",
        f"00-{TRACE_ID}{PARENT}-01",
        f"00-{TRACE_ID}-{PARENT}-01, 00-{TRACE_ID}-{PARENT}-01",
        f"00-{TRACE_ID}-{PARENT}-01\n",
    ],
)
def test_what_is_not_valid_begins_a_new_trace(header: str | None) -> None:
    """Tracing never refuses a request."""
    assert trace_of(header, NEW) == Trace("a" * 32, "b" * 16, "00", False)


def test_a_frame_names_the_traces_of_its_requests_within_a_bound() -> None:
    """Each once, in order, so many at most; a frame that nobody traces keeps its header byte for byte."""
    plain = merged_message([b"{}", b"{}"], 2)
    assert name_traces([plain], ["", ""])[0] == plain
    texts = [f"00-{number:032x}-{PARENT}-01" for number in range(1, 20)]
    [traced] = name_traces([plain], ["", texts[0], texts[0], "", *texts])
    fields = read_headers(traced.header).fields
    assert fields[TRACE_HEADER].split(",") == texts[:MOST_IN_FRAME]
    assert len(traced.header) < 600
    assert traced.payload == plain.payload
    assert {name: text for name, text in fields.items() if name != TRACE_HEADER} == read_headers(plain.header).fields


def test_what_others_write_into_the_header_is_checked() -> None:
    """A message of another publisher may say anything; only traceparents go on."""
    good = f"00-{TRACE_ID}-{PARENT}-01"
    assert read_traces(f'{good},"}}{{,{good}') == (good, good)
    assert read_traces("x" * 10_000) == ()
    assert len(read_traces(",".join([good] * 100))) == MOST_IN_FRAME
    assert add_traces(b"NATS/1.0\r\n\r\n", [good]) == f"NATS/1.0\r\ntraceparent: {good}\r\n\r\n".encode()
