"""The Quart lane, whose libraries are imported last: nothing needs them before somebody asks for such a route.

Rules of the file:
- A request that comes before they are there waits for them, and for nothing else.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from edge.express import Connection
from edge.normaliser import Head
from edge.routes import RouteTable

SWITCH_S: Final = 0.0005
"""While the thread imports, requests of the other lane wait for the interpreter no longer than this at a time."""


class QuartLater:
    """The lane that is there in a moment."""

    def __init__(self) -> None:
        self._is_there = trio.Event()

    async def run(self) -> None:
        """Import the lane, in a thread."""
        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            await trio.to_thread.run_sync(_import)
        finally:
            sys.setswitchinterval(interval_s)
        self._is_there.set()

    async def wait_there(self) -> None:
        """Wait until it is imported."""
        await self._is_there.wait()

    def lane_of(self, table: RouteTable) -> Callable[[Connection, Head], Awaitable[None]]:
        """Give what serves a connection's requests on the lane, from its first one on."""
        serve: Callable[[Connection, Head], Awaitable[None]] | None = None

        async def serve_later(connection: Connection, head: Head) -> None:
            nonlocal serve
            await self._is_there.wait()
            if serve is None:
                from edge.quart_lane import QuartLane

                serve = QuartLane(table).serve
            await serve(connection, head)

        return serve_later


def _import() -> None:
    import edge.quart_lane  # noqa: F401  # so that it is there when it is asked for
