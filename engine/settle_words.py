"""Settle frames as values: read strictly, compared before they are walked.

Rules of the file:
- A bad frame is data: it says what was wrong, what was expected, and the limit.
- Reading costs what the frame's text costs; a range such as `[0, 10**18]` costs no more than `[0, 1]`.
"""

from typing import Final, NamedTuple

Span = tuple[int, int]
"""A range of indexes, both ends included."""

MOST_DELAY_MS: Final = 7 * 86_400_000
MOST_REASON_CHARS: Final = 256
MOST_BATCH_CHARS: Final = 80
_MEMBERS: Final = frozenset({"type", "batch", "ack", "nak", "term", "progress", "confirm", "durable"})


class BadFrame(NamedTuple):
    """Words of an agent that cannot be followed; nothing of them was done.

    Args:
        code: of the table in `engine/errors.py`.
        message: for a person.
        batch: which batch it was about, empty for none.
    """

    code: str
    message: str
    batch: str = ""


class Settle(NamedTuple):
    """One settle frame."""

    batch: str
    ack: list[Span]
    nak: list[tuple[Span, int | None]]
    term: list[tuple[Span, str]]
    progress: list[Span]
    confirm: bool

    def complaint(self, size: int) -> BadFrame | None:
        """Say what is wrong with its indexes for a batch of this size, None when nothing is."""
        named = bytearray(size)
        spans = [*self.ack, *(one for one, _ in self.nak), *(one for one, _ in self.term), *self.progress]
        for first, last in spans:
            if last >= size:
                return _bad(f"index {min(last, 10**18)} is outside the batch, which has 0 to {size - 1}", self.batch)
            width = last - first + 1
            if named.count(0, first, last + 1) != width:
                return _bad(f"an index in {first} to {last} is named twice; each may be named once", self.batch)
            named[first : last + 1] = b"\x01" * width
        return None


def read_settle(words: dict[str, object]) -> Settle | BadFrame:
    """Read a settle frame that is JSON already."""
    try:
        unknown = words.keys() - _MEMBERS
        if unknown:
            raise _WrongError(f"unknown member {min(unknown)[:40]!r}; expected {', '.join(sorted(_MEMBERS))}")
        batch = words.get("batch")
        if not isinstance(batch, str) or not 1 <= len(batch) <= MOST_BATCH_CHARS:
            raise _WrongError("batch: expected the batch's name, a string")
        confirm = words.get("confirm", False)
        if not isinstance(confirm, bool):
            raise _WrongError("confirm: expected true or false")
        return Settle(
            batch,
            [_span("ack", one) for one in _list(words, "ack")],
            [(_span("nak", _member("nak", one)), _delay(one)) for one in _list(words, "nak")],
            [(_span("term", _member("term", one)), _reason(one)) for one in _list(words, "term")],
            [_span("progress", one) for one in _list(words, "progress")],
            confirm,
        )
    except _WrongError as problem:
        return _bad(str(problem), words.get("batch"))


def spans_of(indexes: list[int]) -> list[Span]:
    """Give indexes as ranges, in order."""
    spans: list[Span] = []
    for index in sorted(indexes):
        if spans and spans[-1][1] == index - 1:
            spans[-1] = (spans[-1][0], index)
        else:
            spans.append((index, index))
    return spans


class _WrongError(Exception):
    """Ends the reading of a frame."""


def _bad(text: str, batch: object) -> BadFrame:
    name = batch if isinstance(batch, str) and len(batch) <= MOST_BATCH_CHARS else ""
    return BadFrame("stream.bad-frame", f"settle: {text}", name)


def _list(words: dict[str, object], name: str) -> list[object]:
    value = words.get(name, [])
    if not isinstance(value, list):
        raise _WrongError(f"{name}: expected a list")
    return value


def _member(name: str, value: object) -> object:
    if not isinstance(value, dict) or "i" not in value or value.keys() - {"i", "delay_ms", "reason"}:
        extra = "delay_ms" if name == "nak" else "reason"
        raise _WrongError(f'{name}: expected {{"i": an index or [first, last], "{extra}": …}}')
    return value["i"]


def _span(name: str, value: object) -> Span:
    if isinstance(value, list) and len(value) == 2:
        first, last = value
    else:
        first = last = value
    if type(first) is not int or type(last) is not int or not 0 <= first <= last:
        raise _WrongError(f"{name}: expected an index, or [first, last] with 0 <= first <= last")
    return first, last


def _delay(value: object) -> int | None:
    delay_ms = value.get("delay_ms") if isinstance(value, dict) else None
    if delay_ms is None:
        return None
    if type(delay_ms) is not int or not 0 <= delay_ms <= MOST_DELAY_MS:
        raise _WrongError(f"nak: delay_ms: expected 0 to {MOST_DELAY_MS}")
    return delay_ms


def _reason(value: object) -> str:
    reason = value.get("reason", "") if isinstance(value, dict) else ""
    if not isinstance(reason, str) or len(reason) > MOST_REASON_CHARS:
        raise _WrongError(f"term: reason: expected text of at most {MOST_REASON_CHARS} characters")
    return "".join(one if one.isprintable() else " " for one in reason)
