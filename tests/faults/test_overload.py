"""More comes than can be taken: refused at once, before the body is read, and over as soon as it is less (P5, T20).

The fast form stops the log for a while and judges no time. The long form asks for twice the measured capacity.
"""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
import trio

from tests.support.gateway import PROJECT_ROOT, Gateway, open_gateway
from tests.support.http import Answer, Connection, ask, open_connection, post_json
from tests.support.ingest import MAX_EVENTS, some_events
from tests.support.ledger import Ledger, Request, event_ids_of
from tests.support.nats_client import open_embedded_log
from tests.support.processes import ProcessName, freeze_process, read_rss_bytes, thaw_process
from tests.support.waiting import let_pass, wait_until

# Twenty would fill the queue's 200,000 events; some frames are in flight and do not count.
REQUESTS_COUNT = 30
SHED_LIMIT_S = 0.5
HEALTH_LIMIT_S = 0.5
GROWTH_LIMIT_BYTES = 300 << 20


async def ask_with_a_head_alone(gateway: Gateway) -> Answer:
    """Announce a body, send none of it, and take the answer that comes all the same."""
    async with open_connection(gateway.url) as connection:
        headers = {"Content-Type": "application/json", "Content-Length": "1000000"}
        await connection.send(connection.encode("POST", "/ingest", headers))
        return await connection.read_answer(timeout_s=5)


async def test_too_much_waiting_is_refused_before_the_body_is_read(tmp_path: Path) -> None:
    """P5: with a log that hangs, ingest sheds with 503 and Retry-After; /healthz answers; then all is well again."""
    async with open_gateway(tmp_path / "data") as gateway, AsyncExitStack() as stack:
        assert (await post_json(gateway.url, "/ingest", some_events(1))).status == 200
        before = read_rss_bytes(gateway.pid)
        log = ProcessName.of(int(gateway.nats_child()["pid"]))
        assert log is not None
        body = orjson.dumps(some_events(MAX_EVENTS))
        connections = [await stack.enter_async_context(open_connection(gateway.url)) for _ in range(REQUESTS_COUNT)]
        await freeze_process(log)
        try:
            for connection in connections:
                await connection.send(connection.encode("POST", "/ingest", {}, body))
            began = time.monotonic()
            shed = await ask_with_a_head_alone(gateway)
            shed_s = time.monotonic() - began
            began = time.monotonic()
            assert (await ask(gateway.url, "GET", "/healthz")).status == 200
            health_s = time.monotonic() - began
            growth = read_rss_bytes(gateway.pid) - before
            answers = [await connection.read_answer() for connection in connections]
        finally:
            thaw_process(log)
        print(f"shed after {shed_s:.3f} s, /healthz in {health_s:.3f} s, {growth >> 20} MiB more")
        shed.problem(503)
        assert int(shed.header("retry-after") or "0") >= 1
        assert shed_s < SHED_LIMIT_S
        assert health_s < HEALTH_LIMIT_S
        assert growth < GROWTH_LIMIT_BYTES
        for answer in answers:
            answer.problem(503)
            assert int(answer.header("retry-after") or "0") >= 1

        async def is_taken() -> bool:
            return (await post_json(gateway.url, "/ingest", some_events(1))).status == 200

        await wait_until(is_taken, "ingest takes events again", timeout_s=10)


TURNED_AWAY = {"ingest.full", "server.busy"}
"""Nothing was done, and nobody may find it in the stream."""
REGULARS, VISIT_EVERY_S = 16, 0.03


