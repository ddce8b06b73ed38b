"""The authenticator: what it remembers, what it forgets, what it follows."""

from pathlib import Path

import pytest
import trio
import trio.testing

from actors.identity import FOLLOW_EVERY_S, KNOWN_FOR_S, MOST_KNOWN, Authenticator
from actors.tree import Actor
from engine.errors import Refused
from engine.identity import Kind, Principal
from engine.keys import KeyRing, key_of
from engine.keys_file import KeysFile

KEY = "secret-0123456789"


class Clock:
    """The wall's clock, moved by a test."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


def make(folder: Path, clock: Clock, *keys: str) -> Authenticator:
    """An authenticator with these keys of the environment."""
    ring = KeyRing(tuple(key_of(f"k{number}", key, ("stream:read",)) for number, key in enumerate(keys)))
    return Authenticator(ring, KeyRing(), KeysFile(folder), b"s" * 32, 900, clock)


async def test_what_is_remembered_ends_with_its_life(tmp_path: Path) -> None:
    """A token is good for its time, remembered or not."""
    clock = Clock()
    found = make(tmp_path, clock, KEY)
    token, expires_in_s = found.exchange(KEY)
    assert expires_in_s == 900
    assert (await found.recognise(token)).kind is Kind.TOKEN
    clock.now += KNOWN_FOR_S / 2
    assert (await found.recognise(token)).kind is Kind.TOKEN
    clock.now += 899 - KNOWN_FOR_S / 2
    assert (await found.recognise(token)).kind is Kind.TOKEN
    clock.now += 1
    with pytest.raises(Refused):
        await found.recognise(token)


async def test_overloaded_it_forgets_the_oldest(tmp_path: Path) -> None:
    """A million tokens cost no more memory than the table's bound; wrong ones are not remembered at all."""
    clock = Clock()
    found = make(tmp_path, clock, KEY)
    for number in range(MOST_KNOWN + 500):
        clock.now += 1 / 1024
        token, _ = found.exchange(KEY)
        if number % 8 == 0:
            with pytest.raises(Refused):
                await found.recognise(f"{token[:-1]}~")
        await found.recognise(token + "" if number else KEY)
    assert found.mailbox().depth <= MOST_KNOWN
    assert found.counts.refused == (MOST_KNOWN + 500 + 7) // 8


async def test_a_token_of_a_key_that_is_gone_opens_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Revoking is followed within the interval, also for what is remembered and for who is connected."""
    clock = Clock()
    file = KeysFile(tmp_path)
    record = key_of("one", KEY, ("stream:read",))
    file.change(lambda ring: ring.with_key(record))
    found = make(tmp_path, clock)
    token, _ = found.exchange(KEY)
    principal = await found.recognise(token)
    found.check_still(principal)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run, Actor("identity", 0.0), lambda: None)
        file.change(lambda ring: ring.without(record.id))
        await trio.sleep(2 * FOLLOW_EVERY_S)
        for credential in (KEY, token):
            with pytest.raises(Refused):
                await found.recognise(credential)
        with pytest.raises(Refused):
            found.check_still(principal)
        nursery.cancel_scope.cancel()


async def test_cancelled_here_the_keys_stay(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The follower ends at once, and changes nothing on its way."""
    found = make(tmp_path, Clock(), KEY)
    with trio.move_on_after(2.5 * FOLLOW_EVERY_S) as scope:
        await found.run(Actor("identity", 0.0), lambda: None)
    assert scope.cancelled_caught
    assert (await found.recognise(KEY)).subject == "k0"


def test_a_connection_outlives_its_token_but_not_its_proof(tmp_path: Path) -> None:
    """A token may end while its key is good; a JWT may not."""
    clock = Clock()
    found = make(tmp_path, clock, KEY)
    ring_key = key_of("k0", KEY, ("stream:read",)).principal(Kind.TOKEN, clock.now + 1)
    jwt = Principal("alice", Kind.JWT, frozenset(), expires_at=clock.now + 1)
    for principal in (ring_key, jwt):
        found.check_still(principal)
    clock.now += 1
    found.check_still(ring_key)
    with pytest.raises(Refused) as caught:
        found.check_still(jwt)
    assert caught.value.kind.close_code == 4001  # come back, with another


async def test_a_key_that_ends_ends_its_tokens(tmp_path: Path) -> None:
    """A token never lives longer than its key."""
    clock = Clock()
    record = key_of("one", KEY, ("stream:read",))
    KeysFile(tmp_path).change(lambda ring: ring.with_key(record).ending(record.id, clock.now + 60))
    found = make(tmp_path, clock)
    token, expires_in_s = found.exchange(KEY)
    assert expires_in_s == 60
    await found.recognise(token)
    clock.now += 60
    with pytest.raises(Refused):
        await found.recognise(token)
