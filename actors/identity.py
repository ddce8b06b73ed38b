"""Recognises who asks, and follows the keys file.

Rules of the file:
- What a credential proved is remembered within its life, in a bounded table; what it did not prove is not remembered.
- A key that is revoked is gone within `FOLLOW_EVERY_S`, and its tokens with it.
- A keys file that cannot be read changes nothing: the keys that were good stay good, and the log says so.

Back-pressure: the table forgets the oldest.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import structlog
import trio

from actors.tree import Actor, Mailbox
from engine.errors import Fault, Refused
from engine.identity import Kind, Principal
from engine.keys import KeyRecord, KeyRing
from engine.keys_file import KeysFile, Stamp
from engine.tokens import PREFIX, make_token, read_token

if TYPE_CHECKING:
    from engine.signing import SeenSignatures, Signed

log = structlog.get_logger("identity")
FOLLOW_EVERY_S: Final = 1.0
SIGNATURE_WINDOW_S: Final = 60.0
MOST_KNOWN: Final = 4096
"""Credentials remembered at once: more agents than a gateway has connections by default."""
KNOWN_FOR_S: Final = 60.0


class OpaqueTokens(Protocol):
    """What knows opaque tokens.

    Args:
        known_for_s: how long one that is active is not asked about again.
    """

    known_for_s: float

    def questions(self) -> dict[str, int]:
        """Count what was asked, by a closed set of outcomes."""

    async def recognise(self, token: str, now: float) -> Principal:
        """Say whose token this is; raises where it is nobody's, or cannot be checked."""

    async def look_again(self, digest: str, now: float) -> None:
        """Raise when a token is not active any more."""


class _Known(NamedTuple):
    principal: Principal
    until: float


@dataclass(slots=True)
class Counts:
    """How often credentials were looked at.

    Args:
        recognised: they were good, whether remembered or not.
        refused: they were not.
    """

    recognised: int = 0
    refused: int = 0


