"""What do clients get when twice as much comes as can be taken?

Question: how much of its peak does POST /ingest still store at twice that, how soon do the others know that they have
to come back, how soon does /healthz answer, does the memory stay where it is, and is everything stored that was
acknowledged?
Arrivals: the peak by closed loops of 16 and of 64 connections, whichever is more; then open loop, Poisson, at twice the
peak, on 512 connections; 200 events a request, as scanners send (S0.27). Latency counts from the intended send time.
Beside it /healthz is asked 20 times a second and the memory is read four times a second. Every request names files of
its own, and in the end an agent reads the stream and looks for those of each acknowledged request (T20).
Compared with: the peak of the same gateway in the same round, before and after, by whose mean the promise is judged,
for a machine's speed changes from minute to minute; and, as a control, its peak while somebody else is sent the other
half, who says no at once and does nothing: making and sending so much takes processors too, which on one machine the
gateway lacks, overloaded or not.
"""

import re
import select
import socket
import statistics
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from bench.agent import AgentSocket
from bench.children import Gateway, gateway
from bench.events import FIRST_NUMBER, SUBJECT, Template, frame_of, get, post
from bench.figures import Report, Row, Target, percentile
from bench.http_load import Address, HttpSocket, closed_loop, poisson_times
from bench.machine import memory
from bench.options import Options, Say
from bench.workers import Gate, Job, LoadFailedError, Run, Tally

_EVENTS: Final = 200
_CASE: Final = f"{_EVENTS} events a request"
_LOOPS: Final = (16, 64)
_CONNECTIONS: Final = 512
_TIMES: Final = 2.0
_PEAK_S: Final = 10.0
"""Of a longer window's peak."""
_STEADY_S: Final = 3.0
"""Until a load is no burst any more; what comes before is not what the question is about."""
_NUMBERS: Final = 1_000_000
"""Requests of one phase; each has numbers of its own, and there are 90 phases in eight digits."""
_HEALTH_EVERY_S: Final = 0.05
_MEMORY_EVERY_S: Final = 0.25
_GRACE_NS: Final = 5_000_000_000
_NAMED: Final = re.compile(rb"/(\d{8})/render/beauty_v003\.0000\.")
_NO: Final = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 400\r\n\r\n" + b"{%b}" % (
    b" " * 398
)
_RECEIVE_BYTES: Final = 64 * 1024
_SMALL_CACHE: Final = {"HEADGATE_CACHE_MIB": "16"}
"""Full before the window opens, so that what grows after that is not the hash cache."""


@dataclass(slots=True)
class Overloaded(Tally):
    """What a load above capacity got.

    Args:
        acknowledged: numbers of the requests that were answered with 200.
        shed_ms: how long those took that were told to come back.
        odd: answers that are neither 200 nor 429 or 503 with `Retry-After`.
        reconnected: answers that ended their connection.
    """

    acknowledged: list[int] = field(default_factory=list)
    shed_ms: list[float] = field(default_factory=list)
    odd: int = 0
    reconnected: int = 0


