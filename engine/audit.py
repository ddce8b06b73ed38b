"""The audit log's records: who changed what, when, from where, and how it ended.

A record is stored twice on one subject of its own: when the change begins, with the outcome `unknown`, and when it has
ended. The stream keeps one message of a subject, so the second takes the place of the first; killed in between, the
gateway leaves a record that says that nobody knows.

Rules of the file:
- Values in, values out; no clock, no chance, no I/O.
- What a client chose is cut to a bound, and stands in a member of its own: nothing of it is a subject or a header.
- No secret is a member, and no member is taken from a header or a body as a whole.

What must change with it: `actors/audit.py` stores and finds them, the wire reference of `GET /audit` in the README.

Source: S1.55.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, get_args

import msgspec
import orjson

from engine import nats_wire
from engine.errors import KINDS, Refused, Situation
from engine.identity import Principal
from engine.log import StoredMessage

Outcome = Literal["done", "refused", "failed", "unknown"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
MOST_CHARS: Final = 256
"""Of one text in a record."""
MOST_FACTS: Final = 16
DEFAULT_RECORDS: Final = 100
MOST_RECORDS: Final = 1000
REMEMBERED_S: Final = 120.0
"""How long a repeated write is known as one."""
_ACTION: Final = re.compile(r"[a-z0-9]+(?:[.\-][a-z0-9]+)*\Z")
Fact = str | int | float | bool | None


class Record(msgspec.Struct, frozen=True, omit_defaults=False):
    """One change, or the attempt at one.

    Args:
        id: its own, 32 hexadecimal digits.
        began: when, by the clock of who made it, RFC 3339.
        action: what, `<noun>.<verb>`.
        target: to which of them: a consumer, a letter, a key, a scan.
        principal: whose name.
        kind: how they were recognised; `local` for a command on the gateway's own data folder.
        key_id: the API key behind them, empty when there is none.
        address: where the request came from.
        request_id: of the request.
        trace_id: of its trace, None where there is none.
        route: method and path as the route table has them, or the command.
        outcome: how it ended.
        status: of the answer, None while nobody knows.
        code: of the problem, None where there was none.
        facts: more, by the change's own words.
    """

    id: str
    began: str
    action: str
    target: str
    principal: str
    kind: str
    key_id: str = ""
    address: str = ""
    request_id: str = ""
    trace_id: str | None = None
    route: str = ""
    outcome: Outcome = "unknown"
    status: int | None = None
    code: str | None = None
    facts: dict[str, Fact] = {}


class Found(NamedTuple):
    """A record as it lies in its stream.

    Args:
        seq: its position there.
        time: when it was stored last, RFC 3339.
        record: what it says.
    """

    seq: int
    time: str
    record: Record

    def describe(self) -> dict[str, object]:
        """Give it as the wire has it."""
        return {"seq": self.seq, "time": self.time, **msgspec.structs.asdict(self.record)}


class AuditQuery(NamedTuple):
    """Which records are wanted.

    Args:
        principal: whose, empty for everybody's.
        action: which, `consumer.*` for a family; empty for all.
        since: stored at this time or later, seconds since the epoch; None from the beginning.
        until: stored before this time; None to the end.
        limit: at most so many.
        before: positions below this one, newest first; None from the newest.
        after: positions above this one, oldest first; None where the newest come first.
    """

    principal: str = ""
    action: str = ""
    since: float | None = None
    until: float | None = None
    limit: int = DEFAULT_RECORDS
    before: int | None = None
    after: int | None = None

    def wants(self, record: Record) -> bool:
        """Say that a record is whose and which is asked for."""
        if self.principal and record.principal != self.principal:
            return False
        if self.action.endswith(".*"):
            return record.action.startswith(self.action[:-1])
        return not self.action or record.action == self.action


def check_action(text: str) -> str:
    """Give back an action's name, or a family's.

    Raises:
        ValueError: it is none.
    """
    if len(text) > MOST_CHARS or not _ACTION.match(text.removesuffix(".*")):
        raise ValueError("expected words such as consumer.reset, or consumer.* for a family")
    return text


def read_time(text: str) -> float:
    """Read a time: RFC 3339 with its offset, or seconds since the epoch.

    Raises:
        ValueError: it is none.
    """
    if text.isascii() and text.isdigit() and len(text) <= 11:
        return float(text)
    try:
        at = datetime.fromisoformat(text.replace(" ", "+"))  # a plus that the query's decoding took for a blank
    except ValueError:
        raise ValueError("expected a time such as 2026-01-31T12:00:00Z, or seconds since 1970") from None
    if at.tzinfo is None:
        raise ValueError("expected a time with its offset, such as 2026-01-31T12:00:00Z")
    return at.timestamp()


def time_of(seconds: float) -> str:
    """Write a time, RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def begin_record(
    record_id: str,
    now: float,
    action: str,
    target: str,
    principal: Principal,
    *,
    address: str = "",
    request_id: str = "",
    trace_id: str | None = None,
    route: str = "",
) -> Record:
    """Give the record of a change that begins now."""
    return Record(
        record_id,
        time_of(now),
        action,
        cut(target),
        cut(principal.subject),
        principal.kind.value,
        cut(principal.key_id),
        cut(address),
        cut(request_id),
        trace_id,
        cut(route),
    )


