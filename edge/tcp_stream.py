"""An accepted TCP connection, at less cost a request than `trio.SocketStream`.

Trio's own stream tries every operation at once, within four contexts, and goes through the scheduler after it. What a
gateway mostly does is to wait for a request and to send an answer that fits the kernel's buffer: here the first goes
through the scheduler once, and the second need not (`bench/scenarios/express.py` pays for it).

Rules of the file:
- The socket object is held, never its number: a closed socket fails, while its number may be somebody else's already.
- What does not fit the kernel's buffer is Trio's business, as is everything else.
"""

import errno
import fcntl
import socket
import sys
import termios
from operator import index
from typing import Final

import trio

RECEIVE_BYTES: Final = 64 * 1024
DISCARD_BYTES: Final = 256 * 1024
_THROW_AWAY: Final = socket.MSG_TRUNC if sys.platform == "linux" else 0
"""tcp(7): the bytes are not copied; what stands in the buffer afterwards means nothing."""
_WASTE: Final = bytearray(DISCARD_BYTES)
_NO_COUNT: Final = bytes(4)
_CLOSED: Final = {errno.EBADF, errno.ENOTSOCK}


class TcpStream(trio.abc.HalfCloseableStream):
    """The server's end of a TCP connection.

    Args:
        accepted: what Trio has accepted; it is of no use afterwards.
    """

    def __init__(self, accepted: trio.SocketStream) -> None:
        self._raw = socket.socket(fileno=accepted.socket.detach())
        self.socket = trio.socket.from_stdlib_socket(self._raw)
        self._slow = trio.SocketStream(self.socket)
        self._is_sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; empty when the client has ended. Always goes through the scheduler.

        Raises:
            trio.BrokenResourceError: the connection broke.
            trio.ClosedResourceError: it was closed here.
            ValueError: less than one byte is asked for.
        """
        raw = self._raw
        most = RECEIVE_BYTES if max_bytes is None else index(max_bytes)
        if most < 1:
            raise ValueError("expected at least one byte")
        try:
            while True:
                if raw.fileno() < 0:
                    raise trio.ClosedResourceError("this socket was closed")
                await trio.lowlevel.wait_readable(raw)
                try:
                    return raw.recv(most)
                except BlockingIOError:
                    continue
        except OSError as problem:
            raise _translate(problem) from problem

    def holds(self, size_bytes: int) -> bool:
        """Say that so many bytes have arrived and can be received without waiting."""
        if self._raw.fileno() < 0:
            return False
        return int.from_bytes(fcntl.ioctl(self._raw, termios.FIONREAD, _NO_COUNT), sys.byteorder) >= size_bytes

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """Receive what has arrived; None when that is nothing, empty when the client has ended.

        Raises:
            trio.BrokenResourceError: the connection broke.
            trio.ClosedResourceError: it was closed here.
        """
        try:
            return self._raw.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as problem:
            raise _translate(problem) from problem

    def discard_nowait(self, max_bytes: int) -> int:
        """Throw away what has arrived, on Linux without bringing it through the processor's caches.

        Returns:
            How many bytes that were; raises as `receive_nowait`.
        """
        left = max_bytes
        while left > 0:
            try:
                gone = self._raw.recv_into(_WASTE, min(left, DISCARD_BYTES), _THROW_AWAY)
            except BlockingIOError:
                break
            except OSError as problem:
                raise _translate(problem) from problem
            if not gone:
                break
            left -= gone
        return max_bytes - left

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what the kernel takes now, and give how much that was.

        Raises:
            trio.BrokenResourceError: the connection broke.
            trio.ClosedResourceError: it was closed here, or its end was sent.
            trio.BusyResourceError: somebody is in the middle of sending.
        """
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this connection")
        if self.socket.did_shutdown_SHUT_WR:
            raise trio.ClosedResourceError("the connection's end was sent already")
        try:
            return self._raw.send(data)
        except BlockingIOError:
            return 0
        except OSError as problem:
            raise _translate(problem) from problem

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; raises as `send_nowait`. Always goes through the scheduler."""
        await trio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(data)
        sent = self.send_nowait(view)
        if sent == len(view):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._is_sending = True
        try:
            await self._slow.send_all(view[sent:])
        finally:
            self._is_sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not block."""
        await self._slow.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        await self._slow.send_eof()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._slow.aclose()


def _translate(problem: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
    if problem.errno in _CLOSED:
        return trio.ClosedResourceError("this socket was closed")
    return trio.BrokenResourceError(f"the connection broke: {problem}")
