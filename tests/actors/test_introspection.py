"""T29 for opaque tokens: one question a token, few at once, and an issuer that is away says nothing of anybody."""

import pytest
import trio
import trio.testing

from actors.introspection import AT_ONCE, MOST_REFUSED, MOST_WAITING, REFUSED_FOR_S, REST_S, Introspection
from engine.errors import Refused, Unavailable
from engine.introspection import digest_of_token
from engine.introspection_http import MOST_BYTES, IntrospectionEndpoint
from engine.jwts import JwtPolicy
from tests.support.introspection import CLIENT, SECRET, Issuer, open_issuer

NOW = 1_800_000_000.0
POLICY = JwtPolicy("", "", 30.0)


class Asker:
    """Answers questions, in the order and as slowly as a test wants."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.active = {"good"}
        self.pause_s = 0.0
        self.is_away = False

    async def ask(self, token: str) -> bytes:
        """Say what the issuer says."""
        self.asked.append(token)
        await trio.sleep(self.pause_s)
        if self.is_away:
            raise Unavailable("identity.away", "away")
        return b'{"active":true,"sub":"alice"}' if token in self.active else b'{"active":false}'


async def who(found: Introspection, token: str, now: float = NOW) -> str:
    """Whose token it is, `401` or `503`."""
    try:
        return (await found.recognise(token, now)).subject
    except Refused:
        return "401"
    except Unavailable:
        return "503"


async def test_requests_with_one_token_ask_once(autojump_clock: trio.testing.MockClock) -> None:
    """All of them get the one answer, whether it is a yes or a no."""
    asker = Asker()
    asker.pause_s = 1.0
    found = Introspection(asker.ask, POLICY)
    for token, expected in (("good", "alice"), ("bad", "401")):
        answers: list[str] = []

        async def ask(token: str = token, answers: list[str] = answers) -> None:
            answers.append(await who(found, token))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
        assert (answers, asker.asked.count(token)) == ([expected] * 100, 1)
    assert await who(found, "bad") == "401"
    assert await who(found, "bad", NOW + REFUSED_FOR_S - 1) == "401"
    assert asker.asked == ["good", "bad"]
    assert await who(found, "bad", NOW + REFUSED_FOR_S) == "401"
    assert asker.asked == ["good", "bad", "bad"]


async def test_whoever_leaves_takes_no_answer_along(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelled here, the one that asks is replaced by one that waits."""
    asker = Asker()
    asker.pause_s = 1.0
    found = Introspection(asker.ask, POLICY)
    answers: list[str] = []

    async def ask() -> None:
        answers.append(await who(found, "good"))

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as first:
            async with trio.open_nursery() as leaving:
                leaving.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(ask)
                nursery.start_soon(ask)
                await trio.sleep(0.5)
                first.cancel()
    assert (answers, asker.asked) == (["alice", "alice"], ["good", "good"])


async def test_while_the_issuer_is_away_nobody_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    """503, and one question a rest; when it is back the next one is answered. A malformed answer is as good as none."""
    asker = Asker()
    found = Introspection(asker.ask, POLICY)
    asker.is_away = True
    began = trio.current_time()
    while trio.current_time() < began + 10:
        for number in range(20):
            assert await who(found, f"token-{number}") == "503"
        await trio.sleep(0.25)
    assert len(asker.asked) <= 10 / REST_S + 1
    asker.is_away = False
    await trio.sleep(REST_S)
    assert await who(found, "good") == "alice"
    assert found.error is None


async def test_one_that_hangs_holds_up_a_bounded_number(autojump_clock: trio.testing.MockClock) -> None:
    """Overloaded here: `AT_ONCE` questions, `MOST_WAITING` that wait; the others are told at once to come back."""
    asker = Asker()
    asker.pause_s, asker.is_away = 5.0, True
    found = Introspection(asker.ask, POLICY)
    answers: list[str] = []

    async def ask(number: int) -> None:
        answers.append(await who(found, f"token-{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(MOST_WAITING + 100):
            nursery.start_soon(ask, number)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(asker.asked), answers) == (AT_ONCE, ["503"] * 100)
        nursery.cancel_scope.deadline = trio.current_time() + 5.5  # nobody waits for a second round
    assert (len(asker.asked), answers) == (AT_ONCE, ["503"] * (MOST_WAITING + 100))


async def test_tables_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """However many tokens are wrong."""
    asker = Asker()
    found = Introspection(asker.ask, POLICY)
    for number in range(MOST_REFUSED + 100):
        assert await who(found, f"wrong-{number}") == "401"
    assert len(found._refused) == MOST_REFUSED


async def test_a_connection_ends_with_its_token_and_not_with_the_issuer(autojump_clock: trio.testing.MockClock) -> None:
    """Asked again it is good, unknown while nobody answers, and then over."""
    asker = Asker()
    found = Introspection(asker.ask, POLICY)
    digest = digest_of_token("good")
    await found.look_again(digest, NOW)
    assert await who(found, "good") == "alice"
    await found.look_again(digest, NOW)
    asker.is_away = True
    await found.look_again(digest, NOW)
    asker.is_away, asker.active = False, set()
    await trio.sleep(REST_S)
    with pytest.raises(Refused):
        await found.look_again(digest, NOW)


async def test_what_is_ours_is_told_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """A key of ours that was revoked, or mistyped, and a token of ours that has expired, stay here."""
    asker = Asker()
    found = Introspection(asker.ask, POLICY)
    for token in ("hg_5f3c9a1e7b2d4c68_secret", "hgt.YWJj.1.AAAA"):
        assert await who(found, token) == "401"
    assert asker.asked == []


ODD: dict[str, tuple[int, bytes]] = {
    "an error": (500, b"{}"),
    "who are you": (401, b'{"error":"invalid_client"}'),
    "elsewhere": (302, b""),
    "no JSON": (200, b"active"),
    "too much": (200, b'{"active":true,"sub":"alice","x":"' + b"x" * MOST_BYTES + b'"}'),
    "nothing": (204, b""),
}


async def open_found(issuer: Issuer, secret: str = SECRET) -> tuple[Introspection, IntrospectionEndpoint]:
    """Ask a real server."""
    endpoint = IntrospectionEndpoint(issuer.url, CLIENT, secret)
    return Introspection(endpoint.ask, POLICY), endpoint


@pytest.mark.parametrize("name", ODD)
async def test_odd_answers_are_none(name: str) -> None:
    """Over HTTP: not a yes, not a no."""
    async with open_issuer() as issuer:
        found, endpoint = await open_found(issuer)
        issuer.body = ODD[name]
        assert await who(found, "good") == "503"
        await endpoint.aclose()


async def test_a_real_issuer_is_asked_as_the_rfc_wants(patient_clock: trio.testing.MockClock) -> None:
    """A form with the token, HTTP Basic with the client's encoded name and secret; a wrong secret gets no answer."""
    async with open_issuer() as issuer:
        found, endpoint = await open_found(issuer)
        issuer.tokens = {"2YotnFZFEjr1zCsicMWpAA+/=": {"sub": "Z5O3upPC88QrAjx00dis", "scope": "stream:read"}}
        assert await who(found, "2YotnFZFEjr1zCsicMWpAA+/=") == "Z5O3upPC88QrAjx00dis"
        assert await who(found, "unknown") == "401"
        issuer.is_away = True
        assert await who(found, "another") == "503"
        await endpoint.aclose()
        issuer.is_away = False
        stranger, endpoint = await open_found(issuer, "wrong")
        assert await who(stranger, "2YotnFZFEjr1zCsicMWpAA+/=") == "503"
        await endpoint.aclose()
