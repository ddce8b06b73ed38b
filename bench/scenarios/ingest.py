"""What does it cost to take an event in and have it stored?

Question: how many events a second does POST /ingest take with 1, 10, 100 and 500 events a request, what CPU does one
cost the gateway and its log, and how long does a request wait?
Arrivals: (a) closed loop, the stated number of connections, as many as it takes; (b) open loop, Poisson, at half of
what (a) took in the first round, latency from the intended send time.
Compared with: a raw-socket JetStream publisher with the same frames and the same number in flight, straight to a
nats-server of the same version and configuration, in turns with the gateway. Beside each figure stands what a fixed
loop of Python took in the same window: where that is more than at another time, the processor was worth less.
"""

from itertools import count
from typing import Final

from bench.children import Gateway, LogServer, gateway, log_server
from bench.events import SUBJECT, Template, frame_of, number_ranges, post
from bench.figures import Report, Row, Target, percentile
from bench.http_load import closed_loop, open_loop
from bench.nats_socket import publication, publish_closed_loop, publish_open_loop
from bench.options import Options, Say
from bench.workers import LoadFailedError, Run, Tally

_SIZES: Final = (1, 10, 100, 500)
_NUMBERS: Final = 1_000_000
"""Request numbers a round: more than any round sends, so that every event names a new file."""

_THEIRS: Final = "raw JetStream publisher"
_OPEN_CONNECTIONS: Final = 64
_PROMISED_AT: Final = 100


def run(options: Options, say: Say) -> Report:
    """Measure every size in every durability class."""
    report = Report(
        "ingest", (__doc__ or "").strip(), f"{options.event} events, {len(frame_of(1, options.event)) - 13} bytes each"
    )
    for durability in options.durability or ("fsync", "buffered"):
        for size in (1, _PROMISED_AT) if options.is_tiny else _SIZES:
            case = f"{size} events a request"
            if options.wants(case) and not (options.is_tiny and size != _PROMISED_AT and durability == "buffered"):
                # A gateway of its own for each case: the size of its log and of its cache is the same for all.
                with gateway(durability, options.folder) as ours, log_server(durability, options.folder) as theirs:
                    _measure(report, case, size, ours, theirs, options, say)
    return report


def _measure(
    report: Report, case: str, size: int, ours: Gateway, theirs: LogServer, options: Options, say: Say
) -> None:
    """Measure one case on both sides, in turns."""
    loop = f"closed loop, {options.connections} in flight"
    closed = Row(case, "headgate", ours.durability, loop), Row(case, _THEIRS, ours.durability, loop)
    opened: tuple[Row, Row] | None = None
    frame, ranges = frame_of(size, options.event), number_ranges(_NUMBERS)
    rate = 0.0
    for turn in range(options.rounds):
        say(f"{case}, {ours.durability}, round {turn + 1}, closed loop")
        request, message = _templates(frame, size, ranges)
        job = closed_loop(ours.address, request, options.connections)
        found = options.run_window(ours.meter, job)
        _add(closed[0], found, found.tallies[0], "gateway", "log")
        job = publish_closed_loop(theirs.address, message, options.connections)
        raw = options.run_window(theirs.meter, job)
        _add(closed[1], raw, raw.tallies[0], "log")
        theirs.purge()

        rate = rate or found.tallies[0].requests / found.seconds / 2
        if opened is None:
            loop = f"open loop, Poisson, {rate:,.0f} requests/s"
            opened = Row(case, "headgate", ours.durability, loop), Row(case, _THEIRS, ours.durability, loop)
        say(f"{case}, {ours.durability}, round {turn + 1}, open loop at {rate:,.0f} requests/s")
        request, message = _templates(frame, size, ranges)
        job = open_loop(ours.address, request, _OPEN_CONNECTIONS, rate, seed=turn)
        found = options.run_window(ours.meter, job)
        _add(opened[0], found, found.tallies[0], "gateway", "log")
        job = publish_open_loop(theirs.address, message, rate, seed=turn)
        raw = options.run_window(theirs.meter, job)
        _add(opened[1], raw, raw.tallies[0], "log")
        theirs.purge()
    report.rows += [*closed, *(opened or ())]
    report.compare("events_per_s", *closed)
    if opened is not None:
        report.compare("latency_p50_ms", *opened)
        report.compare("latency_p99_ms", *opened)
    if size == _PROMISED_AT:
        promised = 100_000 if ours.durability == "fsync" else 200_000
        report.targets += [
            Target(
                "ingest, 100 events a request, events/s",
                ours.durability,
                promised,
                closed[0].median("events_per_s"),
                at_least=True,
            ),
            Target(
                "gateway CPU, 100 events a request, µs/event",
                ours.durability,
                4.0,
                closed[0].median("gateway_cpu_us_per_event"),
            ),
        ]


def _templates(frame: bytes, size: int, ranges: "count[int]") -> tuple[Template, Template]:
    """Give the same frames as a request and as a message of the log, with new numbers."""
    begin = next(ranges)
    numbers = range(begin, begin + _NUMBERS)
    request = Template(post(f"/ingest?subject={SUBJECT}", frame), size, numbers)
    return request, Template(publication(frame), size, numbers)


def _add(row: Row, run: Run, tally: Tally, *processes: str) -> None:
    """Add one window's figures to a row."""
    if not tally.units:
        raise LoadFailedError(f"{row.case}, {row.side}: nothing was taken: {tally.complaint}")
    waits = sorted(tally.latencies_ms)
    row.add(events_per_s=tally.units / run.seconds, requests_per_s=tally.requests / run.seconds)
    row.add(**{f"{name}_cpu_us_per_event": run.cpu_s[name] / tally.units * 1e6 for name in processes})
    row.add(latency_p50_ms=percentile(waits, 0.5), latency_p99_ms=percentile(waits, 0.99), refused=float(tally.refused))
    row.add(fixed_loop_us=run.loop_us)
