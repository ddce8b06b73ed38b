"""What is told of a request, its publish and its delivery; and of which traces."""

import pytest

from engine.spans import (
    LINKS_MOST,
    SAMPLERS,
    Handed,
    Sampling,
    SpanKind,
    TracedBatches,
    delivery_span,
    publish_span,
    request_span,
    sampled_of,
    sampling_of,
)
from engine.trace import Trace, trace_of

NEW = "a" * 32 + "b" * 16
PARENT = "00f067aa0ba902b7"


def text_of(number: int, flags: str = "01") -> str:
    """A traceparent of this trace."""
    return f"00-{number:032x}-{number:016x}-{flags}"


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_what_opentelemetry_calls_it(name: str) -> None:
    """Whoever follows the parent does so whatever the ratio; the others never look at it."""
    sampling = sampling_of(name, 0.25)
    said_yes, said_no = trace_of(text_of(1), NEW), trace_of(f"00-8{'0' * 31}-{PARENT}-00", NEW)
    assert sampling.follows_parent is name.startswith("parentbased")
    assert sampling.ratio == {"on": 1.0, "off": 0.0}.get(name.rpartition("_")[2], 0.25)
    if sampling.follows_parent:
        assert (sampling.takes(said_yes), sampling.takes(said_no)) == (True, False)
    else:
        assert sampling.takes(said_no) is (sampling.ratio > 0), "its id is low, so any ratio takes it"


def test_a_ratio_is_kept_by_the_traces_id_alone() -> None:
    """Every gateway decides alike: the last sixteen digits of a trace are compared with the ratio."""
    for ratio, low_taken, high_taken in ((0.0, False, False), (0.5, True, False), (1.0, True, True)):
        sampling = Sampling(ratio)
        low, high = Trace("f" * 16 + "7" + "f" * 15, "", "00", False), Trace("0" * 16 + "8" + "0" * 15, "", "00", False)
        assert (sampling.takes(low), sampling.takes(high)) == (low_taken, high_taken)


def test_what_is_told_of_a_request_says_how_it_ended() -> None:
    """A 5xx is an error, a 4xx is the caller's; the caller's span is the parent."""
    trace = trace_of(f"00-{'c' * 32}-{PARENT}-01", NEW)
    for status, error in ((200, ""), (404, ""), (503, "503")):
        span = request_span(trace, "/consumers/{durable}", "GET", status, 1, 2, {"user.id": "a"})
        assert (span.name, span.kind, span.error) == ("GET /consumers/{durable}", SpanKind.SERVER, error)
        assert (span.trace_id, span.span_id, span.parent_id) == ("c" * 32, "b" * 16, PARENT)
    published = publish_span(trace, "d" * 16, "s", 3, 1, 2, "log.down", 0)
    assert (published.parent_id, published.error) == (trace.span_id, "log.down")
    assert "headgate.sequence" not in published.attributes


def test_our_decision_goes_on_with_the_trace() -> None:
    """Whoever comes after reads whether we told of it; other flags stay."""
    for flags, told, after in (("01", False, "00"), ("00", True, "01"), ("03", False, "02"), ("fe", True, "ff")):
        assert trace_of(text_of(5, flags), NEW).marked(is_told=told).flags == after


def test_a_delivery_links_to_what_its_messages_carry_within_a_bound() -> None:
    """Each once, only what is told; one trace alone is gone on with, of several none is."""
    texts = [text_of(number) for number in range(1, 100)]
    assert sampled_of([text_of(7, "00"), texts[0], texts[0], *texts]) == tuple(texts[:LINKS_MOST])
    alone = delivery_span(Handed("d", 5, (texts[3],), 1, "settled", 2), NEW)
    assert (alone.trace_id, alone.parent_id, alone.span_id) == (f"{4:032x}", f"{4:016x}", "b" * 16)
    several = delivery_span(Handed("d", 5, tuple(texts[:2]), 1, "settled", 2), NEW)
    assert (several.trace_id, several.parent_id, several.links) == ("a" * 32, "", tuple(texts[:2]))


def test_a_traced_batch_is_told_once_when_it_is_over() -> None:
    """However often its end is said; one that nobody traces never; those whose end nobody said make room."""
    told: list[Handed] = []
    held = TracedBatches("d", told.append)
    held.hand_over("untold", [(), (text_of(1, "00"),)], 1)
    held.hand_over("one", [(text_of(1),), ()], 1)
    for _ in range(2):
        held.end("one", "settled", 5)
        held.end("untold", "settled", 5)
    assert told == [Handed("d", 2, (text_of(1),), 1, "settled", 5)]
    for number in range(TracedBatches.MOST + 3):
        held.hand_over(str(number), [(text_of(1),)], 6)
    assert [one.outcome for one in told[1:]] == ["lost"] * 3
    held.end_all("given back", 9)
    assert len(told) == 1 + TracedBatches.MOST + 3
