"""The remote scanners' wire and the REST beside it, against a real gateway (S0.27, E17)."""

import uuid
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
import trio_websocket

from actors.agents import Agents
from actors.tree import Actor
from edge.agents import HELLO_WITHIN_S, open_agent
from edge.http import Request
from edge.node import Node
from engine.agents import QUEUE_COUNT, Roster
from engine.identity import OPEN
from tests.support.gateway import Gateway
from tests.support.http import ask
from tests.support.scanner import HELLO, Scanner, get_scan, open_scanner, post_scan
from tests.support.waiting import wait_until


@pytest.fixture
def own_id() -> str:
    """An agent of the test's own."""
    return f"scanner-{uuid.uuid4().hex[:12]}"


async def scan_state(gateway: Gateway, command_id: str) -> str:
    """Ask how a scan is."""
    return str((await get_scan(gateway.url, command_id))["state"])


async def wait_state(gateway: Gateway, command_id: str, state: str) -> dict[str, Any]:
    """Wait until a scan is so."""

    async def is_so() -> bool:
        return await scan_state(gateway, command_id) == state

    await wait_until(is_so, f"the scan is {state}")
    return await get_scan(gateway.url, command_id)


async def agent_of(gateway: Gateway, agent_id: str) -> dict[str, Any]:
    """Ask how an agent is."""
    answer = await ask(gateway.url, "GET", f"/agents/{agent_id}")
    assert answer.status == 200, answer
    agent: dict[str, Any] = answer.json()
    return agent


@pytest.mark.parametrize("path", ["/agents", "/ws/agents", "/api/agents", "/api/ws/agents"])
async def test_a_field_scanner_is_sent_a_scan_and_completes_it(gateway: Gateway, own_id: str, path: str) -> None:
    """S0.27, the issue's wire: hello, ping, target, complete, under every name that clients use."""
    async with open_scanner(gateway.url, own_id, path=path) as scanner:
        asked = await post_scan(gateway.url, own_id, options={"force": True}, trigger_type="schedule", schedule_id="n1")
        assert asked.status == 202, asked
        command_id = asked.json()["command_id"]
        assert asked.header("location") == f"/scans/{command_id}"
        target = await scanner.receive_target()
        assert target["command_id"] == command_id
        assert target["target"] == {"root": "/mnt/show", "trigger_type": "schedule", "schedule_id": "n1"}
        assert target["options"] == {"force": True}
        running = await get_scan(gateway.url, command_id)
        assert (running["state"], running["agent_id"], running["ended_at"]) == ("running", own_id, None)
        assert running["sent_at"] >= running["created_at"]
        await scanner.complete(command_id, host="nas")
        done = await wait_state(gateway, command_id, "complete")
        assert (done["took_s"], done["summary"], done["more"], done["error"]) == (
            1.5,
            {"files": 3, "bytes": 12},
            {"host": "nas"},
            None,
        )


async def test_a_scan_that_fails_says_why(gateway: Gateway, own_id: str) -> None:
    """SCAN_ERROR with its reason."""
    async with open_scanner(gateway.url, own_id) as scanner:
        command_id = (await post_scan(gateway.url, own_id)).json()["command_id"]
        await scanner.receive_target()
        await scanner.fail(command_id, "no such folder")
        assert (await wait_state(gateway, command_id, "failed"))["error"] == "no such folder"


async def test_the_agents_are_listed_as_they_introduced_themselves(gateway: Gateway, own_id: str) -> None:
    """Every member of the hello, since when, last seen, what it runs; away once it left."""
    async with open_scanner(gateway.url, own_id) as scanner:
        await post_scan(gateway.url, own_id)
        await scanner.receive_target()
        said = await agent_of(gateway, own_id)
        for name in ("agent_type", "version", "capabilities", "root_path", "scanner_type", "max_concurrency"):
            assert said[name] == HELLO[name], name
        assert (said["state"], said["running"], said["queued"]) == ("connected", 1, 0)
        assert [scan["state"] for scan in said["scans"]] == ["running"]
        before = said["last_seen"]
        await scanner.ping()
        assert (await agent_of(gateway, own_id))["last_seen"] > before >= said["since"]
        listed = (await ask(gateway.url, "GET", "/agents")).json()["agents"]
        assert [one["state"] for one in listed if one["agent_id"] == own_id] == ["connected"]

    async def is_away() -> bool:
        return str((await agent_of(gateway, own_id))["state"]) == "away"

    await wait_until(is_away, "it is away")
    (await post_scan(gateway.url, own_id)).problem(409)