class Authenticator:
    """Turns a credential into a principal.

    Args:
        given: keys of the environment.
        fallback: keys that are good while there are no others.
        file: keys of the data folder, read once already.
        secret: signs tokens.
        token_ttl_s: how long a token lives.
        clock: seconds since the epoch.
        jwts: says whose JSON Web Token this is, given it and the time; None where none is taken.
        opaque: what knows opaque tokens, None where none is taken.
        signature_window_s: how old a request's signature may be, seconds.
    """

    def __init__(
        self,
        given: KeyRing,
        fallback: KeyRing,
        file: KeysFile,
        secret: bytes,
        token_ttl_s: int,
        clock: Callable[[], float],
        jwts: Callable[[str, float], Awaitable[Principal]] | None = None,
        opaque: OpaqueTokens | None = None,
        signature_window_s: float = SIGNATURE_WINDOW_S,
    ) -> None:
        self.counts = Counts()
        self.token_ttl_s = token_ttl_s
        self._given = given
        self._fallback = fallback
        self._file = file
        self._secret = secret
        self._clock = clock
        self._jwts = jwts
        self._opaque = opaque
        self._window_s = signature_window_s
        self._seen: SeenSignatures | None = None
        self._known: dict[str, _Known] = {}
        """By the credential as `Authorization` has it, so that what most clients send is looked up as it comes."""
        self._stamp: Stamp | None = None
        self._ring = KeyRing()
        self._take_file()

    def questions(self) -> dict[str, int] | None:
        """Count what was asked about opaque tokens, by outcome; None where none is taken."""
        return None if self._opaque is None else self._opaque.questions()

    def mailbox(self) -> Mailbox:
        """Say how many credentials are remembered."""
        return Mailbox(len(self._known), MOST_KNOWN)

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Follow the keys file, for ever."""
        ready()
        while True:
            await trio.sleep(FOLLOW_EVERY_S)
            try:
                if self._file.stamp() != self._stamp:
                    self._take_file()
                    log.info("the keys were read again", keys=len(self._ring))
            except (Fault, OSError) as problem:
                log.error("the keys cannot be read; those from before stay good", error=str(problem))

    def recall(self, bearer: str) -> Principal | None:
        """Say whose credential this is if it was recognised a while ago; None says nothing.

        Args:
            bearer: `Bearer`, a space, and the credential.
        """
        known = self._known.get(bearer)
        if known is None or self._clock() >= known.until:
            return None
        self.counts.recognised += 1
        return known.principal

    async def recognise(self, credential: str) -> Principal:
        """Say whose credential this is.

        Raises:
            Refused: nobody's, or no longer.
        """
        bearer = f"Bearer {credential}"
        remembered = self.recall(bearer)
        if remembered is not None:
            return remembered
        now = self._clock()
        try:
            principal = await self._look_at(credential, now)
        except Refused:
            self.counts.refused += 1
            raise
        self._remember(bearer, principal, now)
        self.counts.recognised += 1
        return principal

    def recognise_signed(self, method: str, target: str, headers: Mapping[str, str]) -> "tuple[Principal, Signed]":
        """Say who signed a request; its body is still to be held to what was signed.

        Raises:
            Refused: nobody whose signature is good here, or it was used before.
            Unavailable: too many signatures are remembered.
        """
        from engine.signing import SeenSignatures, read_key_id, verify_request  # noqa: PLC0415  # with its libraries

        now = self._clock()
        try:
            record = self._ring.find(read_key_id(headers["signature-input"]))
            if record is None or not record.signing or not record.is_live(now):
                raise Refused("identity.bad-signature", "the key that signed is not valid here, or does not sign")
            signed = verify_request(bytes.fromhex(record.signing), method, target, headers, now, self._window_s)
            if self._seen is None:
                self._seen = SeenSignatures(self._window_s)
            self._seen.add(signed.mark, now)
        except Refused:
            self.counts.refused += 1
            raise
        self.counts.recognised += 1
        return record.principal(), signed

    def exchange(self, credential: str) -> tuple[str, int]:
        """Give a short-lived token for an API key, and its life in seconds.

        Raises:
            Refused: it is not a key that is good here; a token is not exchanged for another, or it would live for ever.
        """
        now = self._clock()
        record = self.find_key(credential)
        expires_at = now + self.token_ttl_s
        if record.expires_at is not None:
            expires_at = min(expires_at, record.expires_at)
        self.counts.recognised += 1
        return make_token(self._secret, record.id, expires_at), max(1, int(expires_at - now))

    def find_key(self, credential: str) -> KeyRecord:
        """Give the API key that this is.

        Raises:
            Refused: it is none that is good here.
        """
        record = self._ring.recognise(credential, self._clock())
        if record is None or record.signing:
            self.counts.refused += 1
            if record is not None:
                raise _must_sign()
            raise Refused("identity.bad-credentials", "expected an API key that is valid here, as a bearer")
        return record

    def check_still(self, principal: Principal) -> None:
        """Look again at somebody who was recognised a while ago.

        A connection that was opened with a token outlives it for as long as its key is good.

        Raises:
            Refused: the key is gone, or the proof has expired.
        """
        now = self._clock()
        if principal.kind in {Kind.KEY, Kind.TOKEN}:
            record = self._ring.find(principal.key_id)
            if record is None or not record.is_live(now):
                raise Refused("identity.bad-credentials", "the key was revoked, or has expired")
        elif principal.expires_at is not None and now >= principal.expires_at:
            raise Refused("identity.expired", "the token has expired; come back with another")

    async def look_again(self, principal: Principal) -> None:
        """Look again at somebody whose connection stays open, and ask whoever has to be asked.

        Raises:
            Refused: as `check_still`; or their opaque token is not active any more.
        """
        self.check_still(principal)
        if self._opaque is not None and principal.kind is Kind.OPAQUE:
            await self._opaque.look_again(principal.key_id, self._clock())

    def left_s(self, principal: Principal) -> float:
        """Say how long `check_still` will be content with somebody if nothing changes; infinity has no end."""
        if principal.kind in {Kind.KEY, Kind.TOKEN}:
            record = self._ring.find(principal.key_id)
            ends_at = record.expires_at if record is not None else 0.0
        else:
            ends_at = principal.expires_at
        return inf if ends_at is None else max(0.0, ends_at - self._clock())

    async def _look_at(self, credential: str, now: float) -> Principal:
        if credential.startswith(PREFIX):
            token = read_token(self._secret, credential, now)
            owner = self._ring.find(token.key_id) if token is not None else None
            if token is None or owner is None or not owner.is_live(now):
                raise Refused("identity.bad-credentials", "the token is not valid here, or has expired")
            return owner.principal(Kind.TOKEN, token.expires_at)
        record = self._ring.recognise(credential, now)
        if record is not None:
            if record.signing:
                raise _must_sign()
            return record.principal()
        if self._jwts is not None and credential.count(".") == 2:
            return await self._jwts(credential, now)
        if self._opaque is not None:
            return await self._opaque.recognise(credential, now)
        raise Refused("identity.bad-credentials", "the API key or token is not valid here")

    def _remember(self, bearer: str, principal: Principal, now: float) -> None:
        while len(self._known) >= MOST_KNOWN:
            del self._known[next(iter(self._known))]
        until = now + KNOWN_FOR_S
        if self._opaque is not None and principal.kind is Kind.OPAQUE:
            until = now + self._opaque.known_for_s
        self._known[bearer] = _Known(
            principal, until if principal.expires_at is None else min(until, principal.expires_at)
        )

    def _take_file(self) -> None:
        stamp = self._file.stamp()
        ring = self._given | self._file.read()
        self._stamp = stamp
        kept = ring if len(ring) else self._fallback
        if kept != self._ring:  # the file holds more than keys
            self._ring = kept
            self._known.clear()
        if not len(ring) and len(self._fallback):
            log.warning("nobody made a key: the demo key opens everything", key_id=self._fallback.records[0].id)


def _must_sign() -> Refused:
    return Refused("identity.bad-signature", "this key signs its requests; shown as it is, it opens nothing")
