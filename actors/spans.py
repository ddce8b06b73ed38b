"""The spans that wait to be sent to a collector, and the actor that sends them.

Rules of the file:
- Nobody waits for a span: one that finds the queue full is dropped and counted, and so is a batch that a collector
  does not take.
- Sending is a thread's work, one batch at a time: a collector that hangs costs that thread and nothing else.

Back-pressure: sheds.

What must change with it: `engine/spans.py` says what is told of a request.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import Final

import structlog
import trio

from actors.tree import Actor, Mailbox
from engine.spans import Attribute, Handed, Sampling, Span, delivery_span, publish_span, request_span
from engine.trace import NEW_DIGITS, Trace

log = structlog.get_logger("spans")
COMPLAIN_EVERY_S: Final = 60.0

Send = Callable[[list[Span]], str]
"""Sends spans, in a thread; gives why the collector did not take them, empty when it did."""


@dataclass(slots=True)
class SpanCounts:
    """What became of spans: exported, failed (the collector did not take them), dropped (there was no room)."""

    exported: int = 0
    failed: int = 0
    dropped: int = 0


class Spans:
    """What the edge and the consumers tell.

    Args:
        sampling: which traces are told.
        send: takes a batch to the collector.
        most: spans that may wait.
        batch: the most in one request to the collector.
        every_s: how long a span waits for others.
    """

    def __init__(self, sampling: Sampling, send: Send, *, most: int, batch: int, every_s: float) -> None:
        self.sampling = sampling
        self.counts = SpanCounts()
        self._send = send
        self._most = most
        self._batch = batch
        self._every_s = every_s
        self._waiting: deque[Span] = deque()
        self._flying = 0
        self._full = trio.Event()
        self._one = trio.CapacityLimiter(1)
        self._complained = -COMPLAIN_EVERY_S

    def mailbox(self) -> Mailbox:
        """How many spans wait, and how many may."""
        return Mailbox(len(self._waiting) + self._flying, self._most)

    def put(self, span: Span) -> None:
        """Have a span sent; never waits."""
        if len(self._waiting) + self._flying >= self._most:
            self.counts.dropped += 1
            return
        self._waiting.append(span)
        if len(self._waiting) >= self._batch:
            self._full.set()

    def tell_request(
        self, trace: Trace, route: str, method: str, status: int, took_s: float, facts: dict[str, Attribute]
    ) -> None:
        """Tell of a request that was answered just now."""
        ended_ns = time.time_ns()
        self.put(request_span(trace, route, method, status, ended_ns - int(took_s * 1e9), ended_ns, facts))

    def tell_publish(
        self, trace: Trace, subject: str, count: int, began_ns: int, outcome: str, sequence: int = 0
    ) -> None:
        """Tell of a publish that was answered just now."""
        ended_ns = time.time_ns()
        self.put(publish_span(trace, token_hex(8), subject, count, began_ns, ended_ns, outcome, sequence))

    def tell_delivery(self, handed: Handed) -> None:
        """Tell of a batch that is out of an agent's hands."""
        self.put(delivery_span(handed, token_hex(NEW_DIGITS // 2)))

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Send batches as they fill, or after a while, for ever."""
        ready()
        while True:
            with trio.move_on_after(self._every_s):
                await self._full.wait()
            while self._waiting:
                await self._send_batch()
            self._full = trio.Event()

    async def flush(self, within_s: float) -> None:
        """Send what waits, until a deadline; the rest is counted as dropped.

        Called when `run` has ended.
        """
        with trio.move_on_after(within_s):
            while self._waiting:
                await self._send_batch()
        self.counts.dropped += len(self._waiting)
        self._waiting.clear()

    async def _send_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
        self._flying = len(batch)
        problem = "it was not waited for any longer"
        try:
            run = partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=self._one)
            problem = await run(self._send, batch)
        finally:
            self._flying = 0
            if problem:
                self.counts.failed += len(batch)
            else:
                self.counts.exported += len(batch)
        if problem:
            self._complain(problem)

    def _complain(self, problem: str) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAIN_EVERY_S:
            self._complained = now
            counts = self.counts
            log.warning(
                "the collector does not take spans", error=problem, failed=counts.failed, dropped=counts.dropped
            )
