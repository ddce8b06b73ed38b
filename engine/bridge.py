"""The one bridge to asyncio: a uvloop loop in one thread, called from Trio.

nats-py's control plane, asyncpg and redis are asyncio libraries. They live behind this file.

Rules of the file:
- A call carries a function and its arguments, never a coroutine object.
- One crossing a batch or a unit of work, never one a message.
- Cancellation crosses, and is completed on the other side before it is raised on this one: when a call
  has ended here, nothing of it runs there.
- What is posted back to Trio captures its outcome; a raise there would end the run.
- Time-outs are Trio's.

Source: `DESIGN.md` section 7.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

import outcome
import trio
import uvloop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STOP_WITHIN_S = 5.0
"""Closing the loop waits this long for its thread: by then every call was cancelled and completed."""


class Bridge:
    """Calls asyncio functions from Trio; opened by `open_bridge`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, token: trio.lowlevel.TrioToken) -> None:
        self._loop = loop
        self._token = token
        self.calls = 0

    async def call(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run `await fn(*args)` on the asyncio side and give its result.

        Raises:
            Exception: whatever `fn` raised; drivers translate it.

        Cancellation: cancels the asyncio task and waits until it has ended.
        """
        self.calls += 1
        here = trio.lowlevel.current_task()
        tasks: list[asyncio.Task[T]] = []
        abandoned = False

        async def invoke() -> T:
            return await fn(*args)

        def finish(task: asyncio.Task[T]) -> None:
            result: outcome.Outcome[Any]
            if task.cancelled():
                result = outcome.Error(asyncio.CancelledError("the call was cancelled on the asyncio side"))
            elif (problem := task.exception()) is not None:
                result = outcome.Error(problem)
            else:
                result = outcome.Value(task.result())
            self._token.run_sync_soon(trio.lowlevel.reschedule, here, result)

        def start() -> None:
            task = self._loop.create_task(invoke())
            tasks.append(task)
            task.add_done_callback(finish)

        def cancel() -> None:
            tasks[0].cancel()

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            nonlocal abandoned
            abandoned = True
            self._loop.call_soon_threadsafe(cancel)  # after `start`, which was posted before it
            return trio.lowlevel.Abort.FAILED

        self._loop.call_soon_threadsafe(start)
        try:
            result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        except asyncio.CancelledError:
            if abandoned:
                await trio.lowlevel.checkpoint_if_cancelled()
            raise RuntimeError("an asyncio call cancelled itself") from None
        return result


@asynccontextmanager
async def open_bridge() -> AsyncIterator[Bridge]:
    """Start the asyncio thread, and stop it on leaving.

    Closes: the loop and its thread; whoever opened connections on it must have closed them before.
    """
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=_run_loop, args=(loop,), name="headgate-asyncio", daemon=True)
    thread.start()
    try:
        yield Bridge(loop, trio.lowlevel.current_trio_token())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        with trio.CancelScope(shield=True):  # bounded: the join has a deadline
            await trio.to_thread.run_sync(thread.join, STOP_WITHIN_S)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
