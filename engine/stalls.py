"""Why nothing is sent to an agent, in words.

Rules of the file:
- No clock, no I/O. The first reason that holds is the one that is said: what the agent can do something about first.
"""

from typing import Final, NamedTuple

from engine.credit import BATCHES_LIMIT, CREDIT_LIMIT, Amount, Credit, Mode


class Situation(NamedTuple):
    """How it stands with one agent.

    Args:
        credit: what it may be sent.
        in_flight: what it holds.
        batches: in how many batches.
        waiting: what has arrived for it and is not sent.
        too_large_for: the next message is larger than so many bytes, 0 when nothing is known of it.
        pending: what the consumer has not delivered yet, None when the log did not say.
        is_log_up: the log is connected.
        sending_s: for how long the frame that is being sent has not gone, 0 when none is.
    """

    credit: Credit
    in_flight: Amount
    batches: int
    waiting: int
    too_large_for: int
    pending: int | None
    is_log_up: bool
    sending_s: float


SLOW_S: Final = 0.25
CREDIT_FORMS: Final = '{"type":"credit","messages":n,"bytes":n} or {"type":"credit","mode":"auto"}'


def why_stalled(at: Situation) -> str | None:
    """Say why nothing is being sent, None when nothing is in the way."""
    if at.sending_s > SLOW_S:
        return f"the agent does not read: a frame has been waiting in its socket for {at.sending_s:.1f} s"
    if at.credit.mode is Mode.NONE:
        return f"no credit was ever granted: send {CREDIT_FORMS}"
    if not at.is_log_up:
        return "the log is not reachable; the gateway keeps trying"
    if not at.pending and not at.waiting:
        return None
    if at.batches >= BATCHES_LIMIT:
        return f"the agent holds {at.batches} unsettled batches, which is the most"
    if at.in_flight.messages >= CREDIT_LIMIT.messages:
        return f"the agent holds {at.in_flight.messages} unsettled messages, which is the most"
    room = at.credit.room(at.in_flight)
    held = f"{at.in_flight.messages} messages ({at.in_flight.bytes} bytes) in {at.batches} batches are unsettled"
    if at.credit.mode is Mode.AUTO and (room.messages <= 0 or room.bytes <= 0):
        return f"the window is full: {held}"
    for what, left in (("message", room.messages), ("byte", room.bytes)):
        if left <= 0:
            return f"the {what} credit is used up; {held}"
    if at.too_large_for and at.in_flight.messages:
        return (
            f"the next message is larger than the byte credit of {room.bytes}: grant more, or settle everything, "
            "and it comes alone"
        )
    return None
