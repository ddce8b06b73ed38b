"""After thousands of clients in every state everything is back as it was ("Must be shown" 5, P6)."""

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import orjson
import pytest
import trio
import trio_websocket

from tests.support.agent import AgentClosed, open_agent, stream_target
from tests.support.baseline import take_baseline, wait_back_at
from tests.support.gateway import Gateway
from tests.support.http import Connection, ConnectionLost, ask, open_connection
from tests.support.ingest import ingest, some_events
from tests.support.processes import read_rss_bytes

AT_ONCE = 40
"""Under the limit of connections from one address, and within what the test's own process can drive."""
DURABLES_COUNT = 20


Visit = Callable[[Gateway, random.Random], Awaitable[None]]


async def visit_with_bytes(gateway: Gateway, chance: random.Random, data: bytes, *, is_answered: bool) -> None:
    """Send bytes; read the answer where one is due; then leave cleanly or with an RST."""
    async with open_connection(gateway.url) as connection:
        await connection.send(data)
        if is_answered and chance.random() < 0.7:
            await connection.read_answer()
        if chance.random() < 0.5:
            connection.reset()


BODY = orjson.dumps(some_events(3))
HEAD = Connection(None, "localhost")  # type: ignore[arg-type]  # only its `encode`
TARGET = "/ingest?subject=snapfs.baseline"


async def silent(gateway: Gateway, chance: random.Random) -> None:
    """Connect and say nothing."""
    await visit_with_bytes(gateway, chance, b"", is_answered=False)


async def half_request(gateway: Gateway, chance: random.Random) -> None:
    """Leave inside the head, at any byte."""
    head = HEAD.encode("GET", chance.choice(["/healthz", "/actors"]))
    await visit_with_bytes(gateway, chance, head[: chance.randrange(1, len(head))], is_answered=False)


async def mid_body(gateway: Gateway, chance: random.Random) -> None:
    """Leave inside the body, of either lane."""
    target = chance.choice([TARGET, "/version"])
    request = HEAD.encode("POST", target, {}, BODY)
    await visit_with_bytes(gateway, chance, request[: -chance.randrange(1, len(BODY))], is_answered=False)


async def mid_chunk(gateway: Gateway, chance: random.Random) -> None:
    """Leave inside a chunked body."""
    head = HEAD.encode("POST", TARGET, {"Transfer-Encoding": "chunked"})
    await visit_with_bytes(
        gateway, chance, head + b"5\r\n" + b"12345\r\nff\r\nab"[: chance.randrange(14)], is_answered=False
    )


async def whole_request(gateway: Gateway, chance: random.Random) -> None:
    """Ask something of either lane and take the answer, or not."""
    requests = [HEAD.encode("POST", TARGET, {}, BODY), HEAD.encode("GET", "/healthz"), HEAD.encode("GET", "/version")]
    requests += [HEAD.encode("POST", "/cache/batch", {}, b"[]"), HEAD.encode("GET", "/nothing/here")]
    requests += [HEAD.encode("GET", "/actors"), HEAD.encode("POST", TARGET, {}, b"{"), b"broken\r\n\r\n"]
    await visit_with_bytes(gateway, chance, chance.choice(requests), is_answered=True)


async def pipelined(gateway: Gateway, chance: random.Random) -> None:
    """Ask five times at once, across the lanes, and read one answer at most."""
    parts = [chance.choice([b"/healthz", b"/version", b"/nothing"]).decode() for _ in range(5)]
    await visit_with_bytes(gateway, chance, b"".join(HEAD.encode("GET", part) for part in parts), is_answered=True)


VISITS: list[Visit] = [silent, half_request, mid_body, mid_chunk, whole_request, whole_request, pipelined]


def agent_target(chance: random.Random) -> str:
    """A durable of a bounded set: consumers on the log outlive their agents on purpose."""
    return stream_target("snapfs.baseline", f"baseline-{chance.randrange(DURABLES_COUNT)}", batch=5)


async def mid_handshake(gateway: Gateway, chance: random.Random) -> None:
    """Leave inside the upgrade, or right after it, or with a broken one."""
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers["Sec-WebSocket-Key"] = chance.choice(["dGhlIHNhbXBsZSBub25jZQ==", "short"])
    request = HEAD.encode("GET", agent_target(chance), headers)
    cut = chance.choice([len(request), chance.randrange(20, len(request))])
    await visit_with_bytes(gateway, chance, request[:cut] + chance.choice([b"", b"\x81"]), is_answered=False)


