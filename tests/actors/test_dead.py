"""Dead letters on a real log: nothing is given up before its letter is stored, and no letter is there twice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.dead import DeadLetters
from engine.bridge import open_bridge
from engine.endpoints import Endpoint
from engine.errors import Fault, Refused, Unavailable
from engine.jetstream import JetStream
from engine.log import EVENTS_HEADER, Outcome
from engine.log_control import LogControl
from engine.nats_wire import write_headers
from tests.support.nats_client import NatsClient, open_nats_client
from tests.support.nats_server import NatsServer, open_nats_server

SUBJECT = "snapfs.files"
FRAME = b'{"events":[{"type":"note","data":{"n":1}}]}'


class Graveyard:
    """A log with one stream, the dead letters of it, and a client that sees what is there."""

    def __init__(self, server: NatsServer, log: JetStream, dead: DeadLetters, client: NatsClient) -> None:
        self.server = server
        self.log = log
        self.dead = dead
        self.client = client

    async def publish(self, payload: bytes = FRAME, fields: dict[str, str] | None = None) -> None:
        """Put a message on the stream as a gateway does."""
        done = trio.Event()
        outcomes: list[Outcome] = []

        def take(outcome: Outcome) -> None:
            outcomes.append(outcome)
            done.set()

        self.log.publish_nowait(SUBJECT, payload, take, write_headers(fields or {EVENTS_HEADER: "1"}))
        with trio.fail_after(5):
            await done.wait()

    async def letters(self, durable: str = "") -> list[dict[str, Any]]:
        """Every letter, as the wire has them."""
        found, following = await self.dead.list_all(durable, 0, 1000)
        assert following is None
        return found


@asynccontextmanager
async def open_graveyard(folder: Path, config: str = "") -> AsyncIterator[Graveyard]:
    """Open everything."""
    async with (
        open_nats_server(folder) as server,
        open_nats_client(server.url) as client,
        open_bridge() as bridge,
        trio.open_nursery() as nursery,
    ):
        await client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["snapfs.>"], "allow_direct": True})
        locate = lambda: Endpoint("127.0.0.1", server.port, {})  # noqa: E731  # as short as it is
        control, log = LogControl(bridge, locate), JetStream(locate, "test")
        nursery.start_soon(log.connection.run)
        with trio.fail_after(5):
            await log.connection.wait_up()
        try:
            yield Graveyard(server, log, DeadLetters(log, control, "S", "DLQ"), client)
        finally:
            await control.aclose()
            nursery.cancel_scope.cancel()


async def test_a_letter_is_the_message_and_where_it_came_from(tmp_path: Path) -> None:
    """Its bytes, its own fields, and durable, stream, subject, sequence, count and reason."""
    async with open_graveyard(tmp_path) as yard:
        assert await yard.letters() == []
        await yard.publish(fields={EVENTS_HEADER: "1", "Nats-Msg-Id": "mine", "X-Own": "é"})
        assert await yard.dead.bury("mysql", 1, 7, "bad\r\nNats-Msg-Id: x \x7f ü")
        [letter] = await yard.letters()
        assert letter["data"] == {"events": [{"type": "note", "data": {"n": 1}}]}
        del letter["data"], letter["time"], letter["published"]
        assert letter == {
            "id": 1,
            "durable": "mysql",
            "subject": SUBJECT,
            "stream": "S",
            "seq": 1,
            "delivered": 7,
            "reason": "bad\r\nNats-Msg-Id: x \x7f ü",
        }
        [stored] = await yard.client.read_stream("DLQ")
        assert (stored.subject, stored.data) == ("snapfs.dlq.mysql", FRAME)
        assert b"x-own: \xc3\xa9\r\n" in stored.headers
        assert b"mine" not in stored.headers


async def test_a_message_is_buried_once_for_each_durable(tmp_path: Path) -> None:
    """A repeat, also of another gateway or after a restart, is no second letter; another durable's is its own."""
    async with open_graveyard(tmp_path) as yard:
        await yard.publish()
        assert await yard.dead.bury("a", 1, 3, "first")
        assert await yard.dead.bury("a", 1, 4, "again")
        await yard.server.aclose()
        await yard.server.start()
        with trio.fail_after(5):
            await yard.log.connection.wait_up()
        assert await yard.dead.bury("a", 1, 5, "after a restart")
        assert await yard.dead.bury("b", 1, 1, "of another")
        found, _ = await yard.dead.list_all("", 0, 10)
        assert [(one["durable"], one["reason"]) for one in found] == [("a", "first"), ("b", "of another")]
        assert (yard.dead.counts.buried, yard.dead.counts.repeated) == (2, 2)
        assert [one["durable"] for one in await yard.letters("b")] == ["b"]


async def test_a_stream_made_again_has_letters_of_its_own(tmp_path: Path) -> None:
    """Sequence 1 of another stream of the same name is another message."""
    async with open_graveyard(tmp_path) as yard:
        await yard.publish()
        assert await yard.dead.bury("a", 1, 3, "old")
        await yard.client.api("STREAM.DELETE.S")
        await yard.client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["snapfs.>"], "allow_direct": True})
        await yard.publish()
        assert await yard.dead.bury("a", 1, 3, "new")
        assert [one["reason"] for one in await yard.letters()] == ["old", "new"]


