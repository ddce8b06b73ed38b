"""What does a request cost that asks for almost nothing, on each lane?

Question: how many requests a second do clients that keep their connections get out of the express lane and out of the
Quart lane, how long does one take, and what CPU does it cost?
Arrivals: closed loop, 32 keep-alive connections, as many as it takes; `wrk -t1 -c32` where it is installed, else the
bench's own generator (the load column says which).
Compared with: GET /healthz on the express lane against GET /version on the Quart lane and against bare Hypercorn (trio
worker) that serves the bytes of /healthz from the smallest ASGI application; the three take turns.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from bench.children import bare_hypercorn, gateway
from bench.events import FIRST_NUMBER, Template, get
from bench.figures import Report, Row, Target, percentile
from bench.http_load import Address, body_of, closed_loop
from bench.machine import Meter
from bench.options import Options, Say
from bench.workers import LoadFailedError

_CONNECTIONS: Final = 32
_CASE: Final = "a minimal answer"
_UNITS_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True, slots=True)
class _Lane:
    """One of the three that take turns."""

    side: str
    address: Address
    path: str
    meter: Meter


def run(options: Options, say: Say) -> Report:
    """Measure the two lanes and bare Hypercorn in turns."""
    durability = (options.durability or ("fsync",))[0]
    wrk = shutil.which("wrk")
    load = f"closed loop, {_CONNECTIONS} connections, {'wrk -t1' if wrk else 'own generator'}"
    with gateway(durability, options.folder) as ours:
        bodies = {path: body_of(ours.exchange(get(path))) for path in ("/healthz", "/version")}
        sizes = ", ".join(f"{path} {len(body)} bytes" for path, body in bodies.items())
        report = Report("express", (__doc__ or "").strip(), f"no events; answers: {sizes}")
        with bare_hypercorn(bodies["/healthz"], options.folder) as (address, pid):
            lanes = (
                _Lane("headgate", ours.address, "/healthz", Meter({"server": ours.pid})),
                _Lane("headgate, Quart lane", ours.address, "/version", Meter({"server": ours.pid})),
                _Lane("bare Hypercorn", address, "/", Meter({"server": pid})),
            )
            rows = [
                Row(_CASE, lane.side, ours.durability if lane.address == ours.address else "none", load)
                for lane in lanes
            ]
            for turn in range(options.rounds):
                for lane, row in zip(lanes, rows, strict=True):
                    say(f"{lane.side}, {lane.path}, round {turn + 1}")
                    row.add(**(_load_with_wrk(wrk, lane, options) if wrk else _load(lane, options)))
    report.rows += rows
    for other in rows[1:]:
        report.compare("requests_per_s", rows[0], other)
        report.compare("cpu_us_per_request", rows[0], other)
    ratio = rows[0].median("requests_per_s") / rows[1].median("requests_per_s")
    report.targets.append(
        Target("express lane's requests/s / Quart lane's", ours.durability, 10.0, ratio, at_least=True)
    )
    return report


def _load_with_wrk(wrk: str, lane: _Lane, options: Options) -> dict[str, float]:
    """Let wrk make the load; it counts whole seconds only."""
    host, port = lane.address
    command = [
        wrk,
        "-t1",
        f"-c{_CONNECTIONS}",
        f"-d{max(1, round(options.seconds))}s",
        "--latency",
        f"http://{host}:{port}{lane.path}",
    ]
    before = lane.meter.read()["server"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used_s = lane.meter.read()["server"] - before
    total = re.search(r"(\d+) requests in", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    waits = {
        share: float(value) * _UNITS_MS[unit]
        for share, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s|m)", said)
    }
    if total is None or rate is None or "Non-2xx" in said or "Socket errors" in said or not int(total[1]):
        raise LoadFailedError(f"{lane.side}: wrk said:\n{said}")
    return {
        "requests_per_s": float(rate[1]),
        "latency_p50_ms": waits["50"],
        "latency_p99_ms": waits["99"],
        "cpu_us_per_request": used_s / int(total[1]) * 1e6,
    }


def _load(lane: _Lane, options: Options) -> dict[str, float]:
    """Make the load ourselves."""
    template = Template(get(lane.path), 1, range(FIRST_NUMBER, FIRST_NUMBER + 1))
    run = options.run_window(lane.meter, closed_loop(lane.address, template, _CONNECTIONS))
    tally = run.tallies[0]
    if not tally.requests or tally.refused:
        raise LoadFailedError(f"{lane.side}: {tally.refused} refused of {tally.requests}: {tally.complaint}")
    waits = sorted(tally.latencies_ms)
    return {
        "requests_per_s": tally.requests / run.seconds,
        "latency_p50_ms": percentile(waits, 0.5),
        "latency_p99_ms": percentile(waits, 0.99),
        "cpu_us_per_request": run.cpu_s["server"] / tally.requests * 1e6,
    }
