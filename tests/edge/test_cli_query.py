"""`headgate query`: tables, the formats for programs, exit codes, and the prompt on a terminal."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.cli_query import read_parameters
from edge.client import Client, GatewayBroken, GatewayRefused, QueryColumn, QueryResult
from edge.query_table import to_table
from engine.errors import Refused
from tests.support.command import open_command, run_command
from tests.support.gateway import OWN_VARIABLES, PROJECT_ROOT, Gateway, running_gateway
from tests.support.http import ask
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a catalog, shared by the tests of this module."""
    with running_gateway(tmp_path_factory.mktemp("gateway") / "data", env={"HEADGATE_CATALOG": "on"}) as running:
        yield running


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Take the commands' output."""
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


async def test_a_query_is_a_table_or_what_a_program_wants(gateway: Gateway, output: Path) -> None:
    """A table by default; --json is the wire's answer, --csv and --ndjson the streams; parameters are values."""
    sql = "select :a::int as a, %(b)s as b"
    words = ["query", sql, "--param", "a=5", "--param", "b=x y", "--gateway", gateway.url, "--give-up", "20"]
    table = await run_command(output, *words)
    assert (table.code, table.out.splitlines()[:3]) == (0, ["a | b", "--+----", "5 | x y"]), table
    assert table.out.splitlines()[3].startswith("(1 row, ")
    assert json.loads((await run_command(output, *words, "--json")).out)["rows"] == [{"a": 5, "b": "x y"}]
    assert (await run_command(output, *words, "--csv")).out == "a,b\n5,x y\n"
    assert json.loads((await run_command(output, *words, "--ndjson")).out) == {"a": 5, "b": "x y"}


async def test_the_exit_codes_are_a_promise(gateway: Gateway, output: Path) -> None:
    """4 when the gateway refuses, 3 when nobody answers, 2 for wrong usage, and one line that says why."""
    refused = await run_command(output, "query", "select\n nope", "--gateway", gateway.url)
    assert refused.code == 4
    assert 'column "nope" does not exist, at line 2 column 2' in refused.err
    assert len(refused.err.splitlines()) == 1
    sql = "select 1/(5000-g) from generate_series(1, 9000) g"
    cut = await run_command(output, "query", sql, "--ndjson", "--gateway", gateway.url)
    assert cut.code == 1
    assert "rows are missing" in cut.err
    nobody = await run_command(output, "query", "select 1", "--gateway", "http://127.0.0.1:1", "--give-up", "0")
    assert nobody.code == 3
    assert (await run_command(output, "query", "select 1", "--param", "x")).code == 2
    assert (await run_command(output, "query", "select 1", "--csv", "--json")).code == 2


async def test_the_client_asks_and_streams(gateway: Gateway) -> None:
    """`client.query` gives values, `client.query_stream` pieces, and a stream that is cut raises."""
    async with Client(gateway.url, give_up_s=20) as client:
        result = await client.query("select g, :t as t from generate_series(1, 3) g", {"t": "x"})
        assert [row["g"] for row in result.rows] == [1, 2, 3]
        assert result.columns == [QueryColumn("g", "int4"), QueryColumn("t", "text")]
        assert (result.row_count, result.truncated) == (3, False)
        with pytest.raises(GatewayRefused, match="nope") as caught:
            await client.query("select nope")
        assert caught.value.code == "query.wrong"
        async with client.query_stream("select g from generate_series(1, 50000) g") as pieces:
            assert b"".join([piece async for piece in pieces]).count(b"\n") == 50_000

        async def read_all(sql: str) -> list[bytes]:
            async with client.query_stream(sql) as pieces:
                return [piece async for piece in pieces]

        with pytest.raises(GatewayBroken, match="cut"):
            await read_all("select 1/(5000-g) from generate_series(1, 9000) g")


