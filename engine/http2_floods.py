"""What a client may send over HTTP/2 beside requests, and how fast: frames are counted before anything reads them.

A frame costs its sender a few bytes and its reader much more, which is what every flood of HTTP/2 lives from: streams
that are opened and reset at once (CVE-2023-44487), streams that the server is made to reset (CVE-2025-8671), headers
that never end (CVE-2024-27316), pings, settings, priorities, windows opened by a byte, frames with nothing in them
(CVE-2019-9511 to 9518). So each kind has an allowance that refills with time, or with what the server has sent.

Rules of the file:
- No clock and no I/O: `now` comes in, a position comes out.
- Nothing is kept of a frame but the nine bytes of its head.

What must change with it: `edge/http2_session.py`, which ends a connection that is over an allowance.
Source: RFC 9113 sections 4.1, 10.5; `RELIABILITY.md` 4.1.
"""

from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
MOST_FRAME_BYTES: Final = 16 * 1024
"""The least that the protocol allows; checked here because a frame that is too long would be collected first."""
MOST_BLOCK_BYTES: Final = 64 * 1024
"""Of a header block as it is sent; what it is once unpacked has limits of its own."""
MOST_SETTINGS_COUNT: Final = 1000
"""In a connection's life: each one that nobody knows is remembered for its length."""
FRAMES_AT_ONCE: Final = 32
SMALL_BYTES: Final = 16
"""A piece of a body shorter than this, that is not the last, counts as empty."""

PROTOCOL_ERROR: Final = 0x1
FRAME_SIZE_ERROR: Final = 0x6
ENHANCE_YOUR_CALM: Final = 0xB

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 2, 3, 4, 8, 9
_END_STREAM, _END_HEADERS = 0x1, 0x4

ALLOWANCES: Final[dict[str, tuple[float, float]]] = {
    "resets": (200, 20),
    "controls": (200, 10),
    "priorities": (500, 50),
    "windows": (1000, 0),
    "empties": (200, 50),
    "dribbles": (200, 20),
}
"""By kind: how many at once, and how many more a second. `windows` refills with frames of bodies that are sent."""
WINDOWS_FOR_A_FRAME: Final = 10
"""As Envoy has it: ten windows opened for a frame of a body are more than any client needs."""
_KINDS: Final = {
    _PRIORITY: "priorities",
    _RST_STREAM: "resets",
    _WINDOW_UPDATE: "windows",
}


class Flood(NamedTuple):
    """Why a connection ends.

    Args:
        code: HTTP/2's code of the error.
        detail: for a person: what, and the limit.
    """

    code: int
    detail: str


class FrameMeter:
    """Counts one connection's frames.

    Args:
        now: seconds, any origin.
    """

    def __init__(self, now: float) -> None:
        self.flood: Flood | None = None
        self.block_since: float | None = None
        """When a header block began that has not ended; None between blocks."""
        self._left = {kind: most for kind, (most, _) in ALLOWANCES.items()}
        self._looked = dict.fromkeys(ALLOWANCES, now)
        self._settings_left = MOST_SETTINGS_COUNT
        self._block_bytes = 0
        self._skip = len(PREFACE)
        self._head = b""

    def take(self, data: bytes, start: int, now: float) -> int:
        """Count the frames of what was received.

        Args:
            data: as received.
            start: where to begin in it.
            now: seconds.

        Returns:
            How far to read it at once: its end, or less when that are many frames. Once `flood` is set, nothing
            from `start` on may be read.
        """
        at, end, frames = start, len(data), 0
        while at < end and self.flood is None:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            if frames == FRAMES_AT_ONCE and not self._head:
                return at
            missing = HEAD_BYTES - len(self._head)
            head = self._head + data[at : at + missing]
            at += missing
            if len(head) < HEAD_BYTES:
                self._head = head
                return end
            self._head = b""
            frames += 1
            self._skip = int.from_bytes(head[:3])
            self._look_at(self._skip, head[3], head[4], now)
        return min(at, end)

    def count(self, kind: str, now: float) -> None:
        """Count one more of a kind; `flood` is set when that is too many."""
        most, per_s = ALLOWANCES[kind]
        left = min(most, self._left[kind] + (now - self._looked[kind]) * per_s) - 1
        self._looked[kind] = now
        self._left[kind] = left
        if left < 0:
            rate = f" and {per_s:g} more a second" if per_s else ""
            self._end(ENHANCE_YOUR_CALM, f"too many {kind}: the limit is {most:g} at once{rate}")

    def sent(self) -> None:
        """Note that a frame of a body was sent."""
        self._left["windows"] = min(ALLOWANCES["windows"][0], self._left["windows"] + WINDOWS_FOR_A_FRAME)

    def _look_at(self, length: int, kind: int, flags: int, now: float) -> None:
        if length > MOST_FRAME_BYTES:
            self._end(FRAME_SIZE_ERROR, f"a frame has {length} bytes; the limit is {MOST_FRAME_BYTES}")
        elif kind == _DATA:
            if length < SMALL_BYTES and not flags & _END_STREAM:
                self.count("empties", now)
        elif kind in {_HEADERS, _CONTINUATION}:
            self._look_at_block(length, kind, flags, now)
        else:
            if kind == _SETTINGS:
                self._settings_left -= length // 6
                if self._settings_left < 0:
                    self._end(ENHANCE_YOUR_CALM, f"too many settings: the limit is {MOST_SETTINGS_COUNT}")
                    return
            self.count(_KINDS.get(kind, "controls"), now)

    def _look_at_block(self, length: int, kind: int, flags: int, now: float) -> None:
        if kind == _HEADERS:
            self._block_bytes = 0
            self.block_since = now
        elif length < SMALL_BYTES and not flags & _END_HEADERS:
            self.count("empties", now)
        self._block_bytes += length
        if self._block_bytes > MOST_BLOCK_BYTES:
            self._end(ENHANCE_YOUR_CALM, f"a header block is longer than {MOST_BLOCK_BYTES} bytes")
        if flags & _END_HEADERS:
            self.block_since = None

    def _end(self, code: int, detail: str) -> None:
        if self.flood is None:
            self.flood = Flood(code, detail)
