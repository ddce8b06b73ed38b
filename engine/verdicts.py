"""What an agent says about the messages of a batch, and how that is written on the wire of `headgate.stream.v1`.

Rules of the file:
- A message is answered once; a statement that names one twice, or one that is not there, is refused whole.
- No clock, no I/O: the same words give the same verdicts.

What must change with it: the settle frame of `/stream`, the README's table of an agent's exit codes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

EXIT_DATA_ERROR: Final = 65
"""EX_DATAERR of sysexits.h: the input is wrong, and will be wrong the next time too."""
MOST_DELAY_S: Final = 3600.0
MOST_REASON_CHARS: Final = 1000


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is said of some messages of a batch, by their index.

    Args:
        ack: done.
        nak: come again, after so many seconds; None leaves the delay to the gateway.
        term: never again, for this reason.
    """

    ack: frozenset[int] = frozenset()
    nak: Mapping[int, float | None] = field(default_factory=dict)
    term: Mapping[int, str] = field(default_factory=dict)

    @property
    def indexes(self) -> frozenset[int]:
        """Every message that something is said of."""
        return self.ack | self.nak.keys() | self.term.keys()

    def frame(self, batch: str, *, is_confirmed: bool) -> dict[str, Any]:
        """Write the settle frame that says this."""
        delays = _by_value(self.nak)
        reasons = _by_value(self.term)
        frame: dict[str, Any] = {"type": "settle", "batch": batch}
        if self.ack:
            frame["ack"] = pack_ranges(self.ack)
        if delays:
            frame["nak"] = [
                {"i": part} if delay_s is None else {"i": part, "delay_ms": round(delay_s * 1000)}
                for delay_s, indexes in delays.items()
                for part in pack_ranges(indexes)
            ]
        if reasons:
            frame["term"] = [
                {"i": part, "reason": reason} for reason, indexes in reasons.items() for part in pack_ranges(indexes)
            ]
        if is_confirmed:
            frame["confirm"] = True
        return frame


def pack_ranges(indexes: Iterable[int]) -> list[list[int]]:
    """Write indexes as inclusive ranges, in order: `[0, 1, 2, 5]` is `[[0, 2], [5, 5]]`."""
    ranges: list[list[int]] = []
    for index in sorted(set(indexes)):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges


def unpack_ranges(ranges: object, count: int) -> list[int]:
    """Read inclusive ranges, or bare indexes, of a batch of `count` messages.

    Raises:
        ValueError: one is no range, outside the batch, or named twice.
    """
    parts: list[Any] = ranges if isinstance(ranges, list) else [ranges]
    found: list[int] = []
    for part in parts:
        first, last = part if isinstance(part, list) and len(part) == 2 else (part, part)
        if not (_is_index(first) and _is_index(last) and 0 <= first <= last < count):
            raise ValueError(f"{part!r} is no index or [first, last] between 0 and {count - 1}")
        found.extend(range(first, last + 1))
        if len(found) > count:
            raise ValueError("an index is named twice")
    if len(set(found)) != len(found):
        raise ValueError("an index is named twice")
    return found


def read_verdicts(statement: Mapping[str, Any], delays_s: Mapping[int, float]) -> Verdicts:
    """Read what a command or a callable says, as `{"ack": [0, [2, 5]], "nak": [1], "delay_s": 5}`.

    Args:
        statement: `ack`, `nak` and `term` take an index or a list of indexes and `[first, last]` ranges; `delay_s`
            and `reason` are of its naks and terms.
        delays_s: for each message of the batch, when it should come again where the statement has no `delay_s`.

    Raises:
        ValueError: it says something unknown, twice, or of a message that is not there.
    """
    unknown = statement.keys() - {"ack", "nak", "term", "delay_s", "reason"}
    if unknown:
        raise ValueError(f"{min(map(str, unknown))!r} is unknown; expected ack, nak, term, delay_s, reason")
    said = {word: unpack_ranges(statement[word], len(delays_s)) for word in ("ack", "nak", "term") if word in statement}
    if len({index for indexes in said.values() for index in indexes}) != sum(map(len, said.values())):
        raise ValueError("a message is given two verdicts")
    delay = statement.get("delay_s", 0)
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= MOST_DELAY_S:
        raise ValueError(f"delay_s is {delay!r}; expected seconds between 0 and {MOST_DELAY_S:g}")
    reason = statement.get("reason", "the agent gave no reason")
    if not isinstance(reason, str):
        raise ValueError(f"reason is {reason!r}; expected a text")
    return Verdicts(
        frozenset(said.get("ack", ())),
        {index: float(delay) if "delay_s" in statement else delays_s[index] for index in said.get("nak", ())},
        dict.fromkeys(said.get("term", ()), reason[:MOST_REASON_CHARS]),
    )


def judge_exit(code: int | None, open_indexes: Iterable[int], delays_s: Mapping[int, float]) -> Verdicts:
    """Turn a command's end into verdicts for what it had not answered itself.

    Args:
        code: its exit code, negative for a signal, None when its time was up.
        open_indexes: the messages it said nothing of.
        delays_s: for each message, when to come again.
    """
    indexes = frozenset(open_indexes)
    if code == 0:
        return Verdicts(ack=indexes)
    if code == EXIT_DATA_ERROR:
        return Verdicts(term=dict.fromkeys(indexes, f"the command ended with {EXIT_DATA_ERROR}: data error"))
    return Verdicts(nak={index: delays_s[index] for index in indexes})


def choose_delay(first_s: float, most_s: float, delivered: int) -> float:
    """Say when a message that failed should come again: twice as late each time it was delivered."""
    return min(most_s, first_s * 2.0 ** min(max(delivered - 1, 0), 32))


def _by_value(verdicts: Mapping[int, Any]) -> dict[Any, list[int]]:
    grouped: dict[Any, list[int]] = {}
    for index, value in verdicts.items():
        grouped.setdefault(value, []).append(index)
    return grouped


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
