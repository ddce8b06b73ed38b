"""How a gateway begins: its engines first, and everything else is imported while they start.

Making a PostgreSQL takes as long as importing the gateway, on another processor. So this file imports little, starts
the engines, and has a thread import `edge/serve.py`, which composes the rest.

Rules of the file:
- What can refuse a start without engines refuses it before there are any.
- A second signal means now.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from edge.logs import configure_logs
from edge.serve_engines import open_engines
from engine.descriptors import raise_descriptor_limit
from engine.errors import Fault
from engine.placement import Placement
from engine.settings import Settings
from engine.settings_identity import is_loopback

log = structlog.get_logger("serve")
E = TypeVar("E", bound=Exception)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_IN_USE: Final = 5


def run(settings: Settings, placement: Placement | None = None) -> int:
    """Run a gateway, or a worker of one, until it is told to stop; the exit code says how it went."""
    return run_and_explain(settings, partial(start, settings, placement))


def run_and_explain(settings: Settings, main: Callable[[], Awaitable[None]]) -> int:
    """Run this process's Trio; what ends it is said in one line."""
    configure_logs(settings.log_level)
    if missing := raise_descriptor_limit(settings.connections):
        log.warning("too few descriptors for HEADGATE_CONNECTIONS: raise the hard limit (ulimit -Hn)", missing=missing)
    code = EXIT_OK
    try:
        trio.run(main)
    except* Fault as group:
        fault = _first_of(group)
        _complain(fault.detail)
        code = EXIT_IN_USE if fault.kind.code == "request.conflict" else EXIT_FAILED
    except* OSError as group:
        problem = _first_of(group)
        places = " and ".join(f"{settings.host}:{port}" for port in settings.ports)
        _complain(f"cannot listen on {places}: {problem}")
        code = EXIT_FAILED
    return code


async def start(
    settings: Settings,
    placement: Placement | None = None,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a gateway until SIGTERM or SIGINT.

    Args:
        settings: what to run.
        placement: this process's place where there are several; None where it is alone and runs the engines too.
        task_status: reports the address once requests are welcome.

    Raises:
        Refused: the data folder is in use, or the settings or their files cannot be used.
        OSError: the address is not to be had.
    """
    if placement is None and not is_loopback(settings.host):
        _check_exposure(settings)
    draining = trio.Event()
    async with trio.open_nursery() as signals:
        signals.start_soon(_watch_signals, draining)
        async with open_engines(settings, is_ours=placement is None) as engines, trio.open_nursery() as imports:
            await trio.to_thread.run_sync(_import)
            from edge.serve import serve
            from edge.serve_quart import QuartLater

            quart = QuartLater()
            imports.start_soon(quart.run)
            await serve(settings, placement, engines, quart, draining, task_status=task_status)
            imports.cancel_scope.cancel()
        signals.cancel_scope.cancel()


def _import() -> None:
    import edge.serve  # noqa: F401  # so that it is there when it is used


def _check_exposure(settings: Settings) -> None:
    from edge.serve_identity import check_exposure, given_keys
    from engine.keys_file import KeysFile

    check_exposure(settings, given_keys(settings) | KeysFile(settings.data.resolve()).read())


async def _watch_signals(draining: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if draining.is_set():
                log.warning("told to stop twice: ending now", signal=number)
                os._exit(EXIT_FAILED)  # the kernel ends the children with us
            log.info("told to stop", signal=number)
            draining.set()


def _complain(text: str) -> None:
    sys.stderr.write(f"headgate: {text}\n")


def _first_of(group: BaseExceptionGroup[E]) -> E:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            return _first_of(one)
        return one
    raise AssertionError("an exception group is never empty")
