"""WebSocket /stream as agents in the field speak it, against the real gateway (S0.10 to S0.17)."""

import uuid

import orjson
import pytest

from tests.support.agent import Agent, open_agent, stream_target
from tests.support.gateway import Gateway
from tests.support.http import ask, open_connection
from tests.support.ingest import ingest, some_events
from tests.support.nats_client import open_embedded_log
from tests.support.waiting import wait_until

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
# What WebSocket libraries accept by default: a batch that is larger would cut an old agent off for ever.
DEFAULT_MESSAGE_LIMIT_BYTES = 1 << 20


async def publish_frames(gateway: Gateway, subject: str, count: int) -> None:
    """Put `count` frames of one event each on the log, numbered from 0."""
    async with open_embedded_log(gateway) as log:
        for number in range(count):
            event = {"type": "note", "data": {"n": number}}
            await log.publish(subject, orjson.dumps({"events": [event]}))


def numbers_of(messages: list[object]) -> list[int]:
    """Which of `publish_frames` these are."""
    return [data["events"][0]["data"]["n"] for data in messages]  # type: ignore[index]  # the shape is the claim


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_a_batch_has_exactly_the_wires_shape(
    gateway: Gateway, own_subject: str, own_durable: str, prefix: str
) -> None:
    """One frame out is type, batch (a UUID) and messages of index and data (S0.13, S0.27)."""
    await ingest(gateway, own_subject, some_events(2))
    async with open_agent(gateway.url + prefix, own_durable, subject=own_subject) as agent:
        batch = await agent.receive()
        assert orjson.loads(batch.text) == {
            "type": "events",
            "batch": str(uuid.UUID(batch.id)),
            "messages": [{"index": 0, "data": some_events(2)}],
        }
        await agent.ack(batch)