async def test_ctrl_c_ends_a_query_that_runs(gateway: Gateway, output: Path) -> None:
    """The exit code is 130, and the gateway's slot is free again."""

    async def running() -> str:
        metrics = (await ask(gateway.url, "GET", "/metrics")).body.decode()
        return next(line.split()[1] for line in metrics.splitlines() if line.startswith("headgate_queries "))

    async def is_running() -> bool:
        return await running() == "1.0"

    async def is_over() -> bool:
        return await running() == "0.0"

    sql = "select count(*) from generate_series(1, 100000) a, generate_series(1, 100000) b"
    async with open_command(output, "query", sql, "--gateway", gateway.url, "--give-up", "20") as command:
        await wait_until(is_running, "the query runs", timeout_s=20)
        command.signal(signal.SIGINT)
        ended = await command.wait_ended()
    assert (ended.code, ended.out) == (130, "")
    await wait_until(is_over, "its slot is free", timeout_s=3)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.ours, theirs = pty.openpty()
        os.set_blocking(self.ours, False)
        environment = {name: value for name, value in os.environ.items() if not OWN_VARIABLES.search(name)}
        command = [sys.executable, "-m", "edge", *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=PROJECT_ROOT,
            env=environment | {"HOME": str(home), "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.said = ""

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self.ours)

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.ours, text.encode())

    async def wait_said(self, text: str) -> None:
        """Wait until it has said this, and forget all up to there."""

        def has_said() -> bool:
            with contextlib.suppress(OSError):  # nothing now, or it ended
                self.said += os.read(self.ours, 65_536).decode(errors="replace")
            return text in self.said

        await wait_until(has_said, f"the prompt says {text!r}", timeout_s=15)
        self.said = self.said.partition(text)[2]


async def test_the_prompt_takes_lines_until_a_semicolon(gateway: Gateway, tmp_path: Path) -> None:
    """Several lines are one query; errors are a line; Ctrl-C clears, Ctrl-D ends; the history stays."""
    terminal = Terminal(tmp_path, "query", "--gateway", gateway.url)
    try:
        await terminal.wait_said("headgate> ")
        terminal.type("select ';' as a,\n")
        await terminal.wait_said("-> ")
        terminal.type("7 as b; -- done\n")
        await terminal.wait_said("; | 7")
        await terminal.wait_said("headgate> ")
        terminal.type("select nope;\n")
        await terminal.wait_said("does not exist")
        await terminal.wait_said("headgate> ")
        terminal.type("select (\n")
        await terminal.wait_said("-> ")
        os.killpg(terminal.process.pid, signal.SIGINT)
        await terminal.wait_said("headgate> ")
        terminal.type("\\d\n")
        await terminal.wait_said("duplicates")
        await terminal.wait_said("headgate> ")
        terminal.type("\x04")
        await wait_until(lambda: terminal.process.poll() is not None, "it ended", timeout_s=10)
        assert terminal.process.returncode == 0
        history = tmp_path / ".headgate_history"
        assert "select nope;" in history.read_text()
        assert history.stat().st_mode & 0o077 == 0
    finally:
        terminal.close()


def test_a_table_shows_control_characters_and_never_sends_them() -> None:
    """A file's name may hold an escape sequence; numbers stand to the right, wide characters count as two."""
    names: list[Any] = ["a\x1b[31m\n", "日本", {"k": [1]}]
    rows = [{"name": name, "size": size} for name, size in zip(names, (5, None, 12345), strict=True)]
    columns = [QueryColumn("name", "text"), QueryColumn("size", "int8")]
    text = to_table(QueryResult(rows, columns, 3, True, 1.25))
    assert text.splitlines() == [
        "name        |  size",
        "------------+------",
        "a\\x1b[31m\\n |     5",
        "日本        |",
        '{"k": [1]}  | 12345',
        "(3 rows, cut short by the gateway's limit, 1.2 ms)",
    ]


def test_parameters_are_json_or_text() -> None:
    """What is JSON is that; anything else is a text, an equals sign included."""
    assert read_parameters(["a=5", "b=x=y", 'c=["x"]', "d=", "e=null"]) == {
        "a": 5,
        "b": "x=y",
        "c": ["x"],
        "d": "",
        "e": None,
    }
    for wrong in ("a", "=5", ""):
        with pytest.raises(Refused, match="name=value"):
            read_parameters([wrong])
