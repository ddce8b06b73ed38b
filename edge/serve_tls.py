"""Composes TLS: the certificate, and the actor that reads it again when it changes.

Rules of the file:
- A pair that cannot be used never replaces one that can.
"""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from actors.tree import Actor, supervise
from edge.responses import send_always
from engine.errors import Refused
from engine.settings import Settings

if TYPE_CHECKING:
    from edge.tls import Certificates

log = structlog.get_logger("tls")
LOOK_EVERY_S: Final = 10.0
HSTS: Final = "max-age=31536000"


@asynccontextmanager
async def open_certificates(settings: Settings, root: Actor) -> "AsyncIterator[Certificates | None]":
    """Keep the certificate for the length of the block; None where no TLS is spoken.

    Raises:
        Refused: the settings or the files cannot be used; the text names the variable.
        OSError: the data folder cannot be written.
    """
    if not settings.is_tls:
        yield None
        return
    from edge.tls import open_pair

    certificates = open_pair(settings)
    if settings.tls_self_signed == "off":
        send_always("strict-transport-security", HSTS)  # with our own a browser would be locked out once it changes
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(supervise, root, "tls", partial(_run, certificates), is_needed=False))
        yield certificates
        nursery.cancel_scope.cancel()


async def _run(certificates: "Certificates", _: Actor, started: Callable[[], None]) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        started()
        await run_reloads(certificates, signals)


async def run_reloads(certificates: "Certificates", signals: AsyncIterator[int]) -> None:
    """Read the certificate again on each signal, and when its files have changed.

    Args:
        certificates: what to keep fresh.
        signals: each one means now.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_files, certificates)
        async for _ in signals:
            await _reload(certificates, "signal")


async def _watch_files(certificates: "Certificates") -> None:
    refused: object = None
    while True:
        await trio.sleep(LOOK_EVERY_S)
        looks = await trio.to_thread.run_sync(certificates.look)
        if looks != refused and certificates.differs(looks):
            refused = None if await _reload(certificates, "files") else looks


async def _reload(certificates: "Certificates", why: str) -> bool:
    try:
        await trio.to_thread.run_sync(certificates.reload)
    except Refused as refusal:
        log.error("the certificate was not read again; the one in use stays", why=why, error=refusal.detail)
        return False
    log.info("the certificate was read again", why=why, expires=certificates.expires_at.isoformat())
    return True
