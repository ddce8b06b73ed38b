"""Composes what is told to a collector: the exporter, and the actor that feeds it.

Rules of the file:
- A collector that is not there, or an extra that is not installed, is said in the log and holds up nothing.
"""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog
import trio

from actors.spans import Spans
from actors.tree import Actor, supervise
from engine.settings import Settings, mask_url

if TYPE_CHECKING:
    from engine.spans_otlp import OtlpExporter

log = structlog.get_logger("spans")
FLUSH_WITHIN_S: Final = 2.0


@asynccontextmanager
async def open_spans(settings: Settings, root: Actor) -> AsyncIterator[Spans | None]:
    """Have spans sent for the length of the block; None where nobody wants them."""
    exporter = _make_exporter(settings) if settings.spans_url else None
    if exporter is None:
        yield None
        return
    spans = Spans(
        settings.sampling,
        exporter.export,
        most=settings.spans_queue,
        batch=min(settings.spans_batch, settings.spans_queue),
        every_s=settings.spans_every_ms / 1000,
    )
    try:
        async with trio.open_nursery() as nursery:
            run = partial(supervise, root, "spans", spans.run, is_needed=False)
            nursery.start_soon(partial(run, mailbox=spans.mailbox))
            yield spans
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # bounded by its own deadline
            await spans.flush(FLUSH_WITHIN_S)
        exporter.close()


def _make_exporter(settings: Settings) -> "OtlpExporter | None":
    facts = {
        "service.version": version("headgate"),
        "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        "deployment.environment.name": settings.environment,
    }
    try:
        from engine.spans_otlp import OtlpExporter  # an extra, and not imported where nobody wants it

        exporter = OtlpExporter(settings.spans_url, settings.service_name, facts)
    except ImportError as problem:
        log.warning("no spans are sent: the extra is not installed", error=str(problem), expected="headgate[otlp]")
        return None
    log.info("spans are sent to a collector", url=mask_url(settings.spans_url), sampler=settings.sampler)
    return exporter
