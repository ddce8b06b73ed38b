"""What memory do a stalled agent and a full hash cache cost?

Question: how much does the gateway grow while 200,000 events and more wait for an agent that stalls, and how much by a
million hashes that ingest taught it?
Arrivals: closed loop, a stated number of events in requests of the stated size; memory is read when it has stopped
growing. The stalled agent either reads nothing, or reads and never acknowledges, on either wire; then ten more like
it, each with a durable of its own and the same events waiting.
Compared with: (a) the same events taken in once more on the same gateway without an agent, just before (every pass
names the same files, so that the cache does not grow with them); (b) a plain dict of tuples and strings with the
same entries, in a process of its own, in the same run.
"""

import gc
import os
import time
from typing import Final

from bench.agent import AgentSocket
from bench.agent_v1 import AgentV1Socket
from bench.children import Gateway, gateway
from bench.events import FIRST_NUMBER, SUBJECT, EventSize, Template, frame_of, post, probes_of
from bench.figures import Report, Row, Target
from bench.http_load import Address, body_of, closed_loop
from bench.machine import Meter, memory
from bench.options import Options, Say
from bench.workers import Gate, Job, LoadFailedError, Tally, run_until_done

_STALLED: Final[tuple[tuple[int, EventSize, str], ...]] = (
    (100, "small", "reads nothing"),
    (100, "small", "never acknowledges"),
    (100, "full", "never acknowledges"),
    (500, "full", "never acknowledges"),
    (1, "small", "never acknowledges"),
    (100, "small", "reads nothing, headgate.stream.v1"),
    (500, "full", "never acknowledges, headgate.stream.v1"),
)
_TAUGHT: Final[tuple[EventSize, ...]] = ("small", "full")
_PER_REQUEST: Final = 500
_SAMPLES: Final = 20
"""Requests of 500 probes, spread over the entries, that show that they are really there."""

_SETTLE_S: Final = 15.0
_STEADY_READS: Final = 6
_READ_EVERY_S: Final = 0.25
_STEADY_MIB: Final = 0.25
_SMALL_WINDOW_BYTES: Final = 64 * 1024
_FURTHER: Final = 10
"""Agents that stall beside the first, so that memory which the gateway had to spare hides nothing."""


def run(options: Options, say: Say) -> Report:
    """Measure each kind of stalled agent, then the cache."""
    durability = (options.durability or ("fsync",))[0]
    report = Report("memory", (__doc__ or "").strip(), "small and full events, as the case says")
    for size, event, manner in _STALLED:
        case = f"stalled agent that {manner}, {size} {event} events a request"
        if options.wants(case) and not (options.is_tiny and (event == "full" or size == 1 or manner.endswith("v1"))):
            say(case)
            with gateway(durability, options.folder) as ours:
                _measure_stalled(report, case, size, event, manner, ours, options)
    for event in _TAUGHT:
        case = f"hash cache, taught by {event} events"
        if options.wants("hash cache") and not (options.is_tiny and event == "full"):
            say(case)
            with gateway(durability, options.folder) as ours:
                _measure_cache(report, case, event, ours, options)
    return report


