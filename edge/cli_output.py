"""How a command ends and what it says: exit codes, results on stdout, everything else on stderr.

Rules of the file:
- An error is one line: what was wrong, and what was expected. A traceback is for whoever asks for it, with
  HEADGATE_LOG_LEVEL=debug.
- The exit codes are a promise.
"""

import sys
from enum import IntEnum
from typing import Final

from cyclopts import CycloptsError
from rich.console import Console

ERROR_CONSOLE: Final = Console(stderr=True, soft_wrap=True, highlight=False)
"""One line stays one line, however narrow the terminal is."""
PIPE_WIDTH: Final = 200
"""Columns of a table that goes into a file or a pipe, where a folded line could not be searched."""


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    WRONG_USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    FOLDER_IN_USE = 5
    INTERRUPTED = 130


def print_result(result: object) -> None:
    """Print a command's result on stdout: text and tables for a person, anything else as one JSON value."""
    if isinstance(result, str):
        print(result)
    elif hasattr(result, "__rich_console__"):
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(result)
    else:
        import orjson

        sys.stdout.write(orjson.dumps(result).decode() + "\n")


def say(text: str) -> None:
    """Say one line to the person at the terminal, on stderr."""
    print(f"headgate: {' '.join(text.split())}", file=sys.stderr, flush=True)


def say_usage_error(error: CycloptsError) -> str:
    """Say what was wrong with the command's options, as one line."""
    return f"headgate: {' '.join(str(error).split())}"
