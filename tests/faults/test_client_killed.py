"""T1 with the product's own clients: the gateway is killed in mid-stream, and nothing is lost."""

import random
from functools import partial
from pathlib import Path

import orjson
import pytest
import trio

from edge.client import Attached, Client, Notice, Settled
from tests.support.command import open_command
from tests.support.gateway import open_gateway
from tests.support.ledger import Ledger, Run, event_ids_of, read_event_id
from tests.support.nats_client import open_embedded_log
from tests.support.traffic import Traffic
from tests.support.waiting import let_pass, wait_until

ACK_WAIT_S = 3
"""What was on its way to a killed gateway, and not read yet, comes again after this."""


class Follower:
    """`client.stream` with confirmed answers, written down in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.answers: list[Settled] = []
        self.connections = 0
        self._ledger = ledger
        self._run: Run | None = None

    def note(self, notice: Notice) -> None:
        """A new connection is a new run."""
        if isinstance(notice, Attached):
            self.connections += 1
            self._run = self._ledger.begin_run("python")

    async def follow(self, url: str) -> None:
        """Receive and acknowledge until cancelled."""
        async with (
            Client(url) as client,
            client.stream("snapfs.files", durable="python", on_notice=self.note) as stream,
        ):
            async for batch in stream:
                assert self._run is not None
                self._ledger.note_delivery(self._run, [message.value() for message in batch])
                self.answers.append(await batch.ack(confirm=True))


@pytest.mark.parametrize("kills_count", [1, pytest.param(15, marks=pytest.mark.long)])
async def test_clients_lose_nothing_when_the_gateway_is_killed(
    tmp_path: Path, chance: random.Random, kills_count: int
) -> None:
    """T1: A ⊆ D, D ⊆ A ∪ U for `client.stream` by ledger; the command of `headgate agent` saw every position."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    follower = Follower(ledger)
    seen_path, output = tmp_path / "seen", tmp_path / "output"
    output.mkdir()

    def seen() -> list[dict[str, object]]:
        written = seen_path.read_bytes() if seen_path.exists() else b""
        whole, _, _ = written.rpartition(b"\n")  # the last line may still be being written
        return [orjson.loads(line) for line in whole.splitlines()]

    async with (
        open_gateway(tmp_path / "data", env={"HEADGATE_ACK_WAIT_S": str(ACK_WAIT_S)}) as gateway,
        open_command(
            output, "agent", "--gateway", gateway.url, "--durable", "command", "--confirm",
            "--", "sh", "-c", f"cat >> {seen_path}",
        ) as command,
        trio.open_nursery() as agents,
    ):  # fmt: skip
        traffic = Traffic(lambda: gateway.url, ledger, chance)
        agents.start_soon(follower.follow, gateway.url)
        async with trio.open_nursery() as producers:
            for is_keyed in (True, False):
                producers.start_soon(partial(traffic.run_producer, is_keyed=is_keyed, pause_s=0.005))
            for _ in range(kills_count):
                acked, answered = ledger.acked_count, len(follower.answers)
                await wait_until(partial(ledger.has_acked_more_than, acked), "requests are answered", timeout_s=20)
                await wait_until(lambda at=answered: len(follower.answers) > at, "batches flow", timeout_s=20)  # type: ignore[misc]
                await let_pass(chance.uniform(0.0, 0.5))
                gateway.kill()
                await gateway.start()
            acked = ledger.acked_count
            await wait_until(partial(ledger.has_acked_more_than, acked), "requests are answered at last", timeout_s=20)
            traffic.is_stopping = True
        async with open_embedded_log(gateway) as log:
            stored = await log.read_stream("SNAPFS_FILES")
        event_ids = event_ids_of(stored)
        sequences = {message.sequence for message in stored}
        await wait_until(
            lambda: not ledger.missing_count("python", event_ids), "the stream has everything", timeout_s=30
        )
        await wait_until(
            lambda: {line["seq"] for line in seen()} >= sequences,
            "the command saw all",
            timeout_s=30,
            interval_s=0.2,
        )
        agents.cancel_scope.cancel()
        report = ledger.check(stored, ["python"])
        assert command.process.poll() is None, command.err
    ledger.close()
    assert follower.connections > kills_count, "it came back after each kill"
    assert {line["seq"] for line in seen()} == sequences
    for line in seen():
        [*_] = map(read_event_id, line["data"]["events"])  # type: ignore[index]  # JSON; raises for a foreign byte
    confirmed = sum(len(answer.confirmed) for answer in follower.answers)
    doubtful = sum(len(answer.unknown) + len(answer.late) for answer in follower.answers)
    print(
        f"{report}\n{confirmed} confirmed, {doubtful} unknown or late, {len(seen())} lines of {len(sequences)} messages"
    )
    assert confirmed > 0
