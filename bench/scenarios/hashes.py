"""What does it cost to ask whether a file's hash is known?

Question: how many probes a second does POST /cache/batch answer with 1, 100 and 500 probes a request, when all hit and
when all miss, and what CPU does one cost the gateway?
Arrivals: closed loop, the stated number of connections, as many as it takes.
Compared with: GET /healthz on the same lane from the same generator: what a request costs that asks nothing. Hits and
misses take turns with it.
"""

from typing import Final

from bench.children import Gateway, gateway
from bench.events import FIRST_NUMBER, SUBJECT, Template, frame_of, get, post, probes_of
from bench.figures import Report, Row, Target, percentile
from bench.http_load import closed_loop
from bench.machine import Meter
from bench.options import Options, Say
from bench.workers import LoadFailedError, Run, run_until_done

_SIZES: Final = (1, 100, 500)
_PER_REQUEST: Final = 500
_KNOWN_REQUESTS: Final = 200
"""Requests of 500 events that the gateway is taught first: 100,000 files."""

_HIT: Final = b'"HIT"'
_PROMISED_AT: Final = 100


def run(options: Options, say: Say) -> Report:
    """Teach a gateway its files, then probe for them and for others."""
    durability = (options.durability or ("fsync",))[0]
    report = Report(
        "hashes", (__doc__ or "").strip(), f"probes of {len(probes_of(1)) - 2} bytes: path, size, mtime, inode, dev"
    )
    known = 4 if options.is_tiny else _KNOWN_REQUESTS
    with gateway(durability, options.folder) as ours:
        say(f"teaching {known * _PER_REQUEST:,} files")
        frames = post(f"/ingest?subject={SUBJECT}", frame_of(_PER_REQUEST, options.event))
        numbers = range(FIRST_NUMBER, FIRST_NUMBER + known)
        taught = run_until_done(
            Meter({}), closed_loop(ours.address, Template(frames, _PER_REQUEST, numbers), 4, limit=known)
        )
        if taught.tallies[0].units != known * _PER_REQUEST:
            raise LoadFailedError(f"the gateway refused to learn: {taught.tallies[0].complaint}")
        for size in _SIZES:
            if options.wants(f"{size} probes a request") and not (options.is_tiny and size != _PROMISED_AT):
                _measure(report, size, numbers, ours, options, say)
    return report


def _measure(report: Report, size: int, known: range, ours: Gateway, options: Options, say: Say) -> None:
    """Measure hits, misses and the floor, in turns."""
    load = f"closed loop, {options.connections} in flight"
    unknown = range(known.stop, known.stop + len(known))
    body = post("/cache/batch", probes_of(size))
    case = f"{size} probes a request"
    hits = Row(case, "headgate, all hit", ours.durability, load)
    misses = Row(case, "headgate, all miss", ours.durability, load)
    floor = Row(case, "headgate, GET /healthz", ours.durability, load)
    for turn in range(options.rounds):
        for row, template in (
            (hits, Template(body, size, known)),
            (misses, Template(body, size, unknown)),
            (floor, Template(get("/healthz"), 1, known)),
        ):
            say(f"{row.case}, {row.side}, round {turn + 1}")
            job = closed_loop(ours.address, template, options.connections, find=_HIT)
            found = options.run_window(ours.meter, job)
            _add(row, found, is_probe=row is not floor)
            expected = found.tallies[0].units if row is hits else 0
            if found.tallies[0].found != expected:
                raise LoadFailedError(f"{row.case}: {found.tallies[0].found} hits, expected {expected}")
    report.rows += [hits, misses, floor]
    report.compare("gateway_cpu_us_per_request", hits, floor)
    report.compare("gateway_cpu_us_per_request", misses, floor)
    if size == _PROMISED_AT:
        for row in (hits, misses):
            cpu = row.median("gateway_cpu_us_per_probe")
            report.targets.append(Target(f"{row.side}, {row.case}, gateway CPU µs/probe", ours.durability, 2.0, cpu))


def _add(row: Row, run: Run, *, is_probe: bool) -> None:
    tally = run.tallies[0]
    if not tally.units or tally.refused:
        raise LoadFailedError(f"{row.case}: {tally.refused} refused of {tally.requests}: {tally.complaint}")
    waits = sorted(tally.latencies_ms)
    if is_probe:
        row.add(
            probes_per_s=tally.units / run.seconds, gateway_cpu_us_per_probe=run.cpu_s["gateway"] / tally.units * 1e6
        )
    row.add(
        requests_per_s=tally.requests / run.seconds,
        gateway_cpu_us_per_request=run.cpu_s["gateway"] / tally.requests * 1e6,
    )
    row.add(latency_p50_ms=percentile(waits, 0.5), latency_p99_ms=percentile(waits, 0.99), fixed_loop_us=run.loop_us)
