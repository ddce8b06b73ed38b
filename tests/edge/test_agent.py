"""`headgate agent` against a real gateway: commands, their verdicts, their ends, and the agent's own."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import trio

from edge.cli import main
from edge.client import Client, Event
from tests.support.command import Ended, open_command, run_command
from tests.support.gateway import Gateway, running_gateway
from tests.support.http import open_connection
from tests.support.processes import is_alive
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One real gateway with leases of a second; a test has a subject and a durable of its own."""
    with running_gateway(tmp_path_factory.mktemp("agent") / "data", env={"HEADGATE_ACK_WAIT_S": "1"}) as running:
        yield running


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Take the commands' output."""
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


async def publish(gateway: Gateway, subject: str, count: int = 3) -> None:
    """Put `count` messages on the log."""
    async with Client(gateway.url) as client:
        for number in range(count):
            await client.publish([Event("file.upsert", {"path": f"/{number}"})], subject=subject)


def options(gateway: Gateway, subject: str, *more: str) -> list[str]:
    """The words of `headgate agent` up to the command."""
    return ["agent", "--gateway", gateway.url, "--durable", subject.replace(".", "-"), "--subject", subject, *more]


def lines_of(ended: Ended) -> list[dict[str, object]]:
    """The lines of `--json`."""
    return [orjson.loads(line) for line in ended.out.splitlines()]


