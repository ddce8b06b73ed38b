"""One agent's consumer: a puller, a desk, and an outbox for what is no batch.

No task of its own but the one that looks after it; `actors/stream_v1.py` runs it.

Rules of the file:
- What an agent says is followed at once, without waiting; only the edge's writer waits.

Back-pressure: waits for credit; cuts who does not read.
"""

import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from actors.desk import Burial, Desk
from actors.puller import Puller
from engine.credit import BATCHES_LIMIT, Amount, Mode
from engine.errors import Fault
from engine.jetstream import JetStream
from engine.settle import Batch
from engine.settle_words import BadFrame, Settle
from engine.stalls import Situation, why_stalled
from engine.stream_v1 import Grant, Ready

OUTBOX_FRAMES: Final = 1000
"""Answers that wait for an agent that does not read them; each is small. Above this it is not listened to."""
DEAF_PATIENCE_S: Final = 5.0
"""An agent that has so many answers to read and reads none for so long is cut."""
SEND_PATIENCE_S: Final = 1.0
"""When a frame has been stuck for so long, what waits behind it is free for others of the durable."""
LOOK_MOST_S: Final = 1.0
BuryAsync = Callable[[str, int, int, str], Awaitable[bool]]
"""Puts a message among the dead letters: consumer, sequence, delivered count, reason; True when it is there."""


class LeasedConsumer:
    """One agent's consumer; opened by `LeasedStreams.attach`."""

    def __init__(self, name: str, puller: Puller, desk: Desk, outbox: "Outbox", log: JetStream) -> None:
        self.name = name
        self.puller = puller
        self.desk = desk
        self.outbox = outbox
        self.sending_since: float | None = None
        self._log = log
        self._prefix = secrets.token_hex(4)
        self._batches = 0
        self._marks: dict[str, tuple[Amount, Amount]] = {}
        self.withdrawn = False
        desk.on_settled = self._settled

    @property
    def in_flight(self) -> Amount:
        """What the agent holds."""
        return Amount(self.desk.table.messages, self.desk.table.bytes)

    def grant(self, grant: Grant) -> None:
        """Take an agent's credit."""
        if grant.amount is None:
            self.puller.credit.automate()
        else:
            self.puller.credit.grant(grant.amount)
        self.puller.pump()
        self.puller.wake()

    def settle(self, words: Settle) -> BadFrame | None:
        """Follow a settle frame; gives what was wrong with it, None when it was followed."""
        return self.desk.settle(words, trio.current_time())

    def next_batch(self) -> tuple[str, list[Ready]] | None:
        """Give the next batch with its name, None when there is none now; it counts as sent and held.

        Raises:
            Unavailable: the consumer is gone from the log.
        """
        messages = self.puller.take_batch(has_room=len(self.desk.table.batches) < BATCHES_LIMIT)
        if not messages:
            return None
        self._batches += 1
        batch_id = f"{self._prefix}-{self._batches}"
        self.desk.hand_over(batch_id, messages, trio.current_time())
        if self.puller.credit.mode is Mode.AUTO:
            amount = Amount(len(messages), sum(len(one.data) for one in messages))
            self._marks[batch_id] = (self.puller.credit.window.mark(), amount)
        self.puller.pump()
        return batch_id, messages

    def why_stalled(self, pending: int | None) -> str | None:
        """Say in words why nothing is being sent, None when nothing is in the way."""
        since = self.sending_since
        return why_stalled(
            Situation(
                self.puller.credit,
                self.in_flight,
                len(self.desk.table.batches),
                self.puller.waiting.messages,
                self.puller.too_large_for,
                pending,
                self._log.connection.is_up,
                trio.current_time() - since if since is not None else 0.0,
            )
        )

    def nudge(self) -> None:
        """Look again: the connection to the log went up or down."""
        self.desk.nudge()
        self.puller.nudge()

    def look_after(self, now: float) -> None:
        """Look at leases, pulls, and whether a frame is stuck."""
        self.desk.look_after(now)
        is_stuck = self.sending_since is not None and now - self.sending_since > SEND_PATIENCE_S
        if is_stuck and not self.withdrawn:
            self.withdrawn = True
            self.puller.withdraw()
        elif not is_stuck and self.withdrawn:
            self.withdrawn = False
            self.puller.resume()
        self.puller.look_after(now)

    def close(self) -> None:
        """Give everything back."""
        self.puller.close()
        self.desk.close()

    def _settled(self, batch: Batch) -> None:
        if self._marks and not batch.left:
            marked = self._marks.pop(batch.id, None)
            if marked is not None:
                window = self.puller.credit.window
                window.settle(marked[1])
                window.measure(marked[0], trio.current_time() - batch.since)
        self.puller.pump()
        self.puller.wake()


class Outbox:
    """Frames for an agent that are no batches; `put` never waits, and `wait_room` is for who causes them."""

    def __init__(self) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._frames: deque[str] = deque()
        self._taken = trio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: str) -> None:
        """Add a frame: what an agent's words caused is bounded by `wait_room`, the rest by what it may hold."""
        self._frames.append(frame)
        self.wake()

    def take(self) -> str | None:
        """Give the oldest frame, None when there is none."""
        self._taken.set()
        return self._frames.popleft() if self._frames else None

    async def wait_room(self) -> None:
        """Wait until there are few enough to follow more words."""
        while len(self._frames) >= OUTBOX_FRAMES:
            self._taken = trio.Event()
            await self._taken.wait()


class Burier:
    """Takes messages to the dead letters, one after the other; bounded by what one agent may hold.

    Args:
        bury: does it.
    """

    def __init__(self, bury: BuryAsync) -> None:
        self._bury = bury
        self._waiting: deque[tuple[Burial, Callable[[bool], None]]] = deque()
        self._news = trio.Event()

    def bury_nowait(self, burial: Burial, then: Callable[[bool], None]) -> None:
        """Have a message buried; `then` is told whether it was."""
        self._waiting.append((burial, then))
        self._news.set()

    async def run(self) -> None:
        """Bury until cancelled; what was not buried by then is delivered again when its lease ends."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._waiting:
                burial, then = self._waiting.popleft()
                try:
                    is_there = await self._bury(*burial)
                except Fault:
                    is_there = False
                then(is_there)


async def look_after_consumer(consumer: LeasedConsumer) -> None:
    """Look after a consumer until cancelled."""
    look_s = min(LOOK_MOST_S, consumer.desk.terms.look_s)
    while True:
        await trio.sleep(look_s)
        consumer.look_after(trio.current_time())
