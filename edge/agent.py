"""`headgate agent`: hand each batch to a handler, say what became of it, and end when it is time.

Rules of the file:
- Nothing is acknowledged before its handler has said so; what a handler leaves unanswered when it fails is given back,
  later and later for what was delivered often.
- A failing handler is an outcome of the batch, not an end of the agent.
- What is held when the agent ends goes back to the gateway with the connection, at once.

What must change with it: `edge/agent_command.py` and `edge/agent_callable.py` are the handlers, `edge/cli_agent.py` the
options, the README's "Write an agent".
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import Final, Protocol

import trio

from edge.client import GatewayUnavailable, Stream, StreamBatch, Trouble
from edge.client_batch import Tally
from edge.client_frames import Notice
from edge.nursery import open_plain_nursery
from engine.verdicts import Verdicts, choose_delay, judge_exit

LOOK_EVERY_S: Final = 0.1
SETTLED_DOWN_S: Final = 0.3
"""How long nothing has come before `--once` asks the gateway whether anything is left."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the handler of a batch ended.

    Args:
        exit_code: a command's; None for a callable, and for a command whose time was up.
        error: why it failed, one line; empty when it did not.
        verdicts: of what was not answered while it ran.
    """

    verdicts: Verdicts
    exit_code: int | None = None
    error: str = ""


class Handler(Protocol):
    """Works on one batch at a time; several run at once with `--parallel`."""

    async def handle(self, batch: StreamBatch, delays_s: Mapping[int, float]) -> Ended:
        """Work on a batch.

        Args:
            delays_s: for each message, when to come again if it is given back.
        """
        ...


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of one batch."""

    batch: str
    first_seq: int
    last_seq: int
    messages: int
    events: int
    tally: Tally
    exit_code: int | None
    error: str
    took_s: float

    def to_json(self) -> dict[str, object]:
        """Give the line of `--json`."""
        return {"type": "batch"} | {
            key: value for key, value in (asdict(self) | asdict(self.tally)).items() if key != "tally"
        }


