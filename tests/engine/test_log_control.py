"""The log's control plane on a real server: streams and consumers are made once, and found again (S0.1, S0.11)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from engine.bridge import open_bridge
from engine.endpoints import Endpoint
from engine.errors import Refused, Unavailable
from engine.log import StreamFacts
from engine.log_control import CALL_TIMEOUT_S, DUPLICATE_WINDOW_S, MAX_ACK_PENDING, LogControl
from tests.support.nats_client import NatsClient, open_nats_client
from tests.support.nats_peer import open_nats_peer
from tests.support.nats_server import NatsServer, open_nats_server

SUBJECTS = ["snapfs.>"]


@asynccontextmanager
async def open_control(server: NatsServer) -> AsyncIterator[LogControl]:
    """The control plane of a server, closed afterwards."""
    async with open_bridge() as bridge:
        control = LogControl(bridge, lambda: Endpoint("127.0.0.1", server.port, {}))
        try:
            yield control
        finally:
            await control.aclose()


@asynccontextmanager
async def open_both(folder: Path) -> AsyncIterator[tuple[NatsServer, LogControl, NatsClient]]:
    """A server, its control plane, and a client that sees what was made."""
    async with (
        open_nats_server(folder) as server,
        open_control(server) as control,
        open_nats_client(server.url) as client,
    ):
        yield server, control, client


async def test_a_stream_is_made_once_and_found_again(tmp_path: Path) -> None:
    """Kept on disk, keys remembered for ten minutes, atomic batches and direct reads on; twice changes nothing."""
    async with open_both(tmp_path) as (_, control, client):
        assert await control.ensure_stream("S", SUBJECTS) == StreamFacts("S", atomic=True, replicas=1)
        config = (await client.api("STREAM.INFO.S"))["config"]
        assert config["subjects"] == SUBJECTS
        assert (config["storage"], config["retention"]) == ("file", "limits")
        assert config["duplicate_window"] == DUPLICATE_WINDOW_S * 1e9
        assert config["allow_atomic"]
        assert config["allow_direct"]
        await client.publish("snapfs.files", b"{}")
        assert await control.ensure_stream("S", SUBJECTS) == StreamFacts("S", atomic=True, replicas=1)
        assert (await client.stream_state("S"))["messages"] == 1


async def test_a_stream_of_somebody_else_is_taken_as_it_is(tmp_path: Path) -> None:
    """A stream that takes the subjects is used, its properties are said truly, and nothing of it is changed."""
    async with open_both(tmp_path) as (_, control, client):
        await client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["snapfs.>", "other.>"], "storage": "memory"})
        before = (await client.api("STREAM.INFO.S"))["config"]
        assert await control.ensure_stream("S", SUBJECTS) == StreamFacts("S", atomic=False, replicas=1)
        assert (await client.api("STREAM.INFO.S"))["config"] == before


async def test_a_stream_with_other_subjects_is_refused(tmp_path: Path) -> None:
    """The text says what it takes, what is missing, and what to do."""
    async with open_both(tmp_path) as (_, control, client):
        await client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["other.>"]})
        with pytest.raises(Refused) as caught:
            await control.ensure_stream("S", SUBJECTS)
        assert caught.value.kind.code == "request.conflict"
        for words in ("other.>", "snapfs.>", "SNAPFS_STREAM"):
            assert words in caught.value.detail


async def test_subjects_of_another_stream_are_refused_by_the_log(tmp_path: Path) -> None:
    """The log's own refusal comes out as a situation, with its words."""
    async with open_both(tmp_path) as (_, control, client):
        await client.api("STREAM.CREATE.T", {"name": "T", "subjects": SUBJECTS})
        with pytest.raises(Unavailable) as caught:
            await control.ensure_stream("S", SUBJECTS)
        assert caught.value.kind.code == "log.refused"
        assert "overlap" in caught.value.detail


async def test_a_durable_is_made_once_and_found_again(tmp_path: Path) -> None:
    """Explicit acknowledgements, from the beginning of the stream, with room for many agents."""
    async with open_both(tmp_path) as (_, control, client):
        await control.ensure_stream("S", SUBJECTS)
        for _ in range(2):
            await control.ensure_consumer("S", "mysql", "snapfs.files", 30.0)
        config = (await client.api("CONSUMER.INFO.S.mysql"))["config"]
        assert (config["ack_policy"], config["deliver_policy"]) == ("explicit", "all")
        assert (config["filter_subject"], config["ack_wait"]) == ("snapfs.files", 30e9)
        assert config["max_ack_pending"] == MAX_ACK_PENDING
        assert (await client.api("CONSUMER.NAMES.S"))["consumers"] == ["mysql"]


