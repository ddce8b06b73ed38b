"""The demo's SQL, against scripted peers: what a busy machine does to it, and what it says then."""

import trio
import trio.testing

from edge.client import Client
from edge.demo_query import Findings, ask_catalog
from tests.support.peers import Answer, Step, open_http_peer

TOO_SLOW = Answer(422, {"title": "The query took longer than the limit", "status": 422, "code": "query.too-slow"})


def rows(*found: dict[str, object]) -> Answer:
    """An answer with these rows."""
    return Answer(200, {"rows": found, "columns": [], "rowCount": len(found), "truncated": False, "elapsedMs": 1.0})


async def findings(*script: Step) -> tuple[Findings, int]:
    """What the demo finds, and how often it asked."""
    async with open_http_peer(*script) as peer, Client(peer.url) as client:
        found = await ask_catalog(client, "/show", 7, within_s=3)
    return found, len(peer.seen)


async def test_a_query_that_met_its_time_limit_is_asked_again(patient_clock: trio.testing.MockClock) -> None:
    """The machine was busy: it is asked until it answers, and nothing is missing."""
    duplicates: dict[str, object] = {"contents": 1, "copies": 1, "bytes": 3}
    directory: dict[str, object] = {"directory": "/show", "files": 2, "bytes": 6}
    script = (TOO_SLOW, rows({"seq": 6}), TOO_SLOW, rows({"seq": 7}), TOO_SLOW, rows(directory), rows(duplicates))
    found, asked = await findings(*script)
    assert found == Findings([directory], duplicates)
    assert asked == len(script)


async def test_it_gives_up_in_time_and_says_what_was_missing(patient_clock: trio.testing.MockClock) -> None:
    """A catalog that stays behind, and one that is there and does not answer."""
    found, _ = await findings(rows({"seq": None}))
    assert found == Findings(problem="the catalog did not catch up within 3 s", is_missing=True)
    found, _ = await findings(rows({"seq": 7}), TOO_SLOW)
    assert found == Findings(problem="PostgreSQL did not answer within 3 s", is_missing=True)


async def test_a_gateway_without_a_catalog_misses_nothing(patient_clock: trio.testing.MockClock) -> None:
    """`query.off` is an answer; any other refusal is a problem, at once."""
    found, asked = await findings(Answer(501, {"title": "No SQL here", "status": 501, "code": "query.off"}))
    assert (found.is_missing, asked) == (False, 1)
    found, asked = await findings(Answer(403, {"title": "Not yours", "status": 403, "code": "query.forbidden"}))
    assert (found.is_missing, asked) == (True, 1)
