"""The publisher on a real log: what is answered is stored, once, in order, whatever happens in between (3.2)."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
import trio

from actors.ingest import Publisher
from actors.tree import Actor
from engine.endpoints import Endpoint
from engine.errors import Fault, Refused, Situation
from engine.events import EventBytes, decode_events
from engine.ingest import Publication
from engine.jetstream import JetStream
from tests.support.nats_client import NatsClient, open_nats_client
from tests.support.nats_server import NatsServer, open_nats_server
from tests.support.waiting import let_pass

SUBJECT = "snapfs.files"
STREAM = {"name": "S", "subjects": ["snapfs.>"], "allow_atomic": True, "allow_direct": True}


def batch_of(*numbers: int) -> EventBytes:
    """A request's events."""
    return decode_events(orjson.dumps({"events": [{"type": "t", "data": {"n": number}} for number in numbers]})).content


async def stored_numbers(client: NatsClient) -> list[list[int]]:
    """The events on the log, frame by frame."""
    messages = await client.read_stream("S")
    return [[event["data"]["n"] for event in orjson.loads(one.data)["events"]] for one in messages]


@asynccontextmanager
async def open_publisher(server: NatsServer) -> AsyncIterator[Publisher]:
    """A publisher that is connected to the server."""
    async with trio.open_nursery() as nursery:
        log = JetStream(lambda: Endpoint("127.0.0.1", server.port, {}), "test")
        publisher = Publisher(log)
        nursery.start_soon(log.connection.run)
        nursery.start_soon(publisher.run, Actor("ingest", 0.0), lambda: None)
        with trio.fail_after(5):
            await log.connection.wait_up()
        yield publisher
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_scene(folder: Path, **stream: object) -> AsyncIterator[tuple[NatsServer, NatsClient, Publisher]]:
    """A server with a stream, a client that sees it, and a publisher."""
    async with open_nats_server(folder) as server, open_nats_client(server.url) as client:
        await client.api("STREAM.CREATE.S", {**STREAM, **stream})
        async with open_publisher(server) as publisher:
            yield server, client, publisher


async def test_many_requests_at_once_are_each_stored_once(tmp_path: Path) -> None:
    """Frames hold the requests whole; each caller's answer names the frame that holds its events."""
    async with open_scene(tmp_path) as (_, client, publisher):
        answers: dict[int, Publication] = {}

        async def call(number: int) -> None:
            key = f"key-{number}" if number % 5 == 0 else ""
            answers[number] = await publisher.publish(SUBJECT, batch_of(10 * number, 10 * number + 1), key)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for number in range(300):
                    nursery.start_soon(call, number)
        frames = await stored_numbers(client)
        assert sorted(one for frame in frames for one in frame) == sorted(
            one for number in range(300) for one in (10 * number, 10 * number + 1)
        )
        for number, answer in answers.items():
            frame = frames[answer.sequence - 1]
            at = frame.index(10 * number)
            assert frame[at : at + 2] == [10 * number, 10 * number + 1]
            assert number % 5 or frame == [10 * number, 10 * number + 1]
        assert publisher.mailbox().depth == 0


async def test_one_callers_requests_keep_their_order(tmp_path: Path) -> None:
    """Who waits for each answer finds the events on the log in the order of the requests."""
    async with open_scene(tmp_path) as (_, client, publisher):
        sequences = [(await publisher.publish(SUBJECT, batch_of(number), "")).sequence for number in range(20)]
        assert sequences == sorted(sequences)
        assert await stored_numbers(client) == [[number] for number in range(20)]


