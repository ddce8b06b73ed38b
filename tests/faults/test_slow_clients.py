"""T21: slow clients of every kind are cut at their limits, cost bounded memory, and slow nobody else down.

Rules of the file:
- That a client was cut is read off the gateway: its listener's mailbox, its actors, its descriptors.
- The fast form has few clients and a gateway with little patience, and judges no time; the long form has the thousands
  of T21, the real limits, and the throughput of good clients beside them, judged where the machine is not busy with
  other work.
"""

import os
import shutil
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from tests.support.baseline import take_baseline, wait_back_at
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask, post_json
from tests.support.processes import read_rss_bytes
from tests.support.slow_clients import KINDS, TLS_KINDS, Kind, stay
from tests.support.tls import make_pair, open_relay
from tests.support.waiting import let_pass, wait_until

SHORT = {"SERVER_READ_TIMEOUT": "1", "SERVER_WRITE_TIMEOUT": "1", "SERVER_IDLE_TIMEOUT": "1"}
EACH_COUNT = 4
# The longest is a WebSocket's: a ping after 20 s, 20 s for its pong.
CUT_WITHIN_S = 60.0
MEASURE_S = 4
ROUNDS = 3
GOODPUT_LEAST = 0.9
QUIET_LOAD = 3.0
"""What the group before leaves behind is below it."""
CPU_A_CLIENT_S = 0.01
CPU_SHARE = 0.1
"""Of one processor, while they drip or are silent: the tenth that good clients may lose."""


async def fill_log(gateway_url: str) -> None:
    """Give the agents that do not read something not to read."""
    events = {"events": [{"type": "note", "data": {"pad": "x" * 4000}} for _ in range(100)]}
    for _ in range(5):
        assert (await post_json(gateway_url, "/ingest?subject=snapfs.slow", events)).status == 200


async def connections_of(url: str) -> int:
    """How many connections are open, the one that asks among them."""
    children = (await ask(url, "GET", "/actors")).json()["actors"]["children"]
    return next(int(child["mailbox"]["depth"]) for child in children if child["name"] == "listener")


async def wait_cut(url: str) -> None:
    """Wait until nobody is connected but who asks."""

    async def are_alone() -> bool:
        return await connections_of(url) <= 1

    await wait_until(are_alone, "every slow client is cut", timeout_s=CUT_WITHIN_S, interval_s=0.2)


@contextmanager
def somebody_else() -> Iterator[str]:
    """An address that slow clients can be slow with: they stand in its backlog, and nobody reads what they say."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@asynccontextmanager
async def slow_clients(
    url: str, kinds: Sequence[Kind], each_count: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """So many clients of each kind beside the block."""
    async with trio.open_nursery() as nursery:
        for number in range(each_count):
            for kind in kinds:
                nursery.start_soon(stay, url, kind, number, context)
        yield
        nursery.cancel_scope.cancel()


def faults_of(gateway: Gateway) -> list[object]:
    """What the log says of faults of our own."""
    return [line for line in gateway.log_lines() if line.get("level") in ("error", "critical")]


async def test_slow_clients_are_cut_and_leave_nothing_behind(tmp_path: Path) -> None:
    """T21 in small, plain and over TLS side by side: all kinds at once, and good clients are served meanwhile."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(try_all_kinds, tmp_path / "plain")
        nursery.start_soon(try_all_kinds_over_tls, tmp_path / "tls")


async def try_all_kinds(folder: Path) -> None:
    """Everything is as it was afterwards."""
    async with open_gateway(folder / "data", env=SHORT) as gateway:
        await fill_log(gateway.url)
        before = await take_baseline(gateway)
        async with slow_clients(gateway.url, list(KINDS.values()), EACH_COUNT):
            await wait_until(lambda: is_crowded(gateway.url), "they are there")
            for target in ("/healthz", "/version", "/docs/swagger-ui-bundle.js"):
                assert (await ask(gateway.url, "GET", target)).status == 200, target
            await wait_cut(gateway.url)
        await wait_back_at(gateway, before)
        assert not faults_of(gateway)


