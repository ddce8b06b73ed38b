"""What remote scanners say and are told, as values.

In: `AGENT_HELLO`, `PING`, `SCAN_COMPLETE`, `SCAN_ERROR`. Out: `PONG`, `SCAN_TARGET`, and `ERROR` before a close.

Rules of the file:
- Clients in the field are not changed for us: what can be understood is taken, what is missing has a default, what is
  unknown is `Word.OTHER` and no error. Only a hello without a usable `agent_id` is refused.
- Nothing here raises anything but `Refused`, whatever comes in.
- What is kept of a frame is bounded: texts are cut, a report has `MAX_REPORT_BYTES`.

What must change with it: the wire reference in the README.
Source: issue of the remote scanners; S0.27, E17 (wire).
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import orjson

from engine.errors import Refused
from engine.json_depth import check_depth

MAX_ID_CHARS: Final = 128
MAX_TEXT_CHARS: Final = 4096
MAX_ERROR_CHARS: Final = 2000
MAX_CAPABILITIES: Final = 64
MAX_REPORT_BYTES: Final = 16 * 1024
"""Summaries are a few figures; a larger one is left out, and the scan is complete all the same."""
MOST_CONCURRENCY: Final = 256
_NAMES_OF_A_REPORT: Final = frozenset({"type", "command_id", "root", "took_s", "summary", "error", "agent_id"})


class Word(Enum):
    """What a frame is about."""

    HELLO = "AGENT_HELLO"
    PING = "PING"
    COMPLETE = "SCAN_COMPLETE"
    ERROR = "SCAN_ERROR"
    OTHER = "something else"


@dataclass(frozen=True, slots=True)
class Said:
    """One frame of an agent.

    Args:
        word: what it is about.
        value: the frame; empty where it is no JSON object.
    """

    word: Word
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Working:
    """A scan that an agent says it still has in its hands."""

    command_id: str
    root: str


@dataclass(frozen=True, slots=True)
class Hello:
    """How an agent introduces itself.

    Args:
        agent_id: unique among the agents of a gateway.
        max_concurrency: how many scans it runs at once.
        running: the scans in its hands, None when it does not say (clients in the field do not).
    """

    agent_id: str
    agent_type: str = "scanner"
    version: str = ""
    capabilities: tuple[str, ...] = ()
    root_path: str = ""
    scanner_type: str = ""
    max_concurrency: int = 1
    running: tuple[Working, ...] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """How a scan ended, in its agent's words.

    Args:
        command_id: the scan.
        is_complete: SCAN_COMPLETE, not SCAN_ERROR.
        took_s: seconds, None when it does not say.
        error: why it failed, empty when it did not.
        body: `summary` and whatever else it says, as JSON text; empty when there is nothing or too much.
    """

    command_id: str
    is_complete: bool
    took_s: float | None = None
    error: str = ""
    body: bytes = b""


def read_said(message: str | bytes) -> Said:
    """Read a frame, text or binary alike; what cannot be read is something else."""
    try:
        value = orjson.loads(message)
        word = Word(value["type"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return Said(Word.OTHER, {})
    return Said(word, value)


def read_hello(value: dict[str, Any]) -> Hello:
    """Read an introduction.

    Raises:
        Refused: its `agent_id` is missing or cannot be a part of a path.
    """
    running = value.get("running")
    return Hello(
        check_agent_id(value.get("agent_id")),
        _text(value.get("agent_type")) or "scanner",
        _text(value.get("version")),
        _texts(value.get("capabilities")),
        _text(value.get("root_path")),
        _text(value.get("scanner_type")),
        _concurrency(value.get("max_concurrency")),
        _working(running) if isinstance(running, list) else None,
    )


def check_agent_id(given: object) -> str:
    """Give an agent's id; a number counts as its digits.

    Raises:
        Refused: it is missing, or no name that a path of `/agents/{id}` can carry.
    """
    text = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""
    if not _is_segment(text):
        raise Refused(
            "agents.bad-hello",
            f"agent_id: expected a text of 1 to {MAX_ID_CHARS} printable characters without slashes "
            f"(it is {str(given)[:40]!r})",
        )
    return text


def read_report(said: Said) -> Report | None:
    """Read how a scan ended; None when the frame does not say which scan."""
    value = said.value
    command_id = value.get("command_id")
    if not isinstance(command_id, str) or not 1 <= len(command_id) <= MAX_ID_CHARS:
        return None
    took_s = value.get("took_s")
    is_number = isinstance(took_s, int | float) and not isinstance(took_s, bool)
    is_complete = said.word is Word.COMPLETE
    error = "" if is_complete else (_text(value.get("error")) or "the agent gave no reason")[:MAX_ERROR_CHARS]
    return Report(
        command_id, is_complete, float(took_s) if is_number and took_s is not None else None, error, _body(value)
    )


def encode_target(
    command_id: str, root: str, trigger_type: str, schedule_id: str | None, options: dict[str, object]
) -> str:
    """Give the frame that starts a scan."""
    target = {"root": root, "trigger_type": trigger_type, "schedule_id": schedule_id}
    frame = {"type": "SCAN_TARGET", "command_id": command_id, "target": target, "options": options}
    return orjson.dumps(frame).decode()


def encode_error(text: str) -> str:
    """Give the frame that says why the connection is about to be closed."""
    return orjson.dumps({"type": "ERROR", "error": text}).decode()


PONG: Final = '{"type":"PONG"}'


def _is_segment(text: str) -> bool:
    """Say whether a name can be a segment of a path."""
    if not 1 <= len(text) <= MAX_ID_CHARS or not text.isprintable() or text in {".", ".."}:
        return False
    return not set(text) & {"/", "\\"}


def _body(value: dict[str, Any]) -> bytes:
    more = {name: one for name, one in value.items() if name not in _NAMES_OF_A_REPORT}
    body: dict[str, Any] = {"summary": value.get("summary")}
    if more:
        body["more"] = more
    try:
        text = orjson.dumps(body)
        check_depth(text, 0)
    except (TypeError, ValueError, Refused):  # it nests too deep, for us or for whoever reads it
        return b""
    return text if len(text) <= MAX_REPORT_BYTES else b""


def _text(given: object) -> str:
    if isinstance(given, str):
        return given[:MAX_TEXT_CHARS]
    return "" if given is None or isinstance(given, bool | list | dict) else str(given)[:MAX_TEXT_CHARS]


def _texts(given: object) -> tuple[str, ...]:
    if not isinstance(given, list):
        return ()
    return tuple(one[:MAX_ID_CHARS] for one in given[:MAX_CAPABILITIES] if isinstance(one, str))


def _concurrency(given: object) -> int:
    try:
        number = int(given) if isinstance(given, int | float | str) else 1
    except (ValueError, OverflowError):
        return 1
    return min(max(number, 1), MOST_CONCURRENCY)


def _working(given: list[Any]) -> tuple[Working, ...]:
    """Read which scans an agent has in its hands: `{"command_id","root"}` each; anything else is passed over."""
    found: list[Working] = []
    for one in given[:MOST_CONCURRENCY]:
        command_id = one.get("command_id") if isinstance(one, dict) else one
        if isinstance(command_id, str) and _is_segment(command_id):
            found.append(Working(command_id, _text(one.get("root")) if isinstance(one, dict) else ""))
    return tuple(found)
