"""HTTP/1.1 load from raw sockets with bytes built beforehand.

Rules of the file:
- One request at a time on a connection, so the number of connections is the number in flight.
- Closed loop: the next request goes when the last is answered. Open loop: requests are due at times fixed beforehand, a
  request that is due while every connection is busy waits, and its latency counts from when it was due.
- An answer other than 200 is counted apart and never as work done.
"""

import random
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from bench.events import Template
from bench.workers import Gate, Job, LoadFailedError, Tally, Window

Address = tuple[str, int]

_RECEIVE_BYTES: Final = 64 * 1024
_SEND_BUFFER_BYTES: Final = 2 * 1024 * 1024
"""Takes a whole request of 500 full events, so that sending one never blocks the others."""

_GRACE_NS: Final = 10_000_000_000
"""How long after the window's end an open-loop run still waits for answers that are due."""

_STALL_S: Final = 30.0


class HttpSocket:
    """One keep-alive connection."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address, timeout=_STALL_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.sent_ns = 0
        self._partial = b""
        self._wanted_bytes = 0

    def send(self, content: bytes, sent_ns: int) -> None:
        """Send a request.

        Args:
            content: head and body.
            sent_ns: the time that its latency counts from.
        """
        self.sent_ns = sent_ns
        self.socket.sendall(content)

    def receive(self) -> bytes | None:
        """Take what has arrived.

        Returns:
            The whole answer, head and body, or None while it is not complete.

        Raises:
            LoadFailedError: the peer closed, or sent an answer without Content-Length.
        """
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise LoadFailedError(f"the server closed the connection after {self._partial[:200]!r}")
        if self._partial:
            data = self._partial + data
        if not self._wanted_bytes:
            end = data.find(b"\r\n\r\n")
            if end >= 0:
                self._wanted_bytes = end + 4 + _content_length(data[:end])
        if not self._wanted_bytes or len(data) < self._wanted_bytes:
            self._partial = data
            return None
        self._partial, self._wanted_bytes = b"", 0
        return data

    def exchange(self, content: bytes) -> bytes:
        """Send a request and wait for its answer."""
        self.send(content, time.monotonic_ns())
        while (answer := self.receive()) is None:
            pass
        return answer

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def body_of(answer: bytes) -> bytes:
    """Give an answer's body."""
    return answer.partition(b"\r\n\r\n")[2]


def closed_loop(
    address: Address, template: Template, connections: int, *, limit: int | None = None, find: bytes = b""
) -> Job:
    """Make a job that keeps every connection busy until the window closes.

    Args:
        address: whom to load.
        template: what to send.
        connections: how many requests are in flight.
        limit: end after so many answers instead, None for no limit.
        find: counted in each answer, for cache hits.
    """

    def job(gate: Gate) -> Tally:
        sockets = {made.socket.fileno(): made for made in (HttpSocket(address) for _ in range(connections))}
        poll = select.epoll()
        for descriptor in sockets:
            poll.register(descriptor, select.EPOLLIN)
        window, tally, sequence, answered = gate.wait(), Tally(), 0, 0
        for connection in sockets.values():
            if limit is None or sequence < limit:
                now_ns = time.monotonic_ns()
                connection.send(template.fill(sequence, now_ns), now_ns)
                sequence += 1
        now_ns = time.monotonic_ns()
        while now_ns < window.close_ns and (limit is None or answered < limit):
            for descriptor, _ in poll.poll(1.0):
                connection = sockets[descriptor]
                answer = connection.receive()
                if answer is None:
                    continue
                now_ns = time.monotonic_ns()
                answered += 1
                _count(tally, window, answer, template.units, connection.sent_ns, now_ns, find)
                if now_ns < window.close_ns and (limit is None or sequence < limit):
                    connection.send(template.fill(sequence, now_ns), now_ns)
                    sequence += 1
            now_ns = time.monotonic_ns()
        return tally

    return job


def open_loop(address: Address, template: Template, connections: int, rate: float, seed: int) -> Job:
    """Make a job that sends at Poisson times, however long the answers take.

    Args:
        address: whom to load.
        template: what to send.
        connections: the most requests in flight; those that are due beyond wait here, on the clock.
        rate: requests a second, on average.
        seed: of the arrival times.
    """

    def job(gate: Gate) -> Tally:
        idle = deque(HttpSocket(address) for _ in range(connections))
        busy: dict[int, HttpSocket] = {}
        window, tally, sequence = gate.wait(), Tally(), 0
        due = poisson_times(window, rate, seed)
        next_ns = next(due, None)
        while next_ns is not None or busy:
            now_ns = time.monotonic_ns()
            while next_ns is not None and next_ns <= now_ns and idle:
                connection = idle.popleft()
                connection.send(template.fill(sequence, next_ns), next_ns)
                busy[connection.socket.fileno()] = connection
                sequence += 1
                next_ns = next(due, None)
            if now_ns > window.close_ns + _GRACE_NS:
                tally.refuse(f"{len(busy)} requests without an answer")
                break
            wait_s = 1.0 if next_ns is None or not idle else max(0.0, (next_ns - time.monotonic_ns()) / 1e9)
            for descriptor in select.select(list(busy), (), (), wait_s)[0]:
                connection = busy[descriptor]
                answer = connection.receive()
                if answer is not None:
                    del busy[descriptor]
                    idle.append(connection)
                    if connection.sent_ns >= window.open_ns:
                        _count(tally, None, answer, template.units, connection.sent_ns, time.monotonic_ns(), b"")
        return tally

    return job


def poisson_times(window: Window, rate: float, seed: int) -> Iterator[int]:
    """Give the intended send times of a Poisson process until the window closes."""
    draw = random.Random(seed)
    at_ns = float(window.begin_ns)
    while (at_ns := at_ns + draw.expovariate(rate) * 1e9) < window.close_ns:
        yield int(at_ns)


def _count(
    tally: Tally, window: Window | None, answer: bytes, units: int, sent_ns: int, now_ns: int, find: bytes
) -> None:
    """Count one answer if it arrived inside the window (None: it counts whenever it arrived)."""
    if window is not None and not window.open_ns <= now_ns < window.close_ns:
        return
    if not answer.startswith(b"HTTP/1.1 200"):
        tally.refuse(answer[:300].decode(errors="replace"))
        return
    tally.requests += 1
    tally.units += units
    tally.latencies_ms.append((now_ns - sent_ns) / 1e6)
    tally.first_ns = tally.first_ns or now_ns
    tally.last_ns = now_ns
    if find:
        tally.found += answer.count(find)


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    if at < 0:
        raise LoadFailedError(f"an answer without Content-Length: {head[:200]!r}")
    return int(lowered[at + 17 :].partition(b"\r\n")[0])
