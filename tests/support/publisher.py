"""A publisher on a scripted log, and its callers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import trio
import trio.testing

from actors.ingest import Publisher
from actors.tree import Actor
from engine.errors import Fault, Situation
from engine.events import EventBytes, decode_events
from engine.ingest import Publication
from engine.jetstream import JetStream
from tests.support.nats_peer import Command, NatsPeer, PeerConnection, open_nats_peer

Clock = trio.testing.MockClock
SUBJECT = "snapfs.files"


def batch_of(*numbers: int) -> EventBytes:
    """A request's events."""
    return decode_events(orjson.dumps({"events": [{"type": "t", "data": {"n": number}} for number in numbers]})).content


def numbers_in(command: Command) -> list[int]:
    """The events of a frame."""
    return [event["data"]["n"] for event in orjson.loads(command.payload)["events"]]


def stored(sequence: int, *, duplicate: bool = False) -> bytes:
    """The log's acknowledgement."""
    return orjson.dumps({"stream": "S", "seq": sequence, "duplicate": duplicate})


class Callers:
    """Requests in progress, and what each was answered."""

    def __init__(self, publisher: Publisher, nursery: trio.Nursery) -> None:
        self.answers: dict[str, Publication | Fault] = {}
        self.at: dict[str, float] = {}
        self.publisher = publisher
        self._nursery = nursery
        self._news = trio.Event()

    def call(self, name: str, batch: EventBytes, key: str = "") -> trio.CancelScope:
        """Begin a request; cancelling the scope is the client going away."""
        scope = trio.CancelScope()

        async def publish() -> None:
            with scope:
                try:
                    self.answers[name] = await self.publisher.publish(SUBJECT, batch, key)
                except Fault as fault:
                    self.answers[name] = fault
                self.at[name] = trio.current_time()
                self._news.set()

        self._nursery.start_soon(publish)
        return scope

    async def wait(self, *names: str) -> None:
        """Wait until these are answered."""
        with trio.fail_after(30):
            while not all(name in self.answers for name in names):
                self._news = trio.Event()
                await self._news.wait()

    def brief(self, name: str) -> tuple[int, bool] | Situation:
        """What one was answered: position and whether it was there before, or the situation."""
        answer = self.answers[name]
        return answer.situation if isinstance(answer, Fault) else (answer.sequence, answer.duplicate)


class Scene:
    """A publisher that runs, the scripted log it is connected to, and its callers."""

    def __init__(self, peer: NatsPeer, log: JetStream, callers: Callers, nursery: trio.Nursery) -> None:
        self.peer = peer
        self.log = log
        self.callers = callers
        self.publisher = callers.publisher
        self.nursery = nursery

    async def welcome(self, **info: object) -> PeerConnection:
        """Let the publisher's connection in."""
        server = await self.peer.welcome(**info)  # type: ignore[arg-type]  # more members of INFO, any JSON values
        with trio.fail_after(5):
            await self.log.connection.wait_up()
        return server


@asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    """Run a publisher whose log lets nobody in yet."""
    async with open_nats_peer() as peer, trio.open_nursery() as nursery:
        log = JetStream(peer.locate, "test")
        publisher = Publisher(log)
        nursery.start_soon(log.connection.run)
        nursery.start_soon(publisher.run, Actor("ingest", 0.0), lambda: None)
        yield Scene(peer, log, Callers(publisher, nursery), nursery)
        nursery.cancel_scope.cancel()