async def test_at_most_so_many_at_once_and_the_rest_waits(gateway: Gateway, own_id: str) -> None:
    """max_concurrency holds; beyond the queue's bound 429 with Retry-After."""
    async with open_scanner(gateway.url, own_id, max_concurrency=1) as scanner:
        ids = [(await post_scan(gateway.url, own_id)).json()["command_id"] for _ in range(QUEUE_COUNT + 1)]
        shed = await post_scan(gateway.url, own_id)
        assert shed.problem(429)["code"] == "agents.busy"
        assert int(shed.header("retry-after") or 0) >= 1
        assert (await scanner.receive_target())["command_id"] == ids[0]
        await scanner.ping()  # nothing else has come
        assert (await agent_of(gateway, own_id))["queued"] == QUEUE_COUNT
        await scanner.complete(ids[0])
        assert (await scanner.receive_target())["command_id"] == ids[1]
        for command_id in reversed(ids[1:]):
            deleted = await ask(gateway.url, "DELETE", f"/scans/{command_id}")
            assert deleted.status == 200, deleted
        assert await scan_state(gateway, ids[1]) == "lost"
        assert await scan_state(gateway, ids[2]) == "failed"


async def test_refusals_of_the_rest_side(gateway: Gateway, own_id: str) -> None:
    """Unknown agent 404, unknown scan 404, wrong shapes 422, wrong parameters 400: each names what is wrong."""
    (await post_scan(gateway.url, own_id)).problem(404)
    (await ask(gateway.url, "GET", f"/agents/{own_id}")).problem(404)
    (await ask(gateway.url, "GET", "/scans/unknown")).problem(404)
    (await ask(gateway.url, "DELETE", "/scans/unknown")).problem(404)
    (await ask(gateway.url, "GET", "/ws/agents")).problem(426)
    for target, word in (("/scans?limit=0", "limit"), ("/scans?limit=x", "limit"), ("/scans?state=happy", "state")):
        assert word in (await ask(gateway.url, "GET", target)).problem(400)["detail"]
    async with open_scanner(gateway.url, own_id):
        for more, word in (
            ({"root": ""}, "root"),
            ({"root": 7}, "root"),
            ({"root": "a\0b"}, "root"),
            ({"root": "x" * 5000}, "root"),
            ({"options": {"force": "yes"}}, "force"),
            ({"options": []}, "options"),
            ({"trigger_type": "t" * 300}, "trigger_type"),
            ({"schedule_id": 5}, "schedule_id"),
            ({"timeout_s": 0}, "timeout_s"),
        ):
            assert word in (await post_scan(gateway.url, own_id, **more)).problem(422)["detail"], more
        answer = await ask(gateway.url, "POST", f"/agents/{own_id}/scan", (), b"{")
        answer.problem(400)
        (await ask(gateway.url, "POST", f"/agents/{own_id}/scan", (), b"[]")).problem(422)
        assert (await agent_of(gateway, own_id))["queued"] == 0


async def test_scans_are_listed_by_agent_and_state_and_page(gateway: Gateway, own_id: str) -> None:
    """Newest first; `next` leads through all of them."""
    async with open_scanner(gateway.url, own_id) as scanner:
        ids = []
        for number in range(5):
            ids.append((await post_scan(gateway.url, own_id)).json()["command_id"])
            await scanner.receive_target()
            await (scanner.complete(ids[-1]) if number % 2 else scanner.fail(ids[-1], "no"))
            await scanner.ping()
        page = (await ask(gateway.url, "GET", f"/scans?agent={own_id}&limit=2")).json()
        assert [scan["command_id"] for scan in page["scans"]] == ids[:2:-1]
        rest = (await ask(gateway.url, "GET", f"/scans?agent={own_id}&before={page['next']}")).json()
        assert [scan["command_id"] for scan in rest["scans"]] == ids[2::-1]
        assert rest["next"] is None
        failed = (await ask(gateway.url, "GET", f"/scans?agent={own_id}&state=failed")).json()
        assert [scan["command_id"] for scan in failed["scans"]] == ids[4::-2]


