"""Which events of a frame an agent wants: `filter=file.upsert,scan.*`.

Rules of the file:
- No clock, no I/O. An event is never changed: what is kept keeps its bytes.
- A message that has no events has no types, and is wanted only by those who filter nothing.
"""

import re
from typing import Final

import msgspec

MOST_PATTERNS: Final = 32
_PATTERN: Final = re.compile(r"[A-Za-z0-9_.:/-]{0,127}\*?\Z")


class _Frame(msgspec.Struct):
    events: list[msgspec.Raw]


class _Event(msgspec.Struct):
    type: str


_frames: Final = msgspec.json.Decoder(_Frame)
_events: Final = msgspec.json.Decoder(_Event)


class EventFilter:
    """Event types, a trailing `*` standing for any rest.

    Args:
        text: comma-separated patterns; empty wants everything.

    Raises:
        ValueError: one of them is no pattern.
    """

    def __init__(self, text: str) -> None:
        patterns = [one.strip() for one in text.split(",")] if text.strip() else []
        if len(patterns) > MOST_PATTERNS:
            raise ValueError(f"expected at most {MOST_PATTERNS} types")
        for one in patterns:
            if not one or not _PATTERN.match(one):
                raise ValueError("expected event types separated by commas, each perhaps ending with `*`")
        self.text = ",".join(sorted(set(patterns)))
        self._exact = frozenset(one for one in patterns if not one.endswith("*"))
        self._starts = tuple(one[:-1] for one in patterns if one.endswith("*"))

    def __bool__(self) -> bool:
        """Say that something is filtered."""
        return bool(self.text)

    def wants(self, kind: str) -> bool:
        """Say that events of this type are wanted."""
        return kind in self._exact or kind.startswith(self._starts)

    def thin(self, data: bytes) -> bytes | None:
        """Give a message with the events that are wanted, None when there is none."""
        try:
            events = _frames.decode(data).events
            kept = [bytes(one) for one in events if self.wants(_events.decode(one).type)]
        except msgspec.MsgspecError:
            return None
        if not kept:
            return None
        return data if len(kept) == len(events) else b'{"events":[' + b",".join(kept) + b"]}"
