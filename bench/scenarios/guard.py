"""What does it cost to ask each request who it is, and how much it may ask?

Question: how many requests a second do clients that keep their connections get out of the express lane with the guard
(an API key, or a token of /auth/token; scopes; a rate limit that is never reached), and without it?
Arrivals: closed loop, 32 keep-alive connections, as many as it takes, the bench's own generator.
Compared with: the same probe of no files (`POST /cache/batch`, `[]`) at a gateway with AUTH=off and no limits; metrics
and request ids are on at both. The sides take turns. The target is within 25 %, in requests a second and in the
gateway's CPU time a request, which other work on the machine disturbs less.
"""

import statistics
from dataclasses import dataclass
from typing import Final

import orjson

from bench.children import gateway
from bench.events import FIRST_NUMBER, Template, get, post
from bench.figures import Report, Row, Target, percentile
from bench.http_load import Address, body_of, closed_loop
from bench.machine import Meter
from bench.options import Options, Say
from bench.workers import LoadFailedError

_CONNECTIONS: Final = 32
_CASE: Final = "an empty probe"
_KEY: Final = "secret-of-the-bench-0123456789"
_GUARDED: Final = {
    "AUTH": "on",
    "HEADGATE_API_KEYS": f"bench={_KEY};scopes=ingest:write",
    "HEADGATE_LIMITS": "on",
    "HEADGATE_REQUEST_LIMIT": "10000000",
}


@dataclass(frozen=True, slots=True)
class _Side:
    """One of those that take turns."""

    name: str
    address: Address
    content: bytes
    meter: Meter


def run(options: Options, say: Say) -> Report:
    """Measure the guarded gateway and the open one in turns."""
    durability = (options.durability or ("fsync",))[0]
    load = f"closed loop, {_CONNECTIONS} connections, own generator"
    report = Report("guard", (__doc__ or "").strip(), "no events; POST /cache/batch with no probes")
    probe = post("/cache/batch", b"[]")
    with (
        gateway(durability, options.folder, settings=_GUARDED) as guarded,
        gateway(durability, options.folder, settings={"AUTH": "off", "HEADGATE_LIMITS": "off"}) as opened,
    ):
        token = orjson.loads(body_of(guarded.exchange(_with_bearer(post("/auth/token", b""), _KEY))))["accessToken"]
        if b" 401 " not in guarded.exchange(get("/actors"))[:20]:
            raise LoadFailedError("the guarded gateway is open")
        meter = Meter({"server": guarded.pid})
        sides = (
            _Side("headgate, guarded", guarded.address, _with_bearer(probe, _KEY), meter),
            _Side("headgate, guarded by a token", guarded.address, _with_bearer(probe, token), meter),
            _Side("headgate, open", opened.address, probe, Meter({"server": opened.pid})),
        )
        rows = [Row(_CASE, side.name, guarded.durability, load) for side in sides]
        for turn in range(options.rounds):
            for side, row in zip(sides, rows, strict=True):
                say(f"{side.name}, round {turn + 1}")
                row.add(**_load(side, options))
    report.rows += rows
    for mine in rows[:2]:
        report.compare("requests_per_s", mine, rows[2])
        report.compare("cpu_us_per_request", mine, rows[2])
    report.targets += [
        Target(
            "requests/s with the guard / without it, by turns",
            guarded.durability,
            0.75,
            _ratio("requests_per_s", rows[0], rows[2]),
            at_least=True,
        ),
        Target(
            "CPU µs a request without the guard / with it, by turns",
            guarded.durability,
            0.75,
            _ratio("cpu_us_per_request", rows[2], rows[0]),
            at_least=True,
        ),
    ]
    return report


def _ratio(figure: str, above: Row, below: Row) -> float:
    """Give the median of the turns' ratios: what disturbs a turn disturbs both of its sides."""
    pairs = zip(above.rounds[figure], below.rounds[figure], strict=True)
    return statistics.median(one / other for one, other in pairs)


def _with_bearer(content: bytes, secret: str) -> bytes:
    return content.replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {secret}\r\n\r\n".encode(), 1)


def _load(side: _Side, options: Options) -> dict[str, float]:
    template = Template(side.content, 1, range(FIRST_NUMBER, FIRST_NUMBER + 1))
    run = options.run_window(side.meter, closed_loop(side.address, template, _CONNECTIONS))
    tally = run.tallies[0]
    if not tally.requests or tally.refused:
        raise LoadFailedError(f"{side.name}: {tally.refused} refused of {tally.requests}: {tally.complaint}")
    waits = sorted(tally.latencies_ms)
    return {
        "requests_per_s": tally.requests / run.seconds,
        "latency_p50_ms": percentile(waits, 0.5),
        "latency_p99_ms": percentile(waits, 0.99),
        "cpu_us_per_request": run.cpu_s["server"] / tally.requests * 1e6,
    }
