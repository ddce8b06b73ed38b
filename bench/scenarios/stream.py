"""How soon and how fast do events reach an agent that acknowledges them?

Question: what passes between the moment an event should be sent and its receipt by an agent, alone, at 100 and 1,000
events a second and at as many as it takes; and how fast does one agent drain a backlog?
With `headgate.stream.v1` beside the old wire: the same rates and the same backlog, on the same gateway, in turns.
Arrivals: (a) open loop, Poisson, single-event requests, latency from the intended send time; (b) as many as it takes:
closed loop, 100 events a request, the stated number of connections; (c) a backlog of 100-event frames, stored before
the agent connects. The agent acknowledges each batch of at most 100 log messages.
Compared with: a raw-socket JetStream publisher and puller with the same frames, each message acknowledged, on a
nats-server of the same version and configuration, in turns with the gateway.
"""

from functools import partial
from typing import Final

from bench.agent import SocketKind, take_count, take_for_window
from bench.agent_v1 import AgentV1Socket
from bench.children import Gateway, LogServer, gateway, log_server
from bench.events import FIRST_NUMBER, SUBJECT, Template, frame_of, post
from bench.figures import Report, Row, Target, percentile
from bench.http_load import closed_loop, open_loop
from bench.machine import Meter
from bench.nats_socket import (
    publication,
    publish_closed_loop,
    publish_open_loop,
    pull_count,
    pull_for_window,
)
from bench.options import Options, Say
from bench.workers import LoadFailedError, Run, run_until_done

_RATES: Final = (20, 100, 1000)
_FRAME: Final = 100
_NUMBERS: Final = range(FIRST_NUMBER, FIRST_NUMBER + 50_000_000)
_THEIRS: Final = "raw JetStream publisher and puller"
_V1: Final = "headgate, headgate.stream.v1"
_OPEN_CONNECTIONS: Final = 64
_AGENT: Final = "bench"
_ENOUGH: Final = 400
"""Events that a slow rate's window has at least, on average: a p99 of fewer says little."""

_SATURATED: Final = "as many as it takes"
_BACKLOG: Final = "backlog"


def run(options: Options, say: Say) -> Report:
    """Measure each rate, then saturation, then the drain."""
    durability = (options.durability or ("fsync",))[0]
    report = Report("stream", (__doc__ or "").strip(), f"{options.event} events, with their send time")
    for rate in _RATES:
        case = f"{rate:,} events/s"
        if options.wants(case) and not (options.is_tiny and rate != _RATES[-1]):
            with gateway(durability, options.folder) as ours, log_server(durability, options.folder) as theirs:
                _measure_rate(report, case, rate, ours, theirs, options, say)
    for case, measure in ((_SATURATED, _measure_saturation), (_BACKLOG, _measure_drain)):
        if options.wants(case):
            with gateway(durability, options.folder) as ours, log_server(durability, options.folder) as theirs:
                measure(report, case, ours, theirs, options, say)
    return report


def _measure_rate(
    report: Report, case: str, rate: int, ours: Gateway, theirs: LogServer, options: Options, say: Say
) -> None:
    """Measure latency at one rate on both sides, in turns."""
    load = f"open loop, Poisson, {rate:,} single-event requests/s"
    rows = Row(case, "headgate", ours.durability, load), Row(case, _THEIRS, ours.durability, load)
    newer = Row(case, _V1, ours.durability, load)
    request, message = _templates(1, options)
    theirs.create_consumer(_AGENT)
    seconds = options.seconds if options.is_tiny else max(options.seconds, _ENOUGH / rate)
    for turn in range(options.rounds):
        say(f"{case}, {ours.durability}, round {turn + 1}")
        sender = open_loop(ours.address, request, _OPEN_CONNECTIONS, rate, seed=turn)
        found = options.run_window(ours.meter, sender, take_for_window(ours.address, _AGENT), seconds=seconds)
        _add_latencies(rows[0], found, "gateway", "log")
        sender = open_loop(ours.address, request, _OPEN_CONNECTIONS, rate, seed=turn)
        agent = take_for_window(ours.address, _AGENT, kind=AgentV1Socket)  # the same durable: what was taken is taken
        _add_latencies(newer, options.run_window(ours.meter, sender, agent, seconds=seconds), "gateway", "log")
        sender = publish_open_loop(theirs.address, message, rate, seed=turn)
        raw = options.run_window(theirs.meter, sender, pull_for_window(theirs.address, _AGENT), seconds=seconds)
        _add_latencies(rows[1], raw, "log")
    report.rows += [*rows, newer]
    report.compare("latency_p50_ms", *rows)
    report.compare("latency_p99_ms", *rows)
    report.compare("latency_p50_ms", newer, rows[0])
    report.compare("latency_p99_ms", newer, rows[0])
    report.compare("gateway_cpu_us_per_event", newer, rows[0])
    if rate == _RATES[0]:
        name = "one waiting agent, single events at 20/s, latency p50, ms"
        report.targets.append(Target(name, ours.durability, 3.0, rows[0].median("latency_p50_ms")))
    if rate == _RATES[-1]:
        name = "ingest to agent at 1,000 events/s, latency p99, ms"
        report.targets.append(Target(name, ours.durability, 15.0, rows[0].median("latency_p99_ms")))


