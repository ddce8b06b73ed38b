"""Several workers on one port: they serve as one, and what one of them held when it was killed is nobody's loss."""

import random
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
import trio_websocket
from trio_websocket import open_websocket_url

from tests.support.agent import AgentClosed, AgentFailed, Batch, open_agent
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.http import Connection, ask, open_connection
from tests.support.ledger import Ledger
from tests.support.nats_client import open_embedded_log
from tests.support.processes import ProcessName, kill_process
from tests.support.tls import make_pair, open_relay
from tests.support.traffic import Traffic, wait_delivered
from tests.support.waiting import let_pass, wait_until

WORKERS = {"HEADGATE_WORKERS": "2"}
SHORT_LEASES = {"HEADGATE_ACK_WAIT_S": "5"}
"""For what was on its way to a worker when it was killed: nobody knows of it but the log."""

LONG_LEASES = {"HEADGATE_ACK_WAIT_S": "600"}
DURABLES = ("mysql", "elastic")
JSON = {"Content-Type": "application/json"}
LONG_KILLS = 30
CONNECTIONS = 12
"""So many that each worker has accepted some: who accepts is the kernel's choice."""


def worker_of(gateway: Gateway, index: int) -> ProcessName | None:
    """Name a worker's process, None while there is none."""
    try:
        pid = int(orjson.loads((gateway.data_dir / f"worker-{index}.json").read_bytes())["pid"])
    except (OSError, ValueError):
        return None
    return ProcessName.of(pid)


async def worker_now(gateway: Gateway, index: int) -> ProcessName:
    """Wait until a worker's process is there, and name it."""
    found = await wait_until(lambda: worker_of(gateway, index), f"worker {index} is there", timeout_s=60)
    assert found is not None
    return found


async def kill_worker(gateway: Gateway, index: int) -> None:
    """SIGKILL a worker, and wait until another one has its place."""
    before = await worker_now(gateway, index)
    kill_process(before)
    await wait_until(lambda: worker_of(gateway, index) not in {None, before}, f"another worker {index}", timeout_s=60)


