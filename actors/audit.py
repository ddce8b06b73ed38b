"""The audit log: every change is on the log before it begins, and again when it has ended.

Rules of the file:
- What cannot be recorded is not done: a change whose beginning the log does not acknowledge is refused, as unavailable.
- What was done is never refused for its record: where the log goes away in between, the record that it began stays, and
  says that nobody knows how it ended; the gateway's own log says the rest.
- Reading is bounded: a page looks at `MOST_EXAMINED` positions and says where to go on.

Back-pressure: waits, `WITHIN_S` at most; then sheds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog
import trio

from engine import audit
from engine.audit import AuditQuery, Found, Outcome, Record, read_record, stored_at
from engine.errors import Unavailable
from engine.identity import Principal
from engine.jetstream import JetStream
from engine.log import Ambiguous, Lost, Stored, StoredMessage
from engine.log import Outcome as Publishing
from engine.log_control import LogControl

log = structlog.get_logger("audit")
WITHIN_S: Final = 3.0
"""For one record; the log's acknowledgement takes a millisecond or two."""
TRIES: Final = 3
CHUNK: Final = 256
MOST_EXAMINED: Final = 8192
"""Positions a page looks at: about half of them hold a record, because its end takes the place of its beginning."""
NO_SUCH_STREAM: Final = 10059


@dataclass(slots=True)
class AuditCounts:
    """What has been counted since the start.

    Args:
        ended: records by how their change ended, as this gateway stored them.
        shed: changes that were refused because their beginning could not be recorded.
        open: records that say `unknown` because their end could not be stored.
    """

    ended: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(audit.OUTCOMES, 0))
    shed: int = 0
    open: int = 0


class Page(NamedTuple):
    """Some of the records.

    Args:
        found: in the order that was asked for.
        following: where the next page begins; None: that was all. Oldest first there is always more to come.
    """

    found: list[Found]
    following: int | None


