"""How many descriptors this process may open: as many as its connections need, where the system lets it.

Rules of the file:
- Only the soft limit is raised, never beyond the hard one; children inherit it, which none of ours minds.
"""

import resource
from typing import Final

OTHERS_COUNT: Final = 512
"""Beside the clients' connections: those to the engines, files, pipes, and connections that are being turned away."""


def raise_descriptor_limit(connections_count: int) -> int:
    """Let this process have so many connections.

    Returns:
        How many descriptors are missing all the same, because the hard limit is lower; 0 when there are enough.
    """
    needed_count = connections_count + OTHERS_COUNT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed_count:
        return 0
    wanted_count = needed_count if hard == resource.RLIM_INFINITY else min(needed_count, hard)
    if wanted_count > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted_count, hard))
    return needed_count - max(soft, wanted_count)
