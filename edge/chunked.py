"""The chunked transfer coding, decoded strictly (RFC 9112 section 7.1), without I/O.

Rules of the file:
- Exactly CRLF ends a line; sizes are hexadecimal digits alone; extensions without control bytes are skipped, trailers
  are dropped.
- A body takes its own size of memory, in however many chunks it comes.
- What follows the body is kept: it is the next request.
"""

import re
from typing import Final

from engine.errors import Refused

_MAX_LINE_BYTES: Final = 256
_MAX_TRAILER_BYTES: Final = 4096
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?\Z")


class ChunkedDecoder:
    """Turns a chunked body's bytes into its content.

    Args:
        limit_bytes: most content.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._left = 0
        self._need_end = False
        self._in_trailers = False
        self._trailer_bytes = 0
        self._content = bytearray()
        self._size = 0
        self.is_complete = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            Refused: the framing is broken, or the content is larger than the limit.
        """
        self._buffer += data
        while not self.is_complete and self._step():
            pass

    def content(self) -> bytes:
        """Give the decoded body."""
        return bytes(self._content)

    def rest(self) -> bytes:
        """Give what came after the body."""
        return bytes(self._buffer)

    def _step(self) -> bool:
        buffer = self._buffer
        if self._left:
            if not buffer:
                return False
            taken = buffer[: self._left]
            del buffer[: len(taken)]
            self._left -= len(taken)
            self._content += taken
            return True
        if self._need_end:
            if len(buffer) < 2:
                if buffer and buffer[0] != 0x0D:
                    raise _broken("a chunk is longer than its size says")
                return False
            if buffer[:2] != b"\r\n":
                raise _broken("a chunk is longer than its size says")
            del buffer[:2]
            self._need_end = False
            return True
        end = buffer.find(b"\r\n")
        length = end if end >= 0 else len(buffer) - buffer.endswith(b"\r")
        most = _MAX_TRAILER_BYTES if self._in_trailers else _MAX_LINE_BYTES
        if length > most or buffer.find(b"\n", 0, length) >= 0 or buffer.find(b"\r", 0, length) >= 0:
            raise _broken("a line of the chunked coding is too long or ends wrongly")
        if end < 0:
            return False
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        if self._in_trailers:
            self._trailer_bytes += end
            if self._trailer_bytes > _MAX_TRAILER_BYTES:
                raise _broken("the trailers are too long")
            self.is_complete = not line
            return True
        self._begin_chunk(line)
        return True

    def _begin_chunk(self, line: bytes) -> None:
        matched = _SIZE_LINE.match(line)
        if matched is None:
            raise _broken("a chunk's size is not a hexadecimal number, or its extension holds a control byte")
        size = int(matched[1], 16)
        self._size += size
        if self._size > self._limit_bytes:
            raise Refused("request.too-large", f"the body is larger than the limit of {self._limit_bytes} bytes")
        if size == 0:
            self._in_trailers = True
        else:
            self._left = size
            self._need_end = True


def _broken(detail: str) -> Refused:
    return Refused("request.malformed", detail)
