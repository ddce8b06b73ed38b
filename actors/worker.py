"""A worker as a supervised child process.

Rules of the file:
- Started from the main task, which runs in the main thread (`engine/children.py` says why).
- What a worker held when it ended goes back to the log at once, before another takes its place.
- A worker that ends well was asked to, by somebody: another takes its place. One that falls is its supervisor's.
- A worker that lives and does not answer is killed: its connections would wait for ever.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
import trio

from actors.tree import Actor
from engine.children import Child, start_child
from engine.errors import Fault, Unavailable
from engine.placement import Placement

log = structlog.get_logger("workers")
READY_WITHIN_S: Final = 120.0
"""Engines that recover a large store are waited for by the worker itself, for less than this."""
ASK_EVERY_S: Final = 5.0
ANSWER_WITHIN_S: Final = 10.0
SILENCES_MOST: Final = 3
STOP_GRACE_S: Final = 10.0
"""Beyond the drain, for what a worker closes afterwards."""


class Worker:
    """One worker, and whoever comes after it in its place.

    Args:
        placement: its place.
        record: file that names its process.
        ask: asks it whether it is alive; raises a fault when it does not answer in time, seconds.
        drain_s: how long its requests have to end.
        give_back: gives back to the log what processes that are gone held.
    """

    def __init__(
        self,
        placement: Placement,
        record: Path,
        ask: Callable[[float], Awaitable[object]],
        drain_s: float,
        give_back: Callable[[], Awaitable[object]],
    ) -> None:
        self.index = placement.index
        self.pid = 0
        self.durability = ""
        self.ready = trio.Event()
        self._placement = placement
        self._record = record
        self._ask = ask
        self._drain_s = drain_s
        self._give_back = give_back
        self._is_told = False

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Run the worker until cancelled.

        Raises:
            Unavailable: it fell.

        Cancellation: has it drain and end, within a deadline.
        """
        while True:
            code = await self._run_once(ready)
            await self._give_back()
            if code != 0:
                raise Unavailable("server.worker-away", f"worker {self.index} ended with {code}")
            log.info("another worker takes its place", index=self.index)

    def tell_to_end(self) -> None:
        """Have it drain and end, so that another takes its place."""
        if self.pid:
            self._is_told = True
            os.kill(self.pid, signal.SIGTERM)

    def has_come(self, durability: str) -> None:
        """Note that it takes requests."""
        self.durability = durability
        self.ready.set()

    async def _run_once(self, ready: Callable[[], None]) -> int:
        self.ready, self._is_told = self.ready if not self.ready.is_set() else trio.Event(), False
        argv = [sys.executable, "-m", "edge.worker", self._placement.model_dump_json()]
        child = start_child(argv, self._record, sys.stderr.buffer, kept=self._placement.descriptors)
        self.pid = child.pid
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_after, child, ready)
                code = await child.wait()
                nursery.cancel_scope.cancel()
            return code
        finally:
            self.pid = 0
            with trio.CancelScope(shield=True):  # bounded: `stop` kills when its deadline has passed
                await child.stop(within_s=self._drain_s + STOP_GRACE_S)
            child.close()
            self._record.unlink(missing_ok=True)

    async def _look_after(self, child: Child, ready: Callable[[], None]) -> None:
        """Wait until it is ready, then see that it answers."""
        with trio.move_on_after(READY_WITHIN_S) as patience:
            await self.ready.wait()
        if not patience.cancelled_caught:
            ready()
            log.info("worker ready", index=self.index, pid=child.pid)
            silences = 0
            while silences < SILENCES_MOST:
                await trio.sleep(ASK_EVERY_S)
                try:
                    await self._ask(ANSWER_WITHIN_S)
                    silences = 0
                except Fault:
                    silences += not self._is_told  # who drains answers no more
        log.error("a worker does not answer; it is killed", index=self.index, pid=child.pid)
        os.kill(child.pid, signal.SIGKILL)


async def restart_in_turn(workers: Sequence[Worker]) -> None:
    """Have each worker's place taken by another, one after the other; meanwhile the others serve."""
    for worker in workers:
        worker.ready = trio.Event()
        worker.tell_to_end()
        await worker.ready.wait()
    log.info("all workers were restarted", count=len(workers))