async def test_an_old_upgrade_is_answered_without_subprotocol_or_extension(gateway: Gateway, own_subject: str) -> None:
    """101 with the right accept key; no compression is negotiated, whoever offers it."""
    headers = {**UPGRADE, "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    async with open_connection(gateway.url) as connection:
        answer = await connection.request("GET", stream_target(own_subject, "old"), headers)
    assert answer.status == 101
    assert answer.header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert answer.header("sec-websocket-extensions") is None
    assert answer.header("sec-websocket-protocol") is None


async def test_a_batch_holds_at_most_as_many_messages_as_asked_for(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """`batch=3` gives messages three at a time, in order, each batch after the last one's ack (S0.11)."""
    await publish_frames(gateway, own_subject, 10)
    received: list[int] = []
    async with open_agent(gateway.url, own_durable, subject=own_subject, batch=3) as agent:
        while len(received) < 10:
            batch = await agent.receive()
            assert 1 <= len(batch.messages) <= 3
            received += numbers_of(batch.messages)
            await agent.ack(batch)
    assert received == list(range(10))


async def test_without_a_batch_parameter_it_is_100(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """The default is 100 messages (S0.11)."""
    await publish_frames(gateway, own_subject, 250)
    sizes: list[int] = []
    async with open_agent(gateway.url, own_durable, subject=own_subject) as agent:
        while sum(sizes) < 250:
            batch = await agent.receive()
            sizes.append(len(batch.messages))
            await agent.ack(batch)
    assert max(sizes) <= 100
    assert len(sizes) <= 10, f"a waiting backlog came in crumbs: {sizes}"


async def test_one_batch_is_outstanding(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Without a subprotocol the second batch comes after the first one's ack, and not before (S0.14)."""
    await publish_frames(gateway, own_subject, 2)
    async with open_agent(gateway.url, own_durable, subject=own_subject, batch=1) as agent:
        first = await agent.receive()
        await agent.receive_nothing(for_s=0.3)
    # Nothing was acknowledged: both are delivered again.
    async with open_agent(gateway.url, own_durable, subject=own_subject, batch=1) as agent:
        again = await agent.receive()
        assert numbers_of(again.messages) == numbers_of(first.messages) == [0]
        await agent.ack(again)
        assert numbers_of((await agent.receive()).messages) == [1]


async def test_what_was_acked_does_not_come_again(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """A durable goes on after its last ack, over connections (S0.12, S0.15)."""
    await publish_frames(gateway, own_subject, 4)
    for number in range(4):
        async with open_agent(gateway.url, own_durable, subject=own_subject, batch=1) as agent:
            batch = await agent.receive()
            assert numbers_of(batch.messages) == [number]
            await agent.ack(batch)
            await wait_acked(gateway, own_durable, count=number + 1)


async def wait_acked(gateway: Gateway, durable: str, count: int) -> None:
    """Wait until the log knows that so many messages of the durable are acknowledged."""
    async with open_embedded_log(gateway) as log:

        async def is_acked() -> bool:
            found = await log.find_consumers("SNAPFS_FILES", durable)
            return any(info["ack_floor"]["consumer_seq"] >= count for info in found)

        await wait_until(is_acked, f"{count} messages of {durable} are acked")


async def test_every_durable_gets_every_event(gateway: Gateway, own_subject: str) -> None:
    """Three agents with durables of their own are three copies (S0.22)."""
    await publish_frames(gateway, own_subject, 20)
    for durable in (uuid.uuid4().hex for _ in range(3)):
        async with open_agent(gateway.url, durable, subject=own_subject) as agent:
            assert await receive_all(agent, 20) == list(range(20))


async def receive_all(agent: Agent, count: int) -> list[int]:
    """Receive and acknowledge until `count` frames came."""
    received: list[int] = []
    while len(received) < count:
        batch = await agent.receive()
        received += numbers_of(batch.messages)
        await agent.ack(batch)
    return received


async def test_a_subject_is_heard_alone(gateway: Gateway, own_subject: str) -> None:
    """Agents of other subjects hear nothing of it; the durable's subject filters (S0.11)."""
    await publish_frames(gateway, f"{own_subject}.a", 2)
    await publish_frames(gateway, f"{own_subject}.b", 3)
    async with open_agent(gateway.url, uuid.uuid4().hex, subject=f"{own_subject}.a") as agent:
        assert await receive_all(agent, 2) == [0, 1]
        await agent.receive_nothing(for_s=0.2)


NOT_JSON = [b"plain text", b"", b"{broken", b"\xff\xfe binary", 'quote " and \\ and ä'.encode(), b"\x00\x1f\r\n"]


async def test_what_is_not_json_on_the_log_arrives_raw(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """A message that somebody else put on the log arrives as {"raw": text}, between the frames, in order."""
    async with open_embedded_log(gateway) as log:
        for data in NOT_JSON:
            await log.publish(own_subject, data)
        await log.publish(own_subject, b'{"shape":"of another"}')
        await log.publish(own_subject, b" [1, 2] ")
    async with open_agent(gateway.url, own_durable, subject=own_subject) as agent:
        messages: list[object] = []
        while len(messages) < len(NOT_JSON) + 2:
            batch = await agent.receive()
            messages += batch.messages
            await agent.ack(batch)
    expected: list[object] = [{"raw": data.decode(errors="replace")} for data in NOT_JSON]
    assert messages == [*expected, {"shape": "of another"}, [1, 2]]


async def test_a_batch_fits_into_what_websocket_libraries_take(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """Large frames come in batches under 1 MiB, which is the usual limit of a message (websockets, aiohttp)."""
    events = {"events": [{"type": "note", "data": {"pad": "x" * 4000}} for _ in range(100)]}
    for _ in range(8):
        await ingest(gateway, own_subject, events)
    received = 0
    async with open_agent(gateway.url, own_durable, subject=own_subject) as agent:
        while received < 800:
            batch = await agent.receive()
            assert len(batch.text.encode()) <= DEFAULT_MESSAGE_LIMIT_BYTES
            received += len(batch.events)
            await agent.ack(batch)


async def test_a_waiting_agent_is_told_at_once(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """An agent that has waited for a while gets the next event without a poll's delay."""
    async with open_agent(gateway.url, own_durable, subject=own_subject) as agent:
        await agent.receive_nothing(for_s=1.2)
        await ingest(gateway, own_subject, some_events(1))
        assert len((await agent.receive(timeout_s=0.4)).events) == 1


BAD_TARGETS = {
    "no subject": stream_target(None, "d"),
    "empty subject": stream_target("", "d"),
    "no durable": stream_target("snapfs.files", None),
    "empty durable": stream_target("snapfs.files", ""),
    "subject outside the streams": stream_target("other.files", "d"),
    "malformed subject": stream_target("snapfs..files", "d"),
    "subject with a space": stream_target("snapfs.a b", "d"),
    "subject with a line end": stream_target("snapfs.a\r\nPUB x 1", "d"),
    **{f"durable with {mark!r}": stream_target("snapfs.files", f"a{mark}b") for mark in " .*>/\\\t\r\n\x00"},
    "durable of 300 letters": stream_target("snapfs.files", "d" * 300),
    "batch of 0": stream_target("snapfs.files", "d", batch=0),
    "batch below 0": stream_target("snapfs.files", "d", batch=-1),
    "batch of words": stream_target("snapfs.files", "d", batch="many"),
    "batch without end": stream_target("snapfs.files", "d", batch=10**30),
    "batch of 1.5": stream_target("snapfs.files", "d", batch=1.5),
}


@pytest.mark.parametrize("target", BAD_TARGETS.values(), ids=BAD_TARGETS.keys())
async def test_bad_parameters_are_refused_before_the_upgrade(gateway: Gateway, target: str) -> None:
    """400 as a problem, no 101, and nothing is made on the log (S0.11)."""
    (await ask(gateway.url, "GET", target, UPGRADE)).problem(400)


async def test_what_is_no_upgrade_is_told_so(gateway: Gateway) -> None:
    """A plain GET of /stream, or another WebSocket version, is 400 or 426, never a hanging connection."""
    target = stream_target("snapfs.files", "plain")
    assert (await ask(gateway.url, "GET", target)).status in (400, 426)
    answer = await ask(gateway.url, "GET", target, {**UPGRADE, "Sec-WebSocket-Version": "8"})
    assert answer.status in (400, 426)
    assert answer.header("sec-websocket-version") == "13"
    without_key = {name: value for name, value in UPGRADE.items() if name != "Sec-WebSocket-Key"}
    assert (await ask(gateway.url, "GET", target, without_key)).status == 400
