"""T9: a poison event goes to the dead letters with its reason, the stream goes on, and nothing is lost on the way."""

from pathlib import Path
from typing import Any

import orjson
import trio

from tests.support.agent import AgentClosed, open_agent
from tests.support.agent_v1 import AgentV1, BatchV1, open_agent_v1
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask, open_connection
from tests.support.nats_client import NatsClient, open_embedded_log
from tests.support.waiting import let_pass, wait_until

SUBJECT = "snapfs.poison"
POISON = 5
LIGHT = {"HEADGATE_CATALOG": "off"}


async def publish(log: NatsClient, count: int) -> None:
    """Put numbered frames on the log."""
    for number in range(count):
        await log.publish(SUBJECT, orjson.dumps({"events": [{"type": "note", "data": {"n": number}}]}))


def number_of(message: dict[str, Any]) -> int:
    """Which of `publish` it is."""
    number: int = message["data"]["events"][0]["data"]["n"]
    return number


async def letters(gateway: Gateway) -> list[dict[str, Any]]:
    """Every dead letter."""
    found: list[dict[str, Any]] = (await ask(gateway.url, "GET", "/stream/dead?limit=100")).json()["dead"]
    return found


async def refuse_poison(agent: AgentV1, batch: BatchV1, handled: set[int]) -> None:
    """Handle a batch as an agent that cannot stomach the poison."""
    ack: list[list[int]] = []
    nak: list[dict[str, object]] = []
    for one in batch.messages:
        if number_of(one) == POISON:
            nak.append({"i": one["index"], "delay_ms": 1})
        else:
            handled.add(number_of(one))
            ack.append([one["index"], one["index"]])
    await agent.settle(batch, ack=ack, nak=nak)


async def test_a_poison_event_is_buried_and_the_stream_goes_on(tmp_path: Path) -> None:
    """Refused four times it is a dead letter; everything else was handled; replayed, it comes as a new message."""
    env = {**LIGHT, "HEADGATE_MAX_DELIVER": "4"}
    async with (
        open_gateway(tmp_path / "data", env=env) as gateway,
        open_embedded_log(gateway) as log,
        open_agent_v1(gateway.url, subject=SUBJECT, durable="mysql") as agent,
    ):
        assert agent.hello["max_deliver"] == 4
        await publish(log, 20)
        await agent.credit()
        handled: set[int] = set()
        deliveries: list[int] = []
        while len(deliveries) < 4 or len(handled) < 19:
            batch = await agent.receive()
            deliveries += [one["delivered"] for one in batch.messages if number_of(one) == POISON]
            await refuse_poison(agent, batch, handled)
        await wait_until(lambda: _has_letters(gateway, 1), "the poison is a dead letter")
        assert deliveries == [1, 2, 3, 4]
        assert handled == set(range(20)) - {POISON}
        [letter] = await letters(gateway)
        assert (letter["durable"], letter["subject"], letter["seq"], letter["delivered"]) == ("mysql", SUBJECT, 6, 4)
        assert "delivered 4 times" in letter["reason"]
        assert number_of(letter) == POISON
        await wait_until(lambda: _is_settled(log, 20), "nothing is left unsettled")

        async with open_connection(gateway.url) as connection:
            answer = await connection.request("POST", f"/stream/dead/{letter['id']}/replay")
        assert (answer.status, answer.json()["seq"], answer.json()["removed"]) == (200, 21, True)
        again = await agent.receive()
        assert [(one["seq"], one["delivered"], number_of(one)) for one in again.messages] == [(21, 1, POISON)]
        assert (await agent.confirm(again))["confirmed"] == [[0, 0]]
        assert await letters(gateway) == []


async def test_what_an_agent_terminates_is_buried_with_its_reason(tmp_path: Path) -> None:
    """`term` stores the letter first; confirmed, it is there when the agent hears of it."""
    async with (
        open_gateway(tmp_path / "data", env=LIGHT) as gateway,
        open_embedded_log(gateway) as log,
        open_agent_v1(gateway.url, subject=SUBJECT, durable="mysql") as agent,
    ):
        await publish(log, 2)
        await agent.credit()
        received = 0
        while received < 2:
            batch = await agent.receive()
            received += len(batch.messages)
            terms = [{"i": one["index"], "reason": "no such table: é\r\n"} for one in batch.messages]
            assert (await agent.confirm(batch, term=terms))["confirmed"] == [[0, batch.last]]
            assert len(await letters(gateway)) == received
        assert {one["reason"].strip() for one in await letters(gateway)} == {"no such table: é"}
        await wait_until(lambda: _is_settled(log, 2), "nothing is left unsettled")


async def test_old_agents_are_never_deprived_of_a_message(tmp_path: Path) -> None:
    """The old wire promised that what is not acknowledged comes again, for ever: it has no bound."""
    async with (
        open_gateway(tmp_path / "data", env={**LIGHT, "HEADGATE_MAX_DELIVER": "1"}) as gateway,
        open_embedded_log(gateway) as log,
        open_agent(gateway.url, "old", subject=SUBJECT) as agent,
    ):
        await publish(log, 1)
        for _ in range(6):
            assert len((await agent.receive()).messages) == 1
            await agent.say({"type": "ack", "batch": "another"})
        await agent.ack(await agent.receive())
        assert await letters(gateway) == []


async def test_a_gateway_killed_at_any_time_loses_no_poison_and_writes_no_second_letter(tmp_path: Path) -> None:
    """SIGKILL while every message is being buried: afterwards each has exactly one letter, and none is unsettled."""
    count = 60
    env = {**LIGHT, "HEADGATE_MAX_DELIVER": "1", "HEADGATE_ACK_WAIT_S": "1"}
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        async with open_embedded_log(gateway) as log:
            await publish(log, count)
        for pause_s in (0.02, 0.05, 0.1, None):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_refuse_everything, gateway.url)
                if pause_s is None:
                    await wait_until(lambda: _has_letters(gateway, count), "all are buried", timeout_s=30)
                    nursery.cancel_scope.cancel()
                else:
                    await wait_until(lambda: _has_some_letter(gateway), "the first is buried")
                    await let_pass(pause_s)
                    gateway.kill()
            if pause_s is not None:
                await gateway.start()
        found = await letters(gateway)
        assert sorted(one["seq"] for one in found) == list(range(1, count + 1))
        async with open_embedded_log(gateway) as log:
            await wait_until(lambda: _is_settled(log, count), "nothing is left unsettled", timeout_s=20)


async def _refuse_everything(url: str) -> None:
    try:
        async with open_agent_v1(url, subject=SUBJECT, durable="mysql") as agent:
            await agent.credit()
            while True:
                batch = await agent.receive(60)
                await agent.settle(batch, nak=[{"i": [0, batch.last]}])
    except (AgentClosed, OSError):
        pass  # the gateway was killed


async def _has_letters(gateway: Gateway, count: int) -> bool:
    return len(await letters(gateway)) >= count


async def _has_some_letter(gateway: Gateway) -> bool:
    return bool(await letters(gateway))


async def _is_settled(log: NatsClient, floor: int) -> bool:
    [info] = await log.find_consumers("SNAPFS_FILES", "mysql")
    return bool(info["num_ack_pending"] == 0 and info["num_pending"] == 0 and info["ack_floor"]["stream_seq"] >= floor)
