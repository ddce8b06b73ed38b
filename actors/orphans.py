"""Gives back at once what a process that is gone held of the log.

Rules of the file:
- It is done by whoever notices first: the next gateway on the same folder, or the one that looks after workers.
- It is the first thing that is said on a connection: nobody has taken anything over it yet.
- Nothing is removed before it was given back, or is worth nothing any more.
"""

from math import inf
from pathlib import Path
from typing import Final

import structlog
import trio

from engine.jetstream import JetStream
from engine.lease_journal import Orphan, find_orphans
from engine.log import Verdict

log = structlog.get_logger("orphans")
UP_WITHIN_S: Final = 20.0
"""A journal is worth something for less than a lease; who waits longer for the log lets the leases run out."""
AT_ONCE: Final = 512


async def give_back_orphans(
    folder: Path,
    jetstream: JetStream,
    within_s: float | None = None,
    *,
    is_fresh: bool = False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Give back what the journals hold that nobody owns, and remove them.

    Args:
        folder: where the journals are.
        jetstream: its connection runs already, or soon.
        within_s: how long to wait for the connection; None for `UP_WITHIN_S`, or without end for a server that is
            fresh, because that has our leases still whenever it is up.
        is_fresh: the log's server is this gateway's own and was started with it, and nobody takes anything from it
            before this connection is up. A server that was started again goes on with the leases that it had granted,
            and then nobody else can have what the journals hold, whatever the clock says.
        task_status: reports that a connection which is begun from now on gives back first.

    Returns:
        How many deliveries were given back.

    Cancellation: what was not given back is left to whoever comes next.
    """
    orphans = await trio.to_thread.run_sync(find_orphans, folder)
    given, is_done = 0, trio.Event()

    def look() -> None:
        nonlocal given
        if jetstream.connection.is_up and not is_done.is_set():
            given = _give_back(orphans, jetstream, is_fresh=is_fresh)
            is_done.set()

    if orphans:
        jetstream.connection.watchers.append(look)
    task_status.started()
    if not orphans:
        return 0
    is_over = False
    try:
        look()
        with trio.move_on_after((inf if is_fresh else UP_WITHIN_S) if within_s is None else within_s):
            await is_done.wait()
        is_over = True
    finally:
        jetstream.connection.watchers.remove(look)
        for orphan in orphans:
            if is_over or is_done.is_set():
                orphan.close()
            else:
                orphan.leave()
    log.info("gave back what a process that is gone had held", processes=len(orphans), deliveries=given)
    return given


def _give_back(orphans: list[Orphan], jetstream: JetStream, *, is_fresh: bool) -> int:
    server = None if is_fresh else str(jetstream.connection.info.fields.get("server_id", ""))
    given = 0
    for orphan in orphans:
        replies = orphan.certain(server)
        for start in range(0, len(replies), AT_ONCE):
            words = [(reply, Verdict.NAK.value) for reply in replies[start : start + AT_ONCE]]
            given += len(words) if jetstream.say_nowait(words) else 0
    return given
