"""Waiting for something outside the test's own process.

Rules of the file:
- It is the only place under `tests/` that sleeps. A test says what it waits for and how long it may
  take at most; it never says how long to sleep.
- Nothing here is for code that runs inside the test's own Trio run: that is what `autojump_clock` and
  `trio.testing.wait_all_tasks_blocked` are for.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

import trio

__all__ = ["let_pass", "wait_stays", "wait_until"]

T = TypeVar("T")

# Fine enough to measure a recovery of 100 ms, coarse enough to leave the core to what is waited for.
POLL_INTERVAL_S = 0.01


@overload
async def wait_until(
    check: Callable[[], Awaitable[T]], what: str, *, timeout_s: float = ..., interval_s: float = ...
) -> T: ...
@overload
async def wait_until(check: Callable[[], T], what: str, *, timeout_s: float = ..., interval_s: float = ...) -> T: ...
async def wait_until(
    check: Callable[[], T | Awaitable[T]],
    what: str,
    *,
    timeout_s: float = 10.0,
    interval_s: float = POLL_INTERVAL_S,
) -> T:
    """Poll `check` until it returns something true, and return that.

    Args:
        check: asked again and again; may be a plain or an async function. An `OSError` it raises counts
            as "not yet", because what is waited for is often a server that is not up.
        what: a claim, for the message of the failure: "the child is running again".
        timeout_s: the deadline over everything, the time inside `check` included.
        interval_s: the pause between two questions.

    Raises:
        AssertionError: the deadline passed; the message has the claim and the last answer.
    """
    last: object = None
    with trio.move_on_after(timeout_s):
        while True:
            try:
                answer = check()
                value: T = await answer if isinstance(answer, Awaitable) else answer
                if value:
                    return value
                last = value
            except OSError as error:
                last = error
            await trio.sleep(interval_s)
    raise AssertionError(f"not within {timeout_s:g} s: {what} (last answer: {last!r})")


async def wait_stays(
    check: Callable[[], object | Awaitable[object]],
    what: str,
    *,
    for_s: float,
    interval_s: float = 0.1,
) -> None:
    """Ask `check` again and again for `for_s` seconds; it must be true each time.

    Raises:
        AssertionError: it was false once; the message says after how long.
    """
    began = trio.current_time()
    while (elapsed_s := trio.current_time() - began) < for_s:
        answer = check()
        if isinstance(answer, Awaitable):
            answer = await answer
        if not answer:
            raise AssertionError(f"no longer true after {elapsed_s:.1f} s: {what} ({answer!r})")
        await trio.sleep(interval_s)


async def let_pass(seconds: float) -> None:
    """Let real time pass, where time itself is what the test is about.

    For the random instant of a kill, for an interval between two requests of a load, for a deadline of
    the product that a test must see expire. Never to hope that something is ready by then.
    """
    await trio.sleep(seconds)
