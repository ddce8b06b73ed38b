"""The client's rules of repeating, against scripted peers; the agent loop is in `test_client_stream.py`."""

import random

import msgspec
import orjson
import pytest
import trio
import trio.testing

from edge.client import (
    Client,
    Event,
    GatewayBroken,
    GatewayRefused,
    GatewayUnavailable,
    GatewayUnreachable,
    OutcomeUnknown,
    Probe,
)
from edge.client_retry import Backoff, explain_answer, explain_close, explain_refused_upgrade
from tests.support.peers import HANG_UP, Answer, Step, open_http_peer

EVENTS = [Event("file.upsert", {"path": "/show/a.exr", "size": 4096})]
STORED = {
    "status": "ok",
    "received": 1,
    "subject": "snapfs.files",
    "stream": "SNAPFS_FILES",
    "seq": 7,
    "duplicate": False,
    "durability": "fsync",
}
LOG_DOWN = {"type": "about:blank", "title": "The log is not reachable", "status": 503, "code": "log.down"}
UNKNOWN = {"title": "The log did not say", "status": 503, "code": "ingest.outcome-unknown", "detail": "timed out"}


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Jump only after the run was idle for a while: loopback sockets need a moment that is not Trio's."""
    return trio.testing.MockClock(autojump_threshold=0.03)


async def test_publish_says_what_the_gateway_said(autojump_clock: trio.testing.MockClock) -> None:
    """S0.6: the events go out as one body, subject and key in their places, and the answer comes back typed."""
    async with open_http_peer(Answer(200, STORED)) as peer, Client(peer.url, "secret") as client:
        published = await client.publish(EVENTS, subject="snapfs.files", key="k-1")
    assert (published.seq, published.stream, published.durability) == (7, "SNAPFS_FILES", "fsync")
    [seen] = peer.seen
    assert (seen.method, seen.target) == ("POST", "/ingest?subject=snapfs.files")
    assert seen.headers["idempotency-key"] == "k-1"
    assert seen.headers["authorization"] == "Bearer secret"
    assert orjson.loads(seen.body) == {"events": [{"type": "file.upsert", "data": EVENTS[0].data}]}


async def test_publish_without_subject_leaves_it_to_the_gateway(autojump_clock: trio.testing.MockClock) -> None:
    """No subject, no key: neither is on the wire."""
    async with open_http_peer(Answer(200, STORED)) as peer, Client(peer.url + "/") as client:
        await client.publish(EVENTS)
    assert peer.seen[0].target == "/ingest"
    assert "idempotency-key" not in peer.seen[0].headers


async def test_probe_asks_the_wire_form_and_keeps_the_order(autojump_clock: trio.testing.MockClock) -> None:
    """S0.3: an array goes out, absent identities left out, and an array of the same order comes back."""
    answers = [{"status": "MISS", "algo": None, "hash": None}, {"status": "HIT", "algo": "xxh3_128", "hash": "00ff"}]
    async with open_http_peer(Answer(200, answers)) as peer, Client(peer.url) as client:
        first, second = await client.probe([Probe("/a", 1, 2.5), Probe("/b", 3, 4.0, inode=5, dev=6)])
    assert (first.is_hit, second.is_hit, second.hash) == (False, True, "00ff")
    assert orjson.loads(peer.seen[0].body) == [
        {"path": "/a", "size": 1, "mtime": 2.5},
        {"path": "/b", "size": 3, "mtime": 4.0, "inode": 5, "dev": 6},
    ]


@pytest.mark.parametrize(
    "step",
    [
        Answer(503, LOG_DOWN),
        Answer(503, UNKNOWN),
        Answer(503, b"a proxy's page"),
        Answer(502, b""),
        Answer(429, None),
        HANG_UP,
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        b"not HTTP at all\r\n\r\n",
        Answer(200, STORED, pause_s=45.0),
    ],
)
async def test_publish_with_a_key_is_repeated_whatever_may_pass(
    step: Step, autojump_clock: trio.testing.MockClock
) -> None:
    """With a key every try carries the same key and body, until one of them is answered."""
    async with open_http_peer(step, step, Answer(200, STORED)) as peer, Client(peer.url, give_up_s=300) as client:
        assert (await client.publish(EVENTS, key="k-2")).seq == 7
        assert client.statistics().retries == 2
    assert [seen.headers["idempotency-key"] for seen in peer.seen] == ["k-2"] * 3
    assert len({seen.body for seen in peer.seen}) == 1


