"""A Python callable as an agent's handler: `module:function`, plain or async, called with each batch.

    def handle(batch):                      async def handle(batch):
        for message in batch:                   await store(batch.events())
            store(message.events())             return {"nak": [3], "delay_s": 10}

Rules of the file:
- It returns None or verdicts, `{"ack": […], "nak": […], "delay_s": 5, "term": […], "reason": "…"}`: what they do not
  name is acknowledged. It raises: what it has not answered itself is given back; `Poison` ends it for good.
- A plain function runs in a thread of its own, and is given a batch whose methods are plain too.
- Anything else that it returns is a mistake, and never an acknowledgement.
"""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Final, Self

import trio

from edge.agent import Ended
from edge.client import StreamBatch
from edge.client_sync_batch import SyncBatch
from engine.verdicts import Verdicts, judge_exit, read_verdicts


class Poison(Exception):
    """Raised by a callable for messages that will never work: they go to the dead letters with these words."""


@dataclass(frozen=True, slots=True)
class Builtin:
    """A handler that comes with headgate.

    Args:
        target: `module:function`. The function takes nothing and gives an async context manager, which gives the async
            callable; what it opens stays open while the agent runs.
        says: one line for a person.
    """

    target: str
    says: str


BUILTINS: Final[dict[str, Builtin]] = {
    "discard": Builtin("edge.agent_builtins:open_discard", "acknowledges everything, to empty a durable"),
    "catalog": Builtin("edge.agent_catalog:open_catalog", "keeps the files in PostgreSQL, for a gateway far away"),
}


class CallableHandler:
    """Calls a function for each batch. Use it as an async context manager.

    Args:
        function: plain or async.
        parallel: how many batches are worked on at once.
        timeout_s: how long it may take for one; None for ever. A plain function cannot be stopped, only left behind.
        opener: gives `function` instead, and closes what it opened; None where there is nothing to open.
    """

    def __init__(
        self,
        function: Callable[[Any], Any] | None,
        *,
        parallel: int = 1,
        timeout_s: float | None = None,
        opener: Callable[[], AbstractAsyncContextManager[Callable[[Any], Any]]] | None = None,
    ) -> None:
        self._function = function
        self._opener = opener
        self._timeout_s = timeout_s
        self._threads = trio.CapacityLimiter(parallel)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._opener is not None:
            self._function = await self._stack.enter_async_context(self._opener())
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._stack.aclose()

    async def handle(self, batch: StreamBatch, delays_s: Mapping[int, float]) -> Ended:
        """Call the function."""
        with trio.move_on_after(float("inf") if self._timeout_s is None else self._timeout_s):
            try:
                verdicts = _understand(await self._call(batch), delays_s)
            except Poison as poison:
                open_indexes = [message.index for message in batch.unanswered]
                return Ended(
                    Verdicts(term=dict.fromkeys(open_indexes, str(poison) or "poison")), error=f"poison: {poison}"
                )
            except Exception as error:  # noqa: BLE001  # whatever a callable raises is an outcome of its batch
                return Ended(_judge(batch, None, delays_s), error=_explain(error))
            wrong = verdicts.indexes - {message.index for message in batch.unanswered}
            if wrong:
                return Ended(
                    _judge(batch, None, delays_s),
                    error=f"the callable answered message {min(wrong)} twice: itself, and in what it returned",
                )
            rest = {message.index for message in batch.unanswered} - verdicts.indexes
            return Ended(Verdicts(verdicts.ack | rest, verdicts.nak, verdicts.term))
        return Ended(_judge(batch, None, delays_s), error=f"the callable was not done within {self._timeout_s:g} s")

    async def _call(self, batch: StreamBatch) -> Any:
        function = self._function
        if function is None:
            raise RuntimeError("the handler was not opened")
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004  # an object with an async __call__
            return await function(batch)
        plain = SyncBatch(batch, trio.from_thread.run)
        return await trio.to_thread.run_sync(function, plain, abandon_on_cancel=True, limiter=self._threads)


def load_callable(target: str) -> Callable[[Any], Any]:
    """Import `module:function`; modules of the working folder are found.

    Raises:
        ValueError: it is not written so, is not there, or cannot be called.
    """
    module, colon, name = target.partition(":")
    if not module or not colon or not name:
        raise ValueError(f"{target!r} is no callable; expected module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{target} cannot be loaded: {error}") from error
    if not callable(function):
        raise ValueError(f"{target} is no function: it is {type(function).__name__}")
    loaded: Callable[[Any], Any] = function
    return loaded


def load_builtin(name: str) -> Callable[[], AbstractAsyncContextManager[Callable[[Any], Any]]]:
    """Give the opener of a handler that comes with headgate.

    Raises:
        ValueError: there is none of this name.
    """
    builtin = BUILTINS.get(name)
    if builtin is None:
        raise ValueError(f"there is no builtin {name!r}; expected one of {', '.join(BUILTINS)}")
    opener: Callable[[], AbstractAsyncContextManager[Callable[[Any], Any]]] = resolve_name(builtin.target)
    return opener


def _understand(answer: Any, delays_s: Mapping[int, float]) -> Verdicts:
    if answer is None:
        return Verdicts()
    if isinstance(answer, Verdicts):
        return answer
    if isinstance(answer, Mapping):
        return read_verdicts(answer, delays_s)
    raise TypeError(f"the callable returned {answer!r:.80}; expected None or verdicts")


def _judge(batch: StreamBatch, code: int | None, delays_s: Mapping[int, float]) -> Verdicts:
    return judge_exit(code, (message.index for message in batch.unanswered), delays_s)


def _explain(error: Exception) -> str:
    """Say what was raised, and where in the callable's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if os.path.dirname(__file__) not in frame.filename]
    where = f" ({os.path.basename(own[-1].filename)}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{where}"
