"""POST /ingest as clients in the field speak it, against the real gateway."""

import gzip

import orjson
import pytest

from tests.support.agent import open_agent
from tests.support.gateway import Gateway
from tests.support.http import ask, open_connection, post_json
from tests.support.ingest import MAX_EVENTS, STREAM, ingest, some_events, stored_bodies, stored_events
from tests.support.nats_client import open_embedded_log

UPSERT = {
    "type": "file.upsert",
    "data": {"path": "/a/b.exr", "size": 3, "mtime": 1.5, "inode": 7, "dev": 8, "algo": "xxh64", "hash": "00ff"},
}


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_the_answer_has_exactly_the_wires_members(gateway: Gateway, own_subject: str, prefix: str) -> None:
    """A stored request is answered with the wire's eight members; also under /api (S0.6, S0.27)."""
    answer = await post_json(gateway.url, f"{prefix}/ingest?subject={own_subject}", {"events": [UPSERT, UPSERT]})
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    value = answer.json()
    sequence = value.pop("seq")
    assert value == {
        "status": "ok",
        "received": 2,
        "subject": own_subject,
        "stream": STREAM,
        "duplicate": False,
        "durability": "fsync",
    }
    async with open_embedded_log(gateway) as log:
        stored = {message.sequence: message for message in await log.read_stream(STREAM)}
    assert stored[sequence].subject == own_subject
    assert orjson.loads(stored[sequence].data) == {"events": [UPSERT, UPSERT]}


async def test_sequences_rise_and_the_subject_may_be_left_out(gateway: Gateway) -> None:
    """Without a subject the default one is used, and a later request lies later (S0.17)."""
    first = (await post_json(gateway.url, "/ingest", some_events(1))).json()
    second = (await post_json(gateway.url, "/ingest", some_events(1))).json()
    assert first["subject"] == second["subject"] == "snapfs.files"
    assert second["seq"] > first["seq"]


async def test_an_empty_list_of_events_is_not_an_error_and_publishes_nothing(
    gateway: Gateway, own_subject: str
) -> None:
    """A scanner that has nothing to say is answered 200 with 0 received, or told 422; never a frame."""
    answer = await ingest(gateway, own_subject, {"events": []})
    assert answer.status in (200, 422)
    assert await stored_bodies(gateway, own_subject) == []


async def test_what_the_gateway_does_not_know_passes_through_untouched(gateway: Gateway, own_subject: str) -> None:
    """Unknown types and members, numbers beyond doubles and unusual text arrive as they were sent (S0.6)."""
    body = (
        b'{"events":[{"type":"shop.sold","data":{"n":123456789012345678901234567890,"f":1.10,"t":"\\u00e4\\ud83d\\ude00",'
        b'"deep":{"a":[1,[2,{"b":null}]]}},"extra":[true]},{"type":"scan.error","data":{}}]}'
    )
    headers = {"Content-Type": "application/json"}
    answer = await ask(gateway.url, "POST", f"/ingest?subject={own_subject}", headers, body)
    assert answer.status == 200, answer.body
    assert await stored_bodies(gateway, own_subject) == [body]


async def test_ndjson_is_one_event_a_line(gateway: Gateway, own_subject: str) -> None:
    """NDJSON with empty lines and without an end of line is the same as the array."""
    body = b'{"type":"a","data":{"n":1}}\n\n{"type":"b","data":{"n":2}}\r\n{"type":"c","data":{"n":3}}'
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await ask(gateway.url, "POST", f"/ingest?subject={own_subject}", headers, body)
    assert answer.status == 200, answer.body
    assert answer.json()["received"] == 3
    assert [event["data"]["n"] for event in await stored_events(gateway, own_subject)] == [1, 2, 3]


async def test_gzip_is_decoded_and_bounded_after_decoding(gateway: Gateway, own_subject: str) -> None:
    """A gzipped body is as good as a plain one; one that grows over 8 MiB is 413, whatever it weighed."""
    answer = await post_json(gateway.url, f"/ingest?subject={own_subject}", some_events(50), is_gzipped=True)
    assert answer.status == 200, answer.body
    assert [event["data"]["n"] for event in await stored_events(gateway, own_subject)] == list(range(50))

    bomb = gzip.compress(b'{"events":[' + b" " * (64 << 20) + b"]}", 9)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await ask(gateway.url, "POST", f"/ingest?subject={own_subject}", headers, bomb)
    answer.problem(413)