def _measure_saturation(
    report: Report, case: str, ours: Gateway, theirs: LogServer, options: Options, say: Say
) -> None:
    """Let ingest and delivery share the gateway, both as fast as they can."""
    load = f"closed loop, {options.connections} in flight, {_FRAME} events a request"
    rows = Row(case, "headgate", ours.durability, load), Row(case, _THEIRS, ours.durability, load)
    request, message = _templates(_FRAME, options)
    theirs.create_consumer(_AGENT)
    for turn in range(options.rounds):
        say(f"{case}, {ours.durability}, round {turn + 1}")
        sender = closed_loop(ours.address, request, options.connections)
        found = options.run_window(ours.meter, sender, take_for_window(ours.address, _AGENT))
        _add_latencies(rows[0], found, "gateway", "log")
        sender = publish_closed_loop(theirs.address, message, options.connections)
        raw = options.run_window(theirs.meter, sender, pull_for_window(theirs.address, _AGENT))
        _add_latencies(rows[1], raw, "log")
        theirs.purge()
    report.rows += rows
    report.compare("delivered_events_per_s", *rows)


def _measure_drain(report: Report, case: str, ours: Gateway, theirs: LogServer, options: Options, say: Say) -> None:
    """Store a backlog on both sides, then let new consumers take all of it, in turns."""
    load = f"{options.backlog:,} events waiting in {_FRAME}-event frames, one agent"
    rows = Row(case, "headgate", ours.durability, load), Row(case, _THEIRS, ours.durability, load)
    newer = Row(case, _V1, ours.durability, load), Row(case, f"{_V1}, confirmed", ours.durability, load)
    request, message = _templates(_FRAME, options)
    frames = options.backlog // _FRAME
    say(f"storing {options.backlog:,} events on each side")
    # One request at a time: requests that wait are merged into larger frames, and the frames are to be the same here.
    stored = run_until_done(Meter({}), closed_loop(ours.address, request, 1, limit=frames)).tallies[0]
    if stored.requests != frames:
        raise LoadFailedError(f"the gateway refused {stored.refused} requests: {stored.complaint}")
    run_until_done(Meter({}), publish_closed_loop(theirs.address, message, 1, limit=frames))
    for turn in range(options.rounds):
        say(f"{case}, round {turn + 1}")
        durable = f"{_AGENT}-{turn}"
        found = run_until_done(ours.meter, take_count(ours.address, durable, frames * _FRAME))
        _add_drain(rows[0], found, "gateway", "log")
        kinds: tuple[SocketKind, SocketKind] = (AgentV1Socket, partial(AgentV1Socket, confirms=True))
        for row, kind in zip(newer, kinds, strict=True):
            agent = take_count(ours.address, f"{durable}-{row.side[-2:]}", frames * _FRAME, kind=kind)
            _add_drain(row, run_until_done(ours.meter, agent), "gateway", "log")
        theirs.create_consumer(durable)
        raw = run_until_done(theirs.meter, pull_count(theirs.address, durable, frames * _FRAME))
        _add_drain(rows[1], raw, "log")
    report.rows += [*rows, *newer]
    report.compare("drained_events_per_s", *rows)
    for row in newer:
        report.compare("drained_events_per_s", row, rows[0])
        report.compare("gateway_cpu_us_per_event", row, rows[0])
    name = f"a backlog of {_FRAME}-event frames to one agent, events/s"
    drained = rows[0].median("drained_events_per_s")
    report.targets.append(Target(name, ours.durability, 150_000, drained, at_least=True))


def _templates(events: int, options: Options) -> tuple[Template, Template]:
    frame = frame_of(events, options.event, timed=True)
    request = Template(post(f"/ingest?subject={SUBJECT}", frame), events, _NUMBERS, timed=True)
    return request, Template(publication(frame), events, _NUMBERS, timed=True)


def _add_latencies(row: Row, run: Run, *processes: str) -> None:
    """Add a window in which a sender and an agent worked."""
    sent, taken = run.tallies
    if not taken.units or not taken.latencies_ms:
        raise LoadFailedError(f"{row.case}, {row.side}: nothing arrived; {sent.units} sent; {sent.complaint}")
    waits = sorted(taken.latencies_ms)
    row.add(sent_events_per_s=sent.units / run.seconds, delivered_events_per_s=taken.units / run.seconds)
    row.add(
        latency_p50_ms=percentile(waits, 0.5),
        latency_p99_ms=percentile(waits, 0.99),
        latency_p999_ms=percentile(waits, 0.999),
    )
    row.add(**{f"{name}_cpu_us_per_event": run.cpu_s[name] / taken.units * 1e6 for name in processes})
    row.add(refused=float(sent.refused))


def _add_drain(row: Row, run: Run, *processes: str) -> None:
    taken = run.tallies[0]
    row.add(drained_events_per_s=taken.units / run.seconds, events_per_batch=taken.units / max(1, taken.requests))
    row.add(**{f"{name}_cpu_us_per_event": run.cpu_s[name] / taken.units * 1e6 for name in processes})
