"""Composes how much somebody may ask: the policies, their table, and Redis where there is one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from actors.limits import Limiter
from actors.tree import Actor
from edge.guard import Guard
from engine.bridge import Bridge
from engine.limits import Policy
from engine.limits_redis import SharedBuckets
from engine.settings import Settings

CLOSE_WITHIN_S = 2.0


@asynccontextmanager
async def open_limits(settings: Settings, root: Actor, bridge: Bridge, guard: Guard) -> AsyncIterator[None]:
    """Have the guard hold requests to their limits for the length of the block."""
    is_off = settings.limits == "off" or (settings.limits == "auto" and settings.is_open)
    if is_off:
        yield
        return
    shared = SharedBuckets(bridge, settings.redis_address) if settings.redis_address else None
    policies = {name: Policy(name, quota, 60) for name, quota in settings.quotas().items()}
    limiter = Limiter(policies, shared)
    with root.child("limits", limiter.mailbox):
        guard.limiter = limiter
        try:
            yield
        finally:
            guard.limiter = None
            if shared is not None:
                with trio.move_on_after(CLOSE_WITHIN_S, shield=True):  # bounded by its own deadline
                    await shared.aclose()