@asynccontextmanager
async def open_connections(gateway: Gateway, count: int = CONNECTIONS) -> AsyncIterator[list[Connection]]:
    """Open connections; the workers share them."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_connection(gateway.url)) for _ in range(count)]


async def ask_json(connection: Connection, method: str, path: str, body: object = None) -> Any:
    """Ask on a connection and decode the answer, which is a good one."""
    answer = await connection.request(method, path, JSON, None if body is None else orjson.dumps(body))
    assert answer.status == 200, answer
    return answer.json()


def event_of(path: str, kind: str = "file.upsert") -> dict[str, object]:
    """Make a file event."""
    data = {"path": path, "size": 3, "mtime": 1.5, "inode": 7, "dev": 1, "algo": "xxh3_128", "hash": "ab" * 16}
    return {"type": kind, "data": data if kind == "file.upsert" else {"path": path}}


async def figures_of(connection: Connection) -> dict[str, float]:
    """Read /metrics: samples without labels."""
    answer = await connection.request("GET", "/metrics")
    lines = [line.split() for line in answer.body.decode().splitlines() if line[:1] not in {"#", ""}]
    return {name: float(value) for name, value in lines if "{" not in name}


@pytest.mark.parametrize("kills_count", [4, pytest.param(LONG_KILLS, marks=pytest.mark.long)])
async def test_no_acked_event_is_lost_when_workers_are_killed(
    tmp_path: Path, chance: random.Random, kills_count: int
) -> None:
    """T1 with workers: SIGKILL of any of them at any time; everything that was acked arrives."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    async with open_gateway(tmp_path / "data", env=WORKERS | SHORT_LEASES) as gateway, trio.open_nursery() as agents:
        traffic = Traffic(lambda: gateway.url, ledger, chance)
        agents.start_soon(traffic.run_agent, DURABLES[0])
        agents.start_soon(traffic.run_agent_v1, DURABLES[1])
        async with trio.open_nursery() as producers:
            for is_keyed in (True, True, False, False):
                producers.start_soon(lambda keyed: traffic.run_producer(is_keyed=keyed, pause_s=0.0), is_keyed)
            for _ in range(kills_count):
                acked = ledger.acked_count
                await wait_until(partial(ledger.has_acked_more_than, acked), "requests are answered", timeout_s=30)
                await let_pass(chance.uniform(0.0, 1.0))
                await kill_worker(gateway, chance.choice([1, 2]))
            acked = ledger.acked_count
            await wait_until(partial(ledger.has_acked_more_than, acked), "requests are answered at last", timeout_s=30)
            traffic.is_stopping = True
        async with open_embedded_log(gateway) as log:
            stored = await log.read_stream("SNAPFS_FILES")
        catch_up_s = 90 if kills_count < LONG_KILLS else 600  # millions, for agents in Python
        await wait_delivered(ledger, stored, DURABLES, timeout_s=catch_up_s)
        agents.cancel_scope.cancel()
        report = ledger.check(stored, DURABLES)
    ledger.close()
    print(f"{report}\n{dict(traffic.statuses)}")
    assert report.acked > 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of two workers for the tests that leave it as it is."""
    with running_gateway(tmp_path_factory.mktemp("shared") / "data", env=WORKERS) as running:
        yield running


async def test_what_belongs_together_is_in_one_worker(shared: Gateway) -> None:
    """Agents of a durable, pulled batches and their settling, remote scanners: every connection sees the same."""
    gateway = shared
    async with open_connections(gateway) as connections:
        await ask_json(connections[0], "POST", "/ingest", {"events": [event_of(f"/a/{n}") for n in range(9)]})
        await pulled_batches_are_settled_on_any_connection(connections)
        socket_url = gateway.url.replace("http", "ws", 1)
        async with open_websocket_url(f"{socket_url}/agents") as scanner:
            hello = {"type": "AGENT_HELLO", "agent_id": "s1", "agent_type": "scanner", "version": "1", "root_path": "/"}
            await scanner.send_message(orjson.dumps({**hello, "capabilities": ["scan.fs"]}).decode())
            await scanner.send_message('{"type":"PING"}')
            assert orjson.loads(await scanner.get_message())["type"] == "PONG"
            for connection in connections:
                agents = await ask_json(connection, "GET", "/agents")
                assert [one["agent_id"] for one in agents["agents"]] == ["s1"]
        async with AsyncExitStack() as stack:
            for durable in ("d1", "d2", "d3"):
                for _ in range(3):
                    url = f"{socket_url}/stream?subject=snapfs.files&durable={durable}"
                    await stack.enter_async_context(open_websocket_url(url))
            for connection in connections:
                listed = (await ask_json(connection, "GET", "/consumers"))["consumers"]
                attached = {one["durable"]: one["attached"] for one in listed}
                assert {name: attached[name] for name in ("d1", "d2", "d3")} == {"d1": 3, "d2": 3, "d3": 3}
                answer = await connection.request("DELETE", "/consumers/d2")
                assert answer.status == 409, "three sockets are attached to it"


async def pulled_batches_are_settled_on_any_connection(connections: list[Connection]) -> None:
    """Each batch is pulled on one connection and settled on the next."""
    for number, connection in enumerate(connections):
        path = f"/stream/pull?subject=snapfs.files&durable=p{number}&wait=5"
        batch = await ask_json(connection, "GET", path)
        last = len(batch["messages"]) - 1
        words = {"type": "settle", "batch": batch["batch"], "ack": [[0, last]], "durable": f"p{number}"}
        settled = await ask_json(connections[number - 1], "POST", "/stream/settle", words)
        assert (settled["confirmed"], settled["late"]) == ([[0, last]], [])


async def test_the_figures_and_the_tree_are_those_of_all_workers(shared: Gateway) -> None:
    """Whichever worker is asked: counters are added up, and every worker's actors are there."""
    async with open_connections(shared) as connections:
        before = (await figures_of(connections[0]))["headgate_ingest_events_total"]
        for connection in connections:
            await ask_json(connection, "POST", "/ingest", {"events": [event_of("/a"), event_of("/b")]})
        for connection in connections:
            figures = await figures_of(connection)
            assert figures["headgate_ingest_events_total"] == before + 2 * len(connections)
            assert figures["headgate_workers"] == 2
            assert figures["headgate_ready"] == 1
            root = (await ask_json(connection, "GET", "/actors"))["actors"]
            branches = {one["name"]: one for one in root["children"]}
            found = branches["workers"]["children"]
            workers = {one["name"]: {child["name"] for child in one["children"]} for one in found}
            assert workers.keys() == {"worker-1", "worker-2"}
            assert all({"ingest", "listener", "stream"} <= names for names in workers.values())


