"""T24: no packet kills the gateway, leaks a task or a descriptor, or is answered as if it were good.

Rules of the file:
- One gateway for all of it: what one packet leaves behind, the next ones find.
- A failing packet is shown with its bytes; a failing cut is the same with the printed seed.
"""

import itertools
import random
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import trio

from edge.listener import TURNED_AWAY_MOST
from tests.support.baseline import Baseline, take_baseline, wait_back_at
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.hostile_corpus import http_packets
from tests.support.hostile_exchange import CONNECTIONS_COUNT, cuts_of, prove_alive, send_hostile
from tests.support.hostile_frames import STREAM, UPGRADE_LINES, frame_packets, upgraded_packets
from tests.support.hostile_packet import EXPRESS, HANDED_OVER, HANDED_OVER_EXPRESS, LANES, Lane, Packet, post, request
from tests.support.http import ConnectionLost, ask, open_connection
from tests.support.processes import count_fds
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

# RELIABILITY.md 4.1.
HEADER_DEADLINE_S = 5.0
BODY_GRACE_S = 10.0
KEEP_ALIVE_MAX_S = 10.0
SLACK_S = 3.0

# The corpora, by what a test's id calls them.
CORPORA = {lane.name: http_packets(lane) for lane in LANES} | {
    "frames": frame_packets(),
    "frames-with-their-upgrade": upgraded_packets(),
}

# How far apart the cuts of the fast form are, their first at random. Every byte on the lane that has a parser of its
# own; elsewhere as many as take about ten seconds, because a request there costs a framework or a consumer on the log.
CUT_EVERY = dict.fromkeys(CORPORA, 12) | {EXPRESS.name: 1, "frames": 6, "frames-with-their-upgrade": 24}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The one gateway that gets everything."""
    with running_gateway(tmp_path_factory.mktemp("hostile") / "data") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def baseline(gateway: Gateway) -> Baseline:
    """What it held before the first packet."""
    return trio.run(take_baseline, gateway)


def faults_logged(gateway: Gateway) -> list[dict[str, object]]:
    """The log's lines about faults since the last question."""
    lines = gateway.log_lines()
    seen = gateway.__dict__.setdefault("lines_seen_count", 0)
    gateway.__dict__["lines_seen_count"] = len(lines)
    return [line for line in lines[seen:] if line.get("level") in ("error", "critical")]


async def hold_to_the_acceptance(gateway: Gateway, baseline: Baseline, complaints: Iterable[str]) -> None:
    """The process lives, both lanes answer, nothing is left over, and no packet was answered wrongly."""
    assert gateway.is_running, gateway.tail()
    await prove_alive(gateway.url)
    listed = list(complaints)
    listed += [f"logged as a fault of our own: {str(line)[:500]}" for line in faults_logged(gateway)]
    try:
        await wait_back_at(gateway, baseline)
    except AssertionError as left_over:
        listed.append(str(left_over))
    assert not listed, f"{len(listed)} complaints\n" + "\n".join(listed)


async def send_in_rounds(gateway: Gateway, sendings: Iterable[tuple[Packet, int | None]], at_once: int) -> list[str]:
    """Send everything, so many connections side by side, and collect the complaints."""
    complaints: list[str] = []
    rest = iter(sendings)
    while batch := list(itertools.islice(rest, at_once)):
        complaints += await send_hostile(gateway.url, batch)
    return complaints


@pytest.mark.parametrize("corpus", CORPORA)
async def test_a_hostile_packet_is_refused_and_leaves_nothing_behind(
    gateway: Gateway, baseline: Baseline, corpus: str
) -> None:
    """T24: each packet, whole and alone, gets what it is owed, and the gateway is as it was before."""
    complaints = await send_in_rounds(gateway, [(packet, None) for packet in CORPORA[corpus]], at_once=1)
    await hold_to_the_acceptance(gateway, baseline, complaints)


@pytest.mark.parametrize("corpus", CORPORA)
async def test_a_hostile_packet_in_two_pieces_is_refused_like_a_whole_one(
    gateway: Gateway, baseline: Baseline, corpus: str, chance: random.Random
) -> None:
    """T24: wherever a packet is cut in two, its answer and what is left of it are the same."""
    every = CUT_EVERY[corpus]
    sendings = [(packet, cut) for packet in CORPORA[corpus] for cut in cuts_of(packet, chance, every)]
    print(f"{corpus}: {len(sendings)} packets in two pieces")
    complaints = await send_in_rounds(gateway, sendings, at_once=CONNECTIONS_COUNT)
    await hold_to_the_acceptance(gateway, baseline, complaints)