def end_record(record: Record, status: int, code: str | None, facts: Mapping[str, object]) -> Record:
    """Give the record of a change that has ended.

    Args:
        record: as it began.
        status: of the answer.
        code: of the problem, None where there was none.
        facts: more; what is no plain value is written as text, and the rest is left out beyond `MOST_FACTS`.
    """
    kept = {cut(name): _fact(value) for name, value in list(facts.items())[:MOST_FACTS]}
    target = record.target or str(kept.pop("target", ""))
    return msgspec.structs.replace(
        record, target=target, outcome=outcome_of(status, code), status=status, code=code, facts=kept
    )


def outcome_of(status: int, code: str | None) -> Outcome:
    """Say how a change ended that was answered so."""
    if code is not None and KINDS[code].situation is Situation.UNKNOWN:
        return "unknown"
    if status < 400:
        return "done"
    return "refused" if status < 500 else "failed"


def cut(text: str) -> str:
    """Give as much of a text as a record holds."""
    return text if len(text) <= MOST_CHARS else text[: MOST_CHARS - 1] + "…"


def records_config(name: str, max_age_s: float, max_bytes: int) -> dict[str, object]:
    """Give the configuration of the stream of records.

    One message of a subject, and a subject a record. Nobody may delete or purge any of them over the log's own
    protocol; only age and size do.

    Args:
        name: the stream.
        max_age_s: how long a record is kept, seconds.
        max_bytes: the oldest go when all of them have more.
    """
    return {
        "name": name,
        "subjects": [f"{name}.records.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "max_msgs_per_subject": 1,
        "max_age": int(max_age_s * 1e9),
        "max_bytes": max_bytes,
        "duplicate_window": int(min(REMEMBERED_S, max_age_s) * 1e9),
        "allow_direct": True,
        "deny_delete": True,
        "deny_purge": True,
    }


def write_record(name: str, record: Record) -> tuple[str, bytes, bytes]:
    """Give a record's subject, payload and header.

    Raises:
        ValueError: its id is none.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", record.id):
        raise ValueError("expected 32 hexadecimal digits")
    end = "begun" if record.outcome == "unknown" and record.status is None else "ended"
    header = nats_wire.write_headers({"Nats-Msg-Id": f"{record.id}-{end}"})
    return f"{name}.records.{record.id}", msgspec.json.encode(record), header


def read_record(message: StoredMessage) -> Found:
    """Read a record; what somebody else put there says so."""
    try:
        record = _DECODER.decode(message.payload)
    except msgspec.DecodeError:
        record = Record("", message.time, "unreadable", "", "", "", facts={"size": len(message.payload)})
    return Found(message.sequence, message.time, record)


def read_query(parameters: Mapping[str, str]) -> AuditQuery:
    """Read what is asked for: `?principal=&action=&since=&until=&limit=&before=&after=`.

    Raises:
        Refused: naming the parameter, what was expected and what came.
    """
    for name in parameters:
        if name not in AuditQuery._fields:
            known = ", ".join(AuditQuery._fields)
            raise Refused("request.bad-parameter", f"{name[:40]!r} is not a parameter here; expected {known}")
    principal = parameters.get("principal", "")
    if len(principal) > MOST_CHARS:
        raise Refused("request.bad-parameter", f"principal: expected at most {MOST_CHARS} characters")
    given: dict[str, float | None] = {}
    action = parameters.get("action", "")
    for name, text in (("action", action), ("since", parameters.get("since")), ("until", parameters.get("until"))):
        if not text:
            continue
        try:
            if name == "action":
                check_action(text)
            else:
                given[name] = read_time(text)
        except ValueError as problem:
            raise Refused("request.bad-parameter", f"{name}: {problem} (it is {text[:80]!r})") from None
    before, after = _position(parameters, "before"), _position(parameters, "after")
    if before is not None and after is not None:
        raise Refused("request.bad-parameter", "expected before (newest first) or after (oldest first), not both")
    limit = _count(parameters, "limit", 1, MOST_RECORDS)
    return AuditQuery(
        principal, action, given.get("since"), given.get("until"), limit or DEFAULT_RECORDS, before, after
    )


def stored_at(message: StoredMessage) -> float:
    """Give when a message was stored, seconds since the epoch."""
    text = re.sub(r"(\.\d{6})\d+", r"\1", message.time)  # the log has nanoseconds, a datetime has not
    return datetime.fromisoformat(text).timestamp()


def _position(parameters: Mapping[str, str], name: str) -> int | None:
    return _count(parameters, name, 0, 2**53)


def _count(parameters: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = parameters.get(name)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not least <= int(text) <= most:
        raise Refused("request.bad-parameter", f"{name}: expected {least} to {most} (it is {text[:40]!r})")
    return int(text)


def _fact(value: object) -> Fact:
    if value is None or isinstance(value, bool | int | float):
        return value
    return cut(value if isinstance(value, str) else orjson.dumps(value, default=str).decode())


_DECODER: Final = msgspec.json.Decoder(Record)
