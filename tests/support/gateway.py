"""The real gateway as a child process, for tests that mean the whole thing.

Rules of the file:
- The gateway runs in a session of its own, and is started from the test's main thread: a child's
  parent-death signal fires when the *thread* that started it ends.
- Whatever happens in the test, afterwards neither the gateway nor a child of it is alive; each is
  ended by its pid and start time, never by name.
- stdout and stderr are files beside the data folder, so no pipe can fill up and stop the gateway.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from tests.support.processes import ProcessName, descendants, is_alive, kill_process
from tests.support.waiting import wait_until

__all__ = ["Gateway", "GatewayDied", "open_gateway", "running_gateway"]

PROJECT_ROOT = Path(__file__).resolve().parents[2]

# A cold start on two busy cores: Python's imports, the log's first stream. T35 has the real bound.
READY_TIMEOUT_S = 60.0
# HEADGATE_DRAIN_S (10 by default) and the five seconds that T22 grants on top.
STOP_TIMEOUT_S = 15.0

READY_LINE = re.compile(
    r"^headgate ready (?P<scheme>https?)://(?P<host>\S+):(?P<port>\d+) durability=(?P<durability>\S+) "
    r"data=(?P<data>.+) pid=(?P<pid>\d+)$",
    re.MULTILINE,
)

# What a developer's own shell may hold and a test must not inherit.
OWN_VARIABLES = re.compile(
    r"^(HEADGATE_|SNAPFS_|NATS_|REDIS_|DB_|PG|API_GATEWAY_|CORS_|JWT_|AUTH_|SERVER_|OTEL_)|^(PORT|AUTH)$|_URL$"
)


class GatewayDied(AssertionError):
    """The gateway ended, or did not become ready; the message ends with the tail of its log."""


class Gateway:
    """One data folder and the gateway process that runs on it.

    The process may be killed and started again; `pid`, `port` and the log then are the new one's, with
    the log files appended to.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        port: int = 0,
    ) -> None:
        self.data_dir = data_dir
        self.env = dict(env or {})
        self.args = list(args)
        self.scheme = "http"
        self.host = "127.0.0.1"
        self.port = port
        self.durability = ""
        self.ready_after_s = 0.0
        self.log_path = data_dir.parent / f"{data_dir.name}.stderr"
        self.out_path = data_dir.parent / f"{data_dir.name}.stdout"
        self._process: subprocess.Popen[bytes] | None = None
        self._seen_children: set[ProcessName] = set()
        self._out_offset = 0
        self._spawned_at = 0.0

    @property
    def url(self) -> str:
        """The address to talk to, without a slash at the end."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The gateway's own process id; of the last one when it is not running."""
        assert self._process is not None, "the gateway was never started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there (and reaps it when it ended)."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: the signal), None while it runs."""
        return None if self._process is None else self._process.poll()

    def spawn(self) -> None:
        """Start the process and return at once; `wait_ready` says when it answers."""
        assert not self.is_running, "the gateway is running already"
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if not OWN_VARIABLES.search(k)}
        # A test that means the catalog says so; the others start faster without a PostgreSQL.
        environment |= {"HEADGATE_CATALOG": "off"} | self.env
        command = [sys.executable, "-m", "edge", "serve", "--host", self.host]
        command += ["--port", str(self.port), "--data", str(self.data_dir), *self.args]
        self._out_offset = self.out_path.stat().st_size if self.out_path.exists() else 0
        with self.out_path.open("ab") as out, self.log_path.open("ab") as log:
            self._spawned_at = time.monotonic()
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT_ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    async def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait for the ready line and take host, port and durability from it.

        Raises:
            GatewayDied: the process ended, or the deadline passed.
        """

        def ready_line() -> re.Match[str] | None:
            with self.out_path.open("rb") as out:
                out.seek(self._out_offset)
                match = READY_LINE.search(out.read().decode())
            if match is None and not self.is_running:
                raise GatewayDied(self._obituary(f"exit code {self.exit_code} before ready"))
            return match

        try:
            match = await wait_until(ready_line, "the ready line", timeout_s=timeout_s)
        except GatewayDied:
            raise
        except AssertionError:
            raise GatewayDied(self._obituary(f"not ready within {timeout_s:g} s")) from None
        assert match is not None
        self.ready_after_s = time.monotonic() - self._spawned_at
        self.scheme = match["scheme"]
        self.host, self.port = match["host"], int(match["port"])
        self.durability = match["durability"]
        self.children()

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.spawn()
        await self.wait_ready()

    def children(self) -> list[int]:
        """The pids of all live descendants now; they are remembered for the cleaning up."""
        if not self.is_running:
            return [child.pid for child in self._seen_children if is_alive(child)]
        found = descendants(self.pid)
        self._seen_children.update(found)
        return [child.pid for child in found]

    def nats_child(self) -> dict[str, Any]:
        """What DIR/nats/child.json says of the embedded log's process."""
        text = (self.data_dir / "nats" / "child.json").read_text()
        child: dict[str, Any] = json.loads(text)
        return child

    def log_text(self) -> str:
        """Everything it has written to stderr so far, all its lives together."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        """The log's lines that are JSON objects, in order."""
        lines: list[dict[str, Any]] = []
        for line in self.log_text().splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    lines.append(value)
        return lines

    def kill(self) -> None:
        """SIGKILL the gateway alone, and reap it. Its children are left to their fate."""
        assert self._process is not None
        self.children()
        self._process.kill()
        self._process.wait()

    def signal(self, signal_number: int) -> None:
        """Send a signal to the gateway alone."""
        assert self._process is not None
        self.children()
        self._process.send_signal(signal_number)

    async def wait_exit(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait until the process has ended, and return its exit code."""
        await wait_until(lambda: not self.is_running, "the gateway has ended", timeout_s=timeout_s)
        assert self.exit_code is not None
        return self.exit_code

    async def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, and wait for the end of the drain. Returns the exit code."""
        self.signal(signal.SIGTERM)
        return await self.wait_exit(timeout_s)

    async def restart(self) -> None:
        """Start it again on the same data folder and port; ends it first (SIGTERM) if it runs."""
        if self.is_running:
            await self.terminate()
        await self.start()

    async def aclose(self) -> None:
        """End it, politely where it listens, and every child of it that is left."""
        if self.is_running:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                await wait_until(lambda: not self.is_running, "it stopped", timeout_s=1.0)
            if self.is_running:
                self.signal(signal.SIGTERM)
                with contextlib.suppress(AssertionError):
                    await wait_until(lambda: not self.is_running, "it stopped", timeout_s=3.0)
        if self.is_running:
            self.kill()
        self._remember_recorded_child()
        for child in self._seen_children:
            kill_process(child)

    def tail(self, line_count: int = 40) -> str:
        """The end of its log, for the message of a failure."""
        return "\n".join(self.log_text().splitlines()[-line_count:])

    def _remember_recorded_child(self) -> None:
        """Count an orphan in that child.json names, if it is the process that the file means."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            recorded = self.nats_child()
            exe = os.readlink(f"/proc/{int(recorded['pid'])}/exe")
            child = ProcessName.of(int(recorded["pid"]))
            argv = Path(f"/proc/{int(recorded['pid'])}/cmdline").read_text()
            if child is not None and exe == recorded["exe"] and str(self.data_dir) in argv:
                self._seen_children.add(child)

    def _obituary(self, what: str) -> str:
        return f"the gateway on {self.data_dir}: {what}\n--- its log ends ---\n{self.tail()}"


@asynccontextmanager
async def open_gateway(
    data_dir: Path,
    *,
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
) -> AsyncIterator[Gateway]:
    """Run a gateway on `data_dir` for the length of the block; ready when it is entered.

    A failure inside the block gets the tail of the gateway's log as a note.
    """
    gateway = Gateway(data_dir, env=env, args=args)
    try:
        await gateway.start()
        yield gateway
    except BaseException as error:  # noted and raised again: the reader needs the other side's story
        if not isinstance(error, GatewayDied | trio.Cancelled):
            error.add_note(f"--- the gateway's log ends ---\n{gateway.tail()}")
        raise
    finally:
        # Shielded: an orphan would disturb every test after this one. `aclose` has its own deadlines.
        with trio.CancelScope(shield=True):
            await gateway.aclose()


@contextmanager
def running_gateway(
    data_dir: Path,
    *,
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
) -> Iterator[Gateway]:
    """`open_gateway` for a fixture that many Trio runs share: plain `with`, outside any run."""
    gateway = Gateway(data_dir, env=env, args=args)
    try:
        trio.run(gateway.start)
        yield gateway
    finally:
        trio.run(gateway.aclose)
