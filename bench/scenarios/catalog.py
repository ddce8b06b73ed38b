"""How fast do events become rows in PostgreSQL, and what does that cost?

Question: with the load, the log and PostgreSQL on one machine, how many events a second go in over HTTP and come out as
rows; how far is the catalog behind when the last is acknowledged; and what does an event cost in CPU on each side?
Arrivals: closed loop, the stated number of connections, 100 events a request, as many events as the backlog of `stream`
has; the clock stops when the catalog has committed the last of them. First every event names a new file, then the same
files come again, as a second scan of a tree sends them: every row is overwritten.
Compared with: the same load on a gateway without a catalog, which says what the catalog costs the ingest beside it.
"""

import json
import time
from collections.abc import Callable
from typing import Final

from bench.children import Gateway, gateway, postgres_pid
from bench.events import FIRST_NUMBER, SUBJECT, Template, frame_of, get, post
from bench.figures import Report, Row, Target
from bench.http_load import body_of, closed_loop
from bench.machine import Meter, tree_cpu_s
from bench.options import Options, Say
from bench.workers import LoadFailedError, run_until_done

_FRAME: Final = 100
_LOOK_EVERY_S: Final = 0.05
_READY_WITHIN_S: Final = 30.0
_DONE_WITHIN_S: Final = 600.0
_PASSES: Final = ("new files", "the same files again")


def run(options: Options, say: Say) -> Report:
    """Measure with a catalog, pass by pass, and without one."""
    durability = (options.durability or ("fsync",))[0]
    report = Report("catalog", (__doc__ or "").strip(), f"{options.event} events")
    frames = options.backlog // _FRAME
    load = f"closed loop, {options.connections} in flight, {_FRAME} events a request, {frames * _FRAME:,} events"
    rows = [Row(case, "headgate", durability, load) for case in _PASSES]
    alone = Row(_PASSES[0], "headgate, no catalog", durability, load)
    numbers = range(FIRST_NUMBER, FIRST_NUMBER + frames)
    template = Template(post(f"/ingest?subject={SUBJECT}", frame_of(_FRAME, options.event)), _FRAME, numbers)
    for turn in range(options.rounds):
        with gateway(durability, options.folder, catalog="on") as ours:
            _wait(ours, "the catalog is ready", _READY_WITHIN_S, lambda: _is_migrated(ours))
            for number, row in enumerate(rows):
                say(f"{row.case}, {durability}, round {turn + 1}")
                _measure(row, ours, template, frames, options, before=number * frames * _FRAME)
            known = json.loads(body_of(ours.exchange(post("/query/sql", b'{"sql":"SELECT count(*) AS n FROM files"}'))))
            if known["rows"][0]["n"] != frames * _FRAME:
                raise LoadFailedError(f"the catalog has {known['rows'][0]['n']} files, not {frames * _FRAME}")
        with gateway(durability, options.folder) as theirs:
            say(f"without a catalog, round {turn + 1}")
            _measure_alone(alone, theirs, template, frames, options)
    report.rows += [rows[0], alone, rows[1]]
    report.compare("stored_events_per_s", rows[0], alone)
    for row in rows:
        name = f"events over HTTP into PostgreSQL, {row.case}, events/s"
        report.targets.append(Target(name, durability, 20_000, row.median("events_per_s"), at_least=True))
    return report


def _measure(row: Row, ours: Gateway, template: Template, frames: int, options: Options, before: int) -> None:
    """Send everything, then wait until the catalog has it."""
    postgres = postgres_pid(ours)
    cpu, postgres_s, begun = ours.meter.read(), tree_cpu_s(postgres), time.monotonic()
    _send(ours, template, frames, options)
    stored = time.monotonic()
    events = frames * _FRAME
    _wait(ours, "the catalog has everything", _DONE_WITHIN_S, lambda: _taken(ours) >= before + events)
    ended, used = time.monotonic(), ours.meter.read()
    row.add(
        events_per_s=events / (ended - begun), stored_events_per_s=events / (stored - begun), behind_s=ended - stored
    )
    row.add(**{f"{name}_cpu_us_per_event": (used[name] - cpu[name]) / events * 1e6 for name in used})
    row.add(postgres_cpu_us_per_event=(tree_cpu_s(postgres) - postgres_s) / events * 1e6)


def _measure_alone(row: Row, ours: Gateway, template: Template, frames: int, options: Options) -> None:
    cpu, begun = ours.meter.read(), time.monotonic()
    _send(ours, template, frames, options)
    events, took, used = frames * _FRAME, time.monotonic() - begun, ours.meter.read()
    row.add(stored_events_per_s=events / took)
    row.add(**{f"{name}_cpu_us_per_event": (used[name] - cpu[name]) / events * 1e6 for name in used})


def _send(ours: Gateway, template: Template, frames: int, options: Options) -> None:
    job = closed_loop(ours.address, template, options.connections, limit=frames)
    tally = run_until_done(Meter({}), job).tallies[0]
    if tally.requests != frames:
        raise LoadFailedError(f"{tally.refused} of {frames} requests refused: {tally.complaint}")


def _taken(ours: Gateway) -> int:
    for line in body_of(ours.exchange(get("/metrics"))).splitlines():
        if line.startswith(b"headgate_catalog_events_total "):
            return int(float(line.split()[1]))
    return 0


def _is_migrated(ours: Gateway) -> bool:
    known = json.loads(body_of(ours.exchange(get("/readyz"))))
    return bool(known["dependencies"]["postgres"]["migrations"] == "done")


def _wait(ours: Gateway, what: str, within_s: float, check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            raise LoadFailedError(f"not within {within_s:g} s: {what} ({_taken(ours)} events taken)")
        time.sleep(_LOOK_EVERY_S)
