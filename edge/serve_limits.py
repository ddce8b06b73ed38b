"""Composes how much somebody may ask: the policies, their table, and Redis where there is one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio

from actors.limits import Limiter
from actors.tree import Actor
from edge.guard import Guard
from engine.bridge import Bridge
from engine.limits import Policy
from engine.settings import Settings

log = structlog.get_logger("limits")
CLOSE_WITHIN_S: Final = 2.0


def are_limits_on(settings: Settings) -> bool:
    """Say whether requests are counted."""
    if settings.limits == "auto":
        return not settings.is_open or settings.sets_limits
    return settings.limits == "on"


def warn_of_workers(settings: Settings, workers: int) -> bool:
    """Say, once at the start, where several processes on one port allow more than a limit says; whether it was said.

    Args:
        settings: as started.
        workers: processes that serve requests.
    """
    alone = [f'"{name}"' for name in settings.quotas()] if not settings.redis_address else []
    alone += [f'"{one.name}"' for one in settings.slots()]
    if workers < 2 or not alone or not are_limits_on(settings):
        return False
    log.warning(
        "each worker counts by itself: together they allow up to so many times the limit as they are; "
        "with REDIS_URL what has a window is counted together",
        policies=", ".join(alone),
        workers=workers,
    )
    return True


@asynccontextmanager
async def open_limits(settings: Settings, root: Actor, bridge: Bridge, guard: Guard) -> AsyncIterator[None]:
    """Have the guard hold requests to their limits for the length of the block."""
    if not are_limits_on(settings):
        yield
        return
    shared = None
    if settings.redis_address:
        from engine.limits_redis import SharedBuckets

        shared = SharedBuckets(bridge, settings.redis_address)
    policies = {name: Policy(name, quota, 60) for name, quota in settings.quotas().items()}
    limiter = Limiter(policies, shared, settings.slots(), settings.limits_fallback)
    with root.child("limits", limiter.mailbox):
        guard.limiter = limiter
        try:
            yield
        finally:
            guard.limiter = None
            if shared is not None:
                with trio.move_on_after(CLOSE_WITHIN_S, shield=True):  # bounded by its own deadline
                    await shared.aclose()
