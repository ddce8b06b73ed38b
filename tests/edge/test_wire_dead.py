"""`/stream/dead`: letters are listed and replayed on the real gateway; what cannot be is refused."""

import pytest

from tests.support.gateway import Gateway
from tests.support.http import ask, open_connection


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/stream/dead?durable=a.b", 400, "durable:"),
        ("GET", "/stream/dead?durable=%3E", 400, "durable:"),
        ("GET", "/stream/dead?limit=0", 400, "limit:"),
        ("GET", "/stream/dead?limit=101", 400, "limit:"),
        ("GET", "/stream/dead?after=-1", 400, "after:"),
        ("POST", "/stream/dead/x/replay", 400, "id:"),
        ("POST", "/stream/dead/0/replay", 400, "id:"),
        ("POST", "/stream/dead/1/replay", 404, "no dead letter 1"),
        ("GET", "/stream/dead/1/replay", 405, "takes POST"),
        ("GET", "/stream/dead/1", 404, "nothing at"),
    ],
)
async def test_what_cannot_be_is_refused(gateway: Gateway, method: str, path: str, status: int, said: str) -> None:
    """With a problem body that names what was wrong."""
    async with open_connection(gateway.url) as connection:
        assert said in (await connection.request(method, path)).problem(status)["detail"]


async def test_without_letters_the_list_is_empty(gateway: Gateway) -> None:
    """Also where no letter was ever written and the stream of letters is not there."""
    answer = await ask(gateway.url, "GET", "/stream/dead")
    assert (answer.status, answer.json()) == (200, {"dead": [], "next": None})
    assert b'headgate_dead_letters_total{outcome="buried"} 0.0' in (await ask(gateway.url, "GET", "/metrics")).body
