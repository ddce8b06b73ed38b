"""Recognises JSON Web Tokens, and keeps the key set that signs them fresh.

Rules of the file:
- One task fetches: however many tokens name a key that is not known, the set is asked for at most every
  `LEAST_PAUSE_S`, and by nobody else.
- While the set cannot be fetched, the keys from before stay good.
- Whoever waits for a fetch waits within a bound, and only so many do.

Back-pressure: sheds, as 401: a token that cannot be checked proves nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio

from actors.tree import Actor
from engine.errors import Refused, Unavailable
from engine.identity import Principal
from engine.jwts import JwtHeader, JwtKey, JwtPolicy, find_key, keys_of_jwks, read_jwt_header, verify_jwt

log = structlog.get_logger("identity")
REFRESH_EVERY_S: Final = 300.0
"""A key that its owner took out of the set is good here for about so long."""
RETRY_EVERY_S: Final = 30.0
LEAST_PAUSE_S: Final = 10.0
WAIT_WITHIN_S: Final = 6.0
MOST_WAITING: Final = 64


class JwtKeys:
    """Knows who signed a token.

    Args:
        policy: what every token must say.
        given: the environment's keys.
        fetch: gets the key set, None where there is none.
    """

    def __init__(
        self, policy: JwtPolicy, given: Sequence[JwtKey], fetch: Callable[[], Awaitable[bytes]] | None
    ) -> None:
        self.error: str | None = None
        self.fetches = 0
        self._policy = policy
        self._given = given
        self._fetch = fetch
        self._fetched: list[JwtKey] | None = None if fetch is None else []
        self._wanted = trio.Event()
        self._round = trio.Event()
        self._is_resting = False
        self._waiting = 0

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Keep the key set fresh, for ever; there is nothing to do where there is none."""
        ready()
        while self._fetch is not None:
            await self._refresh(self._fetch)
            self._is_resting = True
            self._wanted = trio.Event()  # whoever wanted this fetch has it
            round_over, self._round = self._round, trio.Event()
            round_over.set()
            with trio.move_on_after(REFRESH_EVERY_S if self.error is None else RETRY_EVERY_S):
                await trio.sleep(LEAST_PAUSE_S)
                self._is_resting = False
                await self._wanted.wait()
            self._is_resting = False

    async def recognise(self, token: str, now: float) -> Principal:
        """Say whose token this is.

        Args:
            token: three parts.
            now: seconds since the epoch.

        Raises:
            Refused: nobody's, or no longer.
        """
        header = read_jwt_header(token)
        key = self._find(header)
        if key is None and self._fetch is not None and not self._is_resting and self._waiting < MOST_WAITING:
            await self._wait_fetched()
            key = self._find(header)
        if key is None:
            raise Refused("identity.bad-credentials", "no key that is known here signs such a token")
        return verify_jwt(token, key, self._policy, now)

    def _find(self, header: JwtHeader) -> JwtKey | None:
        return find_key(header, self._given, self._fetched)

    async def _wait_fetched(self) -> None:
        self._waiting += 1
        try:
            with trio.move_on_after(WAIT_WITHIN_S):
                this_round = self._round
                self._wanted.set()
                await this_round.wait()
        finally:
            self._waiting -= 1

    async def _refresh(self, fetch: Callable[[], Awaitable[bytes]]) -> None:
        self.fetches += 1
        try:
            keys = keys_of_jwks(await fetch())
        except (Unavailable, ValueError) as problem:
            if self.error is None:
                log.warning("the key set cannot be had; keys from before stay good", error=str(problem))
            self.error = str(problem)
        else:
            self._fetched = keys
            self.error = None
