"""A nursery for clients and commands: the one thing that went wrong comes out as it is.

Rules of the file:
- A group with one exception beside cancellations is that exception; any other group comes out as a group.

Trio wraps even a single error in a group, which is right for a library of tasks and wrong for a caller who does not
know that there is a task: `except GatewayRefused` must work around `async with client.agent(…)`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

ErrorT = TypeVar("ErrorT", bound=BaseException)


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that raises a single error unwrapped, also when it is the block's own."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        errors = [error for error in leaves(group) if not isinstance(error, trio.Cancelled)]
        if len(errors) != 1:
            raise
    else:
        return
    raise errors[0]


def leaves(group: BaseExceptionGroup[ErrorT]) -> list[ErrorT]:
    """List the exceptions of a group and of the groups in it."""
    found: list[ErrorT] = []
    for error in group.exceptions:
        found.extend(leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
