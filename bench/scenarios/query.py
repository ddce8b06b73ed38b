"""Does anybody notice at /ingest that slow queries are asked?

Question: what are the p50 and p99 of POST /ingest while fifty clients ask queries that take longer than the limit, and
how many of them are told to come back?
Arrivals: open loop, Poisson, 100 requests/s of 10 events each, latency from the intended send time; beside it fifty
clients, each with a slow query, who ask again two seconds after they were told 429, and at once after any other answer.
Compared with: the same load on the same gateway without the queries, in turns.
"""

import json
import select
import time
from itertools import count
from typing import Final

from bench.children import Gateway, gateway, postgres_pid
from bench.events import SUBJECT, Template, frame_of, number_ranges, post
from bench.figures import Report, Row, Target, percentile
from bench.http_load import Address, HttpSocket, open_loop
from bench.machine import tree_cpu_s
from bench.options import Options, Say
from bench.workers import Gate, Job, LoadFailedError, Run, Tally

_CASE: Final = "10 events a request"
_RATE: Final = 100.0
_EVENTS: Final = 10
_CONNECTIONS: Final = 64
_NUMBERS: Final = 100_000
_CLIENTS: Final = 50
_COME_BACK_NS: Final = 2_000_000_000
_READY_WITHIN_S: Final = 60.0
_SLOW: Final = "select count(*) from generate_series(1, 100000) a, generate_series(1, 100000) b"
_PROMISED_MS: Final = 50.0


def run(options: Options, say: Say) -> Report:
    """Measure with and without the queries, in turns."""
    durability = (options.durability or ("fsync",))[0]
    report = Report("query", (__doc__ or "").strip(), f"{options.event} events")
    load = f"open loop, Poisson, {_RATE:g} requests/s"
    alone = Row(_CASE, "headgate, no queries", durability, load)
    beside = Row(_CASE, f"headgate, {_CLIENTS} clients with slow queries", durability, load)
    if not options.wants(_CASE):
        return report
    frame, ranges = frame_of(_EVENTS, options.event), number_ranges(_NUMBERS)
    with gateway(durability, options.folder, catalog="on") as ours:
        _wait_catalog(ours)
        for turn in range(options.rounds):
            for row in (alone, beside):
                say(f"{row.side}, round {turn + 1}")
                ingest = open_loop(ours.address, _template(frame, ranges), _CONNECTIONS, _RATE, seed=turn)
                jobs = [ingest] if row is alone else [ingest, _slow_clients(ours.address)]
                before_s = tree_cpu_s(postgres_pid(ours))
                found = options.run_window(ours.meter, *jobs)
                _add(row, found, tree_cpu_s(postgres_pid(ours)) - before_s)
    report.rows += [beside, alone]
    for figure in ("latency_p50_ms", "latency_p99_ms", "gateway_cpu_us_per_event"):
        report.compare(figure, beside, alone)
    report.targets.append(
        Target("ingest beside slow queries, p99 ms", durability, _PROMISED_MS, beside.median("latency_p99_ms"))
    )
    return report


def _template(frame: bytes, ranges: "count[int]") -> Template:
    begin = next(ranges)
    return Template(post(f"/ingest?subject={SUBJECT}", frame), _EVENTS, range(begin, begin + _NUMBERS))


def _add(row: Row, run: Run, postgres_cpu_s: float) -> None:
    """Add one window's figures to a row."""
    tally = run.tallies[0]
    if not tally.units:
        raise LoadFailedError(f"{row.side}: nothing was taken: {tally.complaint}")
    waits = sorted(tally.latencies_ms)
    row.add(
        requests_per_s=tally.requests / run.seconds,
        latency_p50_ms=percentile(waits, 0.5),
        latency_p99_ms=percentile(waits, 0.99),
        refused=float(tally.refused),
        gateway_cpu_us_per_event=run.cpu_s["gateway"] / tally.units * 1e6,
        postgres_cpu_s=postgres_cpu_s,
    )
    if len(run.tallies) > 1:
        row.add(queries_shed=float(run.tallies[1].refused), queries_ended=float(run.tallies[1].requests))


def _wait_catalog(ours: Gateway) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    request = post("/query/sql", json.dumps({"sql": "select 1"}).encode())
    while not ours.exchange(request).startswith(b"HTTP/1.1 200"):
        if time.monotonic() > deadline:
            raise LoadFailedError("the catalog answered no query")
        time.sleep(0.1)


def _slow_clients(address: Address) -> Job:
    """Make a job of clients that ask slow queries until the window closes; those told 429 are counted as refused."""
    request = post("/query/sql", json.dumps({"sql": _SLOW}).encode())

    def job(gate: Gate) -> Tally:
        window, tally = gate.wait(), Tally()
        busy: dict[int, HttpSocket] = {}
        due = [window.begin_ns] * _CLIENTS
        while (now_ns := time.monotonic_ns()) < window.close_ns:
            while due and min(due) <= now_ns:
                due.remove(min(due))
                client = HttpSocket(address)
                client.send(request, now_ns)
                busy[client.socket.fileno()] = client
            for descriptor in select.select(list(busy), (), (), 0.05)[0]:
                answer = busy[descriptor].receive()
                if answer is not None:
                    busy.pop(descriptor).close()
                    is_shed = answer.startswith(b"HTTP/1.1 429")
                    due.append(time.monotonic_ns() + (_COME_BACK_NS if is_shed else 0))
                    tally.refused += is_shed
                    tally.requests += not is_shed
        for client in busy.values():
            client.close()
        return tally

    return job
