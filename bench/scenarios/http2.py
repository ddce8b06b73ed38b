"""What does a request cost over HTTP/2, beside HTTP/1.1?

Question: how many requests a second, how long does one take, and what CPU does it cost, where clients ask the express
lane over HTTP/2 with 8 streams on each of 4 connections, and where 32 connections ask over HTTP/1.1?
Arrivals: closed loop, 32 in flight, as many as it takes, the bench's own generators; without TLS, which costs both the
same.
Compared with: the same `GET /healthz` of the same gateway over HTTP/1.1. The sides take turns. Nothing is promised:
HTTP/2 is off by default, and its library is Python where the parser of HTTP/1.1 is C.
"""

from typing import Final

from bench.children import gateway
from bench.events import FIRST_NUMBER, Template, get
from bench.figures import Report, Row, percentile
from bench.http2_load import closed_streams
from bench.http_load import closed_loop
from bench.options import Options, Say
from bench.workers import Job, LoadFailedError

_PATH: Final = "/healthz"
_CONNECTIONS: Final = 4
_STREAMS: Final = 8
_CASE: Final = "a minimal answer"


def run(options: Options, say: Say) -> Report:
    """Measure both versions in turns."""
    durability = (options.durability or ("fsync",))[0]
    report = Report("http2", (__doc__ or "").strip(), f"no events; GET {_PATH}")
    with gateway(durability, options.folder, settings={"HEADGATE_HTTP2": "on"}) as ours:
        template = Template(get(_PATH), 1, range(FIRST_NUMBER, FIRST_NUMBER + 1))
        many = _CONNECTIONS * _STREAMS
        sides: list[tuple[str, str, Job]] = [
            (
                "headgate, HTTP/2",
                f"closed loop, {_CONNECTIONS} connections of {_STREAMS} streams",
                closed_streams(ours.address, _PATH, _CONNECTIONS, _STREAMS),
            ),
            ("headgate, HTTP/1.1", f"closed loop, {many} connections", closed_loop(ours.address, template, many)),
        ]
        rows = [Row(_CASE, name, ours.durability, load) for name, load, _ in sides]
        for turn in range(options.rounds):
            for (name, _, job), row in zip(sides, rows, strict=True):
                say(f"{name}, round {turn + 1}")
                measured = options.run_window(ours.meter, job)
                tally = measured.tallies[0]
                if not tally.requests or tally.refused:
                    raise LoadFailedError(f"{name}: {tally.refused} refused of {tally.requests}: {tally.complaint}")
                waits = sorted(tally.latencies_ms)
                row.add(
                    requests_per_s=tally.requests / measured.seconds,
                    latency_p50_ms=percentile(waits, 0.5),
                    latency_p99_ms=percentile(waits, 0.99),
                    cpu_us_per_request=measured.cpu_s["gateway"] / tally.requests * 1e6,
                )
    report.rows += rows
    report.compare("requests_per_s", rows[0], rows[1])
    report.compare("cpu_us_per_request", rows[0], rows[1])
    return report