async def test_a_command_reads_messages_and_acknowledges_by_ending_well(
    gateway: Gateway, own_subject: str, output: Path, tmp_path: Path
) -> None:
    """One line of JSON a message, with position, count, time and data; the environment says which batch it is."""
    await publish(gateway, own_subject)
    script = f"cat >> {tmp_path}/seen; echo $HEADGATE_SUBJECT $HEADGATE_DURABLE $HEADGATE_BATCH"
    ended = await run_command(
        output, *options(gateway, own_subject, "--once", "--confirm", "--json"), "--", "sh", "-c", script
    )
    assert ended.code == 0, ended.err
    seen = [orjson.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert [one["data"]["events"][0]["data"]["path"] for one in seen] == ["/0", "/1", "/2"]
    assert {"index", "seq", "delivered", "time", "data"} <= seen[0].keys()
    assert f"{own_subject} {own_subject.replace('.', '-')} " in ended.err, "what is no verdict goes to stderr"
    assert lines_of(ended)[-1] == {
        "type": "end", "batches": len(lines_of(ended)) - 1, "messages": 3, "failures": 0,
        "acked": 3, "naked": 0, "terminated": 0, "late": 0, "unknown": 0, "unsaid": 0,
    }  # fmt: skip
    again = await run_command(output, *options(gateway, own_subject, "--once"), "--", "cat")
    assert (again.code, again.out) == (0, "0 batches, 0 messages: 0 acknowledged\n")


async def test_a_failing_command_gives_back_and_later_succeeds(
    gateway: Gateway, own_subject: str, output: Path, tmp_path: Path
) -> None:
    """It crashes the first time: everything comes again, with `delivered` 2, and nothing is lost."""
    await publish(gateway, own_subject)
    script = f"cat >> {tmp_path}/seen; test -e {tmp_path}/tried || {{ touch {tmp_path}/tried; kill -9 $$; }}"
    words = options(gateway, own_subject, "--batch", "3", "--retry-delay", "0.1", "--until-idle", "1")
    ended = await run_command(output, *words, "--", "sh", "-c", script)
    assert ended.code == 1, "something was given back"
    assert "sh ended with signal 9" in ended.err
    seen = [orjson.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    acked = {one["seq"] for one in seen if one["delivered"] == 2}
    assert acked
    assert acked | {one["seq"] for one in seen if one["delivered"] == 1} == {one["seq"] for one in seen}


async def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(
    gateway: Gateway, own_subject: str, output: Path
) -> None:
    """T9: a `term` line ends one message, exit code 65 all that was not answered; the others are acknowledged."""
    await publish(gateway, own_subject, 2)
    term = """while read -r line; do case $line in *'"/1"'*)
        echo "$line" | sed 's/.*"index":\\([0-9]*\\).*/{"term":\\1,"reason":"no such codec"}/';; esac; done"""
    first = await run_command(output, *options(gateway, own_subject, "--once"), "--", "sh", "-c", term)
    assert "1 acknowledged, 1 ended" in first.out
    await publish(gateway, own_subject, 1)
    second = await run_command(output, *options(gateway, own_subject, "--once"), "--", "sh", "-c", "exit 65")
    assert "0 acknowledged, 1 ended" in second.out
    async with open_connection(gateway.url) as connection:
        answer = await connection.request("GET", f"/stream/dead?durable={own_subject.replace('.', '-')}")
    reasons = [letter["reason"] for letter in answer.json()["dead"]]
    assert reasons == ["no such codec", "the command ended with 65: data error"]


async def test_a_verdict_that_cannot_be_understood_never_acknowledges(
    gateway: Gateway, own_subject: str, output: Path
) -> None:
    """Although the command ends well: what it had not answered before is given back."""
    await publish(gateway, own_subject, 1)
    script = """echo '{"ack":[7]}'"""
    words = options(gateway, own_subject, "--once", "--retry-delay", "60")
    ended = await run_command(output, *words, "--", "sh", "-c", script)
    assert ended.code == 1
    assert "0 acknowledged, 1 given back" in ended.out
    assert "7 is no index or [first, last] between 0 and 0" in ended.err


async def test_a_slow_command_keeps_its_lease(gateway: Gateway, own_subject: str, output: Path, tmp_path: Path) -> None:
    """Two leases long at work: the gateway extends them, nothing is delivered twice."""
    await publish(gateway, own_subject, 2)
    script = f"cat >> {tmp_path}/seen; sleep 2.2"
    words = options(gateway, own_subject, "--batch", "2", "--until-idle", "1.2", "--confirm")
    ended = await run_command(output, *words, "--", "sh", "-c", script)
    assert ended.code == 0, ended.err
    seen = [orjson.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert [one["delivered"] for one in seen] == [1, 1]


async def test_a_command_whose_time_is_up_dies_with_its_children(
    gateway: Gateway, own_subject: str, output: Path
) -> None:
    """`--timeout`: the whole group is ended, although it ignores SIGTERM at first, and the batch is given back."""
    await publish(gateway, own_subject, 1)
    words = options(gateway, own_subject, "--timeout", "0.5", "--retry-delay", "60", "--once")
    async with open_command(output, *words, "--", "sh", "-c", "sleep 998 & sleep 999") as command:
        await wait_until(lambda: len(command.children()) >= 3, "the command and its children run")
        ended = await command.wait_ended()
        assert not command.children()
    assert "was not done within 0.5 s" in ended.err
    assert "1 given back" in ended.out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_told_to_stop_it_gives_back_what_it_holds(
    number: signal.Signals, code: int, gateway: Gateway, own_subject: str, output: Path, tmp_path: Path
) -> None:
    """Ctrl-C ends it with 130, SIGTERM with 0: its command and that one's children are gone, another gets the batch."""
    await publish(gateway, own_subject, 1)
    words = options(gateway, own_subject)
    async with open_command(output, *words, "--", "sh", "-c", "sleep 998 & sleep 999") as command:
        await wait_until(lambda: len(command.children()) >= 3, "the command and its children run")
        command.signal(number)
        ended = await command.wait_ended(timeout_s=10)
        assert not command.children()
    assert ended.code == code, ended.err
    other = await run_command(
        output, *options(gateway, own_subject, "--once"), "--", "sh", "-c", f"cat > {tmp_path}/seen", timeout_s=10
    )
    assert other.code == 0
    assert orjson.loads((tmp_path / "seen").read_text())["delivered"] == 2


async def test_a_python_function_is_called_with_each_batch(
    gateway: Gateway, own_subject: str, output: Path, tmp_path: Path
) -> None:
    """`--python module:function`, here with mixed verdicts, from a folder that is on the path."""
    (tmp_path / "store_of_this_test.py").write_text(
        "def handle(batch):\n"
        "    bad = [m.index for m in batch if m.events()[0].data['path'] == '/1']\n"
        "    return {'term': bad, 'reason': 'odd'}\n"
    )
    await publish(gateway, own_subject)
    words = options(gateway, own_subject, "--python", "store_of_this_test:handle", "--once")
    ended = await run_command(output, *words, env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"})
    assert "2 acknowledged, 1 ended" in ended.out, ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected one of"),
        (["--python", "a:b", "--", "cat"], "expected one of"),
        (["--python", "nothing"], "expected module:function"),
        (["--builtin", "nothing"], "expected one of discard"),
        (["--", "/no/such/program"], "no program '/no/such/program'"),
        (["--credit", "5", "--", "cat"], "expected auto, or messages,bytes"),
        (["--credit", "0,5", "--", "cat"], "nothing would ever come"),
    ],
)
def test_wrong_usage_ends_with_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is asked of a gateway."""
    assert main(["agent", "--durable", "d", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err


async def test_without_a_gateway_a_cron_job_ends_with_3_and_refused_with_4(gateway: Gateway, output: Path) -> None:
    """An agent that ends by itself does not wait for ever; one that is refused says why."""
    async with trio.open_nursery() as nursery:
        results: dict[int, Ended] = {}

        async def run(code: int, *words: str) -> None:
            results[code] = await run_command(output, "agent", *words, "--once", "--", "cat")

        nursery.start_soon(run, 3, "--durable", "d", "--gateway", "http://127.0.0.1:1", "--give-up", "0.2")
        nursery.start_soon(run, 4, "--durable", "d", "--gateway", gateway.url, "--from", "yesterday")
    assert {code: ended.code for code, ended in results.items()} == {3: 3, 4: 4}
    assert "from" in results[4].err


async def test_a_killed_agent_takes_its_command_along(gateway: Gateway, own_subject: str, output: Path) -> None:
    """SIGKILL leaves no time for anything: the kernel ends the command, the gateway gives the batch to another."""
    await publish(gateway, own_subject, 1)
    async with open_command(output, *options(gateway, own_subject), "--", "sleep", "999") as command:
        await wait_until(command.children, "the command runs")
        [child] = command.children()
        command.signal(signal.SIGKILL)
        await command.wait_ended()
        await wait_until(lambda: not is_alive(child), "the command is gone", timeout_s=5)
    other = await run_command(output, *options(gateway, own_subject, "--once"), "--", "grep", "-q", '"delivered":2')
    assert "1 acknowledged" in other.out, other.err
