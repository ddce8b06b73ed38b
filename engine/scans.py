"""The life of a scan, and the bounded history of all scans.

Rules of the file:
- No clock: `now` comes in, seconds of any monotonic origin.
- A step that the table does not have raises and changes nothing.
- A scan that is not over is never forgotten; of those that are, the oldest go first.

What must change with it: the states are a promise (README).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Final

from engine.agents_wire import Report


class ScanState(Enum):
    """Where a scan is."""

    QUEUED = "queued"
    """It waits for its agent to have a hand free."""
    RUNNING = "running"
    """It was sent to its agent."""
    COMPLETE = "complete"
    """Its agent said SCAN_COMPLETE."""
    FAILED = "failed"
    """Its agent said SCAN_ERROR, or it was taken back before it was sent."""
    LOST = "lost"
    """Nobody knows: its agent vanished, forgot it, or said nothing for too long. Only a late report changes this."""


class ScanStep(Enum):
    """What happens to a scan."""

    SEND = "send"
    COMPLETE = "complete"
    FAIL = "fail"
    LOSE = "lose"


STEPS: Final[dict[ScanState, dict[ScanStep, ScanState]]] = {
    ScanState.QUEUED: {
        ScanStep.SEND: ScanState.RUNNING,
        ScanStep.FAIL: ScanState.FAILED,
        ScanStep.LOSE: ScanState.LOST,
    },
    ScanState.RUNNING: {
        ScanStep.COMPLETE: ScanState.COMPLETE,
        ScanStep.FAIL: ScanState.FAILED,
        ScanStep.LOSE: ScanState.LOST,
    },
    ScanState.LOST: {ScanStep.COMPLETE: ScanState.COMPLETE, ScanStep.FAIL: ScanState.FAILED},
    ScanState.COMPLETE: {},
    ScanState.FAILED: {},
}
LIVE: Final = frozenset({ScanState.QUEUED, ScanState.RUNNING})


class IllegalStep(Exception):
    """The table has no such step from this state."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be scanned, and why.

    Args:
        root: the folder, in the agent's own spelling.
        force: hash everything, whatever is known.
        trigger_type: who asked, for the agent's events.
        schedule_id: of the schedule that asked, None when none did.
        timeout_s: how long the agent may take, seconds.
    """

    root: str
    force: bool = False
    trigger_type: str = "manual"
    schedule_id: str | None = None
    timeout_s: float = 21_600.0


@dataclass(slots=True, eq=False)
class Scan:
    """One scan of one agent. Its times are the caller's clock.

    Args:
        command_id: unique.
        agent_id: who scans.
        order: what to scan.
        created_at: when it was asked for.
        key: the idempotency key that it was asked for with, empty when none.
    """

    command_id: str
    agent_id: str
    order: Order
    created_at: float
    key: str = ""
    state: ScanState = ScanState.QUEUED
    sent_at: float | None = None
    ended_at: float | None = None
    took_s: float | None = None
    error: str = ""
    body: bytes = b""

    @property
    def is_live(self) -> bool:
        """Whether it is not over."""
        return self.state in LIVE

    @property
    def deadline(self) -> float | None:
        """When its agent has had all the time it gets; None while that does not count."""
        return None if self.state is not ScanState.RUNNING else (self.sent_at or 0.0) + self.order.timeout_s

    def step(self, step: ScanStep, now: float, error: str = "") -> None:
        """Take a step of the table.

        Raises:
            IllegalStep: there is no such step.
        """
        after = STEPS[self.state].get(step)
        if after is None:
            raise IllegalStep(f"a scan that is {self.state.value} cannot {step.value}")
        self.state = after
        self.error = error
        if step is ScanStep.SEND:
            self.sent_at = now
        else:
            self.ended_at = now

    def can(self, step: ScanStep) -> bool:
        """Say whether the table has this step."""
        return step in STEPS[self.state]

    def take_report(self, report: Report, now: float) -> None:
        """End as its agent says.

        Raises:
            IllegalStep: it cannot end so now.
        """
        self.step(ScanStep.COMPLETE if report.is_complete else ScanStep.FAIL, now, report.error)
        self.took_s, self.body = report.took_s, report.body


@dataclass(slots=True)
class History:
    """Every scan that is live, and the latest of those that are over.

    Args:
        limit_count: scans kept, live ones included; live ones alone may be more.
        limit_bytes: of their reports together.
    """

    limit_count: int
    limit_bytes: int
    _all: dict[str, Scan] = field(default_factory=dict)
    _live: dict[str, Scan] = field(default_factory=dict)
    _keys: dict[tuple[str, str], Scan] = field(default_factory=dict)
    _over: dict[str, Scan] = field(default_factory=dict)
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self._all)

    def get(self, command_id: str) -> Scan | None:
        """Find a scan."""
        return self._all.get(command_id)

    def find_key(self, agent_id: str, key: str) -> Scan | None:
        """Find the scan that was asked for with an idempotency key."""
        return self._keys.get((agent_id, key))

    def live(self) -> Iterator[Scan]:
        """Go through the scans that are not over, oldest first."""
        return iter(self._live.values())

    def live_count(self) -> int:
        """How many are not over."""
        return len(self._live)

    def add(self, scan: Scan) -> None:
        """Keep a new scan."""
        self._all[scan.command_id] = scan
        if scan.key:
            self._keys[scan.agent_id, scan.key] = scan
        self._live[scan.command_id] = scan
        self._forget()

    def note_end(self, scan: Scan) -> None:
        """Note that a scan is over, or over in another way than before."""
        self._live.pop(scan.command_id, None)
        self._over[scan.command_id] = scan
        self._bytes += len(scan.body)
        self._forget()

    def newest(
        self, limit: int, before: str | None, agent_id: str | None, state: ScanState | None
    ) -> tuple[list[Scan], bool]:
        """List scans, newest first.

        Args:
            limit: the most to give.
            before: only scans older than this one; one that is forgotten has none before it.
            agent_id: only this agent's, None for all.
            state: only these, None for all.

        Returns:
            The scans, and whether there are more.
        """
        scans = reversed(self._all.values())
        if before is not None:
            if before not in self._all:
                return [], False
            for one in scans:
                if one.command_id == before:
                    break
        fitting = (one for one in scans if agent_id in {None, one.agent_id} and state in {None, one.state})
        found = list(islice(fitting, limit + 1))
        return found[:limit], len(found) > limit

    def _forget(self) -> None:
        while self._over and (len(self._all) > self.limit_count or self._bytes > self.limit_bytes):
            command_id, scan = next(iter(self._over.items()))
            del self._over[command_id], self._all[command_id]
            self._bytes -= len(scan.body)
            if self._keys.get((scan.agent_id, scan.key)) is scan:
                del self._keys[scan.agent_id, scan.key]
