"""What `/agents` and `/scans` take and give, and what remote scanners speak on their WebSocket.

Rules of the file:
- Every route stands here once; its twin under `/api` is the same and is not repeated.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from edge.agents_rest import DEFAULT_LIMIT, MAX_NAME_CHARS, MOST_LIMIT, MOST_TIMEOUT_S
from edge.http import JSON
from edge.ingest import MAX_KEY_CHARS
from edge.shapes import Answer, Channel, Message, Operation, Parameter, json_answer, json_body, one_of, whole_number
from engine.agents_wire import MAX_ID_CHARS, MAX_TEXT_CHARS
from engine.scans import ScanState

Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]


class ScanOptions(Struct):
    """How to scan."""

    force: bool = False


class ScanOrder(Struct):
    """What is to be scanned."""

    root: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]
    options: ScanOptions = field(default_factory=ScanOptions)
    trigger_type: Name = "manual"
    schedule_id: Name | None = None
    timeout_s: Annotated[float, Meta(ge=1, le=MOST_TIMEOUT_S)] | None = None


class ScanFacts(Struct):
    """One scan."""

    command_id: str
    agent_id: str
    state: ScanState
    root: str
    options: ScanOptions
    trigger_type: str
    schedule_id: str | None
    timeout_s: float
    created_at: str
    sent_at: str | None
    ended_at: str | None
    took_s: float | None
    summary: Annotated[Any, Meta(description="the agent's own")]
    more: Annotated[Any, Meta(description="what else the agent said of it")]
    error: str | None
    duplicate: Annotated[bool, Meta(description="the key had started it before")] | UnsetType = UNSET


class ScanPage(Struct):
    """Some of the scans, newest first."""

    scans: list[ScanFacts]
    next: Annotated[str | None, Meta(description="`before` of the next page; null: that was all")]


class ScannerFacts(Struct):
    """One remote scanner."""

    agent_id: str
    agent_type: str
    version: str
    capabilities: list[str]
    root_path: str
    scanner_type: str
    max_concurrency: Count
    state: Literal["connected", "away"]
    since: str
    last_seen: str
    running: Count
    queued: Count
    scans: Annotated[list[ScanFacts], Meta(description="those that are not over")] | UnsetType = UNSET


class Scanners(Struct):
    """The remote scanners."""

    agents: list[ScannerFacts]


class Hello(Struct):
    """The scanner introduces itself: the first thing it says."""

    type: Literal["AGENT_HELLO"]
    agent_id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
    agent_type: str = "scanner"
    version: str = ""
    capabilities: list[str] = field(default_factory=list)
    root_path: str = ""
    scanner_type: str = ""
    max_concurrency: int = 1
    running: Annotated[list[dict[str, Any]] | None, Meta(description="`{command_id, root}` of what it still does")] = (
        None
    )


class Ping(Struct):
    """Is somebody there?"""

    type: Literal["PING"]


class Pong(Struct):
    """Somebody is."""

    type: Literal["PONG"]


class Target(Struct):
    """What to scan, and why."""

    root: str
    trigger_type: str
    schedule_id: str | None


class ScanTarget(Struct):
    """Scan this."""

    type: Literal["SCAN_TARGET"]
    command_id: str
    target: Target
    options: ScanOptions


class ScanComplete(Struct):
    """The scan is done."""

    type: Literal["SCAN_COMPLETE"]
    command_id: str
    took_s: float | None = None
    summary: Any = None


class ScanFailed(Struct):
    """The scan failed."""

    type: Literal["SCAN_ERROR"]
    command_id: str
    error: str = ""


class ScannerError(Struct):
    """Why the connection is about to be closed."""

    type: Literal["ERROR"]
    error: str


_ID: Final = Parameter("id", "The scanner's agent_id.", "path", {"type": "string", "minLength": 1}, True)
_COMMAND: Final = Parameter("command_id", "The scan's id.", "path", {"type": "string", "minLength": 1}, True)
_KEY: Final = Parameter(
    "Idempotency-Key",
    "A scan is started once for one key of one scanner.",
    "header",
    {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": r"^[A-Za-z0-9._\-]+$"},
)

OPERATIONS: Final[dict[str, Operation]] = {
    "GET /agents": Operation("scanners", "Those that are connected first.", json_answer("They.", Scanners)),
    "GET /agents/{id}": Operation(
        "scanners", "", json_answer("It.", ScannerFacts), parameters=(_ID,), errors=("agents.unknown",)
    ),
    "POST /agents/{id}/scan": Operation(
        "scanners",
        "It waits until the scanner has a hand free.",
        {202: Answer("The scan, which `Location` names.", {JSON: ScanFacts})},
        json_body(ScanOrder, {"root": "/projects/show", "options": {"force": False}}),
        (_ID, _KEY),
        (
            "request.bad-json",
            "request.bad-parameter",
            "request.wrong-shape",
            "request.bad-encoding",
            "request.unknown-encoding",
            "request.too-large",
            "agents.unknown",
            "agents.away",
            "agents.busy",
            "scans.key-conflict",
        ),
    ),
    "GET /scans": Operation(
        "scanners",
        "",
        json_answer("A page of them.", ScanPage),
        parameters=(
            Parameter("limit", "The most in a page.", schema=whole_number(1, MOST_LIMIT, DEFAULT_LIMIT)),
            Parameter("before", "Those before this one, by its command_id."),
            Parameter("agent", "Those of one scanner."),
            Parameter("state", "Those in this state.", schema=one_of(*(one.value for one in ScanState))),
        ),
        errors=("request.bad-parameter", "scans.unknown", "agents.unknown"),
    ),
    "GET /scans/{command_id}": Operation(
        "scanners", "", json_answer("It.", ScanFacts), parameters=(_COMMAND,), errors=("scans.unknown",)
    ),
    "DELETE /scans/{command_id}": Operation(
        "scanners",
        "The scanner is not stopped; a report that comes late is still noted.",
        json_answer("It, given up.", ScanFacts),
        parameters=(_COMMAND,),
        errors=("scans.unknown", "scans.over"),
    ),
}

_SENDS: Final = (
    Message(
        "scan_target",
        "A scan to do.",
        ScanTarget,
        {
            "type": "SCAN_TARGET",
            "command_id": "c-1",
            "target": {"root": "/projects", "trigger_type": "manual", "schedule_id": None},
            "options": {"force": False},
        },
    ),
    Message("pong", "The answer to a ping.", Pong, {"type": "PONG"}),
    Message("error", "The end, and why.", ScannerError),
)
_TAKES: Final = (
    Message("agent_hello", "Who it is.", Hello, {"type": "AGENT_HELLO", "agent_id": "scanner-1"}),
    Message("ping", "Is somebody there?", Ping, {"type": "PING"}),
    Message(
        "scan_complete",
        "A scan is done; other members are kept.",
        ScanComplete,
        {"type": "SCAN_COMPLETE", "command_id": "c-1", "took_s": 1.5, "summary": {"files": 3}},
    ),
    Message("scan_error", "A scan failed.", ScanFailed, {"type": "SCAN_ERROR", "command_id": "c-1", "error": "gone"}),
)
_TEXT: Final = (
    "A remote scanner introduces itself within ten seconds and is sent scans. A newer connection of the same agent_id "
    "takes over. What cannot be understood is passed over."
)

CHANNELS: Final[tuple[Channel, ...]] = tuple(Channel(path, _TEXT, _SENDS, _TAKES) for path in ("/agents", "/ws/agents"))
