"""What a log server's monitoring proves: nothing is guessed (3.1, T5)."""

import pytest
import trio.testing

from engine.monitor import ANSWER_WITHIN_S, read_sync_always
from tests.support.peers import HANG_UP, Answer, Step, open_http_peer

ALWAYS = {"jetstream": {"config": {"sync_always": True}}}


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Answer(200, ALWAYS), True),
        (Answer(200, {"jetstream": {"config": {"sync_always": False}}}), False),
        (Answer(200, {"jetstream": {"config": {}}}), False),
        (Answer(200, {"jetstream": {}}), None),
        (Answer(200, {}), None),
        (Answer(200, []), None),
        (Answer(200, b"not JSON"), None),
        (HANG_UP, None),
        (b"garbage\r\n\r\n", None),
        (Answer(200, ALWAYS, pause_s=2 * ANSWER_WITHIN_S), None),
    ],
    ids=repr,
)
async def test_only_what_is_said_is_known(
    step: Step, said: bool | None, autojump_clock: trio.testing.MockClock
) -> None:
    """True, false, or not known; a server that says nothing costs no more than the deadline."""
    async with open_http_peer(step) as peer:
        assert await read_sync_always(peer.url) is said
        assert peer.seen == [] or peer.seen[0].target == "/varz"


async def test_a_monitoring_that_is_not_there_says_nothing() -> None:
    """No answer is None, never a guess."""
    assert await read_sync_always("http://127.0.0.1:1") is None
    assert await read_sync_always("http://[broken") is None


@pytest.mark.parametrize("status", [401, 404, 500])
async def test_an_error_proves_nothing(status: int, autojump_clock: trio.testing.MockClock) -> None:
    """Whatever its body holds, an answer that is an error is no proof."""
    async with open_http_peer(Answer(status, ALWAYS)) as peer:
        assert await read_sync_always(peer.url) is None
