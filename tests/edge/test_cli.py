"""The command line: help that teaches, one-line errors, and exit codes that are a promise."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import trio

from edge.cli import _explain, _explain_group, main
from edge.client import GatewayBroken, GatewayRefused, GatewayUnreachable, OutcomeUnknown
from edge.demo_gateway import GatewayEnded
from engine.errors import Refused
from tests.support.command import open_command, run_command
from tests.support.gateway import PROJECT_ROOT, Gateway, running_gateway
from tests.support.waiting import wait_until

KEYS = ("keys create", "keys list", "keys rotate", "keys revoke")
COMMANDS = ("agent", "serve", "scan", "tail", "query", "demo", "doctor", "openapi", "config show", *KEYS)
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Take the commands' output."""
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One real gateway for the module."""
    with running_gateway(tmp_path_factory.mktemp("cli") / "data") as running:
        yield running


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's help has words, its options and examples that begin with `headgate`."""
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples" in text
    assert f"headgate {command}" in text.split("Examples")[1]


def test_the_first_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """And the exit codes."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command.split()[0] in text for command in COMMANDS)
    assert "Exit codes" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`headgate --version` is one line."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("headgate 0.")


def test_help_loads_nothing_that_a_command_needs() -> None:
    """`--help` answers at once because the heavy libraries stay where they are."""
    heavy = ("trio", "httpx2", "pydantic", "quart", "hypercorn", "nats")
    code = f"import sys; from edge.cli import main; main(['--help']); print([m for m in {heavy!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "nonsense"),
        (["scan"], "DIRECTORY"),
        (["scan", "/nowhere/at/all"], "does not exist"),
        (["scan", "/etc/passwd"], "file"),
        (["tail", "--gateway", "localhost:8000"], "expected one like http://127.0.0.1:8000"),
        (["tail", "--count", "0"], ">= 1"),
        (["tail", "--count", "many"], "many"),
        (["serve", "--port", "70000"], "65535"),
        (["doctor", "--gateway", "x"], "expected one like"),
        (["config", "show", "--no-such"], "--no-such"),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what was wrong and what was expected, on stderr."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert line.startswith("headgate: ")
    assert said in line


@pytest.mark.parametrize(
    ("variable", "value"), [("PORT", "eighty"), ("NATS_URL", "http://x"), ("SNAPFS_CACHE_TTL", "0")]
)
def test_a_malformed_variable_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """T33: bad values name the variable; the exit code is that of wrong usage."""
    monkeypatch.setenv(variable, value)
    assert main(["config", "show"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert variable in line


def test_config_show_tells_where_values_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """T33: every setting, its source, and no secret in either form."""
    monkeypatch.setenv("PORT", "9123")
    monkeypatch.setenv("NATS_URL", "nats://user:geheim@log.example:4222")
    assert main(["config", "show", "--json"]) == 0
    lines = {line["env"]: line for line in orjson.loads(capsys.readouterr().out)}
    assert (lines["PORT"]["value"], lines["PORT"]["source"]) == ("9123", "environment")
    assert lines["HEADGATE_HOST"]["source"] == "default"
    assert "geheim" not in str(lines)
    assert main(["config", "show"]) == 0
    text = capsys.readouterr().out
    assert "9123" in text
    assert "geheim" not in text


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (GatewayUnreachable("nobody there"), 3, "nobody there"),
        (OutcomeUnknown("who knows"), 3, "who knows"),
        (GatewayRefused("no", status=403), 4, "no"),
        (GatewayBroken("odd"), 1, "odd"),
        (GatewayEnded("in use", 5), 5, "in use"),
        (GatewayEnded("killed", -9), 1, "killed"),
        (Refused("request.bad-parameter", "PORT: no"), 2, "PORT: no"),
        (PermissionError(13, "Permission denied", "/x"), 1, "Permission denied"),
        (ZeroDivisionError("division"), 1, "this is a bug: ZeroDivisionError: division"),
    ],
)
def test_errors_become_exit_codes_and_one_line(
    error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each situation has its exit code, and is told in one line."""
    assert _explain(error) == code
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_an_interruption_explains_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C together with what it made fail is an interruption."""
    inner = BaseExceptionGroup("", [KeyboardInterrupt()])
    assert _explain_group(BaseExceptionGroup("", [ZeroDivisionError(), inner])) == 130
    assert _explain_group(ExceptionGroup("", [GatewayUnreachable("x"), GatewayUnreachable("y")])) == 3
    assert capsys.readouterr().err == "headgate: x\n"


async def test_a_traceback_is_for_who_asks(output: Path, tmp_path: Path) -> None:
    """HEADGATE_LOG_LEVEL=debug shows where; without it there is one line."""
    quiet = await run_command(output, "scan", str(tmp_path), "--gateway", NOBODY, "--give-up", "0")
    assert quiet.code == 3
    assert len(quiet.err.splitlines()) == 1
    loud = await run_command(
        output, "scan", str(tmp_path), "--gateway", NOBODY, "--give-up", "0", env={"HEADGATE_LOG_LEVEL": "debug"}
    )
    assert "Traceback" in loud.err


async def test_scan_twice(gateway: Gateway, output: Path, tmp_path: Path) -> None:
    """The issue's scanner: the second run hashes nothing; a file that cannot be told of makes the exit code 1."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.exr").write_bytes(b"x" * 1000)
    os.utime(tree / "a.exr", (1_700_000_000, 1_700_000_000))
    first = await run_command(output, "scan", str(tree), "--gateway", gateway.url, "--json")
    second = await run_command(output, "scan", str(tree), env={"HEADGATE_GATEWAY": gateway.url})
    (tree / os.fsdecode(b"bad\xff")).touch()
    third = await run_command(output, "scan", str(tree), "--gateway", gateway.url)
    assert (first.code, second.code, third.code) == (0, 0, 1)
    assert orjson.loads(first.out)["hashed"] == 1
    assert "1 known, 0 hashed" in second.out
    assert "bad\\xff: the name is not UTF-8" in third.out
    assert second.err == ""  # no progress bar where there is no terminal


