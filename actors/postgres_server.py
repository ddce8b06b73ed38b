"""The embedded PostgreSQL as a supervised child.

Rules of the file:
- Started from the main task, which runs in the main thread (`engine/children.py` says why).
- An end that nobody asked for is a fall; the supervisor starts it again.
- It starts while most of the gateway is still being imported, so it needs none of it (`edge/serve_start.py`).
"""

import signal
from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.tree import Actor
from engine.children import start_child, stop_stale
from engine.errors import Unavailable
from engine.postgres_server import EmbeddedPostgres

log = structlog.get_logger("postgres")
STOP_WITHIN_S: Final = 4.0
"""A fast stop writes a checkpoint, at most the shared buffers; who is killed in it recovers at the next start."""


async def run_embedded_postgres(embedded: EmbeddedPostgres, _: Actor, ready: Callable[[], None]) -> None:
    """Run the embedded PostgreSQL until cancelled.

    Raises:
        Unavailable: it ended by itself, or could not be made.

    Cancellation: stops it, within a deadline.
    """
    if stop_stale(embedded.record):
        log.warning("stopped the PostgreSQL of a gateway that is gone", folder=str(embedded.folder))
    await trio.to_thread.run_sync(embedded.prepare)
    if not embedded.is_made:
        await _run_child(embedded, embedded.initialise_command(), lambda: None, signal.SIGTERM)
        embedded.adopt()
    code = await _run_child(embedded, embedded.command(), ready, signal.SIGINT)
    raise Unavailable("postgres.down", f"the embedded PostgreSQL ended with {code}: {embedded.last_words()}")


async def _run_child(
    embedded: EmbeddedPostgres, command: list[str], started: Callable[[], None], stop: signal.Signals
) -> int:
    """Run one of its programs to its end and give its exit code.

    Raises:
        Unavailable: initdb failed.
    """
    with embedded.output.open("ab") as output:
        child = start_child(
            command,
            embedded.record,
            output,
            run_as=embedded.run_as,
            inherited=embedded.inherited,
            environment=embedded.environment,
        )
    try:
        started()
        code = await child.wait()
        if code and not embedded.is_made:
            name_it = "install libnss-wrapper or give the account a name; " if embedded.is_nameless else ""
            raise Unavailable(
                "postgres.down",
                f"initdb ended with {code}: {embedded.last_words()}; {name_it}DATABASE_URL names another PostgreSQL, "
                "HEADGATE_CATALOG=off does without",
            )
        return code
    finally:
        with trio.CancelScope(shield=True):  # bounded: `stop` kills when its deadline has passed
            if await child.stop(stop, within_s=STOP_WITHIN_S) < 0:
                embedded.sweep()  # who is killed takes nobody along
        child.close()
        embedded.record.unlink(missing_ok=True)
