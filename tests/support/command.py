"""`headgate` as a child process, as a person starts it.

Rules of the file:
- What a developer's own shell sets is not inherited.
- The child is in a session of its own, and it and its children are gone when the block is left.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.support.gateway import OWN_VARIABLES, PROJECT_ROOT
from tests.support.processes import ProcessName, descendants, kill_process
from tests.support.waiting import wait_until

__all__ = ["Command", "Ended", "open_command", "run_command"]


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


class Command:
    """A running command."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def out(self) -> str:
        """Its stdout so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """Its stderr so far."""
        return self._err.read_text()

    def children(self) -> list[ProcessName]:
        """Every live process below it."""
        return descendants(self.process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def wait_ended(self, timeout_s: float = 30.0) -> Ended:
        """Wait for its end."""
        await wait_until(lambda: self.process.poll() is not None, "the command has ended", timeout_s=timeout_s)
        return Ended(self.process.returncode, self.out, self.err)


@asynccontextmanager
async def open_command(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Command]:
    """Run `headgate ARGUMENTS` beside the block; `folder` takes its output."""
    command = _start(folder, arguments, env or {})
    name = ProcessName.of(command.process.pid)
    try:
        yield command
    finally:
        left = command.children()
        if name is not None:
            kill_process(name)
        for child in left:
            kill_process(child)
        command.process.wait()


def _start(folder: Path, arguments: Sequence[str], env: Mapping[str, str]) -> Command:
    environment = {name: value for name, value in os.environ.items() if not OWN_VARIABLES.search(name)}
    number = len(os.listdir(folder))
    out, err = folder / f"{number}.out", folder / f"{number}.err"
    with out.open("wb") as out_file, err.open("wb") as err_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge", *arguments],
            cwd=PROJECT_ROOT,
            env=environment | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
            start_new_session=True,
            preexec_fn=_take_signals,  # noqa: PLW1509  # two system calls, in a test
        )
    return Command(process, out, err)


async def run_command(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 30.0
) -> Ended:
    """Run `headgate ARGUMENTS` to its end."""
    async with open_command(folder, *arguments, env=env) as command:
        with trio.fail_after(timeout_s + 1):
            return await command.wait_ended(timeout_s)


def _take_signals() -> None:
    """Have Ctrl-C end the command, whatever the tests or their shell did to signals before."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
