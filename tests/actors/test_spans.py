"""The queue of spans: nobody waits for it, it is bounded, and every span is counted once."""

from collections.abc import Awaitable, Callable
from threading import Event

import trio

from actors.spans import Spans
from actors.tree import Actor
from engine.spans import Sampling, Span, SpanKind
from tests.support.waiting import wait_until


def make(send: Callable[[list[Span]], str], *, most: int = 8, every_s: float = 60.0) -> Spans:
    """A queue of this length that sends four at a time."""
    return Spans(Sampling(), send, most=most, batch=4, every_s=every_s)


def span(number: int) -> Span:
    """Any span."""
    return Span(str(number), SpanKind.SERVER, "a" * 32, f"{number:016x}", "", 0, 1, {})


def run_of(spans: Spans) -> Callable[[], Awaitable[None]]:
    """Its actor."""
    return lambda: spans.run(Actor("spans", 0.0), lambda: None)


async def test_overloaded_it_drops_and_counts() -> None:
    """More spans than it has room for, while the collector hangs: putting never waits, the queue is bounded."""
    is_free = Event()
    sent: list[int] = []

    def hang(batch: list[Span]) -> str:
        is_free.wait(30)
        sent.append(len(batch))
        return ""

    spans = make(hang)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_of(spans))
        for number in range(4):
            spans.put(span(number))
        await wait_until(lambda: spans.mailbox().depth == 4 and not spans._waiting, "the thread has a batch")
        for number in range(100):
            spans.put(span(number))
        assert spans.mailbox() == (8, 8)
        assert spans.counts.dropped == 96
        is_free.set()
        await wait_until(lambda: spans.counts.exported == 8, "all that were kept are sent")
        nursery.cancel_scope.cancel()
    assert sent == [4, 4]
    assert spans.mailbox().depth == 0


async def test_cancelled_it_leaves_what_waits_for_the_flush() -> None:
    """A batch on its way counts as failed, what waits is sent by the flush, what that has no time for is dropped."""
    is_free, began = Event(), Event()

    def hang(_: list[Span]) -> str:
        began.set()
        is_free.wait(30)
        return ""

    spans = make(hang)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_of(spans))
        for number in range(6):
            spans.put(span(number))
        await wait_until(began.is_set, "the thread has a batch")
        nursery.cancel_scope.cancel()
    assert (spans.counts.failed, spans.counts.exported, len(spans._waiting)) == (4, 0, 2)
    await spans.flush(0.01)
    assert (spans.counts.failed + spans.counts.dropped, spans.mailbox().depth) == (6, 0)
    is_free.set()


async def test_a_span_alone_does_not_wait_for_ever() -> None:
    """It is sent after a while, a full batch before that; what the collector refuses is counted, and it goes on."""
    sent: list[int] = []

    def send(batch: list[Span]) -> str:
        sent.append(len(batch))
        return "refused" if len(sent) == 2 else ""

    spans = make(send, every_s=0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_of(spans))
        spans.put(span(1))
        await wait_until(lambda: spans.counts.exported == 1, "the first is sent")
        for number in range(4):
            spans.put(span(number))
        await wait_until(lambda: spans.counts.failed == 4, "the batch was refused")
        spans.put(span(5))
        await wait_until(lambda: spans.counts.exported == 2, "the next is sent")
        nursery.cancel_scope.cancel()
    assert sent == [1, 4, 1]
