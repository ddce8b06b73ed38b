"""A command that works on something it is fed: started, fed, heard, and ended with everything it has started.

Rules of the file:
- The command has a session, and so a process group, of its own. When it has ended, or is told to, the group ends.
- The group is signalled only while its leader is not reaped: its number cannot be somebody else's by then.
- The kernel kills the command when this process ends, however it ends.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

import trio

from engine.children import death_with_parent

READ_BYTES: Final = 64 * 1024
REST_WITHIN_S: Final = 1.0
"""For what was written before the end; only somebody who left the group can hold the pipe open longer."""


class Worker:
    """A running command. Made by `start_worker`."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: int, stdout: int) -> None:
        self.pid = process.pid
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._stdin = trio.lowlevel.FdStream(stdin)
        self._stdout = trio.lowlevel.FdStream(stdout)

    async def feed(self, data: bytes) -> None:
        """Write to its standard input, then close it. A command that does not read all of it may do so."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stdin.send_all(data)
        await self._stdin.aclose()

    async def read(self) -> bytes:
        """Wait for some of its standard output; empty at the end."""
        try:
            return bytes(await self._stdout.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def wait(self) -> int:
        """Wait until it has ended, end what is left of its group, and give its exit code, negative for a signal.

        Cancellation: the command goes on.
        """
        await trio.lowlevel.wait_readable(self._pidfd)
        self._signal(signal.SIGKILL)
        return self._process.wait()  # at once: it has ended

    async def stop(self, within_s: float) -> int:
        """End its group: SIGTERM, and SIGKILL when that has not helped in time."""
        self._signal(signal.SIGTERM)
        with trio.move_on_after(within_s):
            return await self.wait()
        self._signal(signal.SIGKILL)
        return await self.wait()

    async def aclose(self) -> None:
        """Release what watches it; kills its group when it still runs."""
        if self._process.returncode is None:
            self._signal(signal.SIGKILL)
            self._process.wait()
        await self._stdin.aclose()
        await self._stdout.aclose()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # its last member changed its user
                os.killpg(self.pid, number)


def start_worker(argv: Sequence[str], more_environment: Mapping[str, str]) -> Worker:
    """Start a command; its standard error is ours.

    Raises:
        OSError: it cannot be started.
        RuntimeError: called outside the main thread.
    """
    reads, our_stdin = os.pipe2(os.O_CLOEXEC)
    our_stdout, writes = os.pipe2(os.O_CLOEXEC)
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=reads,
            stdout=writes,
            env=os.environ | dict(more_environment),
            start_new_session=True,
            preexec_fn=death_with_parent(),  # noqa: PLW1509  # one async-signal-safe call, loaded before
        )
    except BaseException:  # raised again
        os.close(our_stdin)
        os.close(our_stdout)
        raise
    finally:
        os.close(reads)
        os.close(writes)
    return Worker(process, our_stdin, our_stdout)