def _measure_stalled(
    report: Report, case: str, size: int, event: EventSize, manner: str, ours: Gateway, options: Options
) -> None:
    """Take the same events in three times: to fill the cache, without an agent, with a stalled one."""
    requests = max(1, options.waiting // size)
    numbers = range(FIRST_NUMBER, FIRST_NUMBER + requests)
    template = Template(post(f"/ingest?subject={SUBJECT}", frame_of(size, event)), size, numbers)
    load = f"closed loop, {options.connections} in flight, {requests * size:,} events a pass"
    alone = Row(case, "headgate, no agent", ours.durability, load)
    stalled = Row(case, "headgate", ours.durability, load)

    _take_in(ours.address, template, requests, options.connections)
    before = _settled_mib(ours.pid, options)
    _take_in(ours.address, template, requests, options.connections)
    between = _settled_mib(ours.pid, options)
    alone.add(grown_mib=between - before, resident_mib=between, peak_mib=memory(ours.pid).peak_mib, waiting_events=0)

    agents = [_stall(ours.address, 0, manner)]
    _take_in(ours.address, template, requests, options.connections)
    after = _settled_mib(ours.pid, options)
    peak = memory(ours.pid).peak_mib
    agents += [_stall(ours.address, number, manner) for number in range(1, 1 + _FURTHER)]
    further = (_settled_mib(ours.pid, options) - after) / _FURTHER
    for agent in agents:
        agent.close()
    stalled.add(grown_mib=after - between, resident_mib=after, peak_mib=peak, waiting_events=3.0 * requests * size)
    stalled.add(grown_mib_a_further_agent=further)
    report.rows += [stalled, alone]
    report.targets.append(Target(f"{case}, MiB grown", ours.durability, 20.0, after - between))


def _measure_cache(report: Report, case: str, event: EventSize, ours: Gateway, options: Options) -> None:
    """Teach a gateway so many files, look whether it knows them, and fill a dict with the same."""
    requests = options.entries // _PER_REQUEST
    load = f"{requests * _PER_REQUEST:,} files, closed loop, {options.connections} in flight"
    row = Row(case, "headgate", ours.durability, load)
    frames = post(f"/ingest?subject={SUBJECT}", frame_of(_PER_REQUEST, event))
    warm = range(FIRST_NUMBER, FIRST_NUMBER + options.connections)
    _take_in(ours.address, Template(frames, _PER_REQUEST, warm), len(warm), options.connections)
    before = _settled_mib(ours.pid, options)
    numbers = range(warm.stop, warm.stop + requests)
    _take_in(ours.address, Template(frames, _PER_REQUEST, numbers), requests, options.connections)
    after = _settled_mib(ours.pid, options)
    samples = [numbers[index * requests // _SAMPLES] for index in range(min(_SAMPLES, requests))]
    probes = post("/cache/batch", probes_of(_PER_REQUEST))
    hits = sum(body_of(ours.exchange(Template(probes, 1, range(n, n + 1)).fill(0, 0))).count(b'"HIT"') for n in samples)
    row.add(
        grown_mib=after - before,
        bytes_per_entry=(after - before) * 1024 * 1024 / (requests * _PER_REQUEST),
        resident_mib=after,
        peak_mib=memory(ours.pid).peak_mib,
        known_share=hits / (len(samples) * _PER_REQUEST),
    )
    plain = Row(case, "plain dict", "none", load)
    grown_mib = run_until_done(Meter({}), _fill_dict(requests * _PER_REQUEST)).tallies[0].latencies_ms[0]
    plain.add(grown_mib=grown_mib, bytes_per_entry=grown_mib * 1024 * 1024 / (requests * _PER_REQUEST))
    report.rows += [row, plain]
    report.compare("bytes_per_entry", row, plain)
    name = f"{requests * _PER_REQUEST:,} hashes taught by {event} events, MiB grown"
    report.targets.append(Target(name, ours.durability, 250.0, after - before))


def _stall(address: Address, number: int, manner: str) -> AgentSocket:
    """Connect an agent with a durable of its own that stops where its manner says."""
    durable = f"stalled-{number}"
    kind = AgentV1Socket if manner.endswith("v1") else AgentSocket
    if manner.startswith("reads nothing"):
        return kind(address, durable, receive_buffer_bytes=_SMALL_WINDOW_BYTES)
    agent = kind(address, durable)
    agent.wait_message()
    return agent


def _take_in(address: Address, template: Template, requests: int, connections: int) -> None:
    """Send so many requests and insist on every answer."""
    tally = run_until_done(Meter({}), closed_loop(address, template, connections, limit=requests)).tallies[0]
    if tally.requests != requests:
        raise LoadFailedError(f"{tally.refused} of {requests} requests refused: {tally.complaint}")


def _settled_mib(pid: int, options: Options) -> float:
    """Read resident memory when it has stopped moving, or after the longest wait."""
    reads = [memory(pid).resident_mib]
    steady_reads = _STEADY_READS // 3 if options.is_tiny else _STEADY_READS
    deadline = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline:
        time.sleep(_READ_EVERY_S)
        reads.append(memory(pid).resident_mib)
        last = reads[-steady_reads:]
        if len(last) == steady_reads and max(last) - min(last) < _STEADY_MIB:
            break
    return reads[-1]


def _fill_dict(entries: int) -> Job:
    """Make a job that keeps the entries as a program would that does not think of memory."""

    def job(gate: Gate) -> Tally:
        gate.wait()
        pid = os.getpid()
        gc.collect()
        before = memory(pid).resident_mib
        kept = {
            (64769, FIRST_NUMBER * 1000 + index, 12345678 + index, 1763640000 + index): ("xxh3_128", f"{index:032x}")
            for index in range(entries)
        }
        return Tally(requests=1, units=len(kept), latencies_ms=[memory(pid).resident_mib - before])

    return job
