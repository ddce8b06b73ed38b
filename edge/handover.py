"""A stream that stands in for a client's connection after the express lane has read an upgrade request from it.

Rules of the file:
- The bytes that were read come first, exactly as they came; then the connection itself.
- Every send has a deadline, so that a client that stops reading cannot hold a task for ever.
"""

from typing import Final

import trio

from edge.tcp_stream import TcpStream
from edge.tls_stream import ClientStream

SEND_WITHIN_S: Final = 10.0
SEND_PIECE_BYTES: Final = 64 * 1024
"""The deadline counts for a piece, so that a large answer to a slow but reading client is not cut."""


class ReplayStream(trio.abc.HalfCloseableStream):
    """A connection with a head put back in front of it, and what follows held back for a while.

    wsproto takes what follows an upgrade request for a part of the handshake until that is accepted.

    Args:
        stream: the connection.
        head_bytes: received first, by itself.
        rest: received after it, once `release` was called.

    Closes: the connection, with `aclose`.
    """

    def __init__(self, stream: ClientStream, head_bytes: bytes, rest: bytes) -> None:
        self._stream = stream
        self._head_bytes = head_bytes
        self._rest = rest
        self._released = trio.Event()

    def release(self) -> None:
        """Let what follows the head through."""
        self._released.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive the head, then what was read behind it, then what comes."""
        if self._head_bytes:
            await trio.lowlevel.checkpoint()
            taken, self._head_bytes = self._head_bytes, b""
            return taken
        await self._released.wait()
        if self._rest:
            taken = self._rest[:max_bytes]
            self._rest = self._rest[len(taken) :]
            return taken
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, a piece at a time; raises trio.BrokenResourceError when the client takes nothing."""
        await send_in_pieces(self._stream, data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not block."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()


async def send_in_pieces(
    stream: ClientStream, data: bytes | bytearray | memoryview, within_s: float = SEND_WITHIN_S
) -> None:
    """Send with a deadline for each piece.

    Raises:
        trio.BrokenResourceError: the client did not take a piece in time, or is gone.
    """
    view = memoryview(data)
    if len(view) <= SEND_PIECE_BYTES and isinstance(stream, TcpStream):  # what fits at once needs no deadline
        await trio.lowlevel.checkpoint_if_cancelled()
        view = view[stream.send_nowait(view) :]
        if not view:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
    for start in range(0, max(1, len(view)), SEND_PIECE_BYTES):
        with trio.move_on_after(within_s) as patience:
            await stream.send_all(view[start : start + SEND_PIECE_BYTES])
        if patience.cancelled_caught:
            await trio.aclose_forcefully(stream)
            raise trio.BrokenResourceError(f"the client took nothing for {within_s:g} s")
