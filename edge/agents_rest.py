"""REST about remote scanners: who is there, start a scan, how scans went.

Rules of the file:
- Times are ISO 8601 in UTC with milliseconds; ids and names are the wire's of `/agents`.
- A scan is started once for one Idempotency-Key of one agent.

What must change with it: the wire reference in the README, and `edge/client_agents.py`.
"""

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec
import orjson

from edge.bodies import read_json_object
from edge.http import Request, Response, json_response
from edge.ingest import key_of
from edge.node import Node
from engine.agents import AgentRecord
from engine.agents_wire import MAX_TEXT_CHARS
from engine.errors import Refused
from engine.identity import Principal
from engine.paths import canonical_path
from engine.scans import Order, Scan, ScanState

DEFAULT_LIMIT: Final = 100
MOST_LIMIT: Final = 500
MAX_NAME_CHARS: Final = 256
MOST_TIMEOUT_S: Final = 2_592_000


class _Options(msgspec.Struct):
    force: bool = False


class _Asked(msgspec.Struct):
    root: str
    options: _Options = msgspec.field(default_factory=_Options)
    trigger_type: str = "manual"
    schedule_id: str | None = None
    timeout_s: float | None = None


async def get_agents(node: Node, _: Request) -> Response:
    """List the agents: those that are connected first, then those that were, by name."""
    records = sorted(node.agents.known(), key=lambda one: (not one.is_connected, one.hello.agent_id))
    return json_response({"agents": [_say_agent(node, one) for one in records]})


async def get_agent(node: Node, request: Request) -> Response:
    """Say one agent, with its scans that are not over."""
    record = node.agents.roster.find(request.path_parameters["id"])
    said = _say_agent(node, record)
    said["scans"] = [_say_scan(node, scan) for scan in record.live()]
    return json_response(said)


async def post_agent_scan(node: Node, request: Request) -> Response:
    """Queue a scan for an agent."""
    agent_id = request.path_parameters["id"]
    node.agents.roster.find(agent_id)
    key = key_of(request.headers.get("idempotency-key"))
    order = read_order(await read_json_object(request), node.settings.scan_timeout_s)
    request.facts.update(root=order.root, force=order.force)
    check_allowed(request.principal, order.root)
    scan, is_new = node.agents.start(agent_id, order, key)
    request.facts.update(command_id=scan.command_id, duplicate=not is_new)
    where = request.path[: request.path.index("/agents/")] + f"/scans/{quote(scan.command_id)}"
    return json_response({**_say_scan(node, scan), "duplicate": not is_new}, 202, {"Location": where})


async def get_scans(node: Node, request: Request) -> Response:
    """List scans, newest first."""
    parameters = request.parameters()
    limit = _limit_of(parameters.get("limit"))
    scans, has_more = node.agents.roster.history.newest(
        limit, parameters.get("before"), parameters.get("agent"), _state_of(parameters.get("state"))
    )
    next_ = scans[-1].command_id if has_more else None
    return json_response({"scans": [_say_scan(node, scan) for scan in scans], "next": next_})


async def get_scan(node: Node, request: Request) -> Response:
    """Say one scan."""
    return json_response(_say_scan(node, node.agents.roster.find_scan(request.path_parameters["command_id"])))


async def delete_scan(node: Node, request: Request) -> Response:
    """Stop waiting for a scan."""
    scan = node.agents.give_up(request.path_parameters["command_id"])
    request.facts["agent"] = scan.agent_id
    return json_response(_say_scan(node, scan))


def read_order(body: dict[str, object], timeout_s: float) -> Order:
    """Read what is to be scanned.

    Args:
        body: `{"root":…,"options":{"force":…},"trigger_type":…,"schedule_id":…,"timeout_s":…}`, only root is needed.
        timeout_s: where it does not say.

    Raises:
        Refused: it has another shape, or breaks a limit.
    """
    try:
        asked = msgspec.convert(body, type=_Asked)
    except msgspec.ValidationError as problem:
        raise Refused(
            "request.wrong-shape", f'{problem}; expected {{"root":"/folder","options":{{"force":false}}}}'
        ) from None
    if not 1 <= len(asked.root) <= MAX_TEXT_CHARS or "\0" in asked.root:
        raise _wrong("root", f"1 to {MAX_TEXT_CHARS} characters without NUL", asked.root)
    for name in ("trigger_type", "schedule_id"):
        text = getattr(asked, name)
        if text is not None and len(text) > MAX_NAME_CHARS:
            raise _wrong(name, f"at most {MAX_NAME_CHARS} characters", text)
    if asked.timeout_s is not None and not 1 <= asked.timeout_s <= MOST_TIMEOUT_S:
        raise _wrong("timeout_s", f"1 to {MOST_TIMEOUT_S} seconds", asked.timeout_s)
    return Order(asked.root, asked.options.force, asked.trigger_type, asked.schedule_id, asked.timeout_s or timeout_s)


def check_allowed(principal: Principal, root: str) -> None:
    """Let a principal have a folder scanned.

    Raises:
        Refused: it is not below the folders they may touch, or cannot be seen to be.
    """
    path = canonical_path(root)
    if principal.paths and ".." in path.split("/"):
        raise Refused("identity.not-allowed", f"root: expected a path without `..` (it is {root[:40]!r})")
    principal.check_path(path)


def _wrong(name: str, expected: str, given: object) -> Refused:
    return Refused("request.wrong-shape", f"{name}: expected {expected} (it is {str(given)[:40]!r})")


def _say_agent(node: Node, record: AgentRecord) -> dict[str, Any]:
    hello = record.hello
    return {
        "agent_id": hello.agent_id,
        "agent_type": hello.agent_type,
        "version": hello.version,
        "capabilities": hello.capabilities,
        "root_path": hello.root_path,
        "scanner_type": hello.scanner_type,
        "max_concurrency": hello.max_concurrency,
        "state": "connected" if record.is_connected else "away",
        "since": _iso(node, record.since),
        "last_seen": _iso(node, record.last_seen),
        "running": len(record.running),
        "queued": len(record.queue),
    }


def _say_scan(node: Node, scan: Scan) -> dict[str, Any]:
    order = scan.order
    report: dict[str, Any] = orjson.loads(scan.body) if scan.body else {}
    return {
        "command_id": scan.command_id,
        "agent_id": scan.agent_id,
        "state": scan.state.value,
        "root": order.root,
        "options": {"force": order.force},
        "trigger_type": order.trigger_type,
        "schedule_id": order.schedule_id,
        "timeout_s": order.timeout_s,
        "created_at": _iso(node, scan.created_at),
        "sent_at": _iso(node, scan.sent_at),
        "ended_at": _iso(node, scan.ended_at),
        "took_s": scan.took_s,
        "summary": report.get("summary"),
        "more": report.get("more"),
        "error": scan.error or None,
    }


def _iso(node: Node, at: float | None) -> str | None:
    if at is None:
        return None
    return (
        datetime.fromtimestamp(node.agents.wall_time(at), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _limit_of(text: str | None) -> int:
    if not text:
        return DEFAULT_LIMIT
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= MOST_LIMIT:
        raise Refused("request.bad-parameter", f"limit: expected 1 to {MOST_LIMIT} (it is {text[:40]!r})")
    return int(text)


def _state_of(text: str | None) -> ScanState | None:
    if not text:
        return None
    try:
        return ScanState(text)
    except ValueError:
        states = ", ".join(state.value for state in ScanState)
        raise Refused("request.bad-parameter", f"state: expected one of {states} (it is {text[:40]!r})") from None
