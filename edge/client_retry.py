"""What can go wrong between a client and the gateway, and when to try again.

Rules of the file:
- An error says what the caller can do next, as the gateway's own table does: `GatewayRefused` (change something),
  `GatewayUnavailable` (nothing happened, try again), `OutcomeUnknown` (it may have happened), `GatewayBroken` (a bug).
- "Nothing happened" is said only where the gateway's problem body said so, or where no connection was opened. A bare
  503 may come from a proxy that had already passed the request on: its outcome is unknown.
- No I/O, no clock: `Backoff` returns delays, who calls it sleeps.

What must change with it: `engine/errors.py` has the codes; a new close code or status there needs no change here as
long as it keeps to the ranges.
"""

from collections.abc import Mapping
from random import Random, SystemRandom
from typing import Final

import msgspec

from engine.errors import KINDS, Situation

FIRST_DELAY_S: Final = 0.1
"""Ceiling of the first delay; it doubles with each try."""
MOST_DELAY_S: Final = 5.0
"""Ceiling of every later one: a gateway that is back is found within seconds, by clients spread over them."""
MOST_RETRY_AFTER_S: Final = 60.0
"""A longer `Retry-After` is taken for this one: no server may park a client for a day."""

_GIVE_UP_CLOSE_CODES: Final = frozenset({1002, 1003, 1007, 1008, 1009, 1010, *range(4500, 5000)})
"""The peer will say the same next time: protocol errors, policy, too big (RFC 6455, 7.4.1), and the gateway's own."""


class GatewayError(Exception):
    """Something went wrong between this client and the gateway.

    Args:
        message: for a person, one line.
        retry_after_s: when the gateway asked to be asked again, seconds; None when it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GatewayRefused(GatewayError):
    """The gateway will not do this, now or later; the caller must change something.

    Args:
        status: the HTTP status, or the WebSocket close code.
        code: the gateway's stable code of the situation, empty when it gave none.
    """

    def __init__(self, message: str, *, status: int, code: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status
        self.code = code


class GatewayUnavailable(GatewayError):
    """Nothing happened; the same request may succeed later."""


class GatewayUnreachable(GatewayUnavailable):
    """No connection to the gateway could be opened."""


class OutcomeUnknown(GatewayError):
    """The request may or may not have taken effect; repeat it only where that is harmless."""


class GatewayBroken(GatewayError):
    """The gateway has a bug, or what answered is no headgate gateway."""


class _Problem(msgspec.Struct):
    code: str = ""
    title: str = ""
    detail: str = ""
    line: int | None = None
    column: int | None = None


def explain_answer(status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """Turn an answer that is not a success into the error that it means.

    Args:
        headers: names in lower case.
        body: whatever came; an RFC 9457 problem is read, anything else is quoted in part.
    """
    problem = _read_problem(body)
    text = problem.detail or problem.title or body[:200].decode(errors="replace").strip() or "no explanation"
    if problem.line is not None and "at line" not in text:
        text += f", at line {problem.line} column {problem.column}"
    message = f"the gateway answered {status}: {text}"
    retry_after_s = _read_retry_after(headers.get("retry-after"))
    kind = KINDS.get(problem.code)
    if kind is not None and kind.situation is Situation.UNKNOWN:
        return OutcomeUnknown(message, retry_after_s=retry_after_s)
    if (kind is not None and kind.situation is Situation.UNAVAILABLE) or status in {421, 429}:
        return GatewayUnavailable(message, retry_after_s=retry_after_s)
    if status in {408, 502, 503, 504}:
        return OutcomeUnknown(message, retry_after_s=retry_after_s)
    if 400 <= status < 500 or (kind is not None and kind.situation is Situation.REFUSED):
        return GatewayRefused(message, status=status, code=problem.code, retry_after_s=retry_after_s)
    return GatewayBroken(message, retry_after_s=retry_after_s)


def explain_refused_upgrade(status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """Turn a refused WebSocket upgrade into the error that it means.

    An upgrade has no effect that could be repeated, so whatever may pass is `GatewayUnavailable`.
    """
    error = explain_answer(status, headers, body)
    if status >= 500 or isinstance(error, OutcomeUnknown):
        return GatewayUnavailable(str(error), retry_after_s=error.retry_after_s)
    return error


def explain_close(code: int, reason: str = "") -> GatewayError:
    """Turn the end of a WebSocket into the error that it means.

    Returns:
        `GatewayRefused` where coming back is of no use; `GatewayUnavailable` for everything else: 1001, 1011, 1012,
        1013, 4000 to 4499, a connection that was lost (1006), and codes that mean nothing here.
    """
    text = f": {reason}" if reason else ""
    if code in _GIVE_UP_CLOSE_CODES:
        return GatewayRefused(f"the gateway closed the stream for good, code {code}{text}", status=code)
    if code == 1006:
        return GatewayUnavailable(f"the connection to the gateway was lost{text}")
    return GatewayUnavailable(f"the gateway closed the stream, code {code}{text}")


class Backoff:
    """The delays between tries: exponential, with full jitter.

    Full jitter (a uniform choice between nothing and the ceiling) spreads the clients that one restart has cut off
    better than any fixed share of the ceiling does.

    Args:
        random: where the jitter comes from.
    """

    def __init__(
        self, *, first_s: float = FIRST_DELAY_S, most_s: float = MOST_DELAY_S, random: Random | None = None
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._random = random or SystemRandom()
        self._tries = 0

    def next_delay_s(self, retry_after_s: float | None = None) -> float:
        """Say how long to wait before the next try.

        Args:
            retry_after_s: what the server asked for; it is a least, and the jitter comes on top.
        """
        ceiling_s = min(self._most_s, self._first_s * 2.0 ** min(self._tries, 32))
        self._tries += 1
        least_s = min(max(retry_after_s or 0.0, 0.0), MOST_RETRY_AFTER_S)
        return least_s + self._random.uniform(0.0, ceiling_s)

    def reset(self) -> None:
        """Begin again with the shortest delay, because something went well."""
        self._tries = 0


def _read_problem(body: bytes) -> _Problem:
    try:
        return msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Problem()


def _read_retry_after(text: str | None) -> float | None:
    """Read the seconds form; the date form depends on two clocks and is left out."""
    if text is None or not text.strip().isdecimal() or len(text) > 9:
        return None
    return float(text)


def is_header_text(text: str) -> bool:
    """Say whether a header can carry a text."""
    return text.isascii() and text.isprintable()


def say_cause(error: Exception) -> str:
    """Say why, in the words of whoever has some: httpx2 wraps the reason and often has none of its own."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause or type(error).__name__)
