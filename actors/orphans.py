"""Gives back at once what a process that is gone held of the log.

Rules of the file:
- It is done by whoever notices first: the next gateway on the same folder, or the one that looks after workers.
"""

from pathlib import Path
from typing import Final

import structlog
import trio

from engine.jetstream import JetStream
from engine.lease_journal import find_orphans
from engine.log import Verdict

log = structlog.get_logger("orphans")
UP_WITHIN_S: Final = 20.0
"""A journal is worth something for less than a lease; who waits longer for the log lets the leases run out."""
AT_ONCE: Final = 512


async def give_back_orphans(folder: Path, jetstream: JetStream) -> int:
    """Give back what the journals hold that nobody owns, and remove them.

    Args:
        folder: where the journals are.
        jetstream: its connection runs already, or soon.

    Returns:
        How many deliveries were given back.
    """
    orphans = await trio.to_thread.run_sync(find_orphans, folder)
    if not orphans:
        return 0
    given = 0
    try:
        with trio.move_on_after(UP_WITHIN_S):
            await jetstream.connection.wait_up()
            server = str(jetstream.connection.info.fields.get("server_id", ""))
            for orphan in orphans:
                replies = await trio.to_thread.run_sync(orphan.certain, server)
                for start in range(0, len(replies), AT_ONCE):
                    words = [(reply, Verdict.NAK.value) for reply in replies[start : start + AT_ONCE]]
                    given += len(words) if jetstream.say_nowait(words) else 0
                    await trio.lowlevel.checkpoint()
    finally:
        for orphan in orphans:
            orphan.close()
    log.info("gave back what a process that is gone had held", processes=len(orphans), deliveries=given)
    return given