class AuditLog:
    """What the edge holds of the audit log.

    Args:
        data: the log's data plane.
        control: its control plane.
        name: the stream of records; made with the first of them.
        max_age_s: how long a record is kept, seconds.
        max_bytes: the oldest go when all of them have more.
        clock: seconds since the epoch.
        chance: gives a record its id, 32 hexadecimal digits.
        within_s: most time for one record.
        chunk: positions that are asked for at once.
        most_examined: positions that a page looks at.
    """

    def __init__(
        self,
        data: JetStream,
        control: LogControl,
        name: str,
        max_age_s: float,
        max_bytes: int,
        clock: Callable[[], float],
        chance: Callable[[], str],
        *,
        within_s: float = WITHIN_S,
        chunk: int = CHUNK,
        most_examined: int = MOST_EXAMINED,
    ) -> None:
        self._within_s = within_s
        self._chunk = chunk
        self._most_examined = most_examined
        self.counts = AuditCounts()
        self._data = data
        self._control = control
        self._name = name
        self._config = audit.records_config(name, max_age_s, max_bytes)
        self._clock = clock
        self._chance = chance
        self._is_made = False

    async def begin(
        self,
        action: str,
        target: str,
        principal: Principal,
        *,
        address: str = "",
        request_id: str = "",
        trace_id: str | None = None,
        route: str = "",
    ) -> Record:
        """Record that a change begins; it may be made once this has returned.

        Args:
            action: what.
            target: to which; where only its end tells, the fact `target` of its end.
            principal: who.
            address: from where.
            request_id: of the request.
            trace_id: of its trace.
            route: as the route table has it.

        Raises:
            Unavailable: it could not be recorded, so it must not be made.

        Cancellation: the record may be there; it says that nobody knows.
        """
        record = audit.begin_record(
            self._chance(),
            self._clock(),
            action,
            target,
            principal,
            address=address,
            request_id=request_id,
            trace_id=trace_id,
            route=route,
        )
        problem = await self._store(record)
        if problem:
            self.counts.shed += 1
            raise Unavailable("audit.away", f"the change was not made, because it could not be recorded: {problem}")
        return record

    async def end(self, record: Record, status: int, code: str | None, facts: Mapping[str, object]) -> None:
        """Record how a change ended.

        Args:
            record: as it began.
            status: of the answer.
            code: of the problem, None where there was none.
            facts: more, by the change's own words.
        """
        ended = audit.end_record(record, status, code, facts)
        self.counts.ended[ended.outcome] += 1
        problem = await self._store(ended)
        if problem:
            self.counts.open += 1
            log.error(
                "a record says unknown, because its end was not stored", problem=problem, **_as_line(ended)
            )  # so that it is said somewhere

    async def keep(self, record: Record) -> bool:
        """Store the record of a change that was made elsewhere; repeated within two minutes, it is stored once.

        Returns:
            True when the log has it.
        """
        problem = await self._store(record)
        if not problem:
            self.counts.ended[record.outcome] += 1
        return not problem

    async def find(self, query: AuditQuery) -> Page:
        """Give a page of records.

        Raises:
            Unavailable: the log does not answer.
        """
        ends = await self._ends()
        if ends is None:
            return Page([], None if query.after is None else query.after)
        first, last = ends
        if query.after is not None:
            return await self._oldest_first(query, max(first, query.after + 1), last, query.after)
        if query.before is not None:
            return await self._newest_first(query, first, min(last, query.before - 1))
        page = await self._newest_first(query, first, last)
        # What ended while it was read has left its place, and stands above what was read now.
        _, newest = await self._ends() or ends
        return _joined(await self._newest_first(query, last + 1, newest), page, query.limit)

    # ------------------------------------------------------------------ finding

    async def _ends(self) -> tuple[int, int] | None:
        """Give the first and the last position, None where nothing was recorded yet."""
        answer = await self._control.request_api(f"STREAM.INFO.{self._name}")
        if answer.error == NO_SUCH_STREAM:
            return None
        if answer.error:
            raise Unavailable("log.refused", f"the log refused: {answer.reason}")
        state = answer.fields["state"]
        return int(state["first_seq"]), int(state["last_seq"])

    async def _newest_first(self, query: AuditQuery, first: int, high: int) -> Page:
        if query.until is not None:
            high = await self._position_of(query.until, first, high) - 1
        found: list[Found] = []
        least = max(first, high - self._most_examined + 1)
        while high >= least:
            low = max(least, high - self._chunk + 1)
            messages = await self._read(range(low, high + 1))
            for sequence in sorted(messages, reverse=True):
                if query.since is not None and stored_at(messages[sequence]) < query.since:
                    return Page(found, None)
                one = read_record(messages[sequence])
                if query.wants(one.record):
                    found.append(one)
                    if len(found) == query.limit:
                        return Page(found, sequence if sequence > first else None)
            high = low - 1
        return Page(found, least if least > first else None)

    async def _oldest_first(self, query: AuditQuery, low: int, last: int, after: int) -> Page:
        if query.since is not None:
            low = await self._position_of(query.since, low, last)
        found: list[Found] = []
        most = min(last, low + self._most_examined - 1)
        while low <= most:
            high = min(most, low + self._chunk - 1)
            messages = await self._read(range(low, high + 1))
            for sequence in sorted(messages):
                if query.until is not None and stored_at(messages[sequence]) >= query.until:
                    return Page(found, sequence - 1)
                one = read_record(messages[sequence])
                if query.wants(one.record):
                    found.append(one)
                    if len(found) == query.limit:
                        return Page(found, sequence)
            low = high + 1
        return Page(found, max(after, most))

    async def _position_of(self, at: float, low: int, high: int) -> int:
        """Give the first position, of these, whose record was stored at this time or later; `high + 1` for none."""
        beyond = high = high + 1
        while low < high:
            middle = (low + high) // 2
            query: dict[str, object] = {"seq": middle, "next_by_subj": f"{self._name}.records.>"}
            message = await self._data.read_message(self._name, query, self._within_s)
            if isinstance(message, Lost):
                raise Unavailable("log.down", "the log does not answer")
            if message is None or stored_at(message) >= at:
                high = middle
            else:
                low = message.sequence + 1
        return min(low, beyond)  # the next one may lie beyond these

    async def _read(self, sequences: range) -> dict[int, StoredMessage]:
        messages = await self._data.read_messages(self._name, sequences, self._within_s)
        if messages is None:
            raise Unavailable("log.down", "the log does not answer")
        return messages

    # ------------------------------------------------------------------ storing

    async def _store(self, record: Record) -> str:
        """Store a record; gives why not, empty when the log has it."""
        subject, payload, header = audit.write_record(self._name, record)
        reason = "the log does not answer"
        with trio.move_on_after(self._within_s):
            for _ in range(TRIES):
                if not self._data.connection.is_up:
                    return "the log is not connected"
                try:
                    await self._make_stream()
                except Unavailable as problem:
                    return problem.detail
                outcome = await self._publish(subject, payload, header)
                if isinstance(outcome, Stored):
                    return ""
                self._is_made = False  # it may have been removed: look again
                reason = outcome.reason
        return reason

    async def _make_stream(self) -> None:
        if self._is_made:
            return
        answer = await self._control.request_api(f"STREAM.INFO.{self._name}")
        if answer.error == NO_SUCH_STREAM:
            answer = await self._control.request_api(f"STREAM.CREATE.{self._name}", self._config)
        if answer.error:
            raise Unavailable("log.refused", f"the stream {self._name} cannot be made: {answer.reason}")
        config = answer.fields["config"]
        for name in ("subjects", "max_msgs_per_subject"):
            if config.get(name) != self._config[name]:
                raise Unavailable(
                    "log.refused", f"the stream {self._name} is there and is no audit log: see its {name}"
                )
        limits = {name: self._config[name] for name in ("max_age", "max_bytes")}
        if any(config.get(name) != value for name, value in limits.items()):
            answer = await self._control.request_api(f"STREAM.UPDATE.{self._name}", {**config, **limits})
            if answer.error:
                raise Unavailable("log.refused", f"the limits of {self._name} cannot be set: {answer.reason}")
        self._is_made = True

    async def _publish(self, subject: str, payload: bytes, header: bytes) -> Publishing:
        done = trio.Event()
        outcomes: list[Publishing] = []

        def take(outcome: Publishing) -> None:
            outcomes.append(outcome)
            done.set()

        number = self._data.publish_nowait(subject, payload, take, header)
        try:
            with trio.move_on_after(self._within_s / 2):
                await done.wait()
        finally:
            self._data.abandon(number)
        return outcomes[0] if outcomes else Ambiguous("the log did not answer in time")


def _joined(newer: Page, older: Page, limit: int) -> Page:
    """Put what was found later before what was found first, without what has moved from there."""
    if newer.following is not None:
        return newer
    moved = {one.record.id for one in newer.found if one.record.id}
    found = newer.found + [one for one in older.found if one.record.id not in moved]
    return Page(found, older.following) if len(found) <= limit else Page(found[:limit], found[limit - 1].seq)


def _as_line(record: Record) -> dict[str, object]:
    names = ("id", "action", "target", "principal", "address", "request_id", "outcome", "status", "code")
    return {name: getattr(record, name) for name in names}
