"""Remote scanners while they are connected, and the one who loses scans when their time is over.

Rules of the file:
- Every decision is the roster's (`engine/agents.py`); this file has the clock and wakes who waits.
- An agent is in the tree of actors exactly as long as its connection speaks for it.
"""

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf

import structlog
import trio

from actors.tree import Actor, Mailbox
from engine.agents import QUEUE_COUNT, AgentRecord, Roster
from engine.agents_wire import Hello, Report
from engine.scans import Order, Scan

log = structlog.get_logger("agents")


class Attachment:
    """One connection that speaks for an agent. Made by `Agents.attach`.

    Args:
        roster: decides.
        agent_id: whose connection it is.
        number: the connection's.
        on_sent: told of every scan that is to be sent.
    """

    def __init__(self, roster: Roster, agent_id: str, number: int, on_sent: Callable[[Scan], None]) -> None:
        self.agent_id = agent_id
        self.number = number
        self.taken_over = trio.Event()
        """Set when a newer connection speaks for the agent."""
        self._roster = roster
        self._on_sent = on_sent
        self._wake = trio.Event()

    async def next_scan(self) -> Scan:
        """Wait for the scan that is to be sent now; it counts as running from here on.

        Cancellation: leaves the queue as it was.
        """
        while True:
            scan = self._roster.next_to_send(self.agent_id, self.number, trio.current_time())
            if scan is not None:
                self._on_sent(scan)
                return scan
            self._wake = trio.Event()
            await self._wake.wait()

    def wake(self) -> None:
        """Look again whether there is something to send."""
        self._wake.set()


class Agents:
    """The remote scanners of this gateway.

    Args:
        roster: decides.
        actor: their place in the tree.
    """

    def __init__(self, roster: Roster, actor: Actor) -> None:
        self.roster = roster
        self._actor = actor
        self._attached: dict[str, Attachment] = {}
        self._changed = trio.Event()
        self._waiting_until = inf
        self._epoch_s = time.time() - trio.current_time()

    def wall_time(self, at: float) -> float:
        """Turn a time of the roster into seconds since 1970."""
        return self._epoch_s + at

    @asynccontextmanager
    async def attach(self, hello: Hello, owner: str = "") -> AsyncIterator[Attachment]:
        """Speak for an agent as long as the block runs, or until a newer connection does.

        Args:
            owner: the principal that the connection is.

        Raises:
            Refused: the agent is another principal's.

        Closes: the connection's claim, on leaving; the agent has the grace to come back.
        """
        self.roster.check_owner(hello.agent_id, owner)
        number = self.roster.attach(hello, trio.current_time(), owner)
        attachment = Attachment(self.roster, hello.agent_id, number, lambda scan: self._expect(scan.deadline))
        before = self._attached.get(hello.agent_id)
        if before is not None:
            log.warning("a newer connection takes over", agent=hello.agent_id)
            before.taken_over.set()
        self._attached[hello.agent_id] = attachment
        record = self.roster.agents[hello.agent_id]
        try:
            with self._actor.child(hello.agent_id, lambda: Mailbox(len(record.queue), QUEUE_COUNT)):
                log.info("agent connected", agent=hello.agent_id, running=len(record.running))
                yield attachment
        finally:
            if self._attached.get(hello.agent_id) is attachment:
                del self._attached[hello.agent_id]
                log.info("agent left", agent=hello.agent_id, running=len(record.running), queued=len(record.queue))
            now = trio.current_time()
            self.roster.detach(hello.agent_id, number, now)
            self._expect(now + self.roster.grace_s)

    def update(self, attachment: Attachment, hello: Hello) -> None:
        """Take another introduction on the same connection."""
        if self.roster.update(hello, attachment.number, trio.current_time()):
            attachment.wake()

    def heard(self, attachment: Attachment) -> None:
        """Note that an agent said something."""
        self.roster.heard(attachment.agent_id, attachment.number, trio.current_time())

    def ignore(self) -> None:
        """Count a frame that changes nothing."""
        self.roster.ignored += 1

    def report(self, attachment: Attachment, report: Report) -> None:
        """Take an agent's word that a scan is over."""
        scan = self.roster.report(attachment.agent_id, report, trio.current_time())
        if scan is not None:
            log.info("scan over", scan=scan.command_id, agent=scan.agent_id, state=scan.state.value, error=scan.error)
            attachment.wake()

    def start(self, agent_id: str, order: Order, key: str) -> tuple[Scan, bool]:
        """Queue a scan, unless the same key has asked for it before.

        Returns:
            The scan, and whether it is new.

        Raises:
            Refused: the agent is unknown or away, or the key was used for another scan.
            Unavailable: too many scans wait.

        Back-pressure: sheds.
        """
        scan, is_new = self.roster.start(agent_id, order, str(uuid.uuid4()), key, trio.current_time())
        if is_new:
            self._wake(agent_id)
        return scan, is_new

    def give_up(self, command_id: str) -> Scan:
        """Stop waiting for a scan.

        Raises:
            Refused: it is unknown, or over.
        """
        scan = self.roster.give_up(command_id, trio.current_time())
        self._wake(scan.agent_id)
        return scan

    def known(self) -> list[AgentRecord]:
        """List the agents that are connected, and those that were."""
        return list(self.roster.agents.values())

    async def run(self, actor: Actor, ready: Callable[[], None]) -> None:
        """Lose scans when their time, or their agent's time, is over."""
        ready()
        while True:
            self._changed = trio.Event()
            deadline = self.roster.next_deadline()
            self._waiting_until = inf if deadline is None else deadline
            with trio.move_on_at(self._waiting_until):
                await self._changed.wait()
            for scan in self.roster.expire(trio.current_time()):
                log.warning("scan lost", scan=scan.command_id, agent=scan.agent_id, error=scan.error)
                self._wake(scan.agent_id)

    def _wake(self, agent_id: str) -> None:
        attachment = self._attached.get(agent_id)
        if attachment is not None:
            attachment.wake()

    def _expect(self, deadline: float | None) -> None:
        """Have a deadline looked at in time: counting them all anew is only worth it when this is the first."""
        if deadline is not None and deadline < self._waiting_until:
            self._changed.set()
