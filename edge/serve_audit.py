"""Composes the audit log, and brings it what `headgate keys` changed.

Rules of the file:
- A change of a key is forgotten by the keys file only when the log has it; stored again, it takes its own place.
"""

import secrets
import time
from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.audit import AuditLog
from actors.tree import Actor
from engine.errors import Fault
from engine.jetstream import JetStream
from engine.keys_file import KeysFile, Stamp
from engine.log_control import LogControl
from engine.settings import Settings

log = structlog.get_logger("audit")
LOOK_EVERY_S: Final = 1.0
SECONDS_A_DAY: Final = 86_400


def make_audit(settings: Settings, data: JetStream, control: LogControl) -> AuditLog | None:
    """Give the audit log, None where it is off."""
    if settings.audit == "off":
        return None
    return AuditLog(
        data,
        control,
        settings.audit_stream,
        settings.audit_days * SECONDS_A_DAY,
        settings.audit_mib * 1024 * 1024,
        time.time,
        lambda: secrets.token_hex(16),
    )


async def run_key_records(settings: Settings, audit: AuditLog, _: Actor, ready: Callable[[], None]) -> None:
    """Store what `headgate keys` changed in the data folder, for ever."""
    file = KeysFile(settings.data.resolve())
    seen: Stamp | None = None
    ready()
    while True:
        try:
            stamp = file.stamp()
            if stamp != seen and await _store_waiting(file, audit):
                seen = stamp
        except (Fault, OSError) as problem:
            log.debug("changes of keys wait", problem=str(problem))  # the authenticator says loudly what is wrong
        await trio.sleep(LOOK_EVERY_S)


async def _store_waiting(file: KeysFile, audit: AuditLog) -> bool:
    """Store the changes that wait; False when some still do."""
    stored: set[str] = set()
    waiting = file.waiting()
    for record in waiting:
        if not await audit.keep(record):
            break
        stored.add(record.id)
    if stored:
        await trio.to_thread.run_sync(file.recorded, stored)
    return len(stored) == len(waiting)
