"""A bare NATS client for tests, written apart from the product's so that one can judge the other.

Rules of the file:
- One connection, no reconnection: what breaks, breaks the test.
- JetStream is spoken as plain requests on `$JS.API`, and an error answer raises.
"""

import itertools
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
import trio

from tests.support.gateway import Gateway
from tests.support.http import ask
from tests.support.waiting import wait_until

__all__ = ["LogMessage", "NatsClient", "open_embedded_log", "open_nats_client"]

REQUEST_TIMEOUT_S = 10.0
PULL_BATCH_COUNT = 500


@dataclass(frozen=True)
class LogMessage:
    """One message as it lies in the stream."""

    sequence: int
    subject: str
    data: bytes
    headers: bytes


class NatsClient:
    """One connection to a nats-server."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = bytearray()
        self._inbox = f"_INBOX.tests-{secrets.token_hex(8)}"
        self._replies = itertools.count(1)

    async def connect(self, user: str | None, password: str | None) -> None:
        """Read INFO and say CONNECT."""
        assert (await self._read_line()).startswith(b"INFO ")
        options: dict[str, object] = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
        if user is not None:
            options |= {"user": user, "pass": password}
        await self._stream.send_all(b"CONNECT " + orjson.dumps(options) + b"\r\nPING\r\n")
        line = await self._read_line()
        assert line == b"PONG", f"the server refused: {line!r}"
        await self._stream.send_all(f"SUB {self._inbox}.* 1\r\n".encode())

    async def publish(self, subject: str, data: bytes) -> int:
        """Publish into the stream that takes the subject; returns the sequence it got."""
        reply = orjson.loads(await self.request(subject, data))
        assert "error" not in reply, reply
        sequence: int = reply["seq"]
        return sequence

    async def api(self, verb: str, request: Mapping[str, object] | None = None) -> dict[str, Any]:
        """One JetStream API request; `verb` without `$JS.API.`.

        Raises:
            LookupError: the server answered with an error.
        """
        data = orjson.dumps(request) if request is not None else b""
        reply: dict[str, Any] = orjson.loads(await self.request(f"$JS.API.{verb}", data))
        if "error" in reply:
            raise LookupError(f"{verb}: {reply['error']}")
        return reply

    async def request(self, subject: str, data: bytes) -> bytes:
        """Publish with a reply subject and return the first answer's payload."""
        inbox = f"{self._inbox}.{next(self._replies)}"
        await self._stream.send_all(f"PUB {subject} {inbox} {len(data)}\r\n".encode() + data + b"\r\n")
        with trio.fail_after(REQUEST_TIMEOUT_S):
            while True:
                answered, _, headers, payload = await self._read_message()
                if answered == inbox:
                    assert b" 503" not in headers[:16], f"nobody serves {subject}"
                    return payload

    async def stream_state(self, stream: str) -> dict[str, Any]:
        """The `state` of STREAM.INFO: messages, bytes, first_seq, last_seq and so on."""
        state: dict[str, Any] = (await self.api(f"STREAM.INFO.{stream}"))["state"]
        return state

    async def find_consumers(self, stream: str, part: str) -> list[dict[str, Any]]:
        """CONSUMER.INFO of every consumer whose name contains `part`."""
        names = (await self.api(f"CONSUMER.NAMES.{stream}"))["consumers"] or []
        return [await self.api(f"CONSUMER.INFO.{stream}.{name}") for name in names if part in name]

    async def read_stream(self, stream: str, *, after: int = 0) -> list[LogMessage]:
        """Every message of the stream with a sequence above `after`, in order."""
        last = (await self.stream_state(stream))["last_seq"]
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "inactive_threshold": 60_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
        }
        created = await self.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
        consumer, found = created["name"], list[LogMessage]()
        while found[-1].sequence < last if found else after < last:
            batch = await self._pull(stream, consumer)
            if not batch:
                break
            found.extend(batch)
        await self.api(f"CONSUMER.DELETE.{stream}.{consumer}")
        return found

    async def _pull(self, stream: str, consumer: str) -> list[LogMessage]:
        inbox = f"{self._inbox}.{next(self._replies)}"
        request = orjson.dumps({"batch": PULL_BATCH_COUNT, "no_wait": True})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        await self._stream.send_all(f"PUB {subject} {inbox} {len(request)}\r\n".encode() + request + b"\r\n")
        found: list[LogMessage] = []
        with trio.fail_after(REQUEST_TIMEOUT_S):
            while len(found) < PULL_BATCH_COUNT:
                subject, reply, headers, data = await self._read_message()
                if reply.startswith("$JS.ACK."):
                    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.… ; two more tokens since v2
                    tokens = reply.split(".")
                    sequence = int(tokens[5] if len(tokens) <= 9 else tokens[7])
                    found.append(LogMessage(sequence, subject, data, headers))
                elif subject == inbox:
                    break  # 404 or 408: nothing more
        return found

    async def _read_message(self) -> tuple[str, str, bytes, bytes]:
        """The next MSG or HMSG: subject, reply, headers, payload."""
        while True:
            line = await self._read_line()
            verb, *words = line.decode().split()
            if verb == "PING":
                await self._stream.send_all(b"PONG\r\n")
            elif verb in ("MSG", "HMSG"):
                size_words = 1 if verb == "MSG" else 2
                reply = words[2] if len(words) == 3 + size_words else ""
                header_size = int(words[-2]) if verb == "HMSG" else 0
                payload = await self._read_exactly(int(words[-1]) + 2)
                return words[0], reply, payload[:header_size], payload[header_size:-2]
            else:
                assert verb in ("PONG", "INFO", "+OK"), f"unexpected: {line!r}"

    async def _read_line(self) -> bytes:
        while (at := self._received.find(b"\r\n")) < 0:
            await self._fill()
        line = bytes(self._received[:at])
        del self._received[: at + 2]
        return line

    async def _read_exactly(self, size_bytes: int) -> bytes:
        while len(self._received) < size_bytes:
            await self._fill()
        data = bytes(self._received[:size_bytes])
        del self._received[:size_bytes]
        return data

    async def _fill(self) -> None:
        data = await self._stream.receive_some(262_144)
        if not data:
            raise ConnectionResetError("nats-server closed the connection")
        self._received += data


@asynccontextmanager
async def open_nats_client(url: str, user: str | None = None, password: str | None = None) -> AsyncIterator[NatsClient]:
    """Connect to the nats-server at `nats://host:port`."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with await trio.open_tcp_stream(parts.hostname, parts.port) as stream:
        client = NatsClient(stream)
        await client.connect(user or parts.username, password or parts.password)
        yield client


@asynccontextmanager
async def open_embedded_log(gateway: Gateway) -> AsyncIterator[NatsClient]:
    """Connect to the log inside a running gateway, with the password from its data folder."""

    async def find_monitor() -> str | None:
        ready = (await ask(gateway.url, "GET", "/readyz")).json()
        url: str | None = ready["dependencies"]["log"].get("monitor_url")  # not known to a worker that has just started
        return url

    monitor_url = await wait_until(find_monitor, "the gateway knows its log", timeout_s=30)
    assert monitor_url is not None
    varz = (await ask(monitor_url, "GET", "/varz")).json()
    password = (await trio.Path(gateway.data_dir / "nats" / "secret").read_text()).strip()
    async with open_nats_client(f"nats://127.0.0.1:{varz['port']}", "headgate", password) as client:
        yield client