async def test_a_deletion_at_one_worker_is_no_hit_at_another(shared: Gateway) -> None:
    """Without Redis and catalog: every worker knows the file, one hears that it is deleted, none knows it then."""
    probe = {"path": "/f", "size": 3, "mtime": 1.5, "inode": 7, "dev": 1}
    async with open_connections(shared) as connections:
        for connection in connections:
            await ask_json(connection, "POST", "/ingest", {"events": [event_of("/f")]})
        assert await hits_of(connections, probe) == len(connections)
        await ask_json(connections[0], "POST", "/ingest", {"events": [event_of("/f", "file.delete")]})

        async def is_gone() -> bool:
            return await hits_of(connections, probe) == 0

        await wait_until(is_gone, "no worker knows it")


async def hits_of(connections: list[Connection], probe: dict[str, object]) -> int:
    """Ask every connection about a file, and count who knows it."""
    answers = [await ask_json(one, "POST", "/cache/batch", [probe]) for one in connections]
    return sum(answer[0]["status"] == "HIT" for answer in answers)


async def test_what_a_killed_worker_held_is_delivered_again_at_once(tmp_path: Path) -> None:
    """Both wires hold a batch under a lease of ten minutes; their worker is killed; who comes back has it again."""
    async with open_gateway(tmp_path / "data", env=WORKERS | LONG_LEASES) as gateway:
        events = {"events": [event_of(f"/a/{number}") for number in range(5)]}
        assert (await ask(gateway.url, "POST", "/ingest", JSON, orjson.dumps(events))).status == 200
        for durable in ("one", "two", "three"):
            workers = [await worker_now(gateway, index) for index in (1, 2)]
            first = await receive_when_it_is_back(gateway, durable, workers)
            assert (await receive_when_it_is_back(gateway, durable)).events == first.events


async def receive_when_it_is_back(gateway: Gateway, durable: str, killed: Sequence[ProcessName] = ()) -> Batch:
    """Attach, again and again while a worker starts, and give the first batch; these are killed while it is held."""
    with trio.fail_after(60):
        while True:
            with suppress(OSError, AgentClosed, AgentFailed, trio.BrokenResourceError, trio_websocket.HandshakeError):
                async with open_agent(gateway.url, durable) as agent:
                    batch = await agent.receive()
                    for one in killed:
                        kill_process(one)
                    return batch
            await let_pass(0.1)


async def test_a_restart_in_turn_refuses_nobody(tmp_path: Path, chance: random.Random) -> None:
    """SIGUSR2: both workers are replaced under load, every connection is accepted and every request answered."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    async with open_gateway(tmp_path / "data", env=WORKERS) as gateway:
        before = [await worker_now(gateway, index) for index in (1, 2)]
        traffic = Traffic(lambda: gateway.url, ledger, chance)
        async with trio.open_nursery() as producers:
            for _ in range(8):
                producers.start_soon(lambda: traffic.run_producer(is_keyed=True, max_batch_count=5, pause_s=0.02))
            gateway.signal(signal.SIGUSR2)
            await wait_until(
                lambda: {worker_of(gateway, index) for index in (1, 2)}.isdisjoint({None, *before}),
                "both were replaced",
                timeout_s=60,
            )
            acked = ledger.acked_count
            await wait_until(partial(ledger.has_acked_more_than, acked + 20), "requests are answered")
            traffic.is_stopping = True
        print(dict(traffic.statuses))
        assert set(traffic.statuses) == {"200"}
        assert await gateway.terminate() == 0
    ledger.close()


async def test_with_the_parent_everything_ends(tmp_path: Path) -> None:
    """SIGKILL of the parent: no worker and no engine is left; the next gateway on the folder starts."""
    async with open_gateway(tmp_path / "data", env=WORKERS) as gateway:
        children = gateway.children()
        assert len(children) >= 3
        gateway.kill()
        await wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "all are gone")
        await gateway.start()
        assert (await ask(gateway.url, "GET", "/readyz")).status == 200


async def test_a_tls_connection_is_relayed_where_it_belongs(tmp_path: Path) -> None:
    """What speaks TLS cannot be handed over, and sees the same all the same."""
    pair = make_pair(tmp_path)
    async with (
        open_gateway(tmp_path / "data", env=WORKERS | pair.env) as gateway,
        open_relay(gateway.url, pair.trusting()) as url,
        AsyncExitStack() as stack,
    ):
        connections = [await stack.enter_async_context(open_connection(url)) for _ in range(CONNECTIONS)]
        await ask_json(connections[0], "POST", "/ingest", {"events": [event_of(f"/a/{n}") for n in range(9)]})
        await pulled_batches_are_settled_on_any_connection(connections)
        for connection in connections:
            assert (await figures_of(connection))["headgate_workers"] == 2
