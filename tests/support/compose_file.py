"""compose.yaml as Compose reads it, and its processes started without Docker.

Rules of the file:
- What a container would get is taken from compose.yaml and from nowhere else: commands, environment, configuration.
  Only what loopback forces is changed, in sight: addresses, ports and folders.
- Every process is on loopback, and gone when its block ends.
"""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import trio
import yaml

from actors import children, postgres_server
from actors.worker import STOP_GRACE_S
from edge.serve import FLUSH_WITHIN_S
from engine.postgres_address import Address
from engine.postgres_server import EmbeddedPostgres
from tests.support.nats_server import nats_server_path
from tests.support.postgres import execute, open_real_postgres
from tests.support.processes import spawn
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until

__all__ = ["ROOT", "Engines", "healthcheck", "longest_stop_s", "make_environment", "open_engines", "read_compose"]

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 30.0


def make_environment() -> dict[str, str]:
    """What `make-env.sh > .env` would have Compose know."""
    script = str(ROOT / "edge" / "deploy" / "make-env.sh")
    text = subprocess.run(["sh", script], capture_output=True, text=True, check=True).stdout
    lines = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value.strip("'") for name, _, value in lines}


def interpolate(text: str, known: Mapping[str, str]) -> str:
    """Put the environment in, as Compose does: `${NAME:?why}` and `$$`.

    Raises:
        KeyError: a variable is not there.
    """
    return re.sub(r"\$(?:(\$)|\{(\w+)(?::\?[^}]*)?\})", lambda found: found[1] or known[found[2]], text)


def read_compose(known: Mapping[str, str]) -> dict[str, Any]:
    """compose.yaml with this environment in it."""
    value = yaml.safe_load((ROOT / "compose.yaml").read_text())

    def fill(each: Any) -> Any:
        if isinstance(each, dict):
            return {name: fill(one) for name, one in each.items()}
        if isinstance(each, list):
            return [fill(one) for one in each]
        return interpolate(each, known) if isinstance(each, str) else each

    filled: dict[str, Any] = fill(value)
    return filled


class Engines:
    """The three engines of compose.yaml as they run here.

    Args:
        nats: address of the log's server, without credentials.
        monitor: of its monitoring.
        postgres_port: on loopback.
        redis_port: on loopback.
    """

    def __init__(self, nats: str, monitor: str, postgres_port: int, redis_port: int) -> None:
        self.nats = nats
        self.monitor = monitor
        self.postgres_port = postgres_port
        self.redis_port = redis_port

    def gateway_environment(self, compose: dict[str, Any]) -> dict[str, str]:
        """The gateway's environment, the services' names made addresses of here."""
        environment = dict(compose["services"]["gateway"]["environment"])
        for name, here in (
            ("nats:4222", self.nats.removeprefix("nats://")),
            ("nats:8222", self.monitor.removeprefix("http://")),
            ("redis:6379", f"127.0.0.1:{self.redis_port}"),
        ):
            environment = {key: value.replace(name, here) for key, value in environment.items()}
        assert environment["DB_HOST"] == "postgres"
        return environment | {"DB_HOST": "127.0.0.1", "DB_PORT": str(self.postgres_port)}


class OnTcp(EmbeddedPostgres):
    """A PostgreSQL that listens on loopback, as the container's does on its network."""

    port = 0

    def command(self) -> list[str]:
        """The embedded server's, with an address."""
        return [*super().command(), "-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}"]

    def address(self) -> Address:
        """The port makes the socket's name another one too."""
        return replace(super().address(), host="127.0.0.1", port=self.port)


@asynccontextmanager
async def open_engines(folder: Path, compose: dict[str, Any]) -> AsyncIterator[Engines]:
    """Run NATS, Redis and PostgreSQL as compose.yaml has them, for the length of the block."""
    for name in ("nats", "redis", "pg/postgres"):
        await trio.Path(folder / name).mkdir(parents=True)
    async with (
        open_nats(folder / "nats", compose) as (nats, monitor),
        open_redis(folder / "redis", compose) as redis,
        open_postgres(folder / "pg", compose) as postgres,
    ):
        yield Engines(nats, monitor, postgres, redis)


