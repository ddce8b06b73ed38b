"""HTTP/2 clients that are slow, silent or gone: each stream has its deadlines, memory is bounded, shutdown is kind.

Rules of the file:
- The gateway here has short deadlines; no test says how soon something happens, only that it does.
"""

import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.baseline import take_baseline, wait_back_at
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.hostile_exchange import prove_alive
from tests.support.http import ask
from tests.support.http2 import count_of, frame, open_http2
from tests.support.processes import read_rss_bytes
from tests.support.waiting import wait_until

NO_ERROR, CANCEL, ENHANCE_YOUR_CALM = 0, 8, 11
EVERY_STREAM = 2**31 - 1
SHORT = {"HTTP2": "on", "SERVER_READ_TIMEOUT": "2", "SERVER_WRITE_TIMEOUT": "1", "SERVER_IDLE_TIMEOUT": "3"}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with little patience."""
    with running_gateway(tmp_path_factory.mktemp("gateway") / "data", env=SHORT) as running:
        yield running


def pull(wait_s: int) -> str:
    """The target of a question that takes so long."""
    return f"/stream/pull?subject=snapfs.none&durable=http2-bounds&wait={wait_s}"


async def test_a_late_body_costs_its_stream_alone(gateway: Gateway) -> None:
    """408, as over HTTP/1.1; what goes on beside it goes on."""
    async with open_http2(gateway.url) as client:
        beside = await client.begin("GET", pull(4))
        late = await client.begin("POST", "/ingest", {"content-length": "1000"}, ends=False)
        client.h2.send_data(late, b"x" * 20)
        await client.flush()
        assert (await client.answer(late)).status == 408
        assert (await client.answer(beside)).status == 200
        assert not client.goaways


async def test_many_large_bodies_take_turns(gateway: Gateway) -> None:
    """Ten bodies that say eight megabytes and never come: four are asked for, the others keep their first window."""
    async with open_http2(gateway.url) as client:
        numbers = [await client.begin("POST", "/ingest", {"content-length": "8000000"}, ends=False) for _ in range(10)]
        while sum(client.h2.remote_settings.initial_window_size < _window(client.h2, n) for n in numbers) < 4:
            await client.pump()
        assert (await client.ask("GET", "/healthz")).status == 200
        assert sum(client.h2.remote_settings.initial_window_size < _window(client.h2, n) for n in numbers) == 4
        for number in numbers:
            assert (await client.answer(number)).status == 408


def _window(library: object, number: int) -> int:
    return int(library.streams[number].outbound_flow_control_window)  # type: ignore[attr-defined]  # not published


async def test_silence_is_ended_with_a_word(gateway: Gateway) -> None:
    """An idle connection gets GOAWAY without an error; pings keep nobody."""
    async with open_http2(gateway.url) as client:
        last = await client.end()
        assert last is not None
        assert (last.code, last.last) == (NO_ERROR, 0)


@pytest.mark.parametrize(
    "begun", [frame(1, 0, 1, b"\x82"), frame(1, 4, 1, length=100)[:12], frame(6, 0, 0, bytes(8))[:10]]
)
async def test_what_never_becomes_whole_is_ended(begun: bytes, gateway: Gateway) -> None:
    """Half a header block, half a frame: a stream that goes on beside it keeps nobody waiting for the rest for ever."""
    async with open_http2(gateway.url) as client:
        await client.raw(begun)
        await client.end()


async def test_half_a_header_block_is_ended_beside_a_stream(gateway: Gateway) -> None:
    """Its deadline is the head's, whatever else the connection does."""
    async with open_http2(gateway.url) as client:
        await client.begin("GET", pull(20))
        await client.raw(frame(1, 0, 3, b"\x82"))
        await client.end(timeout_s=10)
        assert client.answers[1].status == 0


async def test_who_takes_nothing_is_reset(gateway: Gateway) -> None:
    """A shut window resets its stream in the end; one that opens by a byte does not buy more time."""
    async with open_http2(gateway.url) as client:
        client.opens_windows = False
        await client.raw(frame(4, 0, 0, b"\0\x04\0\0\0\0"))
        shut = await client.begin("GET", "/openapi.json")
        assert (await client.answer(shut)).reset == CANCEL
        dribbled = await client.begin("GET", "/openapi.json")
        await client.raw(frame(8, 0, dribbled, b"\0\0\0\1") * 50)
        assert (await client.answer(dribbled)).reset == CANCEL
        assert len(client.answers[dribbled].body) <= 50


