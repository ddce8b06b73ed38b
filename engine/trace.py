"""W3C trace context: which trace a request belongs to, through the log and out to agents.

A request that brings `traceparent` is continued: its answer, its log line, the frame that holds its events and the v1
messages of that frame name the same trace. A frame of several requests names up to `MOST_IN_FRAME` of them.

Rules of the file:
- No randomness: new ids come in as hexadecimal digits.
- A header that is not valid is as good as none; tracing never refuses a request.

Source: https://www.w3.org/TR/trace-context/, E9.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

MOST_IN_FRAME: Final = 8
"""Fifty-six bytes each, in a header block that has a kilobyte (`engine/frames.py`)."""
NEW_DIGITS: Final = 48
"""Of a trace's id and a span's."""
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
TRACE_HEADER: Final = "traceparent"


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's place in a trace.

    Args:
        trace_id: of the whole trace.
        span_id: of what this gateway does in it.
        flags: the caller's.
        is_brought: the caller began it.
        parent_id: the caller's span, empty when the trace begins here.
    """

    trace_id: str
    span_id: str
    flags: str
    is_brought: bool
    parent_id: str = ""

    @property
    def text(self) -> str:
        """The traceparent for whoever comes after."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def marked(self, *, is_told: bool) -> "Trace":
        """Give the same trace, saying to whoever comes after whether we told of it."""
        return replace(self, flags=f"{(int(self.flags, 16) & 0xFE) | is_told:02x}")


def trace_of(header: str | None, new_hex: str) -> Trace:
    """Continue the caller's trace, or begin one.

    Args:
        header: the request's traceparent, None when it has none.
        new_hex: `NEW_DIGITS` random digits.
    """
    span_id = new_hex[32:48]
    found = _TRACEPARENT.match(header) if header is not None else None
    if found is not None:
        version, trace_id, parent_id, flags, more = found.groups()
        is_valid = version != "ff" and (version != "00" or more is None)
        if is_valid and trace_id.strip("0") and parent_id.strip("0"):
            return Trace(trace_id, span_id, flags, True, parent_id)
    return Trace(new_hex[:32], span_id, "00", False)


def is_sampled(traceparent: str) -> bool:
    """Say whether a valid traceparent's trace is being told of."""
    return bool(int(traceparent[53:55], 16) & 1)


def add_traces(header: bytes, traces: Iterable[str]) -> bytes:
    """Give a log message's header block with the traces of its requests; the same block when there are none."""
    names = list(dict.fromkeys(filter(None, traces)))[:MOST_IN_FRAME]
    if not names:
        return header
    return header[:-2] + f"{TRACE_HEADER}: {','.join(names)}\r\n\r\n".encode()


def read_traces(field: str) -> tuple[str, ...]:
    """Read the traces of a log message; what is not valid is left out."""
    return tuple(one for one in field.split(",")[:MOST_IN_FRAME] if _TRACEPARENT.match(one))
