"""Handlers that come with headgate and need nothing else: `headgate agent --builtin NAME`.

Rules of the file:
- An opener gives an async context manager, and that the async callable; `edge/agent_callable.py` has the list.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from edge.client import StreamBatch


@asynccontextmanager
async def open_discard() -> AsyncIterator[Callable[[StreamBatch], Awaitable[None]]]:
    """Acknowledge everything."""

    async def discard(_: StreamBatch) -> None:
        await trio.lowlevel.checkpoint()

    yield discard