@asynccontextmanager
async def open_nats(folder: Path, compose: dict[str, Any]) -> AsyncIterator[tuple[str, str]]:
    """The log's server on compose.yaml's own configuration file; its address and its monitoring's."""
    service = compose["services"]["nats"]
    (config,) = service["configs"]
    assert service["command"] == ["--config", config["target"]]
    text = (ROOT / compose["configs"][config["source"]]["file"]).read_text()
    assert text.count("store_dir: /data\n") == 1
    (folder / "nats.conf").write_text(text.replace("store_dir: /data\n", f'store_dir: "{folder}"\n'))
    command = [str(nats_server_path()), "--config", str(folder / "nats.conf"), "--addr", "127.0.0.1", "--port", "-1"]
    command += ["--http_port", "-1", "--ports_file_dir", str(folder)]
    process = spawn(command, folder / "nats.log", service["environment"])
    path = folder / f"nats-server_{process.pid}.ports"

    def ports() -> dict[str, list[str]] | None:
        assert process.poll() is None, (folder / "nats.log").read_text()
        text = path.read_bytes() if path.exists() else b""
        return orjson.loads(text) if text else None

    try:
        found = await wait_until(ports, "nats-server wrote its ports", timeout_s=START_TIMEOUT_S)
        assert found is not None
        yield found["nats"][0], found["monitoring"][0]
    finally:
        end(process)


@asynccontextmanager
async def open_redis(folder: Path, compose: dict[str, Any]) -> AsyncIterator[int]:
    """Redis by compose.yaml's own command; its port."""
    port = free_port()
    command = [*compose["services"]["redis"]["command"], "--bind", "127.0.0.1", "--port", str(port)]
    process = spawn([*command, "--dir", str(folder)], folder / "redis.log")

    async def answers() -> bool:
        assert process.poll() is None, (folder / "redis.log").read_text()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"PING\r\n")
            return bytes(await stream.receive_some(100)).startswith(b"-NOAUTH")

    try:
        await wait_until(answers, "redis-server answers, and asks for a password", timeout_s=START_TIMEOUT_S)
        yield port
    finally:
        end(process)


@asynccontextmanager
async def open_postgres(folder: Path, compose: dict[str, Any]) -> AsyncIterator[int]:
    """A PostgreSQL with the user, the password and the database of compose.yaml; its port."""
    known = compose["services"]["postgres"]["environment"]
    (folder / "postgres" / "secret").write_text(known["POSTGRES_PASSWORD"])

    def make(where: Path) -> EmbeddedPostgres:
        server = OnTcp(where)
        server.port = free_port()
        ports.append(server.port)
        return server

    ports: list[int] = []
    async with open_real_postgres(folder, make=make) as real:
        assert known["POSTGRES_USER"] == "headgate"
        async with real.databases.owner.lease() as lease:
            await lease.call(execute, f'CREATE DATABASE "{quote(known["POSTGRES_DB"])}"')
        yield ports[0]


def longest_stop_s(drain_s: float) -> float:
    """How long a gateway may take to stop, one process or with workers.

    Requests drain, what waits is flushed and connections close, the log stops, PostgreSQL stops.
    """
    return drain_s + max(2 * FLUSH_WITHIN_S, STOP_GRACE_S) + children.STOP_WITHIN_S + postgres_server.STOP_WITHIN_S


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and reap it."""
    process.kill()
    process.wait()


def healthcheck(environment: Mapping[str, str]) -> int:
    """What the image's HEALTHCHECK ends with under this environment."""
    text = (ROOT / "Dockerfile").read_text()
    (found,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.+\])$", text, re.MULTILINE)
    command = orjson.loads(found)
    assert command[0] == "python"
    command[0] = sys.executable
    known = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, cwd=ROOT, env=known, check=False, capture_output=True, timeout=30).returncode
