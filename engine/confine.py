"""Limits that the kernel puts on one process of PostgreSQL, where it runs on this machine as our child.

PostgreSQL has no limit on the memory of one query: `work_mem` is that of a sort, and `repeat('x', 300000000)` is none.
The kernel's limit makes such an allocation fail, which PostgreSQL tells as an ordinary error. And it has no priorities:
four queries on two cores would make everybody else wait for their turn.

Rules of the file:
- Each limit is tried by itself, and what cannot be set is left: the role's own limits hold.
- It blocks for a moment: call it in a thread.
"""

import contextlib
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Final

MOST_MEMORY_BYTES: Final = 256 * 1024 * 1024
"""Private memory of one query's process; four of them may run."""
NICENESS: Final = 10
"""Queries give way to the gateway and to the catalog's own work; they are not starved, for they may hold locks."""
TRIES: Final = 5
TRY_EVERY_S: Final = 0.11
"""The kernel takes a group's priority ten times a second from those who are not its administrator."""


def confine(pid: int) -> None:
    """Limit one process's memory and make it give way to others."""
    for limit in (_limit_memory, _lower_priority, _lower_group_priority):
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            limit(pid)


def _limit_memory(pid: int) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_DATA, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    except PermissionError:  # in a container root may not, and the process's own account may
        _run_as_owner(pid, ["prlimit", f"--pid={pid}", f"--data={MOST_MEMORY_BYTES}"])


def _lower_priority(pid: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    except PermissionError:
        _run_as_owner(pid, ["renice", "-n", str(NICENESS), "-p", str(pid)])


def _lower_group_priority(pid: int) -> None:
    """Each process of PostgreSQL is a session, and where the kernel groups by session the group's priority counts."""
    path = Path(f"/proc/{pid}/autogroup")
    for _ in range(TRIES):
        try:
            path.write_text(str(NICENESS))
        except BlockingIOError:
            time.sleep(TRY_EVERY_S)
        else:
            return


def _run_as_owner(pid: int, command: list[str]) -> None:
    status = Path(f"/proc/{pid}").stat()
    subprocess.run(
        command,
        user=status.st_uid,
        group=status.st_gid,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=2,
        check=False,
    )