async def test_a_durable_of_another_subject_is_refused(tmp_path: Path) -> None:
    """Changing its subject would lose its place: another name is asked for."""
    async with open_both(tmp_path) as (_, control, _client):
        await control.ensure_stream("S", SUBJECTS)
        await control.ensure_consumer("S", "mysql", "snapfs.files", 30.0)
        with pytest.raises(Refused) as caught:
            await control.ensure_consumer("S", "mysql", "snapfs.other", 30.0)
        for words in ("mysql", "snapfs.files", "snapfs.other"):
            assert words in caught.value.detail


async def test_many_agents_at_once_make_one_durable(tmp_path: Path) -> None:
    """Agents of one durable that come together all find it, whoever made it."""
    async with open_both(tmp_path) as (server, control, client):
        await control.ensure_stream("S", SUBJECTS)
        async with open_control(server) as other, trio.open_nursery() as nursery:
            for one in (control, other) * 5:
                nursery.start_soon(one.ensure_consumer, "S", "mysql", "snapfs.files", 30.0)
        assert (await client.api("CONSUMER.NAMES.S"))["consumers"] == ["mysql"]


async def test_a_durable_of_a_stream_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """The stream may be on its way: it is worth trying again."""
    async with open_both(tmp_path) as (_, control, _client):
        with pytest.raises(Unavailable):
            await control.ensure_consumer("S", "mysql", "snapfs.files", 30.0)


async def test_a_log_that_was_away_is_used_again(tmp_path: Path) -> None:
    """While it is away the caller is told so; the next call after its return opens another connection."""
    async with open_nats_server(tmp_path) as server, open_control(server) as control:
        await control.ensure_stream("S", SUBJECTS)
        server.kill()
        with trio.fail_after(CALL_TIMEOUT_S / 2), pytest.raises(Unavailable) as caught:
            await control.ensure_stream("S", SUBJECTS)
        assert caught.value.kind.code == "log.down"
        await server.start()
        assert await control.ensure_stream("S", SUBJECTS) == StreamFacts("S", atomic=True, replicas=1)


async def test_whoever_stops_waiting_takes_nothing_from_others(tmp_path: Path) -> None:
    """A call that is cancelled while another is in progress, or in its middle, does not end the other."""
    async with open_both(tmp_path) as (_, control, client):
        await control.ensure_stream("S", SUBJECTS)
        for number in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(control.ensure_consumer, "S", f"kept-{number}", "snapfs.files", 30.0)
                with trio.move_on_after(number / 2000):
                    await control.ensure_consumer("S", f"left-{number}", "snapfs.files", 30.0)
        names = (await client.api("CONSUMER.NAMES.S"))["consumers"]
        assert {name for name in names if name.startswith("kept")} == {f"kept-{number}" for number in range(10)}


async def test_a_log_that_says_nothing_is_given_up() -> None:
    """A server that accepts and is silent costs the call's time and no more; a cancelled call ends at once."""
    async with open_nats_peer() as peer, open_bridge() as bridge:
        control = LogControl(bridge, peer.locate)
        began = trio.current_time()
        with pytest.raises(Unavailable) as caught:
            await control.ensure_stream("S", SUBJECTS)
        assert caught.value.kind.code == "log.down"
        assert trio.current_time() - began < CALL_TIMEOUT_S + 1
        with trio.move_on_after(0.05) as scope:
            await control.ensure_stream("S", SUBJECTS)
        assert scope.cancelled_caught
        await control.aclose()


async def test_a_log_whose_place_is_not_known_is_down() -> None:
    """An embedded server that has not started is a log that is down, not a failure of ours."""

    def locate() -> Endpoint:
        raise OSError("the embedded log is not ready yet")

    async with open_bridge() as bridge:
        control = LogControl(bridge, locate)
        with pytest.raises(Unavailable, match="not ready yet"):
            await control.ensure_stream("S", SUBJECTS)
        await control.aclose()
