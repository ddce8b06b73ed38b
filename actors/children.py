"""The embedded log as a supervised child process.

Rules of the file:
- Started from the main task, which runs in the main thread (`engine/children.py` says why).
- Ready means: it said which ports it listens on, and its monitoring answers.
- An end that nobody asked for is a fall; the supervisor starts it again.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.tree import Actor
from engine.children import Child, start_child, stop_stale
from engine.errors import Unavailable
from engine.nats_server import EmbeddedLog

log = structlog.get_logger("children")
READY_WITHIN_S: Final = 20.0
"""A large store is recovered before the ports open."""
LOOK_EVERY_S: Final = 0.005
STOP_WITHIN_S: Final = 5.0


async def run_embedded_log(embedded: EmbeddedLog, _: Actor, ready: Callable[[], None]) -> None:
    """Run the embedded log until cancelled.

    Raises:
        Unavailable: it ended by itself, or did not become ready.

    Cancellation: stops it, within a deadline.
    """
    if stop_stale(embedded.record):
        log.warning("stopped the log server of a gateway that is gone", folder=str(embedded.folder))
    argv = embedded.prepare()
    with embedded.output.open("ab") as output:
        child = start_child(argv, embedded.record, output)
    try:
        with trio.move_on_after(READY_WITHIN_S) as patience:
            await _wait_ready(embedded, child)
        if patience.cancelled_caught:
            raise Unavailable("log.down", f"the embedded log was not ready within {READY_WITHIN_S:g} s")
        log.info("embedded log ready", pid=child.pid, durability=embedded.durability)
        ready()
        code = await child.wait()
        raise Unavailable("log.down", f"the embedded log ended with {code}; see {embedded.output}")
    finally:
        with trio.CancelScope(shield=True):  # bounded: `stop` kills when its deadline has passed
            await child.stop(within_s=STOP_WITHIN_S)
        child.close()
        embedded.record.unlink(missing_ok=True)


async def _wait_ready(embedded: EmbeddedLog, child: Child) -> None:
    while True:
        if (code := child.exit_code) is not None:
            raise Unavailable("log.down", f"the embedded log ended with {code} at its start; see {embedded.output}")
        try:
            endpoint = embedded.endpoint()
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        except OSError:
            await trio.sleep(LOOK_EVERY_S)
        else:
            await stream.aclose()
            return