async def test_windows_of_a_byte_are_a_flood(gateway: Gateway) -> None:
    """CVE-2019-9511: a client that has an answer cut into bytes is told to calm down."""
    async with open_http2(gateway.url) as client:
        client.believes = False
        await client.raw(frame(4, 0, 0, b"\0\x04\0\0\0\0"))
        client.h2.send_headers(
            1, [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/openapi.json")], True
        )
        await client.flush()

        async def dribble() -> None:
            try:
                while True:
                    await client.raw(frame(8, 0, 1, b"\0\0\0\1"))
                    await trio.lowlevel.checkpoint()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it is over

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble)
            last = await client.end()
            nursery.cancel_scope.cancel()
        assert last is not None
        assert last.code == ENHANCE_YOUR_CALM


async def test_clients_that_do_not_read_cost_bounded_memory(gateway: Gateway) -> None:
    """Twenty connections ask for a hundred large answers each, with windows wide open, and read nothing at all."""
    await prove_alive(gateway.url)
    assert (await ask(gateway.url, "GET", "/openapi.json")).status == 200
    before = peak = read_rss_bytes(gateway.pid)
    connections = await count_of(gateway, "connections")
    async with AsyncExitStack() as stack:
        for _ in range(20):
            client = await stack.enter_async_context(open_http2(gateway.url))
            await client.raw(frame(4, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(8, 0, 0, b"\x7f\xff\x00\x00"))
            for _ in range(95):
                await client.begin("GET", "/openapi.json")

        async def is_over() -> bool:
            nonlocal peak
            peak = max(peak, read_rss_bytes(gateway.pid))
            tree = (await ask(gateway.url, "GET", "/actors")).json()["actors"]
            return _depth_of(tree, "listener") <= 1

        await wait_until(is_over, "they have been ended", timeout_s=30)
    assert await count_of(gateway, "connections") == connections + 20
    assert peak - before < 100 * MIB, (before, peak)


def _depth_of(tree: Any, name: str) -> int:
    """How many an actor holds."""
    if tree["name"] == name:
        return int(tree["mailbox"]["depth"])
    return max((_depth_of(child, name) for child in tree["children"]), default=-1)


async def test_a_client_that_leaves_takes_its_requests_along(gateway: Gateway) -> None:
    """Reset or gone, requests that wait end, and nothing of them is held."""
    baseline = await take_baseline(gateway)
    async with open_http2(gateway.url) as client:
        numbers = [await client.begin("GET", pull(25)) for _ in range(5)]
        for number in numbers[:2]:
            client.h2.reset_stream(number, CANCEL)
        assert (await client.ask("GET", "/healthz")).status == 200
    await wait_back_at(gateway, baseline)


async def test_shutdown_answers_what_has_begun(tmp_path: Path) -> None:
    """SIGTERM: the client is told first and at last, its stream is answered, a later one may be sent elsewhere."""
    async with open_gateway(tmp_path / "data", env={"HTTP2": "on"}) as gateway, open_http2(gateway.url) as client:
        begun = await client.begin("GET", pull(3))
        assert (await client.ask("GET", "/healthz")).status == 200
        gateway.signal(signal.SIGTERM)
        while not client.goaways:
            await client.pump()
        assert client.goaways[0].last == EVERY_STREAM
        assert (await client.answer(begun)).status == 200
        await client.end()
        assert [(one.code, one.last) for one in client.goaways[1:]] == [(NO_ERROR, 3)]
        assert await gateway.wait_exit(20) == 0


async def test_shutdown_ends_who_is_idle_or_floods(tmp_path: Path) -> None:
    """Neither a silent connection nor one whose streams never end holds it up."""
    env = {"HTTP2": "on", "HEADGATE_DRAIN_S": "1"}
    async with (
        open_gateway(tmp_path / "data", env=env) as gateway,
        open_http2(gateway.url) as idle,
        open_http2(gateway.url) as busy,
    ):
        for _ in range(50):
            await busy.begin("GET", pull(25))
        gateway.signal(signal.SIGTERM)
        await idle.end()
        assert idle.goaways[-1].code == NO_ERROR
        assert await gateway.wait_exit(20) == 0
