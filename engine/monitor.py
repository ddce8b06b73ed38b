"""A log server's monitoring: the proof of its durability class.

Rules of the file:
- What is not said is not known: no answer is None, never a guess.
"""

from typing import Final

import httpx2

ANSWER_WITHIN_S: Final = 2.0


async def read_sync_always(monitor_url: str) -> bool | None:
    """Ask whether a server syncs before it answers; None when it does not say.

    Args:
        monitor_url: `http://host:port` of its monitoring.
    """
    try:
        # Without TLS there is nothing to verify, and loading the trusted certificates takes a tenth of a second.
        verify = monitor_url.startswith("https:")
        async with httpx2.AsyncClient(timeout=ANSWER_WITHIN_S, verify=verify) as client:
            reply = await client.get(f"{monitor_url}/varz")
            reply.raise_for_status()
            fields = reply.json()
            return bool(fields["jetstream"]["config"].get("sync_always", False))
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return None
