"""What an agent may ask for: subject, durable and batch, refused by name (S0.11)."""

from collections.abc import AsyncIterator

import pytest
import trio

from actors.stream import Streams
from actors.tree import Actor
from engine.bridge import open_bridge
from engine.errors import Refused, Unavailable
from engine.jetstream import JetStream
from engine.log_control import LogControl
from engine.stream import MOST_BATCH
from tests.support.nats_peer import open_nats_peer

BAD_PARAMETERS = [
    ("snapfs.files", "", 10, "durable"),
    ("snapfs.files", "a.b", 10, "durable"),
    ("snapfs.files", "a b", 10, "durable"),
    ("snapfs.files", "a>", 10, "durable"),
    ("", "d", 10, "subject"),
    ("snapfs.>", "d", 10, "subject"),
    ("snapfs..files", "d", 10, "subject"),
    ("other.files", "d", 10, "subject"),
    ("snapfs", "d", 10, "subject"),
    ("snapfs.files", "d", 0, "batch"),
    ("snapfs.files", "d", -1, "batch"),
    ("snapfs.files", "d", MOST_BATCH + 1, "batch"),
]


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    """Consumers whose log nobody can reach."""
    async with open_nats_peer() as peer, open_bridge() as bridge:
        log, control = JetStream(peer.locate, "test"), LogControl(bridge, peer.locate)
        yield Streams(log, control, "S", ["snapfs.>"], 30.0, 900.0, Actor("stream", 0.0))


@pytest.mark.parametrize(("subject", "durable", "count", "name"), BAD_PARAMETERS)
async def test_wrong_parameters_are_named(streams: Streams, subject: str, durable: str, count: int, name: str) -> None:
    """Which of the three is wrong, what was expected, and what came."""
    with pytest.raises(Refused) as caught:
        streams.check(subject, durable, count)
    assert caught.value.kind.code == "request.bad-parameter"
    assert caught.value.detail.startswith(f"{name}: ")
    assert str({"subject": repr(subject), "durable": repr(durable), "batch": count}[name]) in caught.value.detail


async def test_good_parameters_pass(streams: Streams) -> None:
    """The bounds themselves are good."""
    streams.check("snapfs.files", "mysql", 1)
    streams.check("snapfs.a.b", "é", MOST_BATCH)


async def test_without_a_log_an_agent_is_told_so_at_once(streams: Streams) -> None:
    """A log that is known to be away is not asked."""
    with trio.fail_after(0.5), pytest.raises(Unavailable) as caught:
        await streams.ensure("snapfs.files", "d")
    assert caught.value.kind.code == "log.down"