async def try_all_kinds_over_tls(folder: Path) -> None:
    """Unfinished handshakes, silence after one, and all that plain clients do."""
    pair = make_pair(folder / "pair")
    async with (
        open_gateway(folder / "data", env=SHORT | pair.env) as gateway,
        open_relay(gateway.url, pair.trusting()) as url,
    ):
        await fill_log(url)
        async with slow_clients(gateway.url, list(TLS_KINDS.values()), 2, pair.trusting()):
            await wait_until(lambda: is_crowded(url), "they are there")
            for target in ("/healthz", "/version", "/docs/swagger-ui-bundle.js"):
                assert (await ask(url, "GET", target)).status == 200, target
            await wait_cut(url)
        assert not faults_of(gateway)


async def is_crowded(url: str) -> bool:
    """Whether more than a few are connected."""
    return await connections_of(url) > 10


GROUPS = {
    "1000 that drip a head": (["drips a head"], 1000),
    "1000 that drip a body": (["drips a body"], 1000),
    "1000 that drip all kinds of things": ([name for name in KINDS if name.startswith("drips")], 167),
    "1000 that do not read a large answer": (["does not read a large answer"], 1000),
    "100 that ask again and again and do not read": (
        ["does not read small answers", "does not read small answers of the Quart lane"],
        50,
    ),
    "200 agents that do not read": (["an agent that does not read"], 200),
    "500 that flood pings and do not read": (["an agent that floods pings and does not read"], 500),
    "1000 that are silent": (["silent"], 1000),
}
TLS_GROUPS = {
    "500 idle handshakes": (["TLS, nothing said", "TLS, a handshake begun"], 250),
    "500 silent after their handshake": (["TLS, silent after its handshake"], 500),
    "300 that do not read a large answer": (["TLS, does not read a large answer"], 300),
}
MOST_GROWTH_BYTES = {"200 agents that do not read": 500 << 20}
"""Each has a batch of up to 960 KiB on its way; everybody else costs less than 256 MiB together."""


@pytest.mark.long
@pytest.mark.parametrize("group", GROUPS)
async def test_a_thousand_slow_clients_slow_nobody_down(tmp_path: Path, group: str) -> None:
    """T21: cut at their limits, memory bounded, and good clients keep nine tenths of their throughput."""
    names, each_count = GROUPS[group]
    async with open_gateway(tmp_path / "data") as gateway:
        await fill_log(gateway.url)
        await ask(gateway.url, "GET", "/docs/swagger-ui-bundle.js")
        before, rss = await take_baseline(gateway), read_rss_bytes(gateway.pid)
        peak = rss
        is_quiet = os.getloadavg()[0] < QUIET_LOAD
        kinds = [KINDS[name] for name in names]
        is_judged = all("drip" in name or name == "silent" for name in names)
        alone, beside = list[float](), list[float]()
        with somebody_else() as elsewhere:
            for _ in range(ROUNDS if is_judged else 1):
                for url, found in ((elsewhere, alone), (gateway.url, beside)):
                    async with slow_clients(url, kinds, each_count):
                        await let_pass(1.0)  # time to connect; what is measured is that they are there
                        found.append(await measure(gateway.url))
                    await wait_cut(gateway.url)
        share = statistics.median(beside) / statistics.median(alone)
        cpu, began = cpu_s(gateway.pid), time.monotonic()
        async with slow_clients(gateway.url, kinds, each_count):
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    nonlocal peak
                    while True:
                        peak = max(peak, read_rss_bytes(gateway.pid))
                        await let_pass(0.1)

                nursery.start_soon(watch)
                await wait_cut(gateway.url)
                nursery.cancel_scope.cancel()
            cpu, took_s = cpu_s(gateway.pid) - cpu, time.monotonic() - began
            print(f"{group}: all cut after {took_s:.1f} s; {cpu:.2f} s of the gateway's processor time")
        await wait_back_at(gateway, before)
        print(f"{group}: {rss >> 20} MiB before, {peak >> 20} at most, {read_rss_bytes(gateway.pid) >> 20} after")
        print(f"{group}: good clients {alone} requests/s alone, {beside} beside: {share:.2f}")
        assert not faults_of(gateway)
        assert peak - rss < MOST_GROWTH_BYTES.get(group, 256 << 20)
        client_count = each_count * len(names)
        if not any(kind.repeats for kind in kinds):
            assert cpu < client_count * CPU_A_CLIENT_S
        if is_judged and is_quiet:
            assert cpu < took_s * CPU_SHARE
            assert share >= GOODPUT_LEAST


