"""Where in the log a consumer begins: `all`, `new`, `last`, `seq:N`, `time:ISO`.

Rules of the file:
- Text in, value out; what the words mean is the log's business, which is told by `Position.config`.

What must change with it: the wire reference in the README, and `POSITION_WORDS` where a person is told what to write.
"""

from datetime import UTC, datetime
from typing import Final, NamedTuple

from engine.errors import Refused

POSITION_WORDS: Final = "all, new, last, seq:N or time:2026-01-31T12:00:00Z"
MOST_SEQUENCE: Final = 2**63 - 1
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2261
"""The log counts nanoseconds in 64 bits; they end in 2262."""
_PLAIN: Final = {"all": "all", "new": "new", "last": "last"}


class Position(NamedTuple):
    """Where a consumer begins.

    Args:
        text: as it was said.
        policy: JetStream's `deliver_policy`.
        sequence: the first sequence, 0 when the policy says it.
        time: the first instant, RFC 3339, empty when the policy says it.
    """

    text: str
    policy: str
    sequence: int = 0
    time: str = ""

    def config(self) -> dict[str, object]:
        """Give the members of a consumer's configuration that say where it begins."""
        members: dict[str, object] = {"deliver_policy": self.policy}
        if self.sequence:
            members["opt_start_seq"] = self.sequence
        if self.time:
            members["opt_start_time"] = self.time
        return members


def parse_position(text: str, name: str = "from") -> Position:
    """Read a position.

    Args:
        text: as the client wrote it.
        name: of the parameter, for the refusal.

    Raises:
        Refused: it is none; the text says what was expected.
    """
    if text in _PLAIN:
        return Position(text, _PLAIN[text])
    kind, _, value = text.partition(":")
    if kind == "seq":
        is_number = value.isascii() and value.isdigit() and len(value) < 20
        if not is_number or not 1 <= int(value) <= MOST_SEQUENCE:
            raise _refusal(name, text, f"seq: wants a whole number from 1 to {MOST_SEQUENCE}")
        return Position(text, "by_start_sequence", sequence=int(value))
    if kind == "time":
        return Position(text, "by_start_time", time=_read_time(name, text, value))
    raise _refusal(name, text, "")


def _read_time(name: str, text: str, value: str) -> str:
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        raise _refusal(name, text, "time: wants an ISO 8601 instant; a + in a query is written %2B") from None
    if when.tzinfo is None:
        raise _refusal(name, text, "time: wants an offset too, such as Z")
    try:
        moment = when.astimezone(UTC)
    except OverflowError:  # at the calendar's end an offset leads out of it
        moment = when.replace(tzinfo=UTC)
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise _refusal(name, text, f"time: wants a year from {FIRST_YEAR} to {LAST_YEAR}")
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _refusal(name: str, text: str, more: str) -> Refused:
    because = f"; {more}" if more else ""
    return Refused("request.bad-parameter", f"{name}: expected {POSITION_WORDS}{because} (it is {text[:80]!r})")