@pytest.mark.parametrize("count", [1, 2500], ids=["small", "larger than a frame"])
@pytest.mark.parametrize("atomic", [True, False])
async def test_a_key_is_one_request(tmp_path: Path, count: int, *, atomic: bool) -> None:
    """The same body again is the first answer, as a duplicate; another body is refused; nothing is stored twice."""
    async with open_scene(tmp_path, allow_atomic=atomic) as (_, client, publisher):
        publisher.commit.atomic = atomic
        await publisher.publish(SUBJECT, batch_of(-1), "")
        first = await publisher.publish(SUBJECT, batch_of(*range(count)), "key")
        await publisher.publish(SUBJECT, batch_of(-2), "")
        again = await publisher.publish(SUBJECT, batch_of(*range(count)), "key")
        assert again == Publication("S", first.sequence, True)
        for other in (batch_of(*range(1, count + 1)), batch_of(*range(count + 1)), batch_of(7)):
            with pytest.raises(Refused) as caught:
                await publisher.publish(SUBJECT, other, "key")
            assert caught.value.kind.code == "ingest.key-conflict"
        frames = await stored_numbers(client)
        assert frames[first.sequence - 1][-1] == count - 1
        assert sorted(one for frame in frames for one in frame) == [-2, -1, *range(count)]


async def test_the_same_key_on_another_subject_is_another_request(tmp_path: Path) -> None:
    """Keys are of a subject: two scanners need not agree about them."""
    async with open_scene(tmp_path) as (_, client, publisher):
        for number, subject in enumerate(("snapfs.files", "snapfs.other")):
            assert not (await publisher.publish(subject, batch_of(number), "key")).duplicate
        assert await stored_numbers(client) == [[0], [1]]


async def test_keyed_requests_survive_a_log_that_is_killed(tmp_path: Path) -> None:
    """T6: whatever was answered is stored once; what may be stored is said to be unknown, and repeating finds out."""
    async with open_scene(tmp_path) as (server, _, publisher):
        answers: dict[int, Publication | Fault] = {}

        async def call(number: int) -> None:
            try:
                answers[number] = await publisher.publish(SUBJECT, batch_of(number), f"key-{number}")
            except Fault as fault:
                answers[number] = fault

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(call, number)
                    if number == 100:
                        await publisher.publish(SUBJECT, batch_of(-1), "")
                        server.kill()
                        await server.start()
            for number, answer in list(answers.items()):
                if isinstance(answer, Fault):
                    assert answer.situation in {Situation.UNKNOWN, Situation.UNAVAILABLE}
                    await call(number)
        async with open_nats_client(server.url) as client:
            frames = await stored_numbers(client)
            assert sorted(one for frame in frames for one in frame) == [-1, *range(200)]
        for number, answer in answers.items():
            assert isinstance(answer, Publication), answer
            assert frames[answer.sequence - 1] == [number]


async def test_a_stream_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    """The server is there, its stream is not yet: the request waits for it within its time."""
    async with open_nats_server(tmp_path) as server, open_nats_client(server.url) as client:
        async with open_publisher(server) as publisher, trio.open_nursery() as nursery:
            answers: list[Publication] = []

            async def call() -> None:
                answers.append(await publisher.publish(SUBJECT, batch_of(1), ""))

            nursery.start_soon(call)
            await let_pass(0.05)
            await client.api("STREAM.CREATE.S", STREAM)
        assert answers == [Publication("S", 1, False)]


async def test_a_full_log_is_said_to_refuse(tmp_path: Path) -> None:
    """The log's own words come out; nothing was stored, with a key or without."""
    async with open_scene(tmp_path, max_msgs=1, discard="new") as (_, client, publisher):
        await publisher.publish(SUBJECT, batch_of(1), "")
        for key in ("", "key"):
            with pytest.raises(Fault, match="maximum messages exceeded") as caught:
                await publisher.publish(SUBJECT, batch_of(2), key)
            assert caught.value.kind.code == "log.refused"
        assert await stored_numbers(client) == [[1]]


async def test_what_the_log_refuses_is_let_go_of_at_once(tmp_path: Path) -> None:
    """Its events hang on no ring that stays until the cycle collector comes: many refused at once share a reason."""
    async with open_scene(tmp_path, max_msgs=1, discard="new") as (_, _client, publisher):
        await publisher.publish(SUBJECT, batch_of(1), "")
        refused = 0

        async def call() -> None:
            nonlocal refused
            try:
                await publisher.publish(SUBJECT, batch_of(2), "")
            except Fault:
                refused += 1

        async def call_many() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(call)

        await call_many()
        gc.collect()
        gc.disable()
        try:
            await call_many()
            assert gc.collect() < 100
        finally:
            gc.enable()
        assert refused == 200
