"""T29: the key set rotates, is slow, is away; only one asks for it, and seldom."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from actors.jwks import LEAST_PAUSE_S, MOST_WAITING, REFRESH_EVERY_S, WAIT_WITHIN_S, JwtKeys
from actors.tree import Actor
from engine.errors import Refused, Unavailable
from engine.jwks import MOST_BYTES, fetch_jwks
from engine.jwts import JwtPolicy
from tests.support.jwts import ISSUER, NOW, issue, jwks
from tests.support.peers import Answer, Step, open_http_peer

POLICY = JwtPolicy(ISSUER, "headgate", 30.0)


class KeyServer:
    """Serves a key set when it may."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.is_away = False
        self.pause_s = 0.0

    async def fetch(self) -> bytes:
        """Give the key set."""
        await trio.sleep(self.pause_s)
        if self.is_away:
            raise Unavailable("identity.keys-away", "away")
        return self.document


async def start(nursery: trio.Nursery, fetch: Callable[[], Awaitable[bytes]]) -> JwtKeys:
    """Run the actor."""
    keys = JwtKeys(POLICY, [], fetch)
    nursery.start_soon(keys.run, Actor("jwks", 0.0), lambda: None)
    return keys


async def who(keys: JwtKeys, token: str) -> str:
    """Whose token it is; `401` when it is nobody's."""
    try:
        return (await keys.recognise(token, NOW)).subject
    except Refused:
        return "401"


async def test_a_new_key_is_fetched_when_it_is_needed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Rotation: at once for the first token that names it, and the old key goes with the set."""
    server = KeyServer(jwks(("RS256", 0)))
    async with trio.open_nursery() as nursery:
        keys = await start(nursery, server.fetch)
        assert await who(keys, issue(number=0)) == "alice"
        await trio.sleep(LEAST_PAUSE_S + 1)
        server.document = jwks(("RS256", 1))
        assert await who(keys, issue(number=1)) == "alice"
        assert await who(keys, issue(number=0)) == "401"
        assert keys.fetches == 2
        nursery.cancel_scope.cancel()


async def test_unknown_keys_ask_for_the_set_seldom(autojump_clock: trio.testing.MockClock) -> None:
    """However many tokens name keys that are not there, it is asked for once a pause."""
    server = KeyServer(jwks(("RS256", 0)))
    async with trio.open_nursery() as nursery:
        keys = await start(nursery, server.fetch)
        began = trio.current_time()
        while trio.current_time() < began + 30:
            for number in range(5):
                assert await who(keys, issue(header={"kid": f"made-up-{number}"})) == "401"
            await trio.sleep(0.5)
        assert keys.fetches <= 30 / LEAST_PAUSE_S + 1
        nursery.cancel_scope.cancel()


async def test_keys_from_before_stay_good_while_the_set_is_away(autojump_clock: trio.testing.MockClock) -> None:
    """For hours; and it is had again when it is back."""
    server = KeyServer(jwks(("RS256", 0)))
    async with trio.open_nursery() as nursery:
        keys = await start(nursery, server.fetch)
        assert await who(keys, issue()) == "alice"
        server.is_away = True
        await trio.sleep(3 * 3600)
        assert (await who(keys, issue()), keys.error) == ("alice", "away")
        for odd in (b"", b"{}", b'{"keys":7}'):
            server.is_away, server.document = False, odd
            await trio.sleep(REFRESH_EVERY_S)
            assert (await who(keys, issue()), keys.error is None) == ("alice", False)
        server.document = jwks(("RS256", 1))
        await trio.sleep(REFRESH_EVERY_S)
        assert (await who(keys, issue()), await who(keys, issue(number=1)), keys.error) == ("401", "alice", None)
        nursery.cancel_scope.cancel()


async def test_overloaded_only_so_many_wait(autojump_clock: trio.testing.MockClock) -> None:
    """A slow set holds up few, and for a bounded time; the others are refused at once."""
    server = KeyServer(jwks(("RS256", 0)))
    server.pause_s = 1000.0
    times: list[float] = []
    async with trio.open_nursery() as nursery:
        keys = await start(nursery, server.fetch)
        await trio.testing.wait_all_tasks_blocked()

        async def ask() -> None:
            began = trio.current_time()
            assert await who(keys, issue()) == "401"
            times.append(trio.current_time() - began)

        async with trio.open_nursery() as clients:
            for _ in range(MOST_WAITING + 50):
                clients.start_soon(ask)
        assert sorted(times)[:50] == [0.0] * 50
        assert max(times) == pytest.approx(WAIT_WITHIN_S)
        nursery.cancel_scope.cancel()


async def test_cancelled_here_nobody_is_held_up(autojump_clock: trio.testing.MockClock) -> None:
    """A client that leaves while it waits gives its place back, and the fetch goes on for the others."""
    server = KeyServer(jwks(("RS256", 0)))
    server.pause_s = 2.0
    async with trio.open_nursery() as nursery:
        keys = await start(nursery, server.fetch)
        for _ in range(3 * MOST_WAITING):
            with trio.move_on_after(0.01):
                await who(keys, issue())
        assert await who(keys, issue()) == "alice"
        assert keys.fetches == 1
        nursery.cancel_scope.cancel()


BAD: dict[str, Step] = {
    "an error": Answer(500, b"{}"),
    "a redirect": Answer(302, b"", (("Location", "http://127.0.0.1:1/"),)),
    "too large": Answer(200, b"x" * (MOST_BYTES + 1)),
    "nothing": b"",
    "garbage": b"not HTTP at all\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_set_that_cannot_be_had_is_unavailable(name: str) -> None:
    """One request, to the address that is configured and to no other."""
    async with open_http_peer(BAD[name]) as peer:
        with pytest.raises(Unavailable):
            await fetch_jwks(peer.url + "/keys")
        assert [seen.target for seen in peer.seen] == ["/keys"]


async def test_a_set_is_fetched_whole() -> None:
    """And a server that is not there is unavailable too."""
    document = jwks(("EdDSA", 0))
    async with open_http_peer(Answer(200, document)) as peer:
        assert await partial(fetch_jwks, peer.url)() == document
    with pytest.raises(Unavailable):
        await fetch_jwks(peer.url)