async def test_scan_of_a_refused_subject_is_4(gateway: Gateway, output: Path, tmp_path: Path) -> None:
    """The gateway's words, one line, exit code 4."""
    ended = await run_command(output, "scan", str(tmp_path), "--gateway", gateway.url, "--subject", "not.ours")
    assert ended.code == 4
    assert "subject" in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_tail_without_a_durable_says_so_and_counts(gateway: Gateway, output: Path, tmp_path: Path) -> None:
    """That nothing is remembered is on stderr, the events alone are on stdout."""
    assert (await run_command(output, "scan", str(output), "--gateway", gateway.url)).code == 0
    ended = await run_command(output, "tail", "--gateway", gateway.url, "--count", "1", "--json")
    assert ended.code == 0
    assert orjson.loads(ended.out)["type"] == "scan.started"
    assert "listening to snapfs.files, remembering nothing" in ended.err


async def test_tail_ends_with_130_on_ctrl_c(gateway: Gateway, output: Path) -> None:
    """And without a traceback."""
    async with open_command(output, "tail", "--gateway", gateway.url) as command:
        await wait_until(lambda: "listening" in command.err, "it listens")
        command.signal(signal.SIGINT)
        ended = await command.wait_ended(10)
    assert ended.code == 130
    assert "Traceback" not in ended.err


async def test_tail_ends_when_nobody_reads_it(gateway: Gateway, output: Path, tmp_path: Path) -> None:
    """`headgate tail | head -1` comes back to the prompt."""
    assert (await run_command(output, "scan", str(output), "--gateway", gateway.url)).code == 0
    shell = f"{sys.executable} -m edge tail --gateway {gateway.url} | head -1; echo ${{PIPESTATUS[0]}}"
    with trio.fail_after(20):
        ran = await trio.run_process(["bash", "-c", shell], capture_stdout=True, capture_stderr=True, cwd=PROJECT_ROOT)
    first, code = ran.stdout.decode().splitlines()
    assert first.startswith("scan.started")
    assert code == "0"


async def test_doctor_says_whether_all_is_well(gateway: Gateway, output: Path, tmp_path: Path) -> None:
    """Exit code 0 with a gateway that answers, 1 without the one that was named."""
    arguments = ("doctor", "--data", str(tmp_path / "data"), "--json", "--gateway")
    well = await run_command(output, *arguments, gateway.url)
    ill = await run_command(output, *arguments, NOBODY)
    assert (well.code, ill.code) == (0, 1)
    assert orjson.loads(well.out)["ok"] is True
    assert orjson.loads(ill.out)["ok"] is False


async def test_serve_on_a_folder_in_use_is_5(gateway: Gateway, output: Path) -> None:
    """A second gateway on one data folder says so and ends."""
    ended = await run_command(output, "serve", "--port", "0", "--data", str(gateway.data_dir))
    assert ended.code == 5
    assert "in use" in ended.err
    assert "Traceback" not in ended.err
