"""`headgate query`: one query, or a prompt for many.

Rules of the file:
- The prompt is a person's: Ctrl-C clears the line or ends the query that runs, Ctrl-D ends the prompt.
- `readline` is imported by the prompt alone: it installs what a command without one must not have.
"""

import codecs
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from edge.cli_options import Trust
from edge.cli_output import ExitCode, say
from edge.client import Client, GatewayError
from edge.query_table import to_table
from edge.tail import wait_stdout_unread, write_stdout
from engine.errors import Refused
from engine.query_text import is_ended

HISTORY: Final = Path("~/.headgate_history")
HISTORY_LINES: Final = 1000
MEDIA_TYPES: Final = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
VIEWS: Final = """select table_name as view, string_agg(column_name || ' ' || data_type, ', ' order by ordinal_position)
 as columns from information_schema.columns where table_schema = 'headgate' group by table_name order by table_name"""
HELP: Final = r"""A query ends with a semicolon and may have several lines.
  \d   the views and their columns
  \q   the end, as Ctrl-D
  \?   this
"""


def read_parameters(given: Sequence[str]) -> dict[str, Any]:
    """Read `name=value`: a value that is JSON is that, anything else is a text.

    Raises:
        Refused: there is no `=`, or no name before it.
    """
    import json

    params: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not name or not equals:
            raise Refused("request.bad-parameter", f"--param: expected name=value (it is {one!r})")
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params


async def run_query(client: Client, sql: str, params: Mapping[str, Any], output: str) -> None:
    """Ask once and print the answer.

    Args:
        output: `table`, `json`, `csv` or `ndjson`; the last two are printed as they come.

    Raises:
        GatewayError: refused, or no gateway answers.
    """
    if output in MEDIA_TYPES:
        async with trio.open_nursery() as nursery:

            async def stop_when_unread() -> None:
                await wait_stdout_unread()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_when_unread)
            failure: GatewayError | None = None
            try:
                async with client.query_stream(sql, params, media_type=MEDIA_TYPES[output]) as pieces:
                    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
                    async for piece in pieces:
                        await write_stdout(decode(piece))
            except GatewayError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return
    if output == "json":
        await write_stdout((await client.query_json(sql, params)).decode() + "\n")
        return
    await write_stdout(to_table(await client.query(sql, params)) + "\n")


def run_prompt(
    gateway: str, token: str | None, trust: Trust, params: Mapping[str, Any], output: str, give_up_s: float
) -> int:
    """Ask a person for queries until there are no more."""
    import readline

    history = HISTORY.expanduser()
    with contextlib.suppress(OSError):  # there is none yet
        readline.read_history_file(history)
    readline.set_history_length(HISTORY_LINES)
    say(f"connected to {gateway}; end a query with a semicolon, \\? for help, Ctrl-D to leave")

    async def ask(sql: str, output: str) -> None:
        async with Client(gateway, token, give_up_s=give_up_s, tls=trust.context()) as client:
            await run_query(client, sql, params, output)

    typed: list[str] = []
    try:
        while True:
            try:
                typed.append(input("      -> " if typed else "headgate> "))
                text = "\n".join(typed)
                if not text.strip():
                    typed = []
                    continue
                command = text.strip()
                if command in {"\\q", "exit", "quit"}:
                    break
                if command == "\\?":
                    print(HELP, end="")
                    typed = []
                elif command == "\\d":
                    typed = []
                    trio.run(ask, VIEWS, "table")
                elif is_ended(text):
                    typed = []
                    trio.run(ask, text, output)
            except KeyboardInterrupt:
                print()
                typed = []
            except EOFError:
                print()
                break
            except BaseExceptionGroup as group:
                if group.subgroup(KeyboardInterrupt) is None:
                    raise
                print()
            except (GatewayError, Refused, ValueError) as error:
                say(str(error))
    finally:
        _save_history(readline, history)
    return ExitCode.OK


def read_stdin() -> str:
    """Read a query from what is piped in."""
    return sys.stdin.read()


def _save_history(readline: Any, history: Path) -> None:
    try:
        os.close(os.open(history, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))  # nobody else reads what was asked
        readline.write_history_file(history)
    except OSError as problem:
        say(f"the history was not saved: {problem}")