@pytest.mark.parametrize(
    "step", [Answer(503, UNKNOWN), Answer(503, b"a proxy's page"), Answer(504, b""), HANG_UP, Answer(200, {}, (), 45.0)]
)
async def test_publish_without_a_key_never_repeats_an_unknown_outcome(
    step: Step, autojump_clock: trio.testing.MockClock
) -> None:
    """What may have been stored is not sent a second time without a key."""
    async with open_http_peer(step, Answer(200, STORED)) as peer, Client(peer.url) as client:
        with pytest.raises(OutcomeUnknown):
            await client.publish(EVENTS)
    assert len(peer.seen) == 1


async def test_publish_without_a_key_repeats_what_did_not_happen(autojump_clock: trio.testing.MockClock) -> None:
    """The gateway's own "nothing happened" makes a repetition harmless."""
    async with open_http_peer(Answer(503, LOG_DOWN), Answer(200, STORED)) as peer, Client(peer.url) as client:
        assert (await client.publish(EVENTS)).received == 1
    assert len(peer.seen) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422])
async def test_a_refusal_is_raised_at_once(status: int, autojump_clock: trio.testing.MockClock) -> None:
    """A 4xx is the caller's to change: one try, and the gateway's words in the error."""
    problem = {"code": "request.wrong-shape", "detail": "events[3] has no type"}
    async with open_http_peer(Answer(status, problem)) as peer, Client(peer.url) as client:
        with pytest.raises(GatewayRefused, match=r"events\[3\] has no type") as caught:
            await client.publish(EVENTS, key="k-3")
    assert (caught.value.status, caught.value.code) == (status, "request.wrong-shape")
    assert len(peer.seen) == 1


@pytest.mark.parametrize(
    "step", [Answer(200, b"<html>"), Answer(200, [1]), Answer(500, {"code": "server.broken"}), Answer(302, b"")]
)
async def test_an_answer_that_is_no_gateways_is_broken(step: Step, autojump_clock: trio.testing.MockClock) -> None:
    """What cannot be understood is not repeated: it would not be understood the next time either."""
    async with open_http_peer(step) as peer, Client(peer.url) as client:
        with pytest.raises(GatewayBroken):
            await client.publish(EVENTS, key="k-4")
    assert len(peer.seen) == 1


async def test_probe_refuses_an_answer_of_another_length(autojump_clock: trio.testing.MockClock) -> None:
    """Answers are matched by place, so one too few would give a file the hash of another."""
    async with open_http_peer(Answer(200, [{"status": "MISS"}])) as peer, Client(peer.url) as client:
        with pytest.raises(GatewayBroken, match="2 probes were asked and 1 answered"):
            await client.probe([Probe("/a", 1, 1.0), Probe("/b", 1, 1.0)])


async def test_retry_after_is_the_least_delay(autojump_clock: trio.testing.MockClock) -> None:
    """The gateway's `Retry-After` is waited for in full, the jitter on top."""
    busy = Answer(503, LOG_DOWN, (("retry-after", "17"),))
    async with open_http_peer(busy, Answer(200, STORED)) as peer, Client(peer.url) as client:
        await client.publish(EVENTS, key="k-5")
    assert 17 <= peer.seen[1].at - peer.seen[0].at < 18