def run(options: Options, say: Say) -> Report:
    """Find the peak, then ask for twice as much."""
    durability = (options.durability or ("fsync",))[0]
    report = Report("overload", (__doc__ or "").strip(), f"{options.event} events")
    if not options.wants(_CASE):
        return report
    peak_s = min(options.seconds, _PEAK_S)
    steady = options if options.is_tiny else replace(options, warm_s=_STEADY_S)
    frame = post(f"/ingest?subject={SUBJECT}", frame_of(_EVENTS, options.event))
    loop = f"closed loop, {_LOOPS[0]} or {_LOOPS[1]} in flight"
    peak = Row(_CASE, "headgate, at its peak", durability, loop)
    beside = Row(_CASE, "headgate, at its peak, as much sent elsewhere", durability, loop)
    over = Row(_CASE, "headgate, twice that", durability, f"open loop, Poisson, {_TIMES:g} times the peak")
    phases = range(FIRST_NUMBER, 100_000_000, _NUMBERS)
    numbers = iter(range(begin, begin + _NUMBERS) for begin in phases)
    with gateway(durability, options.folder, settings=_SMALL_CACHE) as ours:
        for turn in range(options.rounds):
            loops: dict[int, dict[str, float]] = {}
            for connections in _LOOPS:
                say(f"peak, {connections} in flight, round {turn + 1}")
                job = closed_loop(ours.address, Template(frame, _EVENTS, next(numbers)), connections)
                loops[connections] = _peak(options.run_window(ours.meter, job, seconds=peak_s))
            best = max(loops, key=lambda one: loops[one]["requests_per_s"])
            rate = loops[best]["requests_per_s"] * _TIMES
            most = 16 if options.is_tiny else _CONNECTIONS
            say(f"peak, as much sent elsewhere, round {turn + 1}")
            with socket.create_server(("127.0.0.1", 0), backlog=_CONNECTIONS) as elsewhere:
                address = elsewhere.getsockname()
                template = Template(frame, _EVENTS, next(numbers))
                found = steady.run_window(
                    ours.meter,
                    closed_loop(ours.address, Template(frame, _EVENTS, next(numbers)), best),
                    _load(address, template, most, rate * (1 - 1 / _TIMES), turn),
                    _say_no(elsewhere, len(template.fill(0, 0))),
                    seconds=peak_s,
                )
            beside.add(**_peak(found))
            say(f"{rate:,.0f} requests/s, round {turn + 1}")
            template = Template(frame, _EVENTS, next(numbers))
            found = steady.run_window(
                ours.meter,
                _load(ours.address, template, most, rate, turn),
                _ask_health(ours.address),
                _read_memory(ours),
            )
            say(f"peak, {best} in flight, after round {turn + 1}")
            job = closed_loop(ours.address, Template(frame, _EVENTS, next(numbers)), best)
            after = _peak(options.run_window(ours.meter, job, seconds=peak_s))
            peak.add(**{name: (value + after[name]) / 2 for name, value in loops[best].items()})
            say("looking for what was acknowledged")
            over.add(**_figures(found, ours, "bench"))
    report.rows += [over, beside, peak]
    report.compare("requests_per_s", over, beside)
    report.compare("requests_per_s", over, peak)
    report.compare("gateway_cpu_us_per_event", over, peak)
    rounds = zip(over.rounds["requests_per_s"], peak.rounds["requests_per_s"], strict=True)
    share = statistics.median([stored / most for stored, most in rounds])
    report.targets += [
        Target("stored at twice the peak / at the peak, by rounds", durability, 0.9, share, at_least=True),
        Target("an answer to come back, p99 ms", durability, 50.0, over.median("shed_p99_ms")),
        Target("/healthz meanwhile, p99 ms", durability, 100.0, over.median("health_p99_ms")),
        Target("memory in the last quarter over the second, MiB", durability, 16.0, over.median("grown_mib")),
        Target("acknowledged requests that are not in the stream", durability, 0.0, max(over.rounds["lost"])),
        Target("answers that say neither", durability, 0.0, max(over.rounds["odd"])),
    ]
    return report


def _peak(found: Run) -> dict[str, float]:
    tally = found.tallies[0]
    if not tally.requests:
        raise LoadFailedError(f"at the peak {tally.refused} refused of {tally.requests}: {tally.complaint}")
    return {
        "requests_per_s": tally.requests / found.seconds,
        "latency_p99_ms": percentile(sorted(tally.latencies_ms), 0.99),
        "gateway_cpu_us_per_event": found.cpu_s["gateway"] / tally.units * 1e6,
    }


def _figures(found: Run, ours: Gateway, durable: str) -> dict[str, float]:
    """Give one round's figures, once the stream has been searched for what was acknowledged."""
    load, health, sizes = found.tallies
    if not isinstance(load, Overloaded) or not load.requests:
        raise LoadFailedError(f"nothing was taken: {load.complaint}")
    waits, sheds, asked = sorted(load.latencies_ms), sorted(load.shed_ms), sorted(health.latencies_ms)
    quarter = len(sizes.latencies_ms) // 4
    grown = 0.0
    if quarter:
        before, after = sizes.latencies_ms[quarter : 2 * quarter], sizes.latencies_ms[-quarter:]
        grown = statistics.median(after) - statistics.median(before)
    return {
        "requests_per_s": load.requests / found.seconds,
        "shed_per_s": len(sheds) / found.seconds,
        "reconnected_per_s": load.reconnected / found.seconds,
        "latency_p50_ms": percentile(waits, 0.5),
        "latency_p99_ms": percentile(waits, 0.99),
        "shed_p50_ms": percentile(sheds or [0.0], 0.5),
        "shed_p99_ms": percentile(sheds or [0.0], 0.99),
        "health_p99_ms": percentile(asked or [0.0], 0.99),
        "health_max_ms": max(asked, default=0.0),
        "gateway_cpu_us_per_event": found.cpu_s["gateway"] / load.units * 1e6,
        "resident_mib": max(sizes.latencies_ms, default=0.0),
        "grown_mib": grown,
        "lost": float(len(_lost(ours.address, set(load.acknowledged), durable))),
        "odd": float(load.odd),
    }


