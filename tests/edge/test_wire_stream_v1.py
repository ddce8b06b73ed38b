"""WebSocket /stream with `headgate.stream.v1`, against the real gateway (issue 3, section 1)."""

import uuid

import orjson
import pytest
import trio_websocket

from tests.support.agent import open_agent
from tests.support.agent_v1 import open_agent_v1
from tests.support.gateway import Gateway
from tests.support.http import ask
from tests.support.nats_client import open_embedded_log
from tests.support.waiting import wait_until


async def publish_frames(gateway: Gateway, subject: str, *frames: list[str]) -> None:
    """Put frames on the log; each is a list of event types."""
    async with open_embedded_log(gateway) as log:
        for number, kinds in enumerate(frames):
            events = [{"type": kind, "data": {"n": number}} for kind in kinds]
            await log.publish(subject, orjson.dumps({"events": events}))


def notes(count: int) -> list[list[str]]:
    """So many frames of one event."""
    return [["note"]] * count


async def test_hello_says_everything_first(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """The first frame names stream, durable, epoch, positions, window, leases and limits."""
    await publish_frames(gateway, own_subject, *notes(3))
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        hello = agent.hello
        assert hello["protocol"] == "headgate.stream.v1"
        assert (hello["stream"], hello["subject"], hello["durable"]) == ("SNAPFS_FILES", own_subject, own_durable)
        assert hello["created"] is True
        assert hello["epoch"].startswith("20")
        assert hello["pending"] == 3
        assert hello["first_seq"] <= hello["last_seq"]
        assert hello["window"] == {"messages": 0, "bytes": 0, "mode": "none"}
        assert hello["ack_wait_s"] == 30.0
        assert hello["max_lease_s"] == 900.0
        assert hello["limits"].keys() == {
            "batch_messages",
            "batch_bytes",
            "credit_messages",
            "credit_bytes",
            "batches",
        }
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject, from_="new") as agent:
        assert agent.hello["created"] is False
        assert agent.hello["pending"] == 3, "where it begins was said when it was made"


