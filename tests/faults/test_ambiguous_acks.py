"""T6: the log stores a frame and its acknowledgement is lost on the way (P1).

A chaos proxy between gateway and log leaves out acknowledgements. The client does what a client does: it
sends the same request with the same Idempotency-Key until it gets a 2xx.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
import trio

from tests.support.chaos import ChaosProxy, open_chaos_proxy
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import Answer
from tests.support.ingest import STREAM, ingest, some_events
from tests.support.nats_client import LogMessage, open_nats_client
from tests.support.nats_server import NatsServer, open_nats_server
from tests.support.waiting import wait_until

SUBJECT = "snapfs.files"
# One frame; the largest frame; an atomic batch of a few; of many.
SIZES = [1, 1000, 1001, 10_000]
# More than any number of tries that the gateway makes within the 2 s it has.
ALL_ACKS = 1_000_000


class Scene(NamedTuple):
    """A gateway whose way to the log goes through the proxy."""

    server: NatsServer
    proxy: ChaosProxy
    gateway: Gateway

    async def stored(self) -> list[LogMessage]:
        """What lies on the log, asked for past the proxy."""
        async with open_nats_client(self.server.url) as log:
            return await log.read_stream(STREAM)

    async def post(self, count: int, key: str | None) -> Answer:
        """Ingest `count` events, with a key if one is given."""
        headers = {"Idempotency_Key": key} if key else {}
        return await ingest(self.gateway, SUBJECT, some_events(count), **headers)


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[Scene]:
    """Start log, proxy and gateway."""
    async with (
        open_nats_server(folder / "nats") as server,
        open_chaos_proxy(server.url) as proxy,
        open_gateway(folder / "data", env={"NATS_URL": proxy.url}) as gateway,
    ):
        yield Scene(server, proxy, gateway)


def numbers_in(stored: list[LogMessage]) -> list[int]:
    """The events of `some_events` on the log, all frames joined."""
    return [event["data"]["n"] for message in stored for event in orjson.loads(message.data)["events"]]


@pytest.mark.parametrize("count", SIZES)
async def test_a_lost_ack_of_a_keyed_request_is_found_out(tmp_path: Path, count: int) -> None:
    """T6: one ack is lost; the client ends up with 2xx, its retry says duplicate, and one copy is stored."""
    async with open_scene(tmp_path) as scene:
        scene.proxy.drop_next(1)
        tries = [await scene.post(count, "key-1")]
        while tries[-1].status == 503:
            assert len(tries) < 5, [answer.body for answer in tries]
            tries.append(await scene.post(count, "key-1"))
        assert len(scene.proxy.dropped) == 1
        assert tries[-1].status == 200, tries[-1].body
        again = await scene.post(count, "key-1")
        stored = await scene.stored()
    print(f"statuses {[answer.status for answer in tries]}, first duplicate={tries[-1].json()['duplicate']}")
    assert numbers_in(stored) == list(range(count)), "not exactly one copy"
    assert again.status == 200
    assert again.json()["duplicate"] is True
    for answer in (tries[-1], again):
        assert answer.json()["received"] == count
        assert answer.json()["seq"] in {message.sequence for message in stored}


@pytest.mark.parametrize("count", SIZES)
async def test_a_request_whose_acks_are_all_lost_is_unknown_and_safe_to_repeat(tmp_path: Path, count: int) -> None:
    """T6: as long as no ack comes through the answer is 503; the retry after that is 200, duplicate, one copy."""
    async with open_scene(tmp_path) as scene:
        scene.proxy.drop_next(ALL_ACKS)
        answer = await scene.post(count, "key-1")
        answer.problem(503)
        assert int(answer.header("retry-after") or "0") >= 1
        assert scene.proxy.dropped
        scene.proxy.drop_next(0)
        answer = await scene.post(count, "key-1")
        assert answer.status == 200, answer.body
        assert answer.json()["duplicate"] is True
        assert answer.json()["received"] == count
        stored = await scene.stored()
        assert numbers_in(stored) == list(range(count)), "not exactly one copy"
        assert answer.json()["seq"] in {message.sequence for message in stored}


async def test_without_a_key_the_outcome_is_said_to_be_unknown(tmp_path: Path) -> None:
    """T6: the gateway never publishes an unkeyed frame again; it says that it does not know."""
    async with open_scene(tmp_path) as scene:
        scene.proxy.drop_next(ALL_ACKS)
        assert "may or may not" in (await scene.post(3, None)).problem(503)["detail"]
        scene.proxy.drop_next(0)
        assert (await scene.post(1, None)).status == 200
        assert numbers_in(await scene.stored()) == [0, 1, 2, 0]


@pytest.mark.parametrize("count", [1, 1001])
async def test_a_connection_cut_before_the_ack_is_no_different(tmp_path: Path, count: int) -> None:
    """T6: the connection to the log breaks between storing and acknowledging; one copy, 2xx in the end."""
    async with open_scene(tmp_path) as scene:
        for number in range(5):
            answers: list[Answer] = []

            async def post_until_answered(key: str, answers: list[Answer] = answers) -> None:
                while not answers or answers[-1].status == 503:
                    answers.append(await scene.post(count, key))

            lost_before = len(scene.proxy.dropped)
            scene.proxy.drop_next(ALL_ACKS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(post_until_answered, f"key-{number}")
                await wait_until(partial(has_lost_more_than, scene.proxy, lost_before), "an ack was lost")
                scene.proxy.cut()
                scene.proxy.drop_next(0)
            assert answers[-1].status == 200, answers[-1].body
        assert numbers_in(await scene.stored()) == list(range(count)) * 5


def has_lost_more_than(proxy: ChaosProxy, count: int) -> bool:
    """Whether the proxy has left out more than so many messages."""
    return len(proxy.dropped) > count
