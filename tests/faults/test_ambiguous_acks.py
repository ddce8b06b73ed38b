"""T6: the log stores a frame and its acknowledgement is lost on the way (P1).

A chaos proxy between gateway and log leaves out acknowledgements. The client does what a client does: it
sends the same request with the same Idempotency-Key until it gets a 2xx.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
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

# One frame; the largest frame; an atomic batch of a few; of many.
SIZES = [1, 1000, 1001, 10_000]
# More than any number of tries that the gateway makes within the 2 s it has.
ALL_ACKS = 1_000_000


class Scene(NamedTuple):
    """A gateway whose way to the log goes through the proxy."""

    server: NatsServer
    proxy: ChaosProxy
    gateway: Gateway

    async def stored(self, subject: str) -> list[LogMessage]:
        """What lies on the log under a subject, asked for past the proxy."""
        async with open_nats_client(self.server.url) as log:
            return [message for message in await log.read_stream(STREAM) if message.subject == subject]

    async def post(self, count: int, key: str | None) -> Answer:
        """Ingest `count` events on the subject of that size, with a key if one is given."""
        headers = {"Idempotency_Key": key} if key else {}
        return await ingest(self.gateway, subject_of(count), some_events(count), **headers)


def subject_of(count: int) -> str:
    """Each size has a subject of its own, so that the sizes can be tried side by side."""
    return f"snapfs.of-{count}"


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


async def for_all_sizes(check: Callable[[int], Awaitable[None]]) -> None:
    """Run the check for every size at once: each waits two seconds for an answer that does not come."""
    async with trio.open_nursery() as nursery:
        for count in SIZES:
            nursery.start_soon(check, count)


async def test_a_lost_ack_of_a_keyed_request_is_found_out(tmp_path: Path) -> None:
    """T6: one ack is lost; the client ends up with 2xx, its retry says duplicate, and one copy is stored."""
    async with open_scene(tmp_path) as scene:
        # One for each size: an answer that is missing is not asked for again before the client does it.
        scene.proxy.drop_next(len(SIZES))

        async def check(count: int) -> None:
            tries = [await scene.post(count, f"key-{count}")]
            while tries[-1].status == 503:
                assert len(tries) < 5, [answer.body for answer in tries]
                tries.append(await scene.post(count, f"key-{count}"))
            assert tries[-1].status == 200, tries[-1].body
            again = await scene.post(count, f"key-{count}")
            stored = await scene.stored(subject_of(count))
            print(f"{count} events: {[answer.status for answer in tries]}, duplicate={tries[-1].json()['duplicate']}")
            assert numbers_in(stored) == list(range(count)), "not exactly one copy"
            assert again.status == 200
            assert again.json()["duplicate"] is True
            for answer in (tries[-1], again):
                assert answer.json()["received"] == count
                assert answer.json()["seq"] in {message.sequence for message in stored}

        await for_all_sizes(check)
        assert len(scene.proxy.dropped) == len(SIZES)


async def test_a_request_whose_acks_are_all_lost_is_unknown_and_safe_to_repeat(tmp_path: Path) -> None:
    """T6: as long as no ack comes through the answer is 503; the retry after that is 200, duplicate, one copy."""
    async with open_scene(tmp_path) as scene:
        scene.proxy.drop_next(ALL_ACKS)

        async def check_refused(count: int) -> None:
            answer = await scene.post(count, f"key-{count}")
            answer.problem(503)
            assert int(answer.header("retry-after") or "0") >= 1

        async def check_repeated(count: int) -> None:
            answer = await scene.post(count, f"key-{count}")
            assert answer.status == 200, answer.body
            assert answer.json()["duplicate"] is True
            assert answer.json()["received"] == count
            stored = await scene.stored(subject_of(count))
            assert numbers_in(stored) == list(range(count)), "not exactly one copy"
            assert answer.json()["seq"] in {message.sequence for message in stored}

        await for_all_sizes(check_refused)
        assert len(scene.proxy.dropped) >= len(SIZES)
        scene.proxy.drop_next(0)
        await for_all_sizes(check_repeated)


async def test_without_a_key_the_outcome_is_said_to_be_unknown(tmp_path: Path) -> None:
    """T6: the gateway never publishes an unkeyed frame again; it says that it does not know."""
    async with open_scene(tmp_path) as scene:
        scene.proxy.drop_next(ALL_ACKS)
        assert "may or may not" in (await scene.post(3, None)).problem(503)["detail"]
        scene.proxy.drop_next(0)
        assert (await scene.post(1, None)).status == 200
        assert numbers_in(await scene.stored(subject_of(3))) == [0, 1, 2]


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
        assert numbers_in(await scene.stored(subject_of(count))) == list(range(count)) * 5


def has_lost_more_than(proxy: ChaosProxy, count: int) -> bool:
    """Whether the proxy has left out more than so many messages."""
    return len(proxy.dropped) > count