@pytest.mark.long
@pytest.mark.parametrize("corpus", CORPORA)
async def test_a_hostile_packet_in_two_pieces_is_refused_at_every_byte(
    gateway: Gateway, baseline: Baseline, corpus: str, chance: random.Random
) -> None:
    """T24: every cut of every packet, on every lane."""
    sendings = [(packet, cut) for packet in CORPORA[corpus] for cut in cuts_of(packet, chance)]
    complaints = await send_in_rounds(gateway, sendings, at_once=CONNECTIONS_COUNT)
    await hold_to_the_acceptance(gateway, baseline, complaints)


@pytest.mark.parametrize("corpus", CORPORA)
async def test_a_hostile_packet_and_a_reset_leave_nothing_behind(
    gateway: Gateway, baseline: Baseline, corpus: str
) -> None:
    """T24: a client that sends a packet and is gone at once, without a goodbye, costs nothing afterwards."""
    for packet in CORPORA[corpus]:
        async with open_connection(gateway.url) as connection:
            try:
                await connection.send(packet.prelude + packet.data)
            except ConnectionLost:
                continue
            connection.reset()
    await hold_to_the_acceptance(gateway, baseline, [])


async def test_bytes_of_many_packets_on_one_connection_leave_nothing_behind(
    gateway: Gateway, baseline: Baseline, chance: random.Random
) -> None:
    """T24: random runs of hostile packets, cut at random, on connections that live as long as they may."""
    everything = [packet for lane in LANES for packet in http_packets(lane)]
    for _ in range(300):
        data = b"".join(packet.data for packet in chance.sample(everything, 4))[: chance.randrange(1, 4000)]
        async with open_connection(gateway.url) as connection:
            try:
                await connection.send(data)
                await connection.stream.send_eof()
            except (ConnectionLost, trio.BrokenResourceError):
                continue
            await connection.read_to_end()
    await hold_to_the_acceptance(gateway, baseline, [])


@pytest.mark.parametrize("lane", [EXPRESS, HANDED_OVER, HANDED_OVER_EXPRESS], ids=lambda lane: lane.name)
async def test_a_refused_request_in_a_pipeline_ends_it(gateway: Gateway, lane: Lane) -> None:
    """Good requests before a bad one are answered, the bad one is refused, and none after it is answered."""
    good, bad = request(lane.path), request(lane.path, b"Content-Length: 5", b"Transfer-Encoding: chunked")
    async with open_connection(gateway.url) as connection:
        if lane.prelude:
            await connection.send(lane.prelude)
            assert (await connection.read_answer()).status == 200
        await connection.send(good + good + bad + good)
        assert [(await connection.read_answer()).status for _ in range(3)] == [200, 200, 400]
        assert await connection.read_to_end() == b""


async def test_compression_is_declined(gateway: Gateway) -> None:
    """An agent that offers permessage-deflate is upgraded without it."""
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    async with open_connection(gateway.url) as connection:
        await connection.send(request(STREAM, *UPGRADE_LINES, offer))
        answer = await connection.read_answer()
    assert answer.status == 101
    assert answer.header("Sec-WebSocket-Extensions") is None


