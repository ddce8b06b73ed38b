"""Recognises opaque tokens, by asking the server that issued them.

Rules of the file:
- However many requests bring one token at once, one question is asked about it; whoever asked and left is replaced.
- A token that is not active is not asked about again for `REFUSED_FOR_S`; one that is the authenticator remembers.
- What cannot be checked proves nothing and is not called wrong: it is unavailable, and whoever brought it comes back.
- After a failure nobody asks for `REST_S`.

Back-pressure: waits, for `AT_ONCE` questions; then sheds, as unavailable.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from engine.errors import Refused, Unavailable
from engine.identity import Principal
from engine.introspection import OWN_PREFIXES, digest_of_token, read_introspection
from engine.jwts import JwtPolicy

log = structlog.get_logger("identity")
AT_ONCE: Final = 16
MOST_WAITING: Final = 256
"""Requests that wait for an answer, the same token's included."""
REFUSED_FOR_S: Final = 10.0
MOST_REFUSED: Final = 4096
MOST_ACTIVE: Final = 4096
"""Tokens of connections that stay open, which are asked about again."""
REST_S: Final = 1.0
KNOWN_FOR_S: Final = 60.0


@dataclass(slots=True)
class Questions:
    """What has been counted since the start.

    Args:
        asked: questions sent.
        failed: questions without a usable answer.
        shed: requests told to come back, because too many waited or the server was away.
    """

    asked: int = 0
    failed: int = 0
    shed: int = 0


class _Resting(Unavailable):
    """Nobody was asked."""


@dataclass(slots=True)
class _Question:
    """One that is being asked; without an answer when it is over, whoever waits asks anew."""

    is_over: trio.Event
    answer: Principal | Refused | None = None


class Introspection:
    """Says whose opaque token this is.

    Args:
        ask: asks the server.
        policy: what an answer must say.
        known_for_s: how long an active token is taken for active, at most and within its life.
    """

    def __init__(
        self, ask: Callable[[str], Awaitable[bytes]], policy: JwtPolicy, known_for_s: float = KNOWN_FOR_S
    ) -> None:
        self.known_for_s = known_for_s
        self.counts = Questions()
        self.error: str | None = None
        self._ask = ask
        self._policy = policy
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._waiting = 0
        self._asking: dict[str, _Question] = {}
        self._refused: dict[str, float] = {}
        self._active: dict[str, str] = {}
        self._rests_until = -1.0

    def questions(self) -> dict[str, int]:
        """Count what was asked, by outcome."""
        return {"asked": self.counts.asked, "failed": self.counts.failed, "shed": self.counts.shed}

    async def recognise(self, token: str, now: float) -> Principal:
        """Say whose token this is.

        Args:
            token: as it came.
            now: seconds since the epoch.

        Raises:
            Refused: it is not active, or not for this gateway.
            Unavailable: it cannot be checked now.

        Cancellation: whoever waits for the same token asks anew.
        """
        if token.startswith(OWN_PREFIXES):
            raise _not_active()
        digest = digest_of_token(token)
        if now < self._refused.get(token, 0.0):
            raise _not_active()
        if self._waiting >= MOST_WAITING:
            self.counts.shed += 1
            raise Unavailable("identity.away", f"{MOST_WAITING} requests wait for their tokens to be checked")
        self._waiting += 1
        try:
            while (asked := self._asking.get(token)) is not None:
                await asked.is_over.wait()
                if isinstance(asked.answer, Refused):  # raised anew: a raised one grows with each raise
                    raise Refused(asked.answer.kind.code, asked.answer.detail)
                if asked.answer is not None:
                    return asked.answer
            principal = await self._question(token, now)
        finally:
            self._waiting -= 1
        self._active.pop(digest, None)
        while len(self._active) >= MOST_ACTIVE:
            del self._active[next(iter(self._active))]
        self._active[digest] = token
        return principal

    async def look_again(self, digest: str, now: float) -> None:
        """Ask again about a token that was active a while ago, for a connection that it opened.

        Raises:
            Refused: it is not active any more. Where that cannot be found out, the connection stays.
        """
        token = self._active.get(digest)
        if token is None:
            return
        try:
            await self.recognise(token, now)
        except Unavailable:
            return
        except Refused:
            self._active.pop(digest, None)
            raise

    async def _question(self, token: str, now: float) -> Principal:
        self._check_rest()
        question = self._asking[token] = _Question(trio.Event())
        try:
            async with self._limiter:
                self._check_rest()  # it may have gone away while we waited
                self.counts.asked += 1
                principal = read_introspection(await self._ask(token), token, self._policy, now)
            if principal is None:
                raise _not_active()
        except _Resting:
            raise
        except (Unavailable, ValueError) as problem:
            self.counts.failed += 1
            if self.error is None:
                log.warning("opaque tokens cannot be checked", error=str(problem))
            self.error = str(problem)[:200]
            self._rests_until = trio.current_time() + REST_S
            raise Unavailable("identity.away", f"tokens cannot be checked: {self.error}", REST_S) from None
        except Refused as refusal:
            self.error = None
            question.answer = refusal
            self._forget(token, now)
            raise
        else:
            self.error = None
            question.answer = principal
            return principal
        finally:
            del self._asking[token]
            question.is_over.set()

    def _check_rest(self) -> None:
        if trio.current_time() < self._rests_until:
            self.counts.shed += 1
            raise _Resting("identity.away", f"tokens cannot be checked: {self.error}", REST_S)

    def _forget(self, token: str, now: float) -> None:
        while len(self._refused) >= MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[token] = now + REFUSED_FOR_S


def _not_active() -> Refused:
    return Refused("identity.bad-credentials", "the API key or token is not valid here")
