"""`headgate consumers` and `headgate dead` against the real gateway: what they print, and how they end."""

from pathlib import Path

import orjson
import pytest

from edge.cli_output import ExitCode
from tests.support.agent_v1 import open_agent_v1
from tests.support.command import Ended, run_command
from tests.support.gateway import Gateway
from tests.support.nats_client import open_embedded_log

FRAME = b'{"events":[{"type":"note","data":{}}]}'


async def run(gateway: Gateway, *arguments: str) -> Ended:
    """Run a command against the gateway."""
    return await run_command(gateway.data_dir.parent, *arguments, env={"HEADGATE_GATEWAY": gateway.url})


async def test_a_consumer_is_shown_moved_paused_and_removed(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """Each command says what became of it; a table for a person, JSON for a program."""
    async with open_embedded_log(gateway) as log:
        for _ in range(3):
            await log.publish(own_subject, FRAME)
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        await agent.credit()
        await agent.ack(await agent.receive())
    listed = await run(gateway, "consumers")
    assert (listed.code, own_durable in listed.out, own_subject in listed.out) == (0, True, True)
    as_json = orjson.loads((await run(gateway, "consumers", "list", "--json")).out)
    assert own_durable in [one["durable"] for one in as_json["consumers"]]
    moved = orjson.loads((await run(gateway, "consumers", "reset", own_durable, "--to", "all", "--json")).out)
    assert (moved["pending"], moved["reset"]["in_place"]) == (3, True)
    paused = orjson.loads((await run(gateway, "consumers", "pause", own_durable, "--for", "60", "--json")).out)
    assert paused["paused_until"]
    resumed = await run(gateway, "consumers", "resume", own_durable)
    assert (resumed.code, "paused_until" in resumed.out) == (0, True)
    removed = await run(gateway, "consumers", "delete", own_durable)
    assert (removed.code, removed.out) == (0, f"{own_durable} is removed\n")
    gone = await run(gateway, "consumers", "show", own_durable)
    assert (gone.code, gone.out) == (ExitCode.REFUSED, "")
    assert f"no consumer '{own_durable}'" in gone.err


async def test_letters_are_listed_and_replayed(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """With their reasons; a letter that is not there is refused."""
    async with open_embedded_log(gateway) as log:
        await log.publish(own_subject, FRAME)
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        await agent.credit()
        batch = await agent.receive()
        await agent.confirm(batch, term=[{"i": 0, "reason": "cannot be read"}])
    listed = await run(gateway, "dead", "--durable", own_durable)
    assert (listed.code, "cannot be read" in listed.out) == (0, True)
    [letter] = orjson.loads((await run(gateway, "dead", "list", "--durable", own_durable, "--json")).out)["dead"]
    replayed = await run(gateway, "dead", "replay", str(letter["id"]))
    assert (replayed.code, f"letter {letter['id']} is message" in replayed.out) == (0, True)
    again = await run(gateway, "dead", "replay", str(letter["id"]))
    assert (again.code, "no dead letter" in again.err) == (ExitCode.REFUSED, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("consumers", "reset", "d"),
        ("consumers", "pause", "d", "--for", "0"),
        ("dead", "replay", "x"),
        ("dead", "replay"),
    ],
    ids=" ".join,
)
async def test_wrong_usage_is_told(gateway: Gateway, arguments: tuple[str, ...]) -> None:
    """Exit code 2, before the gateway is asked."""
    ended = await run(gateway, *arguments)
    assert (ended.code, ended.out) == (ExitCode.WRONG_USAGE, "")


async def test_without_a_gateway_it_says_so(tmp_path: Path) -> None:
    """Exit code 3, at once."""
    for command in ("consumers", "dead"):
        ended = await run_command(tmp_path, command, "--gateway", "http://127.0.0.1:9")
        assert (ended.code, ended.out) == (ExitCode.UNREACHABLE, "")
