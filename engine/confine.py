"""Limits that the kernel puts on one process of PostgreSQL, where it runs on this machine under our account.

PostgreSQL has no limit on the memory of one query: `work_mem` is that of a sort, and `repeat('x', 300000000)` is none.
The kernel's limit makes such an allocation fail, which PostgreSQL tells as an ordinary error.

Rules of the file:
- What cannot be set is left: the role's own limits hold.
"""

import os
import resource
from typing import Final

MOST_MEMORY_BYTES: Final = 256 * 1024 * 1024
"""Private memory of one query's process; four of them may run."""
NICENESS: Final = 10
"""Queries give way to the gateway and to the catalog's own work."""


def confine(pid: int) -> None:
    """Limit one process's memory and make it give way to others."""
    try:
        resource.prlimit(pid, resource.RLIMIT_DATA, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    except (OSError, ValueError):
        return  # it is gone already, or another account's
