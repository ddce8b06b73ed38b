"""A thread with Trio in it, and the way in: what makes plain calls of async functions.

Rules of the file:
- A call that is interrupted (Ctrl-C) is cancelled, and the interruption goes on.
- The thread is a daemon: a program that ends without closing the client ends all the same.
- A call on a client that is closed, or that is closed meanwhile, raises `ClientClosed`; it never waits for ever.
"""

import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, Protocol, TypeVar

import trio

END_WITHIN_S: Final = 10.0
"""For what is cancelled: a goodbye on the socket takes two seconds at most."""
WORRY_EVERY_S: Final = 0.5
"""How often a waiting call looks whether its Trio is still there."""

T = TypeVar("T")


class Call(Protocol):
    """Runs an async function to its end, from outside Trio."""

    def __call__(self, function: Callable[..., Awaitable[T]], /, *args: Any) -> T:
        """Run it, and give what it returned or raise what it raised."""
        ...


class ClientClosed(RuntimeError):
    """The client was not open, or was closed while it was being used."""

    def __init__(self) -> None:
        super().__init__("the client is not open: use it inside its `with` block")


class Portal:
    """A thread with Trio and something open in it.

    Args:
        held: open for as long as the thread runs.
    """

    def __init__(self, held: AbstractAsyncContextManager[Any]) -> None:
        self._held = held
        self._thread = threading.Thread(target=self._run, name="headgate client", daemon=True)
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread and wait until it can be called."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End everything that runs there, and the thread."""
        token, nursery = self._token, self._nursery
        if token is not None and nursery is not None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(nursery.cancel_scope.cancel)
        self._thread.join(END_WITHIN_S)

    def call(self, function: Callable[..., Awaitable[T]], /, *args: Any) -> T:
        """Run an async function there, and wait for it."""
        token, nursery = self._token, self._nursery
        if token is None or nursery is None:
            raise ClientClosed
        answer: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()
        scope = trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    result = await function(*args)
                    answer.put(lambda: result)
                    return
                answer.put(_raise_cancelled)
            except Exception as error:  # noqa: BLE001  # it crosses to the caller's thread, and is raised there
                answer.put(_raiser(error))
            except BaseException:  # Trio's own: the client is being closed
                answer.put(_raise_cancelled)
                raise

        try:
            token.run_sync_soon(nursery.start_soon, run)
            outcome = self._wait(answer)
        except trio.RunFinishedError:
            raise ClientClosed from None
        except BaseException:  # Ctrl-C, raised again
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
            raise
        return outcome()

    async def start_task(self, function: Callable[..., Awaitable[object]]) -> None:
        """Start a task that lives until the client is closed, and wait until it says that it has begun."""
        if self._nursery is None:
            raise ClientClosed
        await self._nursery.start(function)

    def _wait(self, answer: "queue.SimpleQueue[Callable[[], T]]") -> Callable[[], T]:
        while True:
            try:
                return answer.get(timeout=WORRY_EVERY_S)
            except queue.Empty:
                if not self._thread.is_alive():
                    return _raise_cancelled

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001  # the thread ends with it; whoever waits is told
            self._failure = error
        finally:
            self._token = self._nursery = None
            self._ready.set()

    async def _main(self) -> None:
        async with self._held, trio.open_nursery() as nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._nursery = nursery
            self._ready.set()
            await trio.sleep_forever()


def _raiser(error: Exception) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


def _raise_cancelled() -> Any:
    raise ClientClosed