async def test_a_letter_is_replayed_as_what_it_was_and_is_gone(tmp_path: Path) -> None:
    """Same subject, bytes and fields, stored once however often it is asked for at once; then 404."""
    async with open_graveyard(tmp_path) as yard:
        await yard.publish(fields={EVENTS_HEADER: "1", "Nats-Msg-Id": "mine"})
        await yard.dead.bury("a", 1, 3, "poison")
        answers: list[dict[str, object]] = []

        async def replay() -> None:
            with suppress(Refused):  # who comes when the letter is gone already
                answers.append(await yard.dead.replay(1))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(replay)
        assert {(one["id"], one["stream"], one["seq"]) for one in answers} == {(1, "S", 2)}
        assert await yard.letters() == []
        first, second = await yard.client.read_stream("S")
        assert (second.subject, second.data) == (first.subject, first.data)
        assert b"headgate-events: 1" in second.headers
        assert b"headgate-dead" not in second.headers.lower()
        with pytest.raises(Refused, match="no dead letter 1"):
            await yard.dead.replay(1)
        assert await yard.dead.bury("a", 2, 3, "poison still")
        assert [one["seq"] for one in await yard.letters()] == [2]


async def test_a_message_that_is_gone_may_be_terminated(tmp_path: Path) -> None:
    """Retention was faster: there is nothing to bury, and nothing to keep trying for."""
    async with open_graveyard(tmp_path) as yard:
        await yard.publish()
        await yard.client.api("STREAM.PURGE.S")
        assert await yard.dead.bury("a", 1, 3, "late")
        assert await yard.letters() == []
        assert yard.dead.counts.gone == 1


async def test_without_a_log_nothing_is_buried(tmp_path: Path) -> None:
    """False or a fault, never true: whoever asked does not terminate the original."""
    async with open_graveyard(tmp_path) as yard:
        await yard.publish()
        yard.server.kill()
        with trio.fail_after(10):
            with suppress(Unavailable):
                assert not await yard.dead.bury("a", 1, 3, "reason")
            with pytest.raises(Fault):
                await yard.dead.list_all("", 0, 10)
        await yard.server.start()
        with trio.fail_after(5):
            await yard.log.connection.wait_up()
        assert await yard.dead.bury("a", 1, 3, "reason")


async def test_a_log_that_refuses_letters_gets_none_acknowledged(tmp_path: Path) -> None:
    """A full stream of letters that takes no more: the original stays, and it is tried again."""
    async with open_graveyard(tmp_path) as yard:
        config = {"name": "DLQ", "subjects": ["DLQ.letters.>"], "max_msgs": 1, "discard": "new", "allow_direct": True}
        transform = {"src": "DLQ.letters.>", "dest": "snapfs.dlq.>"}
        await yard.client.api("STREAM.CREATE.DLQ", {**config, "subject_transform": transform})
        for _ in range(2):
            await yard.publish()
        assert await yard.dead.bury("a", 1, 3, "fits")
        assert not await yard.dead.bury("a", 2, 3, "does not")
        assert yard.dead.counts.failed == 1


async def test_a_message_too_large_for_a_letter_is_named_by_one(tmp_path: Path) -> None:
    """The log takes 1 MiB with its header: the letter says where the message is, and the replay reads it there."""
    async with open_graveyard(tmp_path) as yard:
        for size in (1024 * 1024 - 100, 1024 * 1024):
            await yard.client.publish(SUBJECT, b'"' + b"x" * (size - 2) + b'"')
        for sequence in (1, 2):
            assert await yard.dead.bury("a", sequence, 3, "large")
        assert [(one["data"], one["seq"]) for one in await yard.letters()] == [(None, 1), (None, 2)]
        assert (await yard.dead.replay(1))["seq"] == 3
        first, _, third = await yard.client.read_stream("S")
        assert first.data == third.data
        with pytest.raises(Refused, match="too large"):
            await yard.dead.replay(2)
        assert [one["seq"] for one in await yard.letters()] == [2]
        assert yard.log.connection.statistics().connects == 1


async def test_somebody_elses_message_among_the_letters_is_shown_and_not_replayed(tmp_path: Path) -> None:
    """Whatever was published there, the list stays whole."""
    async with open_graveyard(tmp_path) as yard:
        await yard.publish()
        await yard.dead.bury("a", 1, 3, "ours")
        await yard.client.publish("DLQ.letters.a", b"\xff not JSON")
        ours, other = await yard.letters("a")
        assert ours["reason"] == "ours"
        assert other["data"] == {"raw": "\N{REPLACEMENT CHARACTER} not JSON"}
        with pytest.raises(Refused, match="not written by a gateway"):
            await yard.dead.replay(2)


async def test_letters_come_in_pages(tmp_path: Path) -> None:
    """By the id after which the next begins; the last page says that it is the last."""
    async with open_graveyard(tmp_path) as yard:
        for number in range(1, 6):
            await yard.publish()
            await yard.dead.bury("a" if number % 2 else "b", number, 1, "x")
        first, after = await yard.dead.list_all("a", 0, 2)
        assert ([one["seq"] for one in first], after) == ([1, 3], 3)
        assert after is not None
        last, end = await yard.dead.list_all("a", after, 2)
        assert ([one["seq"] for one in last], end) == ([5], None)


async def test_cancelled_here_a_letter_is_there_once_or_not_at_all(tmp_path: Path) -> None:
    """Wherever a burial is broken off, trying again ends with one letter."""
    async with open_graveyard(tmp_path) as yard:
        await yard.publish()
        for pause_s in (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008):
            with trio.move_on_after(pause_s):
                await yard.dead.bury("a", 1, 3, "broken off")
        assert await yard.dead.bury("a", 1, 3, "whole")
        assert len(await yard.letters()) == 1


async def test_many_burials_at_once_are_all_there(tmp_path: Path) -> None:
    """Overloaded with poison, each message has its one letter."""
    async with open_graveyard(tmp_path) as yard:
        for _ in range(60):
            await yard.publish()
        async with trio.open_nursery() as nursery:
            for number in range(120):
                nursery.start_soon(yard.dead.bury, "a", number % 60 + 1, 3, "poison")
        assert sorted(one["seq"] for one in await yard.letters()) == list(range(1, 61))