async def test_the_same_key_and_body_give_the_first_answer_with_duplicate_true(
    gateway: Gateway, own_subject: str
) -> None:
    """A retry with an Idempotency-Key stores nothing again; quoted and bare keys are the same key."""
    key = f"key-{own_subject}"
    first = await ingest(gateway, own_subject, some_events(3), Idempotency_Key=key)
    assert first.json()["duplicate"] is False
    for again in (key, f'"{key}"'):
        answer = await ingest(gateway, own_subject, some_events(3), Idempotency_Key=again)
        assert answer.status == 200, answer.body
        assert answer.json() == {**first.json(), "duplicate": True}
    assert len(await stored_bodies(gateway, own_subject)) == 1


async def test_the_same_key_with_another_body_is_refused(gateway: Gateway, own_subject: str) -> None:
    """One key for two bodies is the client's mistake: 422, and the second body is not stored."""
    key = f"key-{own_subject}"
    assert (await ingest(gateway, own_subject, some_events(3), Idempotency_Key=key)).status == 200
    (await ingest(gateway, own_subject, some_events(4), Idempotency_Key=key)).problem(422)
    assert len(await stored_events(gateway, own_subject)) == 3


async def test_a_large_request_is_split_and_still_idempotent(gateway: Gateway, own_subject: str) -> None:
    """10,000 events in one request are stored in order in several frames, once, whatever is repeated."""
    key = f"key-{own_subject}"
    for is_duplicate in (False, True):
        answer = await ingest(gateway, own_subject, some_events(MAX_EVENTS), Idempotency_Key=key)
        assert answer.status == 200, answer.body
        assert answer.json()["duplicate"] is is_duplicate
        assert answer.json()["received"] == MAX_EVENTS
    bodies = await stored_bodies(gateway, own_subject)
    assert len(bodies) >= 10
    assert [event["data"]["n"] for event in await stored_events(gateway, own_subject)] == list(range(MAX_EVENTS))
    (await ingest(gateway, own_subject, some_events(MAX_EVENTS - 1), Idempotency_Key=key)).problem(422)


PATHS = [
    ("C:\\show\\seq\\image.exr", "C:/show/seq/image.exr"),
    ("//server/share//dir/./file.exr", "//server/share/dir/file.exr"),
    ("\\\\server\\share\\a", "//server/share/a"),
    ("/a//b///c", "/a/b/c"),
    ("/a/./b/.", "/a/b"),
    ("/a/../b", "/a/../b"),
    ("/a/b/", "/a/b"),
    ("/", "/"),
    ("a/b", "a/b"),
    ("/já/ 'x\".exr", "/já/ 'x\".exr"),
]


async def test_an_agent_sees_canonical_paths(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Paths of `file.*` events are canonical before they are published; other events keep theirs."""
    events = [{"type": "file.upsert", "data": {"path": path, "n": 1.10}} for path, _ in PATHS]
    events += [{"type": "file.delete", "data": {"path": path}} for path, _ in PATHS]
    events += [{"type": "note", "data": {"path": path}} for path, _ in PATHS]
    async with open_agent(gateway.url, own_durable, subject=own_subject) as agent:
        assert (await ingest(gateway, own_subject, {"events": events})).status == 200
        batch = await agent.receive()
        await agent.ack(batch)
    paths = [event["data"]["path"] for event in batch.events]
    canonical = [path for _, path in PATHS]
    assert paths == canonical + canonical + [path for path, _ in PATHS]
    assert [event["type"] for event in batch.events] == [event["type"] for event in events]


async def test_requests_follow_one_another_on_one_connection_even_after_refusals(
    gateway: Gateway, own_subject: str
) -> None:
    """A refused body does not spoil its connection: pipelined requests are answered in order."""
    target = f"/ingest?subject={own_subject}"
    async with open_connection(gateway.url) as connection:
        bodies = [orjson.dumps(some_events(1)), b"{", orjson.dumps({"events": 1}), orjson.dumps(some_events(2))]
        await connection.send(b"".join(connection.encode("POST", target, {}, body) for body in bodies))
        statuses = [(await connection.read_answer()).status for _ in bodies]
    assert statuses == [200, 400, 422, 200]


async def test_an_expect_continue_client_is_told_to_go_on(gateway: Gateway, own_subject: str) -> None:
    """`Expect: 100-continue` is answered with 100 before the body, as curl wants it for large bodies."""
    body = orjson.dumps(some_events(2))
    async with open_connection(gateway.url) as connection:
        headers = [("Expect", "100-continue"), ("Content-Length", str(len(body)))]
        await connection.send(connection.encode("POST", f"/ingest?subject={own_subject}", headers))
        assert (await connection._read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await connection.send(body)
        assert (await connection.read_answer()).json()["received"] == 2
