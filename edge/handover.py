"""Streams that stand in for a client's connection after the express lane has read from it.

Rules of the file:
- The bytes that were read come first, exactly as they came; then the connection itself.
- Every send has a deadline: Hypercorn shields its sends, so without one a client that stops reading would hold a task
  that cannot be cancelled, and shutdown with it.
"""

from typing import Final

import trio

SEND_WITHIN_S: Final = 10.0
SEND_PIECE_BYTES: Final = 64 * 1024
"""The deadline counts for a piece, so that a large answer to a slow but reading client is not cut."""


class ReplayStream(trio.abc.HalfCloseableStream):
    """A connection with bytes put back in front of it.

    Args:
        stream: the connection.
        pieces: what was read of it already; each piece is received by itself.

    Closes: the connection, with `aclose`.
    """

    def __init__(self, stream: trio.SocketStream, pieces: list[bytes]) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._pieces = [piece for piece in reversed(pieces) if piece]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what was put back, then what comes."""
        if self._pieces:
            await trio.lowlevel.checkpoint()
            piece = self._pieces.pop()
            if max_bytes is not None and len(piece) > max_bytes:
                self._pieces.append(piece[max_bytes:])
                piece = piece[:max_bytes]
            return piece
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, a piece at a time.

        Raises:
            trio.BrokenResourceError: the client did not take a piece in time, or is gone.
        """
        view = memoryview(data)
        for start in range(0, max(1, len(view)), SEND_PIECE_BYTES):
            with trio.move_on_after(SEND_WITHIN_S) as patience:
                await self._stream.send_all(view[start : start + SEND_PIECE_BYTES])
            if patience.cancelled_caught:
                await trio.aclose_forcefully(self._stream)
                raise trio.BrokenResourceError(f"the client took nothing for {SEND_WITHIN_S:g} s")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not block."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()