async def test_one_key_starts_one_scan(gateway: Gateway, own_id: str) -> None:
    """A POST that is repeated under its key gives the same scan; with another body 422."""
    async with open_scanner(gateway.url, own_id) as scanner:
        first = (await post_scan(gateway.url, own_id, key='"k1"')).json()
        again = await post_scan(gateway.url, own_id, key="k1")
        assert (again.status, again.json()["command_id"]) == (202, first["command_id"])
        assert (first["duplicate"], again.json()["duplicate"]) == (False, True)
        assert (await post_scan(gateway.url, own_id, key="k1", root="/other")).problem(422)[
            "code"
        ] == "scans.key-conflict"
        await scanner.receive_target()
        await scanner.ping()  # there is no second order


async def test_a_second_connection_takes_over(gateway: Gateway, own_id: str) -> None:
    """The newest speaks for the agent; the older is told why, and not to come back; the scan goes on."""
    async with open_scanner(gateway.url, own_id) as old:
        command_id = (await post_scan(gateway.url, own_id)).json()["command_id"]
        await old.receive_target()
        async with open_scanner(gateway.url, own_id, version="2") as new:
            said = await old.receive()
            assert said["type"] == "ERROR"
            assert own_id in said["error"]
            assert (await old.wait_closed()).code == 4509
            assert (await agent_of(gateway, own_id))["version"] == "2"
            assert await scan_state(gateway, command_id) == "running"
            await new.complete(command_id)
            await wait_state(gateway, command_id, "complete")


async def test_a_scanner_that_was_away_reports_when_it_is_back(gateway: Gateway, own_id: str) -> None:
    """The connection broke in the middle of a scan; its end is taken on the next one."""
    async with open_scanner(gateway.url, own_id) as scanner:
        command_id = (await post_scan(gateway.url, own_id)).json()["command_id"]
        await scanner.receive_target()
        scanner.reset()

    async def is_away() -> bool:
        return str((await agent_of(gateway, own_id))["state"]) == "away"

    await wait_until(is_away, "it is away")
    assert await scan_state(gateway, command_id) == "running"
    async with open_scanner(gateway.url, own_id) as scanner:
        await scanner.complete(command_id)
        await wait_state(gateway, command_id, "complete")


async def test_an_unusable_introduction_is_refused_in_words(gateway: Gateway) -> None:
    """Without an id nobody can be sent anything: said, and closed for good."""
    async with open_scanner(gateway.url) as scanner:
        await scanner.say({"type": "AGENT_HELLO", "agent_id": "a/b"})
        assert "agent_id" in (await scanner.receive())["error"]
        assert (await scanner.wait_closed()).code == 4522


ODD: list[str | bytes] = [
    "",
    "null",
    "[1]",
    "{",
    b"\x00\xff\xfe",
    b"",
    '{"type":"SCAN_PROGRESS","command_id":"c","files":10}',
    '{"type":"AGENT_STATUS"}',
    '{"type":17}',
    '{"type":"SCAN_COMPLETE"}',
    '{"type":"SCAN_COMPLETE","command_id":"unknown","summary":{}}',
    '{"type":"SCAN_ERROR","command_id":["x"]}',
    '{"type":"AGENT_HELLO"}',
    '{"type":"AGENT_HELLO","agent_id":"somebody-else"}',
    "[" * 200_000,
    '{"type":"PING"' + ',"a":{"a"' * 3000 + "}",
    "x" * 1_000_000,
]


async def test_no_odd_frame_ends_a_session(gateway: Gateway, own_id: str) -> None:
    """Before the introduction and after it: all of it is passed over, and a ping is answered."""
    async with open_scanner(gateway.url) as scanner:
        for one in ODD[:6]:
            await scanner.say_raw(one)
        await scanner.ping()
        await scanner.hello(own_id)
        for one in ODD:
            await scanner.say_raw(one)
        await scanner.say_raw(b'{"type":"PING"}')
        assert await scanner.receive() == {"type": "PONG"}
        command_id = (await post_scan(gateway.url, own_id)).json()["command_id"]
        await scanner.receive_target()
        await scanner.say({"type": "SCAN_COMPLETE", "command_id": command_id})  # no figures at all
        done = await wait_state(gateway, command_id, "complete")
        assert (done["took_s"], done["summary"]) == (None, None)
    assert (await ask(gateway.url, "GET", "/agents/somebody-else")).status == 404


