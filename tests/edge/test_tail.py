"""`headgate tail`: what it prints, what it acknowledges, and that it comes back."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import orjson
import pytest
import trio
import trio.testing

from edge.client import Client, Event, Trouble
from edge.tail import run_tail
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.http import open_connection
from tests.support.peers import open_stream_peer
from tests.support.v1_script import Conversation, V1Script
from tests.support.waiting import wait_until

UPSERT = Event("file.upsert", {"path": "/show/a.exr", "size": 7, "hash": "00ff"})


class Paper:
    """What was printed."""

    def __init__(self) -> None:
        self.text = ""

    @property
    def lines(self) -> list[str]:
        """Line by line."""
        return self.text.splitlines()

    async def write(self, text: str) -> None:
        """Print."""
        await trio.lowlevel.checkpoint()
        self.text += text


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One real gateway for the module; a test uses a subject of its own."""
    with running_gateway(tmp_path_factory.mktemp("tail") / "data") as running:
        yield running


async def test_tail_prints_an_event_a_line(gateway: Gateway) -> None:
    """Type, path, size and hash for a person."""
    paper = Paper()
    async with Client(gateway.url) as client:
        await client.publish([UPSERT, Event("scan.started", {"root_path": "/show"})], subject="snapfs.plain")
        with trio.fail_after(10):
            await run_tail(client, durable="plain", subject="snapfs.plain", count=2, write=paper.write)
    assert paper.lines[0] == "file.upsert    /show/a.exr size=7 hash=00ff"
    assert paper.lines[1].split() == ["scan.started", "/show"]


async def test_tail_prints_json_lines(gateway: Gateway) -> None:
    """`--json`: one JSON text an event, and the event is all there."""
    paper = Paper()
    async with Client(gateway.url) as client:
        await client.publish([UPSERT], subject="snapfs.json")
        with trio.fail_after(10):
            await run_tail(client, durable="json", subject="snapfs.json", as_json=True, count=1, write=paper.write)
    [line] = paper.lines
    assert orjson.loads(line) == {"type": "file.upsert", "data": UPSERT.data}


async def test_tail_goes_on_where_its_durable_stopped(gateway: Gateway) -> None:
    """What was printed is acknowledged: the next tail of the same name gets what comes after it."""
    paper = Paper()
    async with Client(gateway.url) as client:
        for number in range(2):
            await client.publish([Event("n", {"path": f"/{number}"})], subject="snapfs.on")
            with trio.fail_after(10):
                await run_tail(client, durable="on", subject="snapfs.on", batch=1, count=1, write=paper.write)
    assert [line.split() for line in paper.lines] == [["n", "/0"], ["n", "/1"]]


async def test_tail_gives_back_what_it_printed_in_part(gateway: Gateway) -> None:
    """`--count` in the middle of a frame: the frame is not acknowledged, and comes again whole."""
    first, second = Paper(), Paper()
    async with Client(gateway.url) as client:
        await client.publish([Event("n", {"path": f"/{number}"}) for number in range(5)], subject="snapfs.part")
        with trio.fail_after(10):
            await run_tail(client, durable="part", subject="snapfs.part", count=3, write=first.write)
            await run_tail(client, durable="part", subject="snapfs.part", count=5, write=second.write)
    assert (len(first.lines), len(second.lines)) == (3, 5)


async def test_tail_comes_back_after_a_restart(tmp_path: Path) -> None:
    """The gateway is killed and started again: the same tail prints what is published then."""
    paper = Paper()
    troubles: list[Trouble] = []

    async def tail(client: Client) -> None:
        await run_tail(
            client,
            durable="back",
            subject="snapfs.files",
            write=paper.write,
            on_notice=lambda notice: troubles.append(notice) if isinstance(notice, Trouble) else None,
        )

    async with (
        open_gateway(tmp_path / "data") as gateway,
        Client(gateway.url) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(tail, client)
        await client.publish([Event("n", {"path": "/before"})], key="before")
        await wait_until(lambda: "/before" in paper.text, "the event was printed")
        gateway.kill()
        await gateway.start()
        await client.publish([Event("n", {"path": "/after"})], key="after")
        await wait_until(lambda: "/after" in paper.text, "the event after the restart was printed", timeout_s=20)
        nursery.cancel_scope.cancel()
    assert troubles


async def test_tail_prints_messages_that_are_no_frames() -> None:
    """What others put on the log is one line each, and a line break in it stays inside."""

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b", {"raw": "one\ntwo"}, [1, 2], {"events": ["odd"]})
        await gateway.listen()

    async with open_stream_peer(V1Script().step(play)) as peer, Client(peer.url) as client:
        plain, json = Paper(), Paper()
        await run_tail(client, durable="d", subject="s", count=3, write=plain.write)
        await run_tail(client, durable="d", subject="s", count=3, as_json=True, write=json.write)
    assert plain.lines == ['{"raw":"one\\ntwo"}', "[1,2]", '"odd"']
    assert json.lines == plain.lines


async def test_tail_acknowledges_only_what_was_written() -> None:
    """Writing fails: nothing is acknowledged, and the error comes out as it is."""
    script = V1Script()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b", {"events": []})
        await gateway.listen()

    async def fail(text: str) -> None:
        await trio.lowlevel.checkpoint()
        raise BrokenPipeError(text)

    async with open_stream_peer(script.step(play)) as peer, Client(peer.url) as client:
        with pytest.raises(BrokenPipeError):
            await run_tail(client, durable="d", subject="s", write=fail)
    assert script.settles() == []


async def test_tail_without_a_durable_leaves_none_behind(gateway: Gateway) -> None:
    """It reads the log from where it is told to, and afterwards no consumer is there that was not there before."""
    paper = Paper()
    async with Client(gateway.url) as client, open_connection(gateway.url) as connection:

        async def consumers() -> set[str]:
            answer = await connection.request("GET", "/consumers")
            return {consumer["durable"] for consumer in answer.json()["consumers"]}

        await client.publish([UPSERT], subject="snapfs.none")
        before = await consumers()
        for _ in range(2):
            with trio.fail_after(10):
                await run_tail(client, durable=None, from_="all", subject="snapfs.none", count=1, write=paper.write)
        await wait_until(lambda: _is(consumers, before), "no consumer is left behind")
    assert len(paper.lines) == 2, "nothing was remembered either"


async def _is(ask: Callable[[], Awaitable[set[str]]], wanted: set[str]) -> bool:
    return await ask() == wanted