def _load(address: Address, template: Template, connections: int, rate: float, seed: int) -> Job:
    """Make a job that sends at Poisson times and takes every answer for what it says."""

    def job(gate: Gate) -> Tally:
        idle = deque(HttpSocket(address) for _ in range(connections))
        busy: dict[int, tuple[HttpSocket, int]] = {}
        poll = select.epoll()
        for connection in idle:
            poll.register(connection.socket, select.EPOLLIN)
        window, tally, sequence = gate.wait(), Overloaded(), 0
        due = poisson_times(window, rate, seed)
        next_ns = next(due, None)
        while next_ns is not None or busy:
            now_ns = time.monotonic_ns()
            if now_ns > window.close_ns + _GRACE_NS:
                tally.odd += len(busy)  # what has no answer by now is not an answer in time
                break
            while next_ns is not None and next_ns <= now_ns and idle:
                connection = idle.popleft()
                connection.send(template.fill(sequence, next_ns), next_ns)
                busy[connection.socket.fileno()] = connection, sequence
                sequence += 1
                next_ns = next(due, None)
            wait_s = 0.5 if next_ns is None or not idle else max(0.0, (next_ns - time.monotonic_ns()) / 1e9)
            for descriptor, _ in poll.poll(wait_s):
                if descriptor not in busy:
                    raise LoadFailedError("the gateway closed a connection that had nothing to be answered")
                connection, number = busy[descriptor]
                answer = connection.receive()
                if answer is None:
                    continue
                del busy[descriptor]
                _note(tally, answer, connection, template, number, window.open_ns, window.close_ns)
                if b"\r\nconnection: close\r\n" in answer:
                    tally.reconnected += 1
                    connection.close()
                    connection = HttpSocket(address)
                    poll.register(connection.socket, select.EPOLLIN)
                idle.append(connection)
        return tally

    return job


def _say_no(listening: socket.socket, request_bytes: int) -> Job:
    """Make a job that answers requests of this length at once, and does nothing with them, until their sender ends."""

    def job(gate: Gate) -> Tally:
        poll = select.epoll()
        poll.register(listening, select.EPOLLIN)
        others: dict[int, tuple[socket.socket, int]] = {}
        window = gate.wait()
        while others or time.monotonic_ns() < window.close_ns:
            for descriptor, _ in poll.poll(0.2):
                if descriptor == listening.fileno():
                    other = listening.accept()[0]
                    others[other.fileno()] = other, 0
                    poll.register(other, select.EPOLLIN)
                    continue
                other, received = others[descriptor]
                arrived = len(other.recv(_RECEIVE_BYTES))
                if not arrived:
                    other.close()
                    del others[descriptor]
                    continue
                answers, received = divmod(received + arrived, request_bytes)
                others[descriptor] = other, received
                if answers:
                    other.sendall(_NO * answers)
        return Tally()

    return job


def _note(
    tally: Overloaded,
    answer: bytes,
    connection: HttpSocket,
    template: Template,
    sequence: int,
    open_ns: int,
    close_ns: int,
) -> None:
    """Count an answer; what was acknowledged counts whenever it was, the figures are those of the window."""
    now_ns = time.monotonic_ns()
    is_inside = open_ns <= now_ns < close_ns
    took_ms = (now_ns - connection.sent_ns) / 1e6
    if answer.startswith(b"HTTP/1.1 200"):
        tally.acknowledged.append(template.numbers[sequence])
        if is_inside:
            tally.requests += 1
            tally.units += template.units
            tally.latencies_ms.append(took_ms)
    elif answer.startswith((b"HTTP/1.1 503", b"HTTP/1.1 429")) and b"Retry-After: " in answer:
        if is_inside:
            tally.refuse(answer[:600].decode(errors="replace"))
            tally.shed_ms.append(took_ms)
    else:
        tally.odd += 1
        tally.refuse(answer[:600].decode(errors="replace"))


def _ask_health(address: Address) -> Job:
    """Make a job that asks /healthz now and then; late questions count from when they were due."""

    def job(gate: Gate) -> Tally:
        connection, request = HttpSocket(address), get("/healthz")
        window, tally = gate.wait(), Tally()
        due_ns = window.open_ns
        while due_ns < window.close_ns:
            time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            if not connection.exchange(request).startswith(b"HTTP/1.1 200"):
                raise LoadFailedError("/healthz is not well")
            tally.units += 1
            tally.latencies_ms.append((time.monotonic_ns() - due_ns) / 1e6)
            due_ns += int(_HEALTH_EVERY_S * 1e9)
        return tally

    return job


def _read_memory(ours: Gateway) -> Job:
    """Make a job that reads the gateway's resident MiB, in place of latencies."""

    def job(gate: Gate) -> Tally:
        window, tally = gate.wait(), Tally()
        due_ns = window.open_ns
        while due_ns < window.close_ns:
            time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            tally.latencies_ms.append(memory(ours.pid).resident_mib)
            tally.units += 1
            due_ns += int(_MEMORY_EVERY_S * 1e9)
        return tally

    return job


def _lost(address: Address, acknowledged: set[int], durable: str) -> set[int]:
    """Read the stream from its begin, and give the acknowledged numbers that are not in it."""
    agent = AgentSocket(address, durable)
    try:
        missing = set(acknowledged)
        while missing and (message := agent.wait_message(_GRACE_NS / 1e9)) is not None:
            agent.acknowledge(message)
            missing.difference_update(map(int, _NAMED.findall(message)))
    finally:
        agent.close()
    return missing
