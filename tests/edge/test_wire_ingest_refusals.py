"""What POST /ingest refuses, and what it says then: every line of "Bad input", against the real gateway."""

import gzip

import orjson
import pytest

from tests.support.gateway import Gateway
from tests.support.http import ask, open_connection, post_json
from tests.support.ingest import MAX_BODY_BYTES, MAX_EVENTS, ingest, some_events, stored_bodies, stored_events


async def test_ndjson_with_a_broken_line_is_refused_whole(gateway: Gateway, own_subject: str) -> None:
    """A line that is not JSON gives 400 with the offset in the whole body, and nothing is published."""
    body = b'{"type":"a","data":{}}\n{"type":"b",,"data":{}}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await ask(gateway.url, "POST", f"/ingest?subject={own_subject}", headers, body)
    assert answer.problem(400)["offset"] == body.index(b",,") + 1
    assert await stored_bodies(gateway, own_subject) == []


async def test_broken_gzip_and_unknown_codings_are_refused(gateway: Gateway, own_subject: str) -> None:
    """A body that is not the gzip it claims to be is 400; a coding that is not known is 415."""
    target = f"/ingest?subject={own_subject}"
    whole = gzip.compress(orjson.dumps(some_events(3)))
    for body in (b"not gzip", whole[:-9], whole[:20], b""):
        answer = await ask(gateway.url, "POST", target, {"Content-Encoding": "gzip"}, body)
        answer.problem(400)
    answer = await ask(gateway.url, "POST", target, {"Content-Encoding": "br"}, whole)
    answer.problem(415)
    assert await stored_bodies(gateway, own_subject) == []


@pytest.mark.parametrize("key", ["", '""', "k" * 300, "a\tb", '"open'], ids=repr)
async def test_a_key_that_cannot_be_one_is_refused(gateway: Gateway, own_subject: str, key: str) -> None:
    """An empty, endless or malformed Idempotency-Key is 400: taking it would promise what it cannot keep."""
    (await ingest(gateway, own_subject, some_events(1), Idempotency_Key=key)).problem(400)
    assert await stored_bodies(gateway, own_subject) == []


NOT_JSON = [
    (b"", 0),
    (b"xyz", 0),
    (b'{"events":[', 11),
    (b'{"events":[{"type":"a","data":{}},]}', 34),
    (b'{"events":[]} x', 14),
    (b'{"events":[{"type":"\xff"}]}', 20),
]


@pytest.mark.parametrize(("body", "offset"), NOT_JSON, ids=repr)
async def test_what_is_not_json_is_400_with_the_byte_offset(
    gateway: Gateway, own_subject: str, body: bytes, offset: int
) -> None:
    """The problem names the byte at which the body stops being JSON."""
    headers = {"Content-Type": "application/json"}
    answer = await ask(gateway.url, "POST", f"/ingest?subject={own_subject}", headers, body)
    problem = answer.problem(400)
    assert problem["offset"] == offset
    assert str(offset) in problem["detail"]


@pytest.mark.parametrize("value", [{}, [], 1, None, "x", {"events": {}}, {"events": None}, {"event": []}], ids=repr)
async def test_a_missing_or_wrong_events_member_is_422(gateway: Gateway, own_subject: str, value: object) -> None:
    """JSON without a list of events is the wrong shape, and the problem says what was expected."""
    assert "events" in (await ingest(gateway, own_subject, value)).problem(422)["detail"]
    assert await stored_bodies(gateway, own_subject) == []


async def test_wrong_events_are_named_by_index_and_nothing_is_published(gateway: Gateway, own_subject: str) -> None:
    """422 names the first ten wrong events by index; the good ones among them are not published either."""
    good = {"type": "a", "data": {}}
    wrong: list[object] = [
        1,
        None,
        [],
        {},
        {"type": 1, "data": {}},
        {"type": "a"},
        {"data": {}},
        {"type": "a", "data": []},
    ] * 2
    events = [event for pair in zip([good] * len(wrong), wrong, strict=True) for event in pair]
    problem = (await ingest(gateway, own_subject, {"events": events})).problem(422)
    assert [error["index"] for error in problem["errors"]] == list(range(1, 21, 2))
    assert all(error["problem"] for error in problem["errors"])
    assert await stored_bodies(gateway, own_subject) == []


