"""What can go wrong, as situations, in one table.

Rules of the file:
- A situation tells the caller what to do next; which component failed is a detail in the text.
- Every code stands in `KINDS` once. Status, close code and code are promises to clients: never change one.
- WebSocket close codes 4000 to 4499 mean come back, 4500 to 4999 mean do not.

What must change with it: the wire reference in the README lists the same codes.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final


class Situation(Enum):
    """What the caller can do about it."""

    REFUSED = "refused"
    """The caller must change something."""
    UNAVAILABLE = "unavailable"
    """Nothing happened; try again."""
    UNKNOWN = "unknown"
    """It may or may not have happened."""
    BROKEN = "broken"
    """Our bug."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table.

    Args:
        code: stable name, `<word>.<what>`.
        situation: what the caller can do.
        status: HTTP status.
        close_code: WebSocket close code.
        title: one line that fits every occurrence.
    """

    code: str
    situation: Situation
    status: int
    close_code: int
    title: str


def _kinds() -> dict[str, Kind]:
    refused, unavailable, unknown, broken = Situation
    rows = (
        Kind("request.malformed", refused, 400, 4500, "The request breaks the rules of HTTP"),
        Kind("request.bad-json", refused, 400, 4500, "The body is not JSON"),
        Kind("request.bad-parameter", refused, 400, 4500, "A parameter is missing or wrong"),
        Kind("request.bad-encoding", refused, 400, 4500, "The body cannot be decoded"),
        Kind("request.no-such-path", refused, 404, 4504, "There is nothing at this path"),
        Kind("request.not-found", refused, 404, 4504, "There is nothing of this name"),
        Kind("request.wrong-method", refused, 405, 4505, "This path does not take this method"),
        Kind("request.too-slow", refused, 408, 4000, "The request took too long to arrive"),
        Kind("request.conflict", refused, 409, 4509, "The request contradicts what is there"),
        Kind("request.too-large", refused, 413, 4513, "The request is larger than the limit"),
        Kind("request.target-too-long", refused, 414, 4513, "The request target is too long"),
        Kind("request.unknown-encoding", refused, 415, 4515, "The body's type or coding is not known here"),
        Kind("request.wrong-lane", refused, 421, 4001, "Open a new connection for this"),
        Kind("request.wrong-shape", refused, 422, 4522, "The body has the wrong shape"),
        Kind("request.upgrade-required", refused, 426, 4526, "This path speaks WebSocket"),
        Kind("request.headers-too-large", refused, 431, 4531, "The header block is larger than the limit"),
        Kind("request.not-implemented", refused, 501, 4550, "This is not implemented"),
        Kind("identity.no-credentials", refused, 401, 4501, "Say who you are"),
        Kind("identity.bad-credentials", refused, 401, 4501, "The credentials are not valid here"),
        Kind("identity.expired", refused, 401, 4001, "The credentials have expired"),
        Kind("identity.keys-away", unavailable, 503, 4012, "The keys that sign tokens cannot be had"),
        Kind("identity.bad-signature", refused, 401, 4501, "The request's signature is not valid here"),
        Kind("identity.away", unavailable, 503, 4012, "Credentials of this kind cannot be checked now"),
        Kind("identity.missing-scope", refused, 403, 4503, "The credentials have not the scope for this"),
        Kind("identity.not-allowed", refused, 403, 4503, "The credentials are not for this"),
        Kind("identity.bad-origin", refused, 403, 4503, "Pages of this origin may not do this"),
        Kind("ingest.wrong-subject", refused, 422, 4522, "The subject is outside the configured streams"),
        Kind("ingest.key-conflict", refused, 422, 4522, "The idempotency key was used for another body"),
        Kind("ingest.full", unavailable, 503, 4013, "Too much is waiting for the log"),
        Kind("ingest.outcome-unknown", unknown, 503, 4014, "The log did not say whether it stored the events"),
        Kind("agents.not-yours", refused, 403, 4503, "The agent's name is somebody else's"),
        Kind("agents.unknown", refused, 404, 4504, "No agent of this name has been seen"),
        Kind("agents.no-hello", refused, 408, 4008, "The agent did not introduce itself in time"),
        Kind("agents.away", refused, 409, 4509, "The agent is not connected"),
        Kind("agents.taken-over", refused, 409, 4509, "A newer connection of the same agent took over"),
        Kind("agents.bad-hello", refused, 422, 4522, "The agent's introduction cannot be used"),
        Kind("agents.busy", unavailable, 429, 4013, "Too many scans wait"),
        Kind("scans.unknown", refused, 404, 4504, "There is no such scan"),
        Kind("scans.over", refused, 409, 4509, "The scan is over"),
        Kind("scans.key-conflict", refused, 422, 4522, "The idempotency key was used for another scan"),
        Kind("stream.bad-frame", refused, 422, 4522, "A frame of the agent cannot be followed"),
        Kind("stream.unknown-batch", refused, 404, 4504, "The batch is not outstanding here"),
        Kind("stream.too-many-errors", refused, 400, 4500, "The agent sent too many frames that cannot be followed"),
        Kind("stream.too-many-pulls", unavailable, 503, 4013, "Too many pulls are waiting, or too much is unsettled"),
        Kind("stream.too-slow", unavailable, 503, 4015, "The agent does not read what it is sent"),
        Kind("log.down", unavailable, 503, 4010, "The log is not reachable"),
        Kind("log.refused", unavailable, 503, 4011, "The log refused to store the events"),
        Kind("audit.away", unavailable, 503, 4012, "The change cannot be recorded, so it was not made"),
        Kind("hashes.tier-down", unavailable, 503, 4012, "A tier of the hash cache is not reachable"),
        Kind("query.wrong", refused, 400, 4522, "The query cannot be answered as it stands"),
        Kind("query.forbidden", refused, 403, 4503, "Queries may not do this"),
        Kind("query.too-slow", refused, 422, 4522, "The query took longer than the limit"),
        Kind("query.too-large", refused, 422, 4522, "The query needs more than the limit"),
        Kind("query.off", refused, 501, 4550, "This gateway keeps no catalog to query"),
        Kind("limits.exceeded", unavailable, 429, 4013, "Too many requests"),
        Kind("limits.away", unavailable, 503, 4012, "The shared limits are not reachable"),
        Kind("query.busy", unavailable, 429, 4013, "Too many queries are running"),
        Kind("postgres.refused", refused, 400, 4500, "PostgreSQL refused this"),
        Kind("postgres.down", unavailable, 503, 4015, "PostgreSQL is not reachable"),
        Kind("postgres.busy", unavailable, 503, 4013, "PostgreSQL has no room for this now"),
        Kind("postgres.cancelled", unavailable, 503, 4016, "PostgreSQL ended this before it was done"),
        Kind("server.too-many-connections", unavailable, 503, 4013, "Too many connections are open"),
        Kind("server.worker-away", unavailable, 503, 4012, "A part of the gateway is being started again"),
        Kind("server.busy", unavailable, 503, 4013, "More comes than the gateway can take now"),
        Kind("server.draining", unavailable, 503, 1012, "The gateway is shutting down"),
        Kind("server.broken", broken, 500, 1011, "The gateway has a bug"),
    )
    return {row.code: row for row in rows}


KINDS: Final[dict[str, Kind]] = _kinds()


class Fault(Exception):
    """A situation with its explanation.

    Args:
        code: a code of `KINDS` whose situation is this class's.
        detail: for a person: what was wrong, what was expected, the limit.
        members: extra members of the problem body, JSON values.

    `headers` go with the answer, beside those that the code brings.
    """

    situation: ClassVar[Situation]

    def __init__(self, code: str, detail: str, **members: object) -> None:
        kind = KINDS[code]
        if kind.situation is not self.situation:
            raise ValueError(f"{code} is {kind.situation.value}, not {self.situation.value}")
        super().__init__(code, detail)
        self.kind = kind
        self.detail = detail
        self.members = members
        self.headers: dict[str, str] = {}

    def __str__(self) -> str:
        """Give the explanation alone."""
        return self.detail


class Refused(Fault):
    """The caller must change something before trying again."""

    situation = Situation.REFUSED


class Unavailable(Fault):
    """Nothing happened; the same request may succeed later.

    Args:
        retry_after_s: when to try again, seconds.
    """

    situation = Situation.UNAVAILABLE

    def __init__(self, code: str, detail: str, retry_after_s: float = 1.0, **members: object) -> None:
        super().__init__(code, detail, **members)
        self.retry_after_s = retry_after_s


class Unknown(Fault):
    """It may or may not have happened; only an idempotent repetition is safe."""

    situation = Situation.UNKNOWN
    retry_after_s = 1.0


class Broken(Fault):
    """A bug of the gateway; the request's id finds it in the log."""

    situation = Situation.BROKEN


def fault_of(code: str, detail: str) -> Fault:
    """Make the fault of a code, whatever its situation."""
    situation = KINDS[code].situation
    return next(one for one in (Refused, Unavailable, Unknown, Broken) if one.situation is situation)(code, detail)
