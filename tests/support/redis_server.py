"""A real redis-server of the test's own; tests that need one skip where none is installed."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.processes import ProcessName, spawn
from tests.support.waiting import wait_until

__all__ = ["RedisServer", "free_port", "needs_redis", "open_redis_server"]

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="no redis-server on PATH (Debian: apt-get install redis-server)",
)


def free_port() -> int:
    """Give a port of loopback that is free now, for who cannot choose one itself.

    Another process may take it in between; then the start fails loudly.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """One redis-server process on loopback that keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it (on the same port, the second time) and wait until it answers a PING."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        options = f"--bind 127.0.0.1 --port {self.port} --appendonly no --daemonize no --dir {self.folder}".split()
        self._process = spawn(["redis-server", *options, "--save", ""], self.folder / "redis.log")
        await wait_until(self._answers, "redis-server answers")

    async def command(self, *words: str) -> bytes:
        """Send one command on a connection of its own, and return the first piece of the answer."""
        lines = [f"*{len(words)}"] + [f"${len(word.encode())}\r\n{word}" for word in words]
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(("\r\n".join(lines) + "\r\n").encode())
            return bytes(await stream.receive_some(65_536))

    def process_name(self) -> ProcessName:
        """The process, for whom wants to freeze it."""
        assert self._process is not None
        name = ProcessName.of(self._process.pid)
        assert name is not None
        return name

    def kill(self) -> None:
        """SIGKILL it and reap it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"redis-server ended: {(self.folder / 'redis.log').read_text()[-2000:]}")
        return (await self.command("PING")).startswith(b"+PONG")

    async def aclose(self) -> None:
        """End it and reap it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()


@asynccontextmanager
async def open_redis_server(folder: Path) -> AsyncIterator[RedisServer]:
    """Run a redis-server for the length of the block."""
    server = RedisServer(folder)
    try:
        await server.start()
        yield server
    finally:
        with trio.CancelScope(shield=True):  # kill and wait only: it cannot hang
            await server.aclose()
