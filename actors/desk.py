"""A desk: where an agent's batches lie until they are settled, and where their leases are looked after.

No task of its own: sockets have one desk each, the HTTP agents of a durable share one.

Rules of the file:
- Settling never waits: verdicts go out at once, answers come back by callback.
- A confirmation is complete when the log answered or the lease certainly ended, whichever is first.
- What a desk still holds when it closes goes back to the log at once.

Back-pressure: none here; what may be handed over is bounded by `engine/credit.py`.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import trio

from engine.jetstream import JetStream
from engine.leases import Held, LeaseTerms, put_in_doubt
from engine.log import Verdict
from engine.settle import Batch, Confirmation, Outstanding
from engine.settle_book import SettleBook
from engine.settle_words import BadFrame, Settle, spans_of
from engine.spans import TellDelivery, TracedBatches
from engine.stream_v1 import Ready, encode_lost, encode_settled

OWED_MOST: Final = 20_000
"""Verdicts kept while the log is away; beyond that the log delivers again when the lease ends."""
BURIAL_AGAIN_MS: Final = 5_000
"""A message that could not be put among the dead letters is delivered again after this."""

Tell = Callable[[str], None]
"""Takes a frame for the agent; never waits."""


class Burial(NamedTuple):
    """A message that is to go to the dead letters.

    Args:
        durable: whose.
        sequence: its position in the stream.
        delivered: how often it was delivered.
        reason: the agent's, or the gateway's.
    """

    durable: str
    sequence: int
    delivered: int
    reason: str


Bury = Callable[[Burial, Callable[[bool], None]], None]
"""Puts a message among the dead letters, without waiting; calls its second argument once: True when it is there.
Only then is the message ended on the log (`+TERM`); otherwise it is delivered again."""
NakDelay = Callable[[int], int]
"""Says how many milliseconds a message waits that is given back without a delay, from its delivered count."""


class Desk:
    """The batches of one agent.

    Args:
        log: takes the verdicts.
        durable: the consumer's name.
        terms: of its leases.
        tell: takes frames for the agent.
        book: counts, and remembers what was confirmed.
        bury: takes terminated messages to the dead letters, None when they are only terminated.
        nak_delay_ms: for verdicts that name none.
        extends: leases are extended for as long as the agent may hold a batch; without it, only `progress` does.
        tell_delivery: takes traced batches that are over, None where nobody wants to know.
    """

    def __init__(
        self,
        log: JetStream,
        durable: str,
        terms: LeaseTerms,
        tell: Tell,
        book: SettleBook,
        *,
        bury: Bury | None = None,
        nak_delay_ms: NakDelay = lambda _: 0,
        extends: bool = True,
        tell_delivery: TellDelivery | None = None,
    ) -> None:
        self.table = Outstanding()
        self.terms = terms
        self.on_settled: Callable[[Batch], None] = lambda _: None
        """Called after every settling, with the batch."""
        self.last_settle_at: float | None = None
        self._log = log
        self._durable = durable
        self._tell = tell
        self._book = book
        self._bury = bury
        self._nak_delay_ms = nak_delay_ms
        self._extends = extends
        self._traced = TracedBatches(durable, tell_delivery) if tell_delivery is not None else None
        self._confirmations: set[Confirmation] = set()
        self._owed: list[tuple[str, bytes]] = []
        self._server = log.connection.info.fields.get("server_id")
        self._is_open = True

    def hand_over(self, batch_id: str, messages: list[Ready], now: float) -> None:
        """Note that a batch goes to the agent."""
        self.table.hand_over(Batch(batch_id, [one.held for one in messages], now))
        self._book.note_age("v1" if self._extends else "http", messages[0].delivery.reply, time.time_ns())
        if self._traced is not None:
            self._traced.hand_over(batch_id, [one.delivery.traces for one in messages], time.time_ns())

    def settle(self, words: Settle, now: float) -> BadFrame | None:
        """Do what a settle frame says.

        Returns:
            What was wrong with it, and then nothing was done; None when it was followed.
        """
        decision = self.table.judge(words, now)
        if isinstance(decision, BadFrame):
            return decision
        self.last_settle_at = now
        if decision is None:
            if words.confirm:
                self._tell(encode_settled(words.batch, [], [], []))
            return None
        batch, confirmation = decision.batch, decision.confirmation
        verdicts = [(index, b"+ACK") for index in decision.ack]
        for index, delay_ms in decision.nak:
            wait_ms = self._nak_delay_ms(batch.held[index].delivered) if delay_ms is None else delay_ms
            verdicts.append((index, _nak(wait_ms)))
        if self._bury is None:
            verdicts += [(index, _term(reason)) for index, reason in decision.term]
        if confirmation is None:
            self._say([(batch.held[index].reply, body) for index, body in verdicts])
        else:
            self._confirmations.add(confirmation)
            for index, body in verdicts:
                is_final = not body.startswith(Verdict.NAK.value)
                on_answer = partial(self._answered, confirmation, index, is_final)
                self._log.ask_nowait(batch.held[index].reply, body, on_answer)
        if self._bury is not None:
            for index, reason in decision.term:
                self._terminate(self._bury, batch, index, reason, confirmation)
        self._extend([batch.held[index] for index in decision.progress], now)
        for verdict, count in (
            ("ack", len(decision.ack)),
            ("nak", len(decision.nak)),
            ("term", len(decision.term)),
            ("progress", len(decision.progress)),
        ):
            self._book.verdicts[verdict] += count
        if confirmation is not None:
            self._book.late += len(confirmation.late)
            self._maybe_complete(confirmation)
        self._note_settled(batch)
        return None

    def look_after(self, now: float) -> None:
        """Extend leases, take back what was held for too long, and give up on confirmations that can only be late."""
        for confirmation in list(self._confirmations):
            over = confirmation.expire(now)
            for index in over:
                self.table.close_asked(confirmation.batch, index)
            if over:
                self._book.late += len(over)
                self._maybe_complete(confirmation)
                self._note_settled(confirmation.batch)
        for batch in self.table.overdue(now, self.terms.max_lease_s):
            self._take_back(batch, f"held for longer than {self.terms.max_lease_s:g} s, which is the most")
        if self._extends:
            self._extend(self.terms.due(self.table.held(), now), now)
        else:
            for batch in list(self.table.batches.values()):
                if not any(one.is_certain(now) for one in batch.still_held()):
                    self._book.lost += len(self.table.give_up(batch))
                    self._note_settled(batch, "lost")

    def nudge(self) -> None:
        """Look at the connection to the log again: say what is owed; doubt the leases of another server."""
        if not self._log.connection.is_up:
            return
        server = self._log.connection.info.fields.get("server_id")
        if server != self._server:
            self._server = server
            put_in_doubt(self.table.everything())
        if self._owed and self._log.say_nowait(self._owed):
            self._owed = []

    def forget(self, reason: str) -> None:
        """Take everything from the agent and give it back, because its durable was moved: later verdicts are late."""
        for batch in list(self.table.batches.values()):
            indexes = self.table.give_up(batch)
            if indexes:
                self._book.lost += len(indexes)
                self._give_back([batch.held[index] for index in indexes])
                self._tell(encode_lost(batch.id, spans_of(indexes), reason))
                self._note_settled(batch, "lost")
        self._owed = []

    def close(self) -> None:
        """Give back at once whatever is held; verdicts on their way stay on it. Twice is once."""
        if not self._is_open:
            return
        self._is_open = False
        self._give_back(list(self.table.held()))
        if self._traced is not None:
            self._traced.end_all("given back", time.time_ns())

    # ------------------------------------------------------------------ inside

    def _note_settled(self, batch: Batch, outcome: str = "settled") -> None:
        if self._traced is not None and not batch.left:
            self._traced.end(batch.id, outcome, time.time_ns())
        self.on_settled(batch)

    def _say(self, words: list[tuple[str, bytes]]) -> None:
        if words and not self._log.say_nowait(words):
            self._owed = (self._owed + words)[:OWED_MOST]  # said once the log is back

    def _give_back(self, held: list[Held]) -> None:
        now = trio.current_time()
        self._log.say_nowait([(one.reply, Verdict.NAK.value) for one in held if one.is_certain(now)])

    def _extend(self, held: list[Held], now: float) -> None:
        """Ask for more time; the answer to the last means that the log, which takes them in order, heard them all."""
        if not held:
            return
        self._log.say_nowait([(one.reply, Verdict.PROGRESS.value) for one in held[:-1]])

        def answered(is_heard: bool) -> None:
            if is_heard:
                self.terms.extended(held, now, trio.current_time())
                self._book.extended += len(held)

        self._log.ask_nowait(held[-1].reply, Verdict.PROGRESS.value, answered)

    def _answered(self, confirmation: Confirmation, index: int, is_final: bool, is_heard: bool) -> None:
        if not is_heard:
            self._failed(confirmation, index)
            return
        now = trio.current_time()
        is_confirmed = confirmation.answered(index, now)
        if is_confirmed is None:
            return
        if is_confirmed:
            self._book.confirmed += 1
            if is_final:
                held = confirmation.batch.held[index]
                self._book.remember(self._durable, held.sequence, held.reply, now)
        else:
            self._book.late += 1
        self.table.close_asked(confirmation.batch, index)
        self._maybe_complete(confirmation)

    def _failed(self, confirmation: Confirmation, index: int) -> None:
        if confirmation.fail(index):
            self._book.failed += 1
            self.table.reopen(confirmation.batch, index)
            self._maybe_complete(confirmation)

    def _maybe_complete(self, confirmation: Confirmation) -> None:
        if not confirmation.is_complete or confirmation not in self._confirmations:
            return
        self._confirmations.discard(confirmation)
        if self._is_open:
            spans = [spans_of(one) for one in (confirmation.confirmed, confirmation.late, confirmation.failed)]
            self._tell(encode_settled(confirmation.batch.id, *spans))
            self._note_settled(confirmation.batch)

    def _terminate(self, bury: Bury, batch: Batch, index: int, reason: str, confirmation: Confirmation | None) -> None:
        held = batch.held[index]

        def buried(is_there: bool) -> None:
            body = _term(reason) if is_there else _nak(BURIAL_AGAIN_MS)
            if confirmation is None:
                self._say([(held.reply, body)])
            elif is_there:
                self._log.ask_nowait(held.reply, body, partial(self._answered, confirmation, index, True))
            else:
                self._failed(confirmation, index)

        bury(Burial(self._durable, held.sequence, held.delivered, reason or "terminated by its agent"), buried)

    def _take_back(self, batch: Batch, reason: str) -> None:
        indexes = self.table.give_up(batch)
        if not indexes:
            return
        self._book.lost += len(indexes)
        self._give_back([batch.held[index] for index in indexes])
        self._tell(encode_lost(batch.id, spans_of(indexes), reason))
        self._note_settled(batch, "lost")


def _nak(delay_ms: int) -> bytes:
    return b'-NAK {"delay":%d}' % (delay_ms * 1_000_000) if delay_ms else b"-NAK"


def _term(reason: str) -> bytes:
    return b"+TERM " + reason.encode(errors="replace") if reason else b"+TERM"


def burial_verdict(reason: str, *, is_there: bool) -> bytes:
    """Give what to tell the log about a message after its burial."""
    return _term(reason) if is_there else _nak(BURIAL_AGAIN_MS)
