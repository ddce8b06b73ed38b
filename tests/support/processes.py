"""What /proc says about processes, and how a test ends the ones it started.

Rules of the file:
- A process is named by its pid *and* its start time, because pids are used again.
- Nothing is ended by name.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import wait_until

__all__ = [
    "ProcessName",
    "count_fds",
    "descendants",
    "freeze_process",
    "is_alive",
    "kill_process",
    "read_rss_bytes",
    "spawn",
    "start_time",
    "thaw_process",
]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class ProcessName:
    """One process, told apart from a later one that got the same pid."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> "ProcessName | None":
        """Name the process that has this pid now; None when there is none."""
        started = start_time(pid)
        return None if started is None else cls(pid, started)


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command is in brackets and may hold spaces and brackets itself: cut after the last one.
    return text[text.rindex(")") + 2 :].split()


def start_time(pid: int) -> int | None:
    """Clock ticks between the boot and the start of the process (field 22 of its stat)."""
    fields = _stat_fields(pid)
    return None if fields is None else int(fields[19])


def is_alive(process: ProcessName) -> bool:
    """Whether it is still there and is no zombie."""
    fields = _stat_fields(process.pid)
    return fields is not None and fields[0] != "Z" and int(fields[19]) == process.start_time


def descendants(pid: int) -> list[ProcessName]:
    """Every live process below `pid`, children first, their children after them."""
    parents: dict[int, list[ProcessName]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        fields = _stat_fields(int(entry))
        if fields is None or fields[0] == "Z":
            continue
        child = ProcessName(int(entry), int(fields[19]))
        parents.setdefault(int(fields[1]), []).append(child)
    found: list[ProcessName] = []
    level = [pid]
    while level:
        children = [child for parent in level for child in parents.get(parent, [])]
        found.extend(children)
        level = [child.pid for child in children]
    return found


def kill_process(process: ProcessName, signal_number: int = signal.SIGKILL) -> None:
    """Send a signal to exactly this process; nothing happens where it is gone."""
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal_number)


async def freeze_process(process: ProcessName) -> None:
    """SIGSTOP it, and wait until none of its threads runs any more: the signal alone is not enough to be sure."""
    kill_process(process, signal.SIGSTOP)
    threads = Path(f"/proc/{process.pid}/task")

    def is_frozen() -> bool:
        states = [(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads.iterdir()]
        return set(states) == {"T"}

    await wait_until(is_frozen, f"process {process.pid} is frozen")


def thaw_process(process: ProcessName) -> None:
    """SIGCONT after `freeze_process`."""
    kill_process(process, signal.SIGCONT)


def count_fds(pid: int) -> int:
    """How many file descriptors the process holds open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def read_rss_bytes(pid: int) -> int:
    """The resident memory of the process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def spawn(
    command: Sequence[str], log_path: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, with both its outputs appended to a file.

    Args:
        command: program and arguments.
        log_path: the file.
        environment: variables that it gets beside the test's own.
    """
    with log_path.open("ab") as log:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | dict(environment or {}),
        )