async def test_tries_end_after_give_up_without_success(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing succeeds: the error comes within `give_up_s`, after several tries, and says what is wrong."""
    async with open_http_peer(Answer(503, LOG_DOWN)) as peer, Client(peer.url, give_up_s=30) as client:
        began = trio.current_time()
        with pytest.raises(GatewayUnavailable, match="The log is not reachable"):
            await client.publish(EVENTS, key="k-6")
        assert 20 < trio.current_time() - began <= 31
        assert client.statistics().waiting_s > 0
    assert len(peer.seen) > 5


async def test_a_success_of_anything_restarts_the_patience(autojump_clock: trio.testing.MockClock) -> None:
    """`give_up_s` counts from the last success of the client, not from the first try of one request."""
    async with (
        open_http_peer(Answer(503, LOG_DOWN)) as down,
        open_http_peer(Answer(200, STORED)) as up,
        Client(down.url, give_up_s=20) as client,
    ):
        began = trio.current_time()

        async def fail() -> None:
            with pytest.raises(GatewayUnavailable):
                await client.publish(EVENTS, key="k-7")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep(15)
            client.base_url = up.url  # one request of many gets through
            await client.publish(EVENTS, key="k-8")
            client.base_url = down.url
        assert trio.current_time() - began > 25


async def test_nobody_there_is_unreachable(autojump_clock: trio.testing.MockClock) -> None:
    """A refused connection is retried even without a key, and ends as `GatewayUnreachable`."""
    async with open_http_peer(HANG_UP) as peer:
        url = peer.url
    async with Client(url, give_up_s=5) as client:
        with pytest.raises(GatewayUnreachable, match="no gateway answers at"):
            await client.publish(EVENTS)
        assert client.statistics().retries > 1
        with pytest.raises(GatewayUnreachable):
            await client.ready()


async def test_ready_tells_of_a_gateway_that_is_not(autojump_clock: trio.testing.MockClock) -> None:
    """A 503 of `/readyz` is an answer, not a failure."""
    body = {"status": "draining", "durability": "fsync", "dependencies": {"log": {"state": "up", "age_s": 2.5}}}
    async with open_http_peer(Answer(503, body)) as peer, Client(peer.url) as client:
        readiness = await client.ready()
    assert not readiness.is_ready
    assert (readiness.status, readiness.dependencies["log"].state) == ("draining", "up")


async def test_connections_are_kept_alive(autojump_clock: trio.testing.MockClock) -> None:
    """Many requests in a row use one connection."""
    async with open_http_peer(Answer(200, STORED)) as peer, Client(peer.url) as client:
        for _ in range(5):
            await client.publish(EVENTS)
    assert peer.connections == 1


async def test_cancelled_publish_leaves_the_client_usable(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelled in the middle of a request: the next one works."""
    async with open_http_peer(Answer(200, STORED, pause_s=10), Answer(200, STORED)) as peer, Client(peer.url) as client:
        with trio.move_on_after(1) as scope:
            await client.publish(EVENTS, key="k-9")
        assert scope.cancelled_caught
        assert (await client.publish(EVENTS, key="k-9")).seq == 7
    assert len(peer.seen) == 2


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://host/?a=1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """The message shows what an address looks like."""
    with pytest.raises(ValueError, match="expected one like http://127"):
        Client(url)


@pytest.mark.parametrize("key", ["", "line\nbreak", "ümlaut"])
async def test_a_key_that_is_no_header_is_refused(key: str) -> None:
    """Found here, before it could look like a broken connection and be repeated."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="idempotency key"):
            await client.publish(EVENTS, key=key)


def test_backoff_grows_to_its_ceiling_and_begins_again() -> None:
    """Full jitter: uniform below a ceiling that doubles up to the most, and is the first again after `reset`."""
    backoff = Backoff(first_s=0.1, most_s=5.0, random=random.Random(1))
    delays = [backoff.next_delay_s() for _ in range(200)]
    assert all(delay <= min(5.0, 0.1 * 2**tries) for tries, delay in enumerate(delays[:10]))
    assert 4 < max(delays) <= 5
    assert min(delays[10:]) < 0.5
    backoff.reset()
    assert backoff.next_delay_s() <= 0.1


def test_backoff_bounds_retry_after() -> None:
    """A server cannot park a client for a day, nor send it into the past."""
    backoff = Backoff(random=random.Random(1))
    assert 60 <= backoff.next_delay_s(86_400) <= 61
    assert 0 <= backoff.next_delay_s(-5) <= 1


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ([1000, 1001, 1005, 1006, 1011, 1012, 1013, 3000, 4000, 4010, 4499], GatewayUnavailable),
        ([1002, 1003, 1007, 1008, 1009, 1010, 4500, 4522, 4999], GatewayRefused),
    ],
)
def test_close_codes_say_whether_to_come_back(codes: list[int], kind: type[Exception]) -> None:
    """4000 to 4499 mean come back, 4500 to 4999 mean do not."""
    for code in codes:
        assert type(explain_close(code)) is kind, code


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 429])
def test_an_upgrade_that_may_work_later_is_unavailable(status: int) -> None:
    """An upgrade changes nothing, so there is no unknown outcome."""
    error = explain_refused_upgrade(status, {"retry-after": "3"}, b"")
    assert type(error) is GatewayUnavailable
    assert error.retry_after_s == 3


@pytest.mark.parametrize("header", ["soon", "-1", "", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 40])
def test_a_retry_after_that_cannot_be_read_is_none(header: str) -> None:
    """It does not break the explanation."""
    assert explain_answer(429, {"retry-after": header}, b"").retry_after_s is None


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b'{"detail": 5}', msgspec.json.encode({"detail": "so"})])
def test_any_body_can_be_explained(body: bytes) -> None:
    """Problem or not, the explanation has the status."""
    assert "422" in str(explain_answer(422, {}, body))