async def test_nothing_comes_before_credit_and_no_more_than_it(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """Messages and bytes both bind."""
    await publish_frames(gateway, own_subject, *notes(10))
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        await agent.receive_no_batch(for_s=0.2)
        await agent.credit(4, 10_000)
        first = await agent.receive()
        got = list(first.messages)
        while len(got) < 4:
            got += (await agent.receive()).messages
        await agent.receive_no_batch(for_s=0.2)
        size = len(orjson.dumps(got[0]["data"]))
        status = await agent.status()
        assert status["credit"] == {"messages": 0, "bytes": 10_000 - 4 * size}
        assert status["lag"]["messages"] == 6
        assert status["stalled"].startswith("the message credit is used up")


async def test_bytes_bind_too(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Credit for three large messages brings three; one that is larger than the credit comes alone, at rest."""
    await publish_frames(gateway, own_subject, *([["x" * 5000]] * 6))
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        await agent.credit(100, 16_000)
        held = [await agent.receive()]
        while sum(len(one.messages) for one in held) < 3:
            held.append(await agent.receive())
        await agent.receive_no_batch(for_s=0.2)
        status = await agent.status()
        assert 0 < status["credit"]["bytes"] < 5000
        assert status["stalled"].startswith("the next message is larger than the byte credit")
        for batch in held:
            await agent.ack(batch)
        assert len((await agent.receive()).messages) == 1
        await agent.receive_no_batch(for_s=0.2)
        assert (await agent.status())["stalled"].startswith("the byte credit is used up")


async def test_each_message_carries_sequence_count_and_time(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """seq, delivered and publish time stand beside the data; a redelivery counts up."""
    await publish_frames(gateway, own_subject, *notes(2))
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        await agent.credit()
        batch = await agent.receive()
        assert [one["delivered"] for one in batch.messages] == [1] * len(batch.messages)
        assert batch.sequences == sorted(batch.sequences)
        assert batch.messages[0]["time"].endswith("Z")
        assert batch.messages[0]["data"]["events"][0]["data"] == {"n": 0}
        await agent.settle(batch, nak=[{"i": 0}])
        again = await agent.receive()
        assert (again.messages[0]["seq"], again.messages[0]["delivered"]) == (batch.sequences[0], 2)


async def test_mixed_verdicts_in_one_frame(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Acknowledged and terminated ones never come again; the others do, and confirmed says what the log heard."""
    await publish_frames(gateway, own_subject, *notes(10))
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        await agent.credit()
        batch = await agent.receive()
        while len(batch.messages) < 10:  # whatever came in pieces is given back, and comes together
            await agent.confirm(batch, nak=[{"i": [0, batch.last]}])
            batch = await agent.receive()
        settled = await agent.confirm(
            batch, ack=[[0, 3], 5], nak=[{"i": 4}], term=[{"i": [6, 8], "reason": "no"}], progress=[9]
        )
        assert settled["confirmed"] == [[0, 8]]
        assert settled["late"] == []
        again = await agent.receive()
        assert again.sequences == [batch.sequences[4]]
        await agent.ack(again)
        await agent.settle(batch, ack=[[0, 9]])
        async with open_embedded_log(gateway) as log:

            async def is_done() -> bool:
                [info] = await log.find_consumers("SNAPFS_FILES", own_durable)
                return not info["num_ack_pending"] and not info["num_pending"]

            await wait_until(is_done, "everything is settled")


async def test_old_and_new_share_a_durable(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Each event goes to one of them, and the old wire says what it always said."""
    async with (
        open_agent(gateway.url, own_durable, subject=own_subject, batch=1) as old,
        open_agent_v1(gateway.url, own_durable, subject=own_subject, batch=1) as new,
    ):
        await new.credit(1)
        await publish_frames(gateway, own_subject, *notes(2))
        batch, message = await old.receive(), (await new.receive()).messages[0]
        assert {batch.events[0]["data"]["n"], message["data"]["events"][0]["data"]["n"]} == {0, 1}


@pytest.mark.parametrize(
    ("start", "expected"), [("all", [0, 1, 2]), ("last", [2]), ("new", []), ("seq", [1, 2]), (None, [0, 1, 2])]
)
async def test_where_a_durable_begins(
    gateway: Gateway, own_subject: str, own_durable: str, start: str | None, expected: list[int]
) -> None:
    """`from` says it on the first attachment."""
    await publish_frames(gateway, own_subject, *notes(3))
    if start == "seq":
        async with open_agent_v1(gateway.url, None, subject=own_subject, from_="all") as agent:
            await agent.credit()
            start = f"seq:{(await agent.receive()).sequences[0] + 1}"
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject, from_=start) as agent:
        assert agent.hello["pending"] == len(expected)
        await agent.credit()
        got: list[int] = []
        while len(got) < len(expected):
            got += [one["data"]["events"][0]["data"]["n"] for one in (await agent.receive()).messages]
        assert got == expected


async def test_filtered_frames_are_thinned(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Only matching events come; frames without any are acknowledged by the gateway."""
    await publish_frames(gateway, own_subject, ["a.x", "b"], ["b"], ["c", "a.y"])
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject, filter="a.*,c") as agent:
        await agent.credit()
        kinds: list[list[str]] = []
        while len(kinds) < 2:
            batch = await agent.receive()
            kinds += [[event["type"] for event in one["data"]["events"]] for one in batch.messages]
            await agent.ack(batch)
        assert kinds == [["a.x"], ["c", "a.y"]]
    with pytest.raises(trio_websocket.ConnectionRejected) as refused:
        async with open_agent_v1(gateway.url, own_durable, subject=own_subject, filter="b"):
            pass
    assert refused.value.status_code == 409


async def test_an_ephemeral_consumer_is_gone_with_its_socket(gateway: Gateway, own_subject: str) -> None:
    """A dashboard sees what is new, and leaves nothing behind."""
    await publish_frames(gateway, own_subject, *notes(1))
    async with open_agent_v1(gateway.url, None, subject=own_subject) as agent:
        assert agent.hello["durable"] is None
        await agent.auto()
        await publish_frames(gateway, own_subject, ["fresh"])
        batch = await agent.receive()
        assert batch.messages[0]["data"]["events"][0]["type"] == "fresh"
        name = agent.hello["consumer"]
    async with open_embedded_log(gateway) as log:

        async def is_gone() -> bool:
            return not await log.find_consumers("SNAPFS_FILES", name)

        await wait_until(is_gone, "the consumer is gone")


async def test_exclusive_means_alone(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Another socket is refused with 409, whichever of the two wants to be alone."""
    for first, second in (({"exclusive": 1}, {}), ({}, {"exclusive": 1})):
        durable = f"{own_durable}-{uuid.uuid4().hex[:4]}"
        async with open_agent_v1(gateway.url, durable, subject=own_subject, **first):
            with pytest.raises(trio_websocket.ConnectionRejected) as refused:
                async with open_agent_v1(gateway.url, durable, subject=own_subject, **second):
                    pass
            assert refused.value.status_code == 409


async def test_exclusive_counts_both_wires(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """An agent of the old wire is somebody else too, and is refused while another is alone."""
    async with open_agent(gateway.url, own_durable, subject=own_subject):
        with pytest.raises(trio_websocket.ConnectionRejected) as refused:
            async with open_agent_v1(gateway.url, own_durable, subject=own_subject, exclusive=1):
                pass
        assert refused.value.status_code == 409

    async def is_alone() -> bool:
        try:
            async with open_agent_v1(gateway.url, own_durable, subject=own_subject, exclusive=1):
                with pytest.raises(trio_websocket.ConnectionRejected) as refused:
                    async with open_agent(gateway.url, own_durable, subject=own_subject):
                        pass
                return refused.value.status_code == 409
        except trio_websocket.ConnectionRejected:
            return False  # the gateway has not seen yet that the first is gone

    await wait_until(is_alone, "it is alone, and the old wire is refused")


async def test_what_was_settled_is_counted(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """The metrics name verdicts and confirmations, and what is in agents' hands."""
    await publish_frames(gateway, own_subject, *notes(1))
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        await agent.credit()
        batch = await agent.receive()
        before = await read_metrics(gateway)
        assert before["headgate_stream_in_flight_messages"] >= 1
        await agent.confirm(batch)
        after = await read_metrics(gateway)
        for name in ('headgate_stream_settled_total{verdict="ack"}', CONFIRMED):
            assert after[name] == before[name] + 1
        assert after["headgate_stream_in_flight_messages"] == before["headgate_stream_in_flight_messages"] - 1


CONFIRMED = 'headgate_stream_confirmations_total{outcome="confirmed"}'


async def read_metrics(gateway: Gateway) -> dict[str, float]:
    """Every sample by its name and labels."""
    text = (await ask(gateway.url, "GET", "/metrics")).body.decode()
    lines = [one.rpartition(" ") for one in text.splitlines() if not one.startswith("#")]
    return {name: float(value) for name, _, value in lines}