async def test_an_unfinished_request_is_cut_at_its_deadline(gateway: Gateway, baseline: Baseline) -> None:
    """A connection that never ends its head or its body, or never begins one, is closed by the gateway itself."""
    begun_body = b" HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 100\r\n\r\nhello"
    beginnings = {
        b"": KEEP_ALIVE_MAX_S,
        b"GET /heal": HEADER_DEADLINE_S,
        b"GET /healthz HTTP/1.1\r\nHost: gateway.test\r\nX-": HEADER_DEADLINE_S,
        b"GET /version HTTP/1.1\r\nHost: gateway.test\r\nX-": HEADER_DEADLINE_S,
        request(b"/healthz"): KEEP_ALIVE_MAX_S,
        request(b"/version"): KEEP_ALIVE_MAX_S,
        request(b"/healthz") + b"GET /": HEADER_DEADLINE_S,
        request(b"/version") + b"GET /": HEADER_DEADLINE_S,
        b"POST /ingest" + begun_body: BODY_GRACE_S,
        b"POST /version" + begun_body: BODY_GRACE_S,
        request(b"/version") + b"POST /ingest" + begun_body: BODY_GRACE_S,
        post(EXPRESS, b"Transfer-Encoding: chunked", body=b"5\r\nhel"): BODY_GRACE_S,
        request(STREAM, *UPGRADE_LINES[:-1]): HEADER_DEADLINE_S,
    }
    complaints: list[str] = []

    async def hold(beginning: bytes, limit_s: float) -> None:
        async with open_connection(gateway.url) as connection:
            await connection.send(beginning)
            try:
                await connection.read_to_end(timeout_s=limit_s + SLACK_S)
            except trio.TooSlowError:
                complaints.append(f"{beginning!r} is still open after {limit_s + SLACK_S:g} s")

    async with trio.open_nursery() as nursery:
        for beginning, limit_s in beginnings.items():
            nursery.start_soon(hold, beginning, limit_s)
    await hold_to_the_acceptance(gateway, baseline, complaints)


async def test_connections_past_the_limit_are_turned_away_at_once(tmp_path: Path) -> None:
    """One connection more than the limit is told so at once, and there is room again when one has gone."""
    limit_count = 16
    async with open_gateway(tmp_path / "data", env={"HEADGATE_CONNECTIONS": str(limit_count)}) as gateway:
        streams = [await trio.open_tcp_stream(gateway.host, gateway.port) for _ in range(limit_count)]
        answer = await ask(gateway.url, "GET", "/healthz", timeout_s=1)
        assert answer.status == 503
        assert answer.header("Retry-After")
        assert answer.json()["status"] == 503
        streams.pop().socket.close()

        async def has_room() -> bool:
            return (await ask(gateway.url, "GET", "/healthz")).status == 200

        await wait_until(has_room, "there is room again")
        for stream in streams:
            stream.socket.close()


async def test_a_flood_past_the_limit_costs_no_descriptors(tmp_path: Path) -> None:
    """A thousand connections past it are closed as they come: few of them are in the gateway's hands at any time.

    The gateway starts with fewer descriptors than it has connections, and takes as many as it needs.
    """
    limit_count, flood_count = 400, 1000
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    gateway = Gateway(tmp_path / "data", env={"HEADGATE_CONNECTIONS": str(limit_count)})
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        gateway.spawn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        await gateway.wait_ready()
        streams = [await trio.open_tcp_stream(gateway.host, gateway.port) for _ in range(limit_count)]
        most = 0
        for _ in range(flood_count):
            streams.append(await trio.open_tcp_stream(gateway.host, gateway.port))
            most = max(most, count_fds(gateway.pid))
        print(f"at most {most} descriptors for {limit_count} connections and {flood_count} that found no room")
        assert most < limit_count + TURNED_AWAY_MOST + 100
        for stream in streams:
            stream.socket.close()

        async def has_room() -> bool:
            return (await ask(gateway.url, "GET", "/healthz")).status == 200

        await wait_until(has_room, "there is room again", timeout_s=30)
        assert not faults_logged(gateway)
    finally:
        with trio.CancelScope(shield=True):  # `aclose` has its own deadlines
            await gateway.aclose()


async def test_an_unguarded_hypercorn_dies_of_one_packet() -> None:
    """T24's control: what the gateway survives ends the server it stands on, alone.

    When this fails, Hypercorn has learnt it; then the guard stays, and this test goes.
    """
    command = [sys.executable, "-m", "bench.bare_hypercorn", "{}"]
    process = await trio.lowlevel.open_process(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        with trio.fail_after(15):
            line = await process.stdout.receive_some()
        url = f"http://127.0.0.1:{int(line.split()[1])}"

        async def answers() -> bool:
            async with open_connection(url) as connection:
                return (await connection.request("GET", "/")).status == 200

        await wait_until(answers, "the bare server answers", timeout_s=15)
        async with open_connection(url) as connection:
            await connection.send(request(b"/", *UPGRADE_LINES) + b"x")
            with trio.fail_after(15):
                assert await process.wait() != 0
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):  # it was killed: the wait is short
            await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()