async def test_a_message_beyond_the_limit_closes_with_too_big(gateway: Gateway, own_id: str) -> None:
    """RFC 6455: 1009; the agent is away then, nothing else happened."""
    async with open_scanner(gateway.url, own_id) as scanner:
        await scanner.say_raw("x" * (1024 * 1024 + 1))
        assert (await scanner.wait_closed()).code == 1009


async def test_reports_of_another_agent_change_nothing(gateway: Gateway, own_id: str) -> None:
    """Nobody ends a scan that is not its own."""
    async with open_scanner(gateway.url, own_id) as scanner, open_scanner(gateway.url, own_id + "-other") as other:
        command_id = (await post_scan(gateway.url, own_id)).json()["command_id"]
        await scanner.receive_target()
        await other.complete(command_id)
        await other.ping()
        assert await scan_state(gateway, command_id) == "running"


async def test_metrics_count_agents_and_scans(gateway: Gateway, own_id: str) -> None:
    """Connected agents and scans by state, from closed label sets."""
    async with open_scanner(gateway.url, own_id) as scanner:
        command_id = (await post_scan(gateway.url, own_id)).json()["command_id"]
        await scanner.receive_target()
        before = await figures_of(gateway)
        assert before["headgate_agents_connected"] >= 1
        assert before['headgate_agents_live_scans{state="running"}'] >= 1
        await scanner.complete(command_id)
        await scanner.ping()
        after = await figures_of(gateway)
        name = 'headgate_agents_ended_scans_total{state="complete"}'
        assert after[name] == before.get(name, 0) + 1
        assert any('route="/agents/{id}/scan"' in one for one in after)
        assert not any(own_id in one for one in after)


async def figures_of(gateway: Gateway) -> dict[str, float]:
    """Read every metric."""
    lines = (await ask(gateway.url, "GET", "/metrics")).body.decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def test_a_flood_of_pings_is_answered_one_by_one(gateway: Gateway, own_id: str) -> None:
    """T30: ten thousand tiny frames; each ping has its pong, and the gateway stays ready."""
    count = 10_000
    async with open_scanner(gateway.url, own_id) as scanner, trio.open_nursery() as nursery:

        async def flood() -> None:
            for _ in range(count):
                await scanner.say_raw('{"type":"PING"}')

        nursery.start_soon(flood)
        for _ in range(count):
            assert await scanner.receive() == {"type": "PONG"}
        assert (await ask(gateway.url, "GET", "/healthz")).status == 200


async def test_a_connection_that_never_introduces_itself_is_ended(patient_clock: trio.testing.MockClock) -> None:
    """Within the deadline, whatever else it says meanwhile; said why, and free to come back."""
    agents = Agents(Roster(30.0), Actor("agents", trio.current_time()))
    node = cast("Node", SimpleNamespace(agents=agents, draining=trio.Event()))
    session = await open_agent(node, cast("Request", SimpleNamespace(principal=OPEN)))

    async def serve(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            await session(await request.accept())
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with open_scanner(f"http://127.0.0.1:{port}") as scanner:
            began = trio.current_time()
            await scanner.ping()
            await scanner.say({"type": "SCAN_COMPLETE", "command_id": "c"})
            said = await scanner.receive(timeout_s=2 * HELLO_WITHIN_S)
            assert "AGENT_HELLO" in said["error"]
            assert (await scanner.wait_closed()).code == 4008
            assert trio.current_time() - began < HELLO_WITHIN_S + 1
        nursery.cancel_scope.cancel()
    assert agents.known() == []


def test_the_support_speaks_the_wire() -> None:
    """The scripted scanner's hello has the members of the issue, no more."""
    assert list(HELLO) == [
        *("type", "agent_id", "agent_type", "version", "capabilities", "root_path", "scanner_type", "max_concurrency"),
    ]
    assert Scanner.__doc__
