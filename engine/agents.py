"""Who the remote scanners are, and which scan goes where.

Rules of the file:
- No clock, no I/O: `now` comes in (seconds, any monotonic origin), and methods return what the actor must do.
- One connection speaks for an agent. A newer one takes over, because the usual reason for a second one is that the
  first is dead and nobody has noticed; the scans are the agent's, not the connection's, and go on.
- No scan is live for ever: its agent answers, or it is lost when the agent stays away for `grace_s`, when it comes
  back without it, or when the scan's own time is over.
- An agent is sent at most `max_concurrency` scans at once; up to `QUEUE_COUNT` wait here for it, more are refused.
- What an agent says about a scan that is not its own, or not known, changes nothing and is counted.

What must change with it: the states and bounds in the README.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from engine.agents_wire import Hello, Report
from engine.errors import Refused, Unavailable
from engine.scans import History, Order, Scan, ScanState, ScanStep

QUEUE_COUNT: Final = 100
"""Scans that wait for one agent; each is a person's or a schedule's wish, not a stream. Policy: shed, 429."""
LIVE_COUNT: Final = 10_000
"""Of all agents together. Policy: shed, 429."""
HISTORY_COUNT: Final = 10_000
HISTORY_BYTES: Final = 16 * 1024 * 1024
AWAY_COUNT: Final = 1_000
"""Agents that are remembered while they are away; of more, those longest away are forgotten."""


@dataclass(slots=True, eq=False)
class AgentRecord:
    """One agent that is connected, or was.

    Args:
        hello: how it introduced itself last.
        since: when its connection came, or went.
        last_seen: when it last said something.
        connection: the number of its connection, None while it is away.
        owner: the principal that it introduced itself as.
    """

    hello: Hello
    since: float
    last_seen: float
    connection: int | None
    owner: str = ""
    queue: deque[Scan] = field(default_factory=deque)
    running: dict[str, Scan] = field(default_factory=dict)

    @property
    def is_connected(self) -> bool:
        """Whether a connection speaks for it."""
        return self.connection is not None

    @property
    def has_hand_free(self) -> bool:
        """Whether it may be sent another scan."""
        return len(self.running) < self.hello.max_concurrency

    def live(self) -> list[Scan]:
        """List its scans that are not over."""
        return [*self.running.values(), *self.queue]


class Roster:
    """The agents and their scans.

    Args:
        grace_s: how long an agent may be away before its scans are lost.
        history_count: scans kept.
    """

    def __init__(self, grace_s: float, history_count: int = HISTORY_COUNT) -> None:
        self.grace_s = grace_s
        self.agents: dict[str, AgentRecord] = {}
        self.history = History(history_count, HISTORY_BYTES)
        self.ended: Counter[ScanState] = Counter()
        """How often a scan came to each end; one that was lost and then reported came to two."""
        self.takeovers = 0
        self.ignored = 0
        """Frames that changed nothing: odd ones, and reports about scans that are not the agent's."""
        self._connections = 0
        self._away: dict[str, AgentRecord] = {}

    def check_owner(self, agent_id: str, owner: str) -> None:
        """Let a principal speak for an agent: a new one, or its own.

        Raises:
            Refused: the agent is another principal's, for as long as it is remembered.
        """
        record = self.agents.get(agent_id)
        if record is not None and record.owner != owner:
            raise Refused("agents.not-yours", f"agent_id {agent_id!r} is used by somebody else; expected another one")

    def attach(self, hello: Hello, now: float, owner: str = "") -> int:
        """Take a new connection for an agent's; an older one of the same agent no longer speaks for it.

        Scans that it says it has and that nobody here knows are taken over as running: the gateway was started anew.
        When it lists what it has, what is not in the list is lost.

        Returns:
            The connection's number.
        """
        self._connections += 1
        record = self.agents.get(hello.agent_id)
        if record is None:
            record = self.agents[hello.agent_id] = AgentRecord(hello, now, now, None)
        elif record.is_connected:
            self.takeovers += 1
        self._away.pop(hello.agent_id, None)
        record.hello, record.since, record.last_seen, record.connection = hello, now, now, self._connections
        record.owner = owner
        if hello.running is not None:
            has = {one.command_id for one in hello.running}
            for scan in [scan for scan in record.running.values() if scan.command_id not in has]:
                self._lose(record, scan, now, "the agent came back without it")
            for one in hello.running:
                if self.history.get(one.command_id) is None and self.history.live_count() < LIVE_COUNT:
                    scan = Scan(one.command_id, hello.agent_id, Order(one.root, trigger_type="adopted"), now)
                    scan.step(ScanStep.SEND, now)
                    self.history.add(scan)
                    record.running[scan.command_id] = scan
        return self._connections

    def is_current(self, agent_id: str, connection: int) -> bool:
        """Say whether a connection still speaks for its agent."""
        record = self.agents.get(agent_id)
        return record is not None and record.connection == connection

    def update(self, hello: Hello, connection: int, now: float) -> bool:
        """Take another introduction on the same connection; False when it is another agent's, and changes nothing."""
        if not self.is_current(hello.agent_id, connection):
            self.ignored += 1
            return False
        record = self.agents[hello.agent_id]
        record.hello, record.last_seen = hello, now
        return True

    def detach(self, agent_id: str, connection: int, now: float) -> None:
        """Note that a connection is gone; nothing when another one has taken over."""
        if not self.is_current(agent_id, connection):
            return
        record = self.agents[agent_id]
        record.since, record.connection = now, None
        self._away[agent_id] = record
        for name, one in list(self._away.items()):
            if len(self._away) <= AWAY_COUNT:
                break
            if not one.running and not one.queue:
                del self._away[name], self.agents[name]

    def heard(self, agent_id: str, connection: int, now: float) -> None:
        """Note that an agent said something."""
        if self.is_current(agent_id, connection):
            self.agents[agent_id].last_seen = now

    def find(self, agent_id: str) -> AgentRecord:
        """Give an agent.

        Raises:
            Refused: nobody here knows it.
        """
        record = self.agents.get(agent_id)
        if record is None:
            raise Refused("agents.unknown", f"no agent {agent_id!r} has been seen; GET /agents lists those that were")
        return record

    def find_scan(self, command_id: str) -> Scan:
        """Give a scan.

        Raises:
            Refused: nobody here knows it.
        """
        scan = self.history.get(command_id)
        if scan is None:
            raise Refused("scans.unknown", f"there is no scan {command_id!r}, or it is forgotten")
        return scan

    def start(self, agent_id: str, order: Order, command_id: str, key: str, now: float) -> tuple[Scan, bool]:
        """Queue a scan, unless the same key has asked for it before.

        Returns:
            The scan, and whether it is new.

        Raises:
            Refused: the agent is unknown or away, or the key was used for another scan.
            Unavailable: too many scans wait.
        """
        record = self.find(agent_id)
        before = self.history.find_key(agent_id, key) if key else None
        if before is not None:
            if before.order != order:
                raise Refused(
                    "scans.key-conflict",
                    f"this Idempotency-Key asked for another scan of {agent_id!r} before",
                    command_id=before.command_id,
                )
            return before, False
        if not record.is_connected:
            raise Refused(
                "agents.away", f"agent {agent_id!r} is not connected; it has been away for {now - record.since:.0f} s"
            )
        if len(record.queue) >= QUEUE_COUNT and not record.has_hand_free:
            raise Unavailable(
                "agents.busy",
                f"{len(record.queue)} scans wait for agent {agent_id!r} already; the limit is {QUEUE_COUNT}",
                5.0,
                limit=QUEUE_COUNT,
            )
        if self.history.live_count() >= LIVE_COUNT:
            raise Unavailable(
                "agents.busy", f"{LIVE_COUNT} scans are waiting or running, which is the limit", 5.0, limit=LIVE_COUNT
            )
        scan = Scan(command_id, agent_id, order, now, key)
        record.queue.append(scan)
        self.history.add(scan)
        return scan, True

    def next_to_send(self, agent_id: str, connection: int, now: float) -> Scan | None:
        """Take the scan that is to be sent to an agent now; it counts as running from here on."""
        if not self.is_current(agent_id, connection):
            return None
        record = self.agents[agent_id]
        if not record.queue or not record.has_hand_free:
            return None
        scan = record.queue.popleft()
        scan.step(ScanStep.SEND, now)
        record.running[scan.command_id] = scan
        return scan

    def report(self, agent_id: str, report: Report, now: float) -> Scan | None:
        """Take an agent's word that a scan is over.

        Returns:
            The scan, None when the report changes nothing.
        """
        scan = self.history.get(report.command_id)
        step = ScanStep.COMPLETE if report.is_complete else ScanStep.FAIL
        if scan is None or scan.agent_id != agent_id or scan.state is ScanState.QUEUED or not scan.can(step):
            self.ignored += 1
            return None
        scan.take_report(report, now)
        self._end(scan)
        return scan

    def give_up(self, command_id: str, now: float) -> Scan:
        """Stop waiting for a scan: one that was not sent never runs, one that was is lost.

        Raises:
            Refused: it is unknown, or over.
        """
        scan = self.find_scan(command_id)
        if scan.state is ScanState.QUEUED:
            self.agents[scan.agent_id].queue.remove(scan)
            scan.step(ScanStep.FAIL, now, "it was taken back before it was sent")
            self._end(scan)
        elif scan.is_live:
            self._lose(self.agents[scan.agent_id], scan, now, "it was given up; the agent may still be scanning")
        else:
            raise Refused("scans.over", f"scan {command_id!r} is over: it is {scan.state.value}")
        return scan

    def expire(self, now: float) -> list[Scan]:
        """Lose the scans whose time, or whose agent's time, is over.

        Returns:
            Those that were lost.
        """
        lost: list[Scan] = []
        for scan in list(self.history.live()):
            record = self.agents[scan.agent_id]
            if not record.is_connected and record.since + self.grace_s <= now:
                error = f"the agent went away and did not come back within {self.grace_s:g} s"
                if scan.state is ScanState.QUEUED:
                    error += "; it was never sent"
            elif scan.deadline is not None and scan.deadline <= now:
                error = f"the agent did not say how it ended within {scan.order.timeout_s:g} s"
            else:
                continue
            self._lose(record, scan, now, error)
            lost.append(scan)
        return lost

    def next_deadline(self) -> float | None:
        """Say when `expire` may find something; None when there is nothing to wait for."""
        found: list[float] = []
        for scan in self.history.live():
            record = self.agents[scan.agent_id]
            if not record.is_connected:
                found.append(record.since + self.grace_s)
            if scan.deadline is not None:
                found.append(scan.deadline)
        return min(found, default=None)

    def count_live(self, state: ScanState) -> int:
        """Count the live scans in a state."""
        return sum(scan.state is state for scan in self.history.live())

    def _lose(self, record: AgentRecord, scan: Scan, now: float, error: str) -> None:
        if scan.state is ScanState.QUEUED:
            record.queue.remove(scan)
        scan.step(ScanStep.LOSE, now, error)
        self._end(scan)

    def _end(self, scan: Scan) -> None:
        self.agents[scan.agent_id].running.pop(scan.command_id, None)
        self.ended[scan.state] += 1
        self.history.note_end(scan)
