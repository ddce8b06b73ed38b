"""A gateway of the demo's own: `headgate serve` as a child process, with its log in a file.

Rules of the file:
- The child cannot outlive the demo, however the demo ends; `engine/children.py` sees to that.
- The child writes into a file: a pipe would stop it when it is full, and break when the demo ends.

What must change with it: the ready line that `edge/serve.py` prints.
"""

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from edge.client import GatewayError
from edge.nursery import open_plain_nursery
from engine.children import Child, start_child

READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 20.0
"""The gateway drains for 10 s at most, and stops its log after that."""
POLL_S: Final = 0.02
_READY_LINE: Final = re.compile(r"^headgate ready (?P<url>http\S+) durability=(?P<durability>\S+).*\n", re.MULTILINE)


class GatewayEnded(GatewayError):
    """The demo's gateway ended by itself.

    Args:
        exit_code: its exit code, negative for a signal.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class DemoGateway:
    """A running gateway.

    Args:
        url: where it listens.
        durability: what its word is worth.
        log: file with everything it said.
    """

    url: str
    durability: str
    log: Path


@asynccontextmanager
async def open_demo_gateway(folder: Path, port: int) -> AsyncIterator[DemoGateway]:
    """Run a gateway on a data folder for the length of the block.

    Args:
        folder: its data folder; made when it is not there.
        port: 0 for a free one.

    Raises:
        GatewayEnded: it ended by itself, before it was ready or during the block, which is then cancelled.

    Closes: the gateway, with a drain.
    """
    child, said = _start(folder, port)
    try:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_watch, child, said)
            with trio.move_on_after(READY_TIMEOUT_S) as patience:
                gateway = await _wait_ready(said)
            if patience.cancelled_caught:
                raise GatewayError(f"the gateway was not ready within {READY_TIMEOUT_S:g} s; its log is {said.path}")
            yield gateway
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # bounded: `stop` has its own deadline, and then kills
            await child.stop(within_s=STOP_TIMEOUT_S)
        child.close()


@dataclass(frozen=True, slots=True)
class _Said:
    """What the child says: the part of the log that is this child's."""

    path: Path
    offset: int

    def read(self) -> str:
        with self.path.open("rb") as log:
            log.seek(self.offset)
            return log.read().decode(errors="replace")


def _start(folder: Path, port: int) -> tuple[Child, _Said]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = [sys.executable, "-m", "edge", "serve", "--host", "127.0.0.1", "--port", str(port), "--data", str(folder)]
    path = folder / "demo-gateway.log"
    with path.open("ab") as log:
        said = _Said(path, log.tell())
        return start_child(argv, folder / "demo-gateway.json", log), said


async def _wait_ready(said: _Said) -> DemoGateway:
    while (match := _READY_LINE.search(said.read())) is None:  # noqa: ASYNC110  # a file that grows tells nobody
        await trio.sleep(POLL_S)
    return DemoGateway(match["url"], match["durability"], said.path)


async def _watch(child: Child, said: _Said) -> None:
    code = await child.wait()
    lines = said.read().strip().splitlines() or ["it said nothing"]
    raise GatewayEnded(f"the gateway ended with exit code {code}: {lines[-1]}", code)
