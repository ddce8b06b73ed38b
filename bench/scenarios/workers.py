"""What do two workers give, and where does the time go?

Question: how many requests a second does a gateway with two workers answer, against one with one process (`serve` as it
comes)? Probes of known files, which need nothing but the worker; events one and a hundred a request, which all workers
put on one log; and `GET /healthz`, the least that a request can be.
Arrivals: closed loop, 64 keep-alive connections from two generators, as many as it takes. The sides take turns.
Compared with: the same load at one process. Where the time goes is said in cores: how many the gateway's processes kept
busy (the parent and all workers), how many its log, and how many are left for the generators, the kernel's share of the
network, and idling. On a machine of two cores the generators and the log take theirs from the same two.
"""

import json
from dataclasses import dataclass
from itertools import chain
from typing import Final

from bench.children import Gateway, gateway
from bench.events import FIRST_NUMBER, SUBJECT, Template, frame_of, get, post
from bench.figures import Report, Row, percentile
from bench.http_load import closed_loop
from bench.machine import Meter
from bench.options import Options, Say
from bench.workers import LoadFailedError, Run

_WORKERS: Final = 2
_GENERATORS: Final = 2
_CONNECTIONS: Final = 32
"""Of each generator."""

_NUMBERS: Final = 1_000_000
"""Of each run: they have eight digits, and the next run goes on behind them."""


@dataclass(frozen=True, slots=True)
class _Case:
    """What is asked."""

    name: str
    units: int
    content: bytes
    is_numbered: bool


def run(options: Options, say: Say) -> Report:
    """Measure each case at both gateways, in turns."""
    durability = (options.durability or ("fsync",))[0]
    report = Report("workers", (__doc__ or "").strip(), f"{options.event} events")
    workers = {"HEADGATE_WORKERS": str(_WORKERS)}
    with (
        gateway(durability, options.folder, settings=workers) as several,
        gateway(durability, options.folder) as alone,
    ):
        meters = Meter(_processes(several)), Meter(_processes(alone))
        for case in _cases(options):
            if options.wants(case.name):
                _measure(report, case, (several, alone), meters, options, say)
    return report


def _cases(options: Options) -> list[_Case]:
    probes = [{"path": f"/bench/{number}", "size": 1, "mtime": 1.0, "inode": number, "dev": 1} for number in range(100)]
    found = [
        _Case("GET /healthz", 1, get("/healthz"), False),
        _Case("100 probes a request", 100, post("/cache/batch", json.dumps(probes).encode()), False),
    ]
    for size in (1, 100):
        frame = frame_of(size, options.event)
        found.append(_Case(f"{size} events a request", size, post(f"/ingest?subject={SUBJECT}", frame), True))
    return found[2:] if options.is_tiny else found


def _processes(ours: Gateway) -> dict[str, int]:
    """Name every process of a gateway: itself, its workers, its log."""
    records = sorted(ours.data.glob("worker-*.json"))
    workers = {record.stem: int(json.loads(record.read_bytes())["pid"]) for record in records}
    return {"gateway": ours.pid, "log": ours.log_pid, **workers}


def _measure(
    report: Report, case: _Case, ours: tuple[Gateway, Gateway], meters: tuple[Meter, Meter], options: Options, say: Say
) -> None:
    load = f"closed loop, {_GENERATORS * _CONNECTIONS} connections"
    rows = [Row(case.name, side, ours[0].durability, load) for side in (f"{_WORKERS} workers", "one process")]
    begin = FIRST_NUMBER
    for turn in range(options.rounds):
        for side, meter, row in zip(ours, meters, rows, strict=True):
            say(f"{case.name}, {row.side}, round {turn + 1}")
            jobs = []
            for _ in range(_GENERATORS):
                numbers = range(begin, begin + _NUMBERS) if case.is_numbered else range(begin, begin + 1)
                begin = numbers.stop if case.is_numbered else begin
                jobs.append(closed_loop(side.address, Template(case.content, case.units, numbers), _CONNECTIONS))
            _add(row, options.run_window(meter, *jobs))
    report.rows += rows
    for figure in ("requests_per_s", "latency_p99_ms", "gateway_cpu_us_per_request"):
        report.compare(figure, *rows)


def _add(row: Row, run: Run) -> None:
    requests = sum(tally.requests for tally in run.tallies)
    complaint = next((tally.complaint for tally in run.tallies if tally.complaint), "")
    if not requests or complaint:
        raise LoadFailedError(f"{row.case}, {row.side}: {requests} answered; {complaint}")
    waits = sorted(chain.from_iterable(tally.latencies_ms for tally in run.tallies))
    gateway_s = sum(used for name, used in run.cpu_s.items() if name != "log")
    row.add(
        requests_per_s=requests / run.seconds,
        units_per_s=sum(tally.units for tally in run.tallies) / run.seconds,
        latency_p50_ms=percentile(waits, 0.5),
        latency_p99_ms=percentile(waits, 0.99),
        gateway_cpu_us_per_request=gateway_s / requests * 1e6,
        gateway_cores=gateway_s / run.seconds,
        log_cores=run.cpu_s["log"] / run.seconds,
    )
