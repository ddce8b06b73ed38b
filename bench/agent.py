"""A WebSocket agent that takes batches and acknowledges them, cheap enough to watch a gateway drain.

Rules of the file:
- It reads frame headers and finds the batch's name in the text; events are counted, never decoded.
- Frames out are masked with a mask of zeros, so masking costs nothing on either side and the wire stays legal.
"""

import re
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from bench.events import SENT_BASE_NS, SUBJECT
from bench.http_load import Address
from bench.workers import Gate, Job, LoadFailedError, Tally

EVENT_TOKEN: Final = b'"type":"file.'
"""Stands once in every event of a file."""

_SENT: Final = re.compile(rb'"sent_ns":(\d{19})')
_BATCH: Final = b'"batch":"'
_UUID_CHARACTERS: Final = 36
_BUFFER_BYTES: Final = 4 * 1024 * 1024
_CLOSE, _PING, _PONG, _TEXT = 8, 9, 10, 1
_QUIET_S: Final = 60.0
"""Longest silence that a run puts up with."""

POLL_S: Final = 0.1
"""How often an agent without events looks whether the window has closed."""

QUIET_NS: Final = 300_000_000
"""How long after the window an agent waits for more before it takes silence for the end."""

GRACE_NS: Final = 10_000_000_000
"""How long after the window an agent still takes what was sent inside it: late events are the ones that matter."""


class AgentSocket:
    """One connection to /stream.

    Args:
        address: the gateway.
        durable: the consumer's name.
        batch: most log messages in a batch.
        receive_buffer_bytes: the kernel's buffer, None as it comes.
    """

    headers = ""
    """More lines of the upgrade's head."""

    def __init__(
        self, address: Address, durable: str, batch: int = 100, receive_buffer_bytes: int | None = None
    ) -> None:
        self._socket = socket.socket()
        if receive_buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(_QUIET_S)
        self._socket.connect(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(
            f"GET /stream?subject={SUBJECT}&durable={durable}&batch={batch} HTTP/1.1\r\nHost: gateway\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{self.headers}\r\n".encode()
        )
        self._buffer = bytearray(_BUFFER_BYTES)
        self._begin = self._end = 0
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):
            head += self._take(1)
        if b" 101 " not in head.partition(b"\r\n")[0]:
            self._socket.close()
            raise LoadFailedError(f"no upgrade: {head.decode(errors='replace')}")

    def wait_message(self, timeout_s: float | None = None) -> bytes | None:
        """Wait for the next text message and answer pings on the way.

        Args:
            timeout_s: give up after so long without a byte, None for the longest silence allowed.

        Returns:
            The message, or None after the timeout or when the peer closed.
        """
        if self._begin == self._end and timeout_s is not None:
            self._socket.settimeout(timeout_s)
            try:
                self._fill(1)
            except (TimeoutError, BlockingIOError):
                return None
            finally:
                self._socket.settimeout(_QUIET_S)
        whole = b""
        while True:
            first, second = self._take(2)
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
            content = self._take(length)
            opcode = first & 0x0F
            if opcode == _CLOSE:
                raise LoadFailedError(f"the gateway closed the stream: {content!r}")
            if opcode == _PING:
                self._send(_PONG, content)
            elif opcode != _PONG:
                whole = whole + content if whole else content
                if first & 0x80:
                    return whole

    def acknowledge(self, message: bytes) -> None:
        """Acknowledge the batch in `message`."""
        at = message.find(_BATCH) + len(_BATCH)
        self._send(_TEXT, b'{"type":"ack","batch":"' + message[at : at + _UUID_CHARACTERS] + b'"}')

    def say(self, content: bytes) -> None:
        """Send a text message."""
        self._send(_TEXT, content)

    def close(self) -> None:
        """Drop the connection without a word."""
        self._socket.close()

    def _send(self, opcode: int, content: bytes) -> None:
        self._socket.sendall(struct.pack("!BBI", 0x80 | opcode, 0x80 | len(content), 0) + content)

    def _take(self, size: int) -> bytes:
        self._fill(size)
        taken = bytes(memoryview(self._buffer)[self._begin : self._begin + size])
        self._begin += size
        return taken

    def _fill(self, size: int) -> None:
        """Read until `size` bytes are in the buffer."""
        if self._end - self._begin >= size:
            return
        rest = self._buffer[self._begin : self._end]
        if size > len(self._buffer):
            self._buffer = bytearray(2 * size)
        self._buffer[: len(rest)] = rest
        self._begin, self._end = 0, len(rest)
        view = memoryview(self._buffer)
        while self._end < size:
            count = self._socket.recv_into(view[self._end :])
            if not count:
                raise LoadFailedError("the gateway dropped the stream")
            self._end += count


SocketKind = Callable[[Address, str, int], AgentSocket]
"""Connects an agent: address, durable, batch."""


def take_for_window(address: Address, durable: str, batch: int = 100, kind: SocketKind | None = None) -> Job:
    """Make a job that takes and acknowledges batches until the window has closed and nothing more comes.

    Latencies are one an event that carries its intended send time, counted when that time is inside the window.
    """

    def job(gate: Gate) -> Tally:
        agent = (kind or AgentSocket)(address, durable, batch)
        window, tally = gate.wait(), Tally()
        now_ns = time.monotonic_ns()
        while now_ns < window.close_ns + GRACE_NS:
            message = agent.wait_message(POLL_S)
            now_ns = time.monotonic_ns()
            if message is None:
                if tally.units and now_ns > window.close_ns + QUIET_NS:
                    break
                continue
            agent.acknowledge(message)
            count_arrivals(tally, message, window.open_ns, window.close_ns, now_ns)
        agent.close()
        return tally

    return job


def take_count(address: Address, durable: str, events: int, batch: int = 100, kind: SocketKind | None = None) -> Job:
    """Make a job that connects when the run begins and takes so many events, acknowledging each batch."""

    def job(gate: Gate) -> Tally:
        gate.wait()
        agent = (kind or AgentSocket)(address, durable, batch)
        tally = Tally()
        while tally.units < events:
            message = agent.wait_message()
            if message is None:
                break
            tally.last_ns = time.monotonic_ns()
            tally.first_ns = tally.first_ns or tally.last_ns
            agent.acknowledge(message)
            tally.requests += 1
            tally.units += message.count(EVENT_TOKEN)
        agent.close()
        return tally

    return job


def count_arrivals(tally: Tally, content: bytes, open_ns: int, close_ns: int, now_ns: int) -> None:
    """Count the events in some bytes, with the latency of those that carry their send time."""
    tally.latencies_ms += [
        (now_ns - sent_ns) / 1e6
        for sent_ns in (int(sent) - SENT_BASE_NS for sent in _SENT.findall(content))
        if open_ns <= sent_ns < close_ns
    ]
    if open_ns <= now_ns < close_ns:
        tally.requests += 1
        tally.units += content.count(EVENT_TOKEN)
