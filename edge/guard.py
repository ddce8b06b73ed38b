"""The one guard of both lanes: who asks, whether they may, before a body is read.

Rules of the file:
- No credential is put into an answer, a log line, or what a handler sees of a WebSocket's subprotocols.
- While authentication is off nobody's credentials are looked at, but pages of other origins are still kept out.

Source: RFC 6750; `RELIABILITY.md` 4.5.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import trio
from trio_websocket import WebSocketConnection

from actors.identity import Authenticator
from actors.limits import Limiter
from edge.http import Request
from edge.sockets import close_socket
from engine.errors import Refused
from engine.identity import NOBODY, OPEN, Kind, Principal, Scope
from engine.limits import Judgement, address_of
from engine.settings_identity import is_loopback
from engine.slots import Hold

if TYPE_CHECKING:
    from engine.signing import Signed

BEARER_PROTOCOL: Final = "headgate.bearer"
"""The subprotocol that a page offers beside `headgate.bearer.<token>`, because browsers want one chosen."""
LOOK_AGAIN_EVERY_S: Final = 60.0
LOOK_AGAIN_LEAST_S: Final = 0.05
MOST_CREDENTIAL_CHARS: Final = 8192
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Passed(NamedTuple):
    """A request that the guard let pass.

    Args:
        principal: who asks.
        judgements: how much more they may ask, which their answer says.
        hold: what is given back when the request is over, None where nothing; whoever is given this sees to it.
        signed: what their body must be, where they signed the request.
    """

    principal: Principal
    judgements: Sequence[Judgement] = ()
    hold: Hold | None = None
    signed: "Signed | None" = None


class Guard:
    """Decides who passes.

    Args:
        authenticator: knows who they are.
        is_open: authentication is off.
        origins: whose pages may talk to the gateway; `*` for all.
        trusted: networks of proxies whose word about their client's address counts.
        look_again_s: how often whoever opened a WebSocket is looked at again.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        is_open: bool,
        origins: frozenset[str],
        trusted: tuple[str, ...] = (),
        look_again_s: float = LOOK_AGAIN_EVERY_S,
    ) -> None:
        self.authenticator = authenticator
        self.is_open = is_open
        self.limiter: Limiter | None = None
        self.origins = origins
        self._trusted = trusted
        self._look_again_s = look_again_s

    async def admit(
        self,
        method: str,
        headers: dict[str, str],
        peer: str,
        scope: Scope | None,
        limits: tuple[str, ...] = (),
        target: str = "",
    ) -> Passed:
        """Let a request pass.

        Args:
            method: upper case.
            headers: names in lower case to values.
            peer: the connection's other end.
            scope: what the route asks for, None when it is public.
            limits: policies of the route, beside those of its scope; of requests a window, or at once.
            target: as sent, which a signature covers.

        Raises:
            Refused: it may not; 401 or 403.
            Unavailable: it is over a limit; 429.
        """
        limiter, principal = self.limiter, NOBODY
        signed: Signed | None = None
        if self.is_open:
            principal = OPEN
            if "origin" in headers and method not in _SAFE:
                self.check_origin(headers)
        elif scope is not None:
            known = self._recall(headers)
            if known is None:
                known, signed = await self._look_at(method, headers, peer, scope, target)
            known.check_scope(scope)
            principal = known
        if limiter is None or (scope is None and not limits):
            return Passed(principal, signed=signed)
        policies = limiter.find_for(scope, limits)
        slots = limiter.find_slots(limits) if limits else ()
        if not policies and not slots:
            return Passed(principal, signed=signed)
        is_known = principal.kind is not Kind.OPEN
        who = f"p:{principal.subject}" if is_known else f"a:{self.address(headers, peer)}"
        if slots:
            return Passed(principal, *await limiter.take_slots(slots, policies, who), signed)
        return Passed(principal, await limiter.take(policies, who), None, signed)

    def _recall(self, headers: dict[str, str]) -> Principal | None:
        """Say who asks where that is known already, without a closer look; None says nothing."""
        authorization = headers.get("authorization")
        key = headers.get("x-api-key")
        if authorization is None:
            return None if key is None else self.authenticator.recall(f"Bearer {key}")
        return self.authenticator.recall(authorization) if key is None else None

    async def _look_at(
        self, method: str, headers: dict[str, str], peer: str, scope: Scope, target: str
    ) -> tuple[Principal, "Signed | None"]:
        """Say who asks, and what their body must be; guessing is counted."""
        try:
            if "signature-input" in headers and "authorization" not in headers and "x-api-key" not in headers:
                return self.authenticator.recognise_signed(method, target, headers)
            credential = credential_of(headers)
            if credential is None:
                raise Refused("identity.no-credentials", f"expected an API key or a token with the scope {scope}")
            return await self.authenticator.recognise(credential), None
        except Refused as refusal:
            if self.limiter is not None and refusal.kind.status == 401:
                await self.limiter.take(self.limiter.find(("ip",)), f"a:{self.address(headers, peer)}")
            raise

    def address(self, headers: dict[str, str], peer: str) -> str:
        """Give where a request comes from, behind the proxies that are trusted."""
        return address_of(peer, headers.get("x-forwarded-for", ""), self._trusted)

    async def admit_socket(self, request: Request, scope: Scope | None) -> Principal:
        """Let a WebSocket request pass; its subprotocols show no token afterwards.

        Raises:
            Refused: it may not; 401 or 403.
        """
        headers = request.headers
        if "origin" in headers:
            self.check_origin(headers)
        offered = headers.get("sec-websocket-protocol", "")
        if f"{BEARER_PROTOCOL}." in offered:
            names = [name.strip() for name in offered.split(",")]
            tokens = [name for name in names if name.startswith(f"{BEARER_PROTOCOL}.")]
            if len(tokens) > 1 or "authorization" in headers or "x-api-key" in headers:
                raise Refused("identity.bad-credentials", "expected one token, in one place")
            plain = ", ".join(name for name in names if name not in tokens)
            request.headers = {name: value for name, value in headers.items() if name != "sec-websocket-protocol"}
            if plain:
                request.headers["sec-websocket-protocol"] = plain
            token = tokens[0].removeprefix(f"{BEARER_PROTOCOL}.")
            headers = {**request.headers, "authorization": f"Bearer {token}"}
        return (await self.admit("GET", headers, request.peer, scope, target=request.target)).principal

    def check_origin(self, headers: dict[str, str]) -> None:
        """Keep out pages of other origins, which a browser lets send what it would not let them read.

        While authentication is off, the page's host must be a name of this machine too: a name that somebody else
        owns may point here.

        Raises:
            Refused: 403.
        """
        origin = headers["origin"].lower()
        if "*" in self.origins or origin in self.origins:
            return
        try:
            parts = urlsplit(origin)
            host = parts.hostname or ""
        except ValueError:
            parts, host = urlsplit(""), ""
        is_ours = bool(parts.netloc) and parts.netloc == headers.get("host", "").lower()
        if not is_ours or (self.is_open and not is_loopback(host)):
            raise Refused("identity.bad-origin", "the page's origin is not in CORS_ORIGINS")

    async def watch_socket(self, principal: Principal, socket: WebSocketConnection) -> None:
        """Close a WebSocket when whoever opened it may no longer: an expiry is seen at once, a withdrawal at a look."""
        while True:
            left_s = self.authenticator.left_s(principal)
            await trio.sleep(max(LOOK_AGAIN_LEAST_S, min(left_s, self._look_again_s)))
            try:
                await self.authenticator.look_again(principal)
            except Refused as refusal:
                await close_socket(socket, refusal.kind.close_code, refusal.kind.title)
                return


def credential_of(headers: dict[str, str]) -> str | None:
    """Take the credential out of a request, None when there is none.

    Raises:
        Refused: it is not one that could be good, or there are two.
    """
    key = headers.get("x-api-key")
    authorization = headers.get("authorization")
    if authorization is None:
        credential = key
    else:
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Refused("identity.bad-credentials", "Authorization: expected `Bearer` and an API key or a token")
        credential = credential.strip(" ")
        if key is not None and key != credential:
            raise Refused("identity.bad-credentials", "expected X-API-Key or Authorization, not two credentials")
    if credential is None:
        return None
    if len(credential) > MOST_CREDENTIAL_CHARS or not _CREDENTIAL.match(credential):
        raise Refused(
            "identity.bad-credentials", f"expected an API key or a token of at most {MOST_CREDENTIAL_CHARS} characters"
        )
    return credential
