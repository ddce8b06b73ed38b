"""HTTP/2 load from raw sockets with frames built beforehand, without TLS (prior knowledge).

Rules of the file:
- So many streams at a time on a connection; the next begins when one has ended.
- The header block leaves nothing in either side's table, so that every request is the same bytes but its number.
- A stream that does not begin with `:status 200` is counted apart and never as work done.
"""

import select
import socket
import time
from typing import Final

from bench.http_load import Address
from bench.workers import Gate, Job, LoadFailedError, Tally, Window

_RECEIVE_BYTES: Final = 256 * 1024
_STALL_S: Final = 30.0
_BEGINNING: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]) + b"\0\0\4\10\0\0\0\0\0\x7f\xff\0\0"
)
"""The preface, no settings, and a connection's window that never shuts."""
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _ACK = 0x1, 0x1
_STATUS_200: Final = 0x88
_SETTINGS_ACK: Final = bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])


class Http2Socket:
    """One connection."""

    def __init__(self, address: Address, path: str) -> None:
        self.socket = socket.create_connection(address, timeout=_STALL_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(_BEGINNING)
        block = b"\x82\x86" + _literal(4, path) + _literal(1, "bench")  # GET, http, :path, :authority
        self._before = len(block).to_bytes(3) + bytes([_HEADERS, 0x5])
        self._block = block
        self._next = 1
        self._sent_ns: dict[int, int] = {}
        self._bad: set[int] = set()
        self._partial = b""

    def begin(self, count: int, sent_ns: int) -> None:
        """Begin so many streams, at once."""
        parts = []
        for _ in range(count):
            parts.append(self._before + self._next.to_bytes(4) + self._block)
            self._sent_ns[self._next] = sent_ns
            self._next += 2
        self.socket.sendall(b"".join(parts))

    def receive(self) -> list[tuple[int, bool]]:
        """Take what has arrived: of each stream that has ended, when it was begun and whether it was well."""
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise LoadFailedError("the server closed the connection")
        data, at, ended = self._partial + data, 0, []
        while len(data) >= at + 9 and len(data) >= (end := at + 9 + int.from_bytes(data[at : at + 3])):
            kind, flags, number = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9])
            if kind == _GOAWAY:
                raise LoadFailedError(f"the server said: {data[at + 17 : end]!r}")
            if kind == _SETTINGS and not flags & _ACK:
                self.socket.sendall(_SETTINGS_ACK)
            if (kind == _HEADERS and data[at + 9] != _STATUS_200) or kind == _RST_STREAM:
                self._bad.add(number)
            if (kind in {_DATA, _HEADERS} and flags & _END_STREAM) or kind == _RST_STREAM:
                ended.append((self._sent_ns.pop(number), number not in self._bad))
            at = end
        self._partial = data[at:]
        return ended


def closed_streams(address: Address, path: str, connections: int, streams: int) -> Job:
    """Make a job that keeps so many streams of each connection busy until the window closes."""

    def job(gate: Gate) -> Tally:
        sockets = {made.socket.fileno(): made for made in (Http2Socket(address, path) for _ in range(connections))}
        poll = select.epoll()
        for descriptor in sockets:
            poll.register(descriptor, select.EPOLLIN)
        window, tally = gate.wait(), Tally()
        for connection in sockets.values():
            connection.begin(streams, time.monotonic_ns())
        while (now_ns := time.monotonic_ns()) < window.close_ns:
            for descriptor, _ in poll.poll(1.0):
                ended = sockets[descriptor].receive()
                now_ns = time.monotonic_ns()
                _count(tally, window, ended, now_ns)
                if ended:
                    sockets[descriptor].begin(len(ended), now_ns)
        return tally

    return job


def _count(tally: Tally, window: Window, ended: list[tuple[int, bool]], now_ns: int) -> None:
    if not window.open_ns <= now_ns < window.close_ns:
        return
    for sent_ns, is_well in ended:
        if not is_well:
            tally.refuse("a stream did not end well")
            continue
        tally.requests += 1
        tally.units += 1
        tally.latencies_ms.append((now_ns - sent_ns) / 1e6)


def _literal(index: int, value: str) -> bytes:
    """Encode a header whose name is in the static table, its value as it is, kept by nobody."""
    return bytes([index, len(value)]) + value.encode()
