"""Composes who may ask: the keys, the authenticator, the guard.

Rules of the file:
- A gateway that strangers can reach and that knows nobody does not start.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

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

log = structlog.get_logger("identity")


@asynccontextmanager
async def open_identity(settings: Settings, root: Actor) -> AsyncIterator[Guard]:
    """Run the authenticator for the length of the block.

    Raises:
        Refused: strangers could reach the gateway and it would know nobody, or anybody by the demo key; or the keys
            file cannot be used.
        OSError: the data folder cannot be written.
    """
    file = KeysFile(settings.data.resolve())
    given, demo = _given_keys(settings), _demo_key(settings)
    check_exposure(settings, given | file.read())
    if settings.is_open:
        given |= demo
    secret = settings.token_secret.get_secret_value().encode() or file.token_secret()
    authenticator = Authenticator(given, demo, file, secret, settings.token_ttl_s, time.time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(supervise, root, "identity", authenticator.run, mailbox=authenticator.mailbox))
        yield Guard(authenticator, is_open=settings.is_open, origins=settings.origins)
        nursery.cancel_scope.cancel()


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
    if not len(ring):
        raise Refused(
            "request.bad-parameter",
            f"{where}, and there are no credentials: make a key with `headgate keys create`, or set HEADGATE_API_KEYS "
            "or API_GATEWAY_KEY; or listen on 127.0.0.1",
        )


def _given_keys(settings: Settings) -> KeyRing:
    ring = keys_of_setting(settings.api_keys.get_secret_value())
    if one := settings.gateway_key.get_secret_value():
        ring |= KeyRing((key_of("gateway", one, ("admin",)),))
    return ring


def _demo_key(settings: Settings) -> KeyRing:
    """Give the demo key, which is good on loopback alone: while there is no other, or while nobody needs one."""
    return KeyRing((key_of("demo", DEMO_KEY, ("admin",)),) if is_loopback(settings.host) else ())