class Crowd:
    """Clients that write down what they were told: regulars on one connection each, and visitors who come anew."""

    def __init__(self, gateway: Gateway, ledger: Ledger, chance: random.Random) -> None:
        self.codes: Counter[str] = Counter()
        self.turned_away: list[Request] = []
        self.is_stopping = False
        self._gateway = gateway
        self._ledger = ledger
        self._chance = chance

    async def run_regular(self) -> None:
        """Ask again as soon as there is an answer, whichever it is."""
        async with open_connection(self._gateway.url) as connection:
            while not self.is_stopping:
                await self._ask(connection, 50)

    async def run_visitors(self) -> None:
        """Let somebody come now and then, however long those before wait."""
        async with trio.open_nursery() as nursery:
            while not self.is_stopping:
                nursery.start_soon(self._visit)
                await let_pass(VISIT_EVERY_S)

    async def _visit(self) -> None:
        async with open_connection(self._gateway.url) as connection:
            await self._ask(connection, 1)

    async def _ask(self, connection: Connection, count: int) -> None:
        request = self._ledger.new_request(count, self._chance, key=None)
        self._ledger.note_send(request)
        answer = await connection.request("POST", "/ingest", {"Content-Type": "application/json"}, request.body)
        self._ledger.note_answer(request, answer.status, answer.json())
        if answer.status == 200:
            self.codes["ok"] += 1
            return
        code = answer.problem(503)["code"]
        assert int(answer.header("retry-after") or "0") >= 1
        assert answer.header("connection") is None, "a whole request that is refused keeps its connection"
        self.codes[code] += 1
        if code in TURNED_AWAY:
            self.turned_away.append(request)


async def test_overloaded_it_turns_away_and_loses_nothing(tmp_path: Path, chance: random.Random) -> None:
    """T20: all is stored that was acknowledged, nothing that was turned away, and what follows is well."""
    async with open_gateway(tmp_path / "data") as gateway:
        ledger = Ledger(tmp_path / "ledger")
        crowd = Crowd(gateway, ledger, chance)
        before = read_rss_bytes(gateway.pid)
        log = ProcessName.of(int(gateway.nats_child()["pid"]))
        assert log is not None
        async with trio.open_nursery() as nursery:
            for _ in range(REGULARS):
                nursery.start_soon(crowd.run_regular)
            nursery.start_soon(crowd.run_visitors)
            await wait_until(lambda: crowd.codes["ok"] > 50, "events are taken", timeout_s=30)
            await freeze_process(log)
            try:
                await wait_until(lambda: len(crowd.turned_away) > 20, "somebody is turned away", timeout_s=60)
                assert (await ask(gateway.url, "GET", "/healthz")).status == 200
            finally:
                thaw_process(log)
            so_far = crowd.codes["ok"]
            await wait_until(lambda: crowd.codes["ok"] > so_far + 50, "events are taken again", timeout_s=60)
            crowd.is_stopping = True
        assert read_rss_bytes(gateway.pid) - before < GROWTH_LIMIT_BYTES
        text = (await ask(gateway.url, "GET", "/metrics")).body.decode()
        shed = [
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith(("headgate_ingest_refused_total", "headgate_turns_shed_total"))
        ]
        assert sum(shed) >= len(crowd.turned_away)
        async with open_embedded_log(gateway) as client:
            stored = await client.read_stream("SNAPFS_FILES")
        print(dict(crowd.codes), ledger.check(stored, []))
        assert not event_ids_of(stored) & {one for request in crowd.turned_away for one in request.event_ids}
        ledger.close()


@pytest.mark.long
def test_twice_the_capacity_for_a_minute(tmp_path: Path) -> None:
    """T20: 90 % of the peak is stored, answers to come back and probes are soon, memory stays, nothing is lost.

    On a machine with nothing else to do: the bench judges time.
    """
    found = tmp_path / "overload.json"
    command = [sys.executable, "-m", "bench", "overload", "--rounds", "3", "--seconds", "60"]
    ended = subprocess.run(
        [*command, "--folder", str(tmp_path), "--json", str(found)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    print(ended.stdout)
    assert ended.returncode == 0, ended.stderr[-2000:]
    [report] = json.loads(found.read_text())["scenarios"]
    assert len(report["targets"]) == 6
    assert not [one for one in report["targets"] if not one["reached"]]