async def waiting_agent(gateway: Gateway, chance: random.Random) -> None:
    """Attach to a subject on which nothing ever comes, and leave."""
    async with open_agent(gateway.url, f"quiet-{chance.randrange(DURABLES_COUNT)}", subject="snapfs.quiet") as agent:
        if chance.random() < 0.5:
            chance.choice([agent.reset, agent.vanish])()
        elif chance.random() < 0.5:
            await agent.websocket.aclose()


async def holding_agent(gateway: Gateway, chance: random.Random) -> None:
    """Attach, take a batch if one comes, acknowledge it or say something odd or nothing, and leave."""
    async with open_agent(
        gateway.url, f"baseline-{chance.randrange(DURABLES_COUNT)}", subject="snapfs.baseline", batch=5
    ) as agent:
        batch = None
        with trio.move_on_after(0.3):
            batch = await agent.receive()
        HELD["a batch" if batch is not None else "nothing"] += 1
        if batch is not None and chance.random() < 0.5:
            await agent.ack(batch)
        elif chance.random() < 0.3:
            await agent.say_text("odd")
        if chance.random() < 0.6:
            chance.choice([agent.reset, agent.vanish])()
        elif chance.random() < 0.5:
            await agent.websocket.aclose()


HELD: Counter[str] = Counter()
"""What the holding agents held: for the print-out, and for the claim that they did hold something."""

AGENT_VISITS: list[Visit] = [mid_handshake, waiting_agent, holding_agent, holding_agent]


async def keep_producing(gateway: Gateway) -> None:
    """Publish for ever, so that there is always something to hold."""
    while True:
        await ingest(gateway, "snapfs.baseline", some_events(2))


async def come_and_go(gateway: Gateway, chance: random.Random, visits: list[Visit], count: int) -> Counter[str]:
    """Make `count` visits, `AT_ONCE` at a time. Returns how often each kind was made and what went wrong."""
    seen: Counter[str] = Counter()
    left = iter(range(count))

    async def visitor() -> None:
        for _ in left:
            visit = chance.choice(visits)
            seen[visit.__name__] += 1
            try:
                await visit(gateway, chance)
            except (
                ConnectionLost,
                AgentClosed,
                trio_websocket.HandshakeError,
                trio_websocket.ConnectionClosed,
            ) as error:
                seen[type(error).__name__] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(visitor)
    return seen


@pytest.mark.parametrize("rounds_count", [1, pytest.param(5, marks=pytest.mark.long)])
async def test_everything_is_back_after_thousands_of_clients(
    gateway: Gateway, chance: random.Random, rounds_count: int
) -> None:
    """After 2,000 agents and 10,000 connections in every state: actors, descriptors and mailboxes as before."""
    for number in range(20):
        await ingest(gateway, "snapfs.baseline", some_events(number + 1))
    # A first small round makes what is made once: consumers on the log, pools, lazily imported modules.
    await come_and_go(gateway, chance, VISITS + AGENT_VISITS, 400)

    before, rss = await take_baseline(gateway), read_rss_bytes(gateway.pid)
    for _ in range(rounds_count):
        began = time.monotonic()
        seen = await come_and_go(gateway, chance, VISITS, 10_000)
        middle = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_producing, gateway)
            seen += await come_and_go(gateway, chance, AGENT_VISITS, 2_000)
            nursery.cancel_scope.cancel()
        print(f"connections {middle - began:.1f} s, agents {time.monotonic() - middle:.1f} s: {dict(seen)}")
    print(f"agents held {dict(HELD)}")
    assert HELD["a batch"] > HELD["nothing"]
    await wait_back_at(gateway, before)
    print(f"resident memory {rss >> 20} MiB before, {read_rss_bytes(gateway.pid) >> 20} MiB after")
    assert "Traceback" not in gateway.log_text(), gateway.tail()
    assert not [line for line in gateway.log_lines() if line.get("level") in ("error", "critical")]
    assert (await ask(gateway.url, "GET", "/readyz")).status == 200