async def test_10000_events_are_taken_and_10001_are_not(gateway: Gateway, own_subject: str) -> None:
    """The limit on events is exact, for the array and for NDJSON."""
    (await ingest(gateway, own_subject, some_events(MAX_EVENTS + 1))).problem(413)
    lines = b"\n".join(orjson.dumps(event) for event in some_events(MAX_EVENTS + 1)["events"])
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await ask(gateway.url, "POST", f"/ingest?subject={own_subject}", headers, lines)
    answer.problem(413)
    assert await stored_bodies(gateway, own_subject) == []


def body_of_size(size_bytes: int) -> bytes:
    """A well-formed body of exactly this size, of events that fit into frames."""
    event = b'{"type":"a","data":{"pad":"' + b"x" * 100_000 + b'"}}'
    count = (size_bytes - 13) // (len(event) + 1)
    body = b'{"events":[' + b",".join([event] * count) + b"]}"
    return body + b" " * (size_bytes - len(body))


async def test_8_mib_are_taken_and_one_byte_more_is_not(gateway: Gateway, own_subject: str) -> None:
    """The limit on the body is exact; a Content-Length over it is refused before the body is sent."""
    target = f"/ingest?subject={own_subject}"
    headers = {"Content-Type": "application/json"}
    answer = await ask(gateway.url, "POST", target, headers, body_of_size(MAX_BODY_BYTES))
    assert answer.status == 200, answer.body
    assert len(await stored_events(gateway, own_subject)) == answer.json()["received"]
    async with open_connection(gateway.url) as connection:
        head = connection.encode("POST", target, [*headers.items(), ("Content-Length", str(MAX_BODY_BYTES + 1))])
        await connection.send(head)
        (await connection.read_answer()).problem(413)


async def test_a_chunked_body_is_as_good_and_as_bounded(gateway: Gateway, own_subject: str) -> None:
    """Without Content-Length the size is known late: 200 below the limit, 413 above it."""
    target = f"/ingest?subject={own_subject}"
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    body = orjson.dumps(some_events(20))
    async with open_connection(gateway.url) as connection:
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7)
        )
        await connection.send(connection.encode("POST", target, headers) + chunks + b"0\r\n\r\n")
        assert (await connection.read_answer()).json()["received"] == 20
        await connection.send(connection.encode("POST", target, headers) + b"%x\r\n" % (9 << 20) + b" " * (1 << 20))
        (await connection.read_answer()).problem(413)


SUBJECTS = [
    "other.files",
    "snapfs",
    "snapfs.*",
    "snapfs.>",
    "*",
    ">",
    "snapfs..a",
    ".snapfs",
    "snapfs.",
    "snapfs.a%20b",
]
SUBJECTS += ["snapfs.a%20b", "snapfs.a%0d%0aPUB", "snapfs.%00", "%24JS.API.INFO", "snapfs." + "x" * 300, "snapfs.a%09b"]


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_a_subject_outside_the_streams_or_with_wildcards_is_422(gateway: Gateway, subject: str) -> None:
    """A subject that no stream takes, or that is none, is refused and never dropped (S0.17)."""
    answer = await post_json(gateway.url, f"/ingest?subject={subject}", some_events(1))
    assert "subject" in answer.problem(422)["detail"]


async def test_unknown_paths_are_404_and_wrong_methods_405_with_allow(gateway: Gateway) -> None:
    """Paths and methods that are not there are told apart, and 405 says what is allowed."""
    (await ask(gateway.url, "GET", "/no/such/path")).problem(404)
    (await ask(gateway.url, "POST", "/ingest/", {}, b"{}")).problem(404)
    for path, allowed in (("/ingest", "POST"), ("/cache/batch", "POST"), ("/healthz", "GET"), ("/stream", "GET")):
        answer = await ask(gateway.url, "DELETE", path)
        answer.problem(405)
        assert allowed in [method.strip() for method in (answer.header("allow") or "").split(",")]