@dataclass(slots=True)
class AgentReport:
    """What an agent has done so far."""

    batches: int = 0
    messages: int = 0
    failures: int = 0
    tally: Tally = field(default_factory=Tally)

    @property
    def is_well(self) -> bool:
        """Whether every message was acknowledged."""
        return self.tally.acked == self.messages

    def add(self, report: BatchReport) -> None:
        """Count a batch."""
        self.batches += 1
        self.messages += report.messages
        self.failures += bool(report.error)
        for name, count in asdict(report.tally).items():
            setattr(self.tally, name, getattr(self.tally, name) + count)

    def to_text(self) -> str:
        """Say it in one line."""
        counts = {
            "acknowledged": self.tally.acked,
            "given back": self.tally.naked,
            "ended": self.tally.terminated,
            "late": self.tally.late,
            "unknown": self.tally.unknown,
            "not said": self.tally.unsaid,
        }
        said = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count or word == "acknowledged")
        batches = f"{self.batches:,} {'batch' if self.batches == 1 else 'batches'}"
        messages = f"{self.messages:,} {'message' if self.messages == 1 else 'messages'}"
        return f"{batches}, {messages}: {said}"

    def to_json(self) -> dict[str, object]:
        """Give the last line of `--json`."""
        return {"type": "end", "batches": self.batches, "messages": self.messages, "failures": self.failures} | asdict(
            self.tally
        )


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent works.

    Args:
        parallel: batches worked on at once.
        confirm: whether every answer waits for the log's word.
        retry_s, most_retry_s: delay of a first failure, and the longest.
        once: end when nothing is left.
        until_idle_s: end when nothing came for so long; None never.
        give_up_s: with one of the two, how long a gateway that is away is waited for.
    """

    parallel: int = 1
    confirm: bool = False
    retry_s: float = 1.0
    most_retry_s: float = 300.0
    once: bool = False
    until_idle_s: float | None = None
    give_up_s: float = 60.0


class AgentRun:
    """An agent at work.

    Args:
        on_batch: told of every batch when it is done.
    """

    def __init__(
        self, handler: Handler, options: AgentOptions, *, on_batch: Callable[[BatchReport], None] | None = None
    ) -> None:
        self.report = AgentReport()
        self.busy_count = 0
        self._handler = handler
        self._options = options
        self._on_batch = on_batch
        self._trouble: Trouble | None = None
        self._trouble_at = 0.0
        self._active_at = 0.0

    def note(self, notice: Notice) -> None:
        """Take what the stream tells beside batches."""
        if not isinstance(notice, Trouble):
            self._trouble = None
        elif self._trouble is None:
            self._trouble, self._trouble_at = notice, trio.current_time()

    async def run_agent(self, attach: Callable[[], AbstractAsyncContextManager[Stream]]) -> AgentReport:
        """Work until nothing is left, where the options say so, or for ever.

        Args:
            attach: opens the stream, with `note` as its `on_notice`.

        Raises:
            GatewayRefused, GatewayBroken: the gateway will not have this agent.
            GatewayUnavailable: an agent that was to end by itself found no gateway for `give_up_s`.

        Cancellation: handlers are stopped within their grace; what is held goes back.
        """
        self._active_at = trio.current_time()
        async with attach() as stream, open_plain_nursery() as nursery:
            for _ in range(self._options.parallel):
                nursery.start_soon(self._work, stream)
            if self._options.once or self._options.until_idle_s is not None:
                await self._wait_done(stream)
                nursery.cancel_scope.cancel()
        return self.report

    async def _work(self, stream: Stream) -> None:
        async for batch in stream:
            self.busy_count += 1
            began = trio.current_time()
            try:
                options = self._options
                delays_s = {
                    message.index: choose_delay(options.retry_s, options.most_retry_s, message.delivered)
                    for message in batch
                }
                ended = await self._handler.handle(batch, delays_s)
                await batch.say(ended.verdicts, confirm=options.confirm)
                left = [message.index for message in batch.unanswered]
                if left:  # a handler must answer for all of it; what it forgot is given back
                    await batch.say(judge_exit(None, left, delays_s), confirm=options.confirm)
            finally:
                self.busy_count -= 1
                self._active_at = trio.current_time()
            self._note_done(batch, ended, trio.current_time() - began)

    def _note_done(self, batch: StreamBatch, ended: Ended, took_s: float) -> None:
        report = BatchReport(
            batch=batch.id,
            first_seq=batch.messages[0].seq if len(batch) else 0,
            last_seq=batch.messages[-1].seq if len(batch) else 0,
            messages=len(batch),
            events=len(batch.events()),
            tally=batch.tally,
            exit_code=ended.exit_code,
            error=ended.error,
            took_s=round(took_s, 6),
        )
        report.tally.late += len(batch.lost)
        self.report.add(report)
        if self._on_batch is not None:
            self._on_batch(report)

    async def _wait_done(self, stream: Stream) -> None:
        options = self._options
        quiet_s = SETTLED_DOWN_S if options.until_idle_s is None else options.until_idle_s
        while True:
            await trio.sleep(LOOK_EVERY_S)
            now = trio.current_time()
            if self._trouble is not None and now - self._trouble_at >= options.give_up_s:
                raise self._trouble.error
            if self._trouble is not None or stream.hello is None:
                self._active_at = max(self._active_at, now - quiet_s) if options.once else now
                continue
            if self.busy_count or stream.held_count or now - self._active_at < quiet_s:
                continue
            if not options.once or await self._has_nothing_left(stream):
                return

    async def _has_nothing_left(self, stream: Stream) -> bool:
        try:
            status = await stream.status()
        except GatewayUnavailable:
            return False
        return not status.lag.messages and not status.in_flight.messages and not self.busy_count
