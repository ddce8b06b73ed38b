"""An answer whose body is sent in pieces, as chunks of HTTP/1.1.

Rules of the file:
- The last chunk is sent for a whole body alone: what failed in the middle ends without it, so that no client takes a
  part for the whole.
- Each write has the lane's deadline; a large piece is several writes, so that a slow but reading client is not cut.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from edge.http import Response, SendPiece
from edge.responses import encode_chunk, encode_streamed_head
from engine.errors import Refused

CHUNK_BYTES: Final = 64 * 1024


class StreamedAnswer:
    """One answer in pieces, or none.

    Args:
        send: writes to the client, with a deadline.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self.response: Response | None = None
        self._send = send
        self._stays = False

    async def begin(
        self, response: Response, request_id: str, *, stays: bool, is_old: bool, lines: bytes = b""
    ) -> SendPiece:
        """Send the head, and give what sends a piece of the body.

        Args:
            response: its own body is not sent.
            stays: the connection stays open after it.
            is_old: the client speaks HTTP/1.0, which has no way to tell a part from the whole.
            lines: more lines of the head, each with its end.

        Raises:
            Refused: the client speaks HTTP/1.0.
        """
        if is_old:
            raise Refused("request.not-implemented", "an answer in pieces needs HTTP/1.1")
        self.response, self._stays = response, stays
        await self._send(encode_streamed_head(response, request_id, stays=stays, lines=lines))
        return self._send_piece

    async def end(self, answer: Response) -> bool:
        """End the body, if what the handler ended with is what it began; False when the connection ends too."""
        if answer is not self.response:
            return False
        await self._send(encode_chunk(b""))
        return self._stays

    async def _send_piece(self, piece: bytes) -> None:
        for start in range(0, len(piece), CHUNK_BYTES):
            await trio.lowlevel.checkpoint()  # a fast client leaves others their turn
            await self._send(encode_chunk(piece[start : start + CHUNK_BYTES]))


def is_http_1_0(head_bytes: bytes) -> bool:
    """Say which version a request line ends with; the head was checked already."""
    return head_bytes[: head_bytes.index(b"\r\n")].endswith(b"/1.0")