@pytest.mark.long
@pytest.mark.parametrize("group", TLS_GROUPS)
async def test_hundreds_of_slow_clients_over_tls_are_cut(tmp_path: Path, group: str) -> None:
    """T21: the same over TLS; a handshake costs both sides, so nobody's throughput is judged while they shake hands."""
    names, each_count = TLS_GROUPS[group]
    pair = make_pair(tmp_path / "pair")
    async with (
        open_gateway(tmp_path / "data", env=pair.env) as gateway,
        open_relay(gateway.url, pair.trusting()) as url,
    ):
        assert (await ask(url, "GET", "/docs/swagger-ui-bundle.js")).status == 200
        rss = read_rss_bytes(gateway.pid)
        async with slow_clients(gateway.url, [TLS_KINDS[name] for name in names], each_count, pair.trusting()):
            await wait_until(lambda: is_crowded(url), "they are there")
            await wait_cut(url)
        print(f"{group}: {rss >> 20} MiB before, {read_rss_bytes(gateway.pid) >> 20} after")
        assert (await ask(url, "GET", "/healthz")).status == 200
        assert not faults_of(gateway)


@pytest.mark.long
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_answers_to_queries_that_nobody_reads_are_bounded(tmp_path: Path, accept: str) -> None:
    """T21: 200 clients ask for eight megabytes each and read none: they take bounded memory, and a good query runs."""
    sql = b'{"sql":"select repeat(\'x\', 1000000) as a from generate_series(1,8)"}'
    head = f"POST /query/sql HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nContent-Length: {len(sql)}\r\n\r\n"
    kind = Kind("asks for much", head.encode() + sql)
    async with open_gateway(tmp_path / "data", env={"HEADGATE_CATALOG": "on"}) as gateway:
        async with trio.open_nursery() as nursery:  # every slot has its connection from here on
            for _ in range(6):
                nursery.start_soon(
                    post_json, gateway.url, "/query/sql", {"sql": "select count(*) from files a, files b"}
                )
        before, rss = await take_baseline(gateway), read_rss_bytes(gateway.pid)
        peak = rss
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(stay, gateway.url, kind, number)
                await let_pass(0.05)
                peak = max(peak, read_rss_bytes(gateway.pid))
            await wait_cut(gateway.url)
            nursery.cancel_scope.cancel()
        print(f"{accept}: {rss >> 20} MiB before, {peak >> 20} at most")
        await wait_back_at(gateway, before)
        assert peak - rss < 300 << 20
        assert (await post_json(gateway.url, "/query/sql", {"sql": "select 1 as a"})).status == 200
        assert not faults_of(gateway)


async def measure(url: str) -> float:
    """Requests a second of eight good clients, by a process of its own."""
    wrk = shutil.which("wrk")
    if wrk is None:
        pytest.skip("wrk is not installed")
    command = [wrk, "-t1", "-c8", f"-d{MEASURE_S}s", f"{url}/healthz"]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
    line = next(line for line in done.stdout.decode().splitlines() if "Requests/sec" in line)
    return float(line.split()[1])


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
