"""Worker processes that make the load, and the window that is measured.

A worker prepares (connects, builds its bytes), says that it is ready, and begins when all are. Times are nanoseconds of
the monotonic clock, which all processes of a machine share.

Rules of the file:
- Workers are forked: they start in a millisecond and hold the parent's templates without a copy. The parent has one
  thread, which is what makes forking safe.
- A worker that fails fails the run, with its own traceback.
"""

import contextlib
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final

from bench.machine import Meter, loop_us

_CONTEXT: Final = multiprocessing.get_context("fork")
_LEAD_S: Final = 0.05
"""Between the word to begin and the beginning, so that every worker is there in time."""

_LOOP_EVERY_S: Final = 0.1

READY_TIMEOUT_S: Final = 60.0
FINISH_TIMEOUT_S: Final = 300.0
"""For what is ended by its amount and not by the clock: a million events."""


class LoadFailedError(Exception):
    """A worker could not do its part."""


@dataclass(frozen=True, slots=True)
class Window:
    """When to begin, and between which times work counts.

    Args:
        begin_ns: the first request.
        open_ns: what is answered before this was warming up.
        close_ns: what is answered after this does not count; the worker ends.
    """

    begin_ns: int
    open_ns: int
    close_ns: int


@dataclass(slots=True)
class Tally:
    """What one worker did inside the window.

    Args:
        requests: answered as they should be.
        units: events or probes in them.
        refused: answered otherwise.
        complaint: the first such answer.
        latencies_ms: one a request, or one an event where events carry their time.
        first_ns: when the first unit was done, None without one.
        last_ns: when the last unit was done.
        found: cache hits seen.
    """

    requests: int = 0
    units: int = 0
    refused: int = 0
    complaint: str = ""
    latencies_ms: list[float] = field(default_factory=list)
    first_ns: int = 0
    last_ns: int = 0
    found: int = 0

    def refuse(self, complaint: str) -> None:
        """Count an answer that is not the expected one."""
        self.refused += 1
        self.complaint = self.complaint or complaint


class Gate:
    """A worker's end: says it is ready, learns the window."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def wait(self) -> Window:
        """Say that everything is prepared and wait for the window; returns when it is time to begin."""
        self._pipe.send("ready")
        window = self._pipe.recv()
        assert isinstance(window, Window)  # noqa: S101 (the parent's only message)
        time.sleep(max(0.0, (window.begin_ns - time.monotonic_ns()) / 1e9))
        return window


Job = Callable[[Gate], Tally]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of workers gave.

    Args:
        tallies: one a job, in order.
        seconds: the length of the window.
        cpu_s: CPU used inside the window, by the meter's names.
        loop_us: what the fixed loop took inside the window, median; 0 where it was not asked.
    """

    tallies: Sequence[Tally]
    seconds: float
    cpu_s: dict[str, float]
    loop_us: float = 0.0


def run_for(seconds: float, warm_s: float, meter: Meter, *jobs: Job) -> Run:
    """Run the jobs and measure a window of time.

    Args:
        seconds: length of the window.
        warm_s: how long the jobs run before it opens.
        meter: whose CPU time is read as the window opens and closes.
        jobs: one worker process each.

    Raises:
        LoadFailedError: a worker failed or did not end.
    """
    with _workers(jobs) as pipes:
        begin_ns = time.monotonic_ns() + int(_LEAD_S * 1e9)
        window = Window(begin_ns, begin_ns + int(warm_s * 1e9), begin_ns + int((warm_s + seconds) * 1e9))
        _send(pipes, window)
        time.sleep(max(0.0, (window.open_ns - time.monotonic_ns()) / 1e9))
        before = meter.read()
        loops: list[float] = []
        while time.monotonic_ns() < window.close_ns:
            loops.append(loop_us())
            time.sleep(min(_LOOP_EVERY_S, max(0.0, (window.close_ns - time.monotonic_ns()) / 1e9)))
        after = meter.read()
        tallies = _collect(pipes)
    used = {name: after[name] - before[name] for name in before}
    return Run(tallies, seconds, used, statistics.median(loops or [0.0]))


def run_until_done(meter: Meter, *jobs: Job, timeout_s: float = FINISH_TIMEOUT_S) -> Run:
    """Run jobs that end by themselves, and measure from their begin to the last one's end.

    Raises:
        LoadFailedError: a worker failed or did not end in time.
    """
    with _workers(jobs) as pipes:
        before = meter.read()
        begin_ns = time.monotonic_ns()
        _send(pipes, Window(begin_ns, begin_ns, begin_ns + int(timeout_s * 1e9)))
        tallies = _collect(pipes, timeout_s + READY_TIMEOUT_S)
        after = meter.read()
        ended_ns = max((tally.last_ns for tally in tallies), default=0) or time.monotonic_ns()
    return Run(tallies, (ended_ns - begin_ns) / 1e9, {name: after[name] - before[name] for name in before})


@contextlib.contextmanager
def _workers(jobs: Sequence[Job]) -> Iterator[list[Connection]]:
    """Start one process a job, wait until each is ready, and leave none behind."""
    started: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
    try:
        for job in jobs:
            ours, theirs = _CONTEXT.Pipe()
            process: multiprocessing.process.BaseProcess = _CONTEXT.Process(
                target=_work, args=(job, theirs), daemon=True
            )
            process.start()
            theirs.close()
            started.append((process, ours))
        for _, pipe in started:
            _receive(pipe, READY_TIMEOUT_S)
        yield [pipe for _, pipe in started]
    finally:
        for process, pipe in started:
            pipe.close()
            process.join(1.0)
            if process.is_alive():
                process.kill()
                process.join()


def _work(job: Job, pipe: Connection) -> None:
    try:
        pipe.send(job(Gate(pipe)))
    except Exception:  # noqa: BLE001 (told to the parent, which raises)
        pipe.send(LoadFailedError(traceback.format_exc()))


def _send(pipes: Sequence[Connection], window: Window) -> None:
    for pipe in pipes:
        pipe.send(window)


def _collect(pipes: Sequence[Connection], timeout_s: float = READY_TIMEOUT_S) -> list[Tally]:
    return [tally for pipe in pipes if isinstance(tally := _receive(pipe, timeout_s), Tally)]


def _receive(pipe: Connection, timeout_s: float) -> object:
    if not pipe.poll(timeout_s):
        raise LoadFailedError(f"a worker said nothing for {timeout_s:.0f} s")
    try:
        message: object = pipe.recv()
    except EOFError:
        raise LoadFailedError("a worker ended without a word") from None
    if isinstance(message, LoadFailedError):
        raise message
    return message
