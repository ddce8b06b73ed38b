"""Composes who may ask: the keys, the authenticator, the guard.

Rules of the file:
- A gateway that strangers can reach and that knows nobody does not start.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from actors.identity import Authenticator
from actors.tree import Actor, supervise
from edge.guard import Guard
from engine.errors import Refused
from engine.keys import DEMO_KEY, KeyRing, digest_of, key_of, keys_of_setting
from engine.keys_file import KeysFile
from engine.settings import Settings
from engine.settings_identity import is_loopback

if TYPE_CHECKING:
    from actors.introspection import Introspection
    from actors.jwks import JwtKeys

log = structlog.get_logger("identity")
CLOSE_WITHIN_S = 2.0


@asynccontextmanager
async def open_identity(settings: Settings, root: Actor) -> AsyncIterator[Guard]:
    """Run the authenticator for the length of the block.

    Raises:
        Refused: strangers could reach the gateway and it would know nobody, or anybody by the demo key; or the keys
            file cannot be used.
        OSError: the data folder cannot be written.
    """
    file = KeysFile(settings.data.resolve())
    given, demo = given_keys(settings), _demo_key(settings)
    check_exposure(settings, given | file.read())
    if settings.is_open:
        given |= demo
    secret = settings.token_secret.get_secret_value().encode() or file.token_secret()
    jwts = _jwt_keys(settings)
    if settings.takes_others:
        demo = KeyRing()  # there are credentials
    recognise = None if jwts is None else jwts.recognise
    async with open_introspection(settings) as opaque, trio.open_nursery() as nursery:
        authenticator = Authenticator(
            given,
            demo,
            file,
            secret,
            settings.token_ttl_s,
            time.time,
            recognise,
            opaque,
            settings.signature_window_s,
        )
        nursery.start_soon(partial(supervise, root, "identity", authenticator.run, mailbox=authenticator.mailbox))
        if jwts is not None:
            nursery.start_soon(partial(supervise, root, "jwks", jwts.run))
        yield Guard(
            authenticator,
            is_open=settings.is_open,
            origins=settings.origins,
            trusted=settings.trusted_networks,
            look_again_s=settings.recheck_s,
        )
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_introspection(settings: Settings) -> "AsyncIterator[Introspection | None]":
    """Have somebody to ask about opaque tokens for the length of the block, None where none is taken.

    Raises:
        Refused: there is a secret and nobody whose it is.
    """
    if not settings.introspection_url:
        yield None
        return
    from actors.introspection import Introspection
    from engine.introspection_http import IntrospectionEndpoint
    from engine.jwts import JwtPolicy

    secret = settings.introspection_client_secret.get_secret_value()
    if secret and not settings.introspection_client_id:
        raise Refused("request.bad-parameter", "AUTH_INTROSPECTION_CLIENT_ID: expected, because there is its secret")
    endpoint = IntrospectionEndpoint(settings.introspection_url, settings.introspection_client_id, secret)
    policy = JwtPolicy(settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway_s)
    try:
        yield Introspection(endpoint.ask, policy, settings.introspection_cache_s)
    finally:
        with trio.move_on_after(CLOSE_WITHIN_S, shield=True):  # bounded by its own deadline
            await endpoint.aclose()


def check_exposure(settings: Settings, ring: KeyRing) -> None:
    """Refuse to start where strangers could do what they like.

    Raises:
        Refused: the text says what to set.
    """
    if is_loopback(settings.host):
        return
    where = f"HEADGATE_HOST: {settings.host} is reached from other machines"
    if settings.is_open:
        raise Refused("request.bad-parameter", f"AUTH: expected on or auto, because {where}")
    if any(record.digest == digest_of(DEMO_KEY) for record in ring.records):
        raise Refused(
            "request.bad-parameter",
            f"{where}, and the demo key is among the keys; take it out of API_GATEWAY_KEY, HEADGATE_API_KEYS and "
            "`headgate keys`",
        )
    if not len(ring) and not settings.takes_others:
        raise Refused(
            "request.bad-parameter",
            f"{where}, and there are no credentials: make a key with `headgate keys create`, or set HEADGATE_API_KEYS "
            "or API_GATEWAY_KEY, or take others' tokens by JWKS_URL or AUTH_INTROSPECTION_URL; or listen on 127.0.0.1",
        )


def _jwt_keys(settings: Settings) -> "JwtKeys | None":
    if not settings.takes_jwts:
        return None
    from actors.jwks import JwtKeys
    from engine.jwks import fetch_jwks
    from engine.jwts import JwtKey, JwtPolicy, key_of_pem

    needed = {"JWT_ISSUER": settings.jwt_issuer, "JWT_AUDIENCE": settings.jwt_audience}
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise Refused("request.bad-parameter", f"{' and '.join(missing)}: expected, because JSON Web Tokens are taken")
    given: list[JwtKey] = []
    if secret := settings.jwt_secret.get_secret_value():
        given.append(JwtKey("", "HS256", secret.encode()))
    if settings.jwt_public_key:
        given.append(key_of_pem(settings.jwt_public_key))
    policy = JwtPolicy(settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway_s)
    return JwtKeys(policy, given, partial(fetch_jwks, settings.jwks_url) if settings.jwks_url else None)


def given_keys(settings: Settings) -> KeyRing:
    """Give the keys that the settings name."""
    ring = keys_of_setting(settings.api_keys.get_secret_value())
    if one := settings.gateway_key.get_secret_value():
        ring |= KeyRing((key_of("gateway", one, ("admin",)),))
    return ring


def _demo_key(settings: Settings) -> KeyRing:
    """Give the demo key, which is good on loopback alone: while there is no other, or while nobody needs one."""
    return KeyRing((key_of("demo", DEMO_KEY, ("admin",)),) if is_loopback(settings.host) else ())
