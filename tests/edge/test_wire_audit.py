"""The audit log on the wire: every route that changes something leaves a record, and nobody else sees it.

What changes is asked of the route table, so a new route is in these tests without a line here; one whose method is not
safe and that records nothing must be named in `EXEMPT`, with the reason.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import trio

from edge.docs_offline import bare_table
from edge.routes import Lane, Route
from edge.shapes_audit import AuditRecord
from engine.audit import Found, Record
from tests.support.command import open_command, run_command
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.http import Answer, ask
from tests.support.nats_client import open_embedded_log
from tests.support.waiting import wait_until

ADMIN = "secret-of-the-admin-0001"
SCANNER = "secret-of-the-scanner-1"
EXEMPT = {
    "/ingest": "the log itself keeps every event",
    "/cache/batch": "a question; the cache forgets by itself",
    "/query/sql": "a question; its role may change nothing",
    "/stream/settle": "the log itself keeps how far a consumer is",
}
SAFE = {"GET", "HEAD", "OPTIONS"}
CHANGES = [one for one in bare_table().routes if one.change is not None]


def name_of(route: Route) -> str:
    """A test's name."""
    return f"{route.method} {route.path}"


def test_every_route_that_is_not_safe_is_recorded_or_named_here() -> None:
    """S1.55: no later route can forget it; and no exemption outlives its route."""
    unsafe = [one for one in bare_table().routes if one.method not in SAFE]
    forgotten = [name_of(one) for one in unsafe if one.change is None and one.path.removeprefix("/api") not in EXEMPT]
    assert not forgotten, f"{forgotten}: give the route a Change (edge/table.py), or name it in EXEMPT with the reason"
    assert EXEMPT.keys() <= {one.path for one in unsafe if one.change is None}
    assert not [name_of(one) for one in bare_table().routes if one.change is not None and one.method in SAFE]


def test_a_record_is_what_the_document_shows() -> None:
    """Its members are the decoder's own, and those of its place in the log."""
    shown = [one.encode_name for one in msgspec.structs.fields(AuditRecord)]
    assert shown == ["seq", "time", *(one.encode_name for one in msgspec.structs.fields(Record))]
    assert list(Found(1, "", Record("", "", "", "", "", "")).describe()) == shown


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that asks everybody who they are."""
    env = {
        "AUTH": "on",
        "HEADGATE_API_KEYS": f"boss={ADMIN};scopes=admin,scanner={SCANNER}",
        "TRUSTED_PROXIES": "127.0.0.0/8",
        "HEADGATE_LIMITS": "off",
    }
    with running_gateway(tmp_path_factory.mktemp("audit") / "data", env=env) as running:
        yield running


async def send(
    gateway: Gateway, method: str, target: str, key: str | None = ADMIN, body: bytes | None = None
) -> Answer:
    """Ask as whoever has this key, from behind a proxy."""
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Request-Id": f"audit-{method}"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return await ask(gateway.url, method, target, headers, body)


async def records(gateway: Gateway, query: str = "") -> list[dict[str, Any]]:
    """A page of the audit log."""
    answer = await send(gateway, "GET", f"/audit?limit=1000&{query}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()["records"]
    return found


@pytest.mark.parametrize("route", CHANGES, ids=name_of)
async def test_each_change_leaves_one_record(guarded: Gateway, route: Route) -> None:
    """Who, from where, which request and trace, what, to which, and how it ended; strangers leave none."""
    assert route.change is not None
    target = "/".join("x-1" if part.startswith("{") else part for part in route.path.split("/"))
    body = b"{}" if route.method in {"POST", "PUT", "PATCH"} else None
    before = {one["id"] for one in await records(guarded)}
    for wrong in (None, "nobody-knows-this-key"):
        assert (await send(guarded, route.method, target, wrong, body)).status == 401
    if route.scope is not None:
        assert (await send(guarded, route.method, target, SCANNER, body)).status == 403
    answer = await send(guarded, route.method, target, ADMIN, body)
    [one] = [one for one in await records(guarded) if one["id"] not in before]
    assert (one["action"], one["route"]) == (route.change.action, name_of(route))
    assert (one["principal"], one["kind"], one["key_id"][:9]) == ("boss", "key", "env-boss-")
    assert (one["address"], one["request_id"]) == ("192.0.2.7", f"audit-{route.method}")
    assert one["status"] == answer.status
    assert one["outcome"] == ("done" if answer.status < 400 else "refused" if answer.status < 500 else "failed")
    assert one["code"] == (None if answer.status < 400 else answer.json()["code"])
    assert one["target"] == ("x-1" if route.change.target else "")
    if route.lane is Lane.QUART:
        assert one["trace_id"] in str(answer.header("traceparent"))
    assert ADMIN not in orjson.dumps(one).decode()


async def test_a_record_says_what_was_changed(guarded: Gateway, own_subject: str, own_durable: str) -> None:
    """The position a consumer was moved to, how long it pauses, the letter that was replayed."""
    async with open_embedded_log(guarded) as log:
        await log.publish(own_subject, b'{"events":[{"type":"note","data":{}}]}')
    about = f"/stream/pull?subject={own_subject}&durable={own_durable}&from=all&wait=5"
    batch = (await send(guarded, "GET", about)).json()["batch"]
    verdict = {"durable": own_durable, "batch": batch, "term": [{"i": 0, "reason": "bad"}]}
    assert (await send(guarded, "POST", "/stream/settle", ADMIN, orjson.dumps(verdict))).status == 200
    [letter] = (await send(guarded, "GET", f"/stream/dead?durable={own_durable}")).json()["dead"]
    for method, target, body in (
        ("POST", f"/consumers/{own_durable}/reset", b'{"to":"seq:1"}'),
        ("POST", f"/consumers/{own_durable}/pause", b'{"for_s":60}'),
        ("POST", f"/stream/dead/{letter['id']}/replay", None),
        ("DELETE", f"/consumers/{own_durable}?force=1", None),
    ):
        assert (await send(guarded, method, target, ADMIN, body)).status == 200
    found = [one for one in await records(guarded) if own_durable in (one["target"], one["facts"].get("durable"))]
    facts = [(one["action"], one["facts"]) for one in found]
    assert facts[0] == ("consumer.delete", {"force": True})
    assert facts[1][0] == "letter.replay"
    assert facts[1][1].keys() == {"durable", "subject", "seq"}
    assert facts[2:] == [("consumer.pause", {"for_s": 60.0}), ("consumer.reset", {"to": "seq:1"})]


async def test_who_may_not_see_everything_sees_nothing_of_it(guarded: Gateway) -> None:
    """The scope `admin`; and a question that is wrong is answered with what was expected."""
    assert (await send(guarded, "GET", "/audit", SCANNER)).problem(403)["scope"] == "admin"
    problem = (await send(guarded, "GET", "/audit?limit=0")).problem(400)
    assert problem["detail"] == "limit: expected 1 to 1000 (it is '0')"


async def test_pages_and_lines(guarded: Gateway) -> None:
    """`next` and `Link` lead through everything, as JSON or a line each."""
    for _ in range(5):
        await send(guarded, "DELETE", "/scans/x-2")
    everything = await records(guarded, "action=scan.cancel")
    lines: list[bytes] = []
    target = "/audit?action=scan.cancel&limit=2"
    while target:
        headers = {"Authorization": f"Bearer {ADMIN}", "Accept": "application/x-ndjson"}
        answer = await ask(guarded.url, "GET", target, headers)
        assert answer.header("content-type") == "application/x-ndjson"
        lines += answer.body.splitlines()
        link = answer.header("link") or ""
        target = link.partition("<")[2].partition(">")[0]
    assert [orjson.loads(line) for line in lines] == everything
    assert len(everything) >= 5


async def test_the_command_shows_what_was_changed(guarded: Gateway, tmp_path: Path) -> None:
    """A line each for a person, JSON for a program; a wrong question is the gateway's refusal."""
    env = {"HEADGATE_GATEWAY": guarded.url, "HEADGATE_TOKEN": ADMIN}
    await send(guarded, "DELETE", "/scans/x-3")
    shown = await run_command(tmp_path, "audit", "--action", "scan.cancel", "--limit", "1", env=env)
    assert (shown.code, len(shown.out.splitlines())) == (0, 1)
    assert all(word in shown.out for word in ("boss", "192.0.2.7", "scan.cancel", "x-3", "refused (scans.unknown)"))
    as_json = await run_command(tmp_path, "audit", "--limit", "1", "--json", env=env)
    assert orjson.loads(as_json.out)["target"] == "x-3"
    wrong = await run_command(tmp_path, "audit", "--since", "yesterday", env=env)
    assert (wrong.code, "since: expected a time" in wrong.err) == (4, True)


async def test_the_command_follows(guarded: Gateway, tmp_path: Path) -> None:
    """What is changed from now on, as it ends and once each, until Ctrl-C, which is 130."""
    env = {"HEADGATE_GATEWAY": guarded.url, "HEADGATE_TOKEN": ADMIN}
    await send(guarded, "DELETE", "/scans/before")
    async with open_command(tmp_path, "audit", "--follow", "--json", env=env) as command:
        number = 0

        async def is_shown() -> bool:
            nonlocal number
            await send(guarded, "DELETE", f"/scans/x-{number}")
            number += 1
            return "x-" in command.out

        await wait_until(is_shown, "a change is shown", timeout_s=30, interval_s=0.5)
        last = f"x-{number - 1}"
        await wait_until(lambda: last in command.out, "the last one is shown", timeout_s=30)
        command.signal(signal.SIGINT)
        assert (await command.wait_ended()).code == 130
        targets = [orjson.loads(line)["target"] for line in command.out.splitlines()]
        assert targets == sorted(set(targets), key=lambda one: int(one[2:]))
        assert "before" not in targets


async def test_keys_made_on_the_command_line_are_recorded(guarded: Gateway, tmp_path: Path) -> None:
    """Who did it on this machine, and to which key; the record is in the write that makes the change, and no key is."""
    where = ("--data", str(guarded.data_dir), "--json")
    made = orjson.loads((await run_command(tmp_path, "keys", "create", "robot", *where)).out)
    turned = orjson.loads((await run_command(tmp_path, "keys", "rotate", made["id"], *where)).out)
    await run_command(tmp_path, "keys", "revoke", made["id"], *where)

    async def are_there() -> list[dict[str, Any]] | None:
        found = await records(guarded, "action=key.*")
        return found if len(found) == 3 else None

    found = await wait_until(are_there, "three records", timeout_s=30)
    assert found is not None
    assert [one["action"] for one in found] == ["key.revoke", "key.rotate", "key.create"]
    assert [one["target"] for one in found] == [made["id"], turned["id"], made["id"]]
    assert {(one["kind"], one["outcome"], one["facts"]["name"]) for one in found} == {("local", "done", "robot")}
    assert found[1]["facts"]["replaces"] == made["id"]
    text = (guarded.data_dir / "identity" / "keys.json").read_text()

    async def is_forgotten() -> bool:
        return "changes" not in (guarded.data_dir / "identity" / "keys.json").read_text()

    await wait_until(is_forgotten, "the file keeps no record that the log has", timeout_s=30)
    for key in (made["key"], turned["key"]):
        assert key not in orjson.dumps(found).decode() + text + guarded.log_text()


async def test_without_a_log_nothing_is_changed_and_keys_wait(tmp_path: Path) -> None:
    """What cannot be recorded is not done: 503, also what would not need the log; a key's change waits in its file."""
    data, out = tmp_path / "data", tmp_path / "out"
    out.mkdir()
    assert (await run_command(out, "keys", "create", "early", "--data", str(data))).code == 0
    async with open_gateway(data, env={"AUTH": "on", "HEADGATE_API_KEYS": f"boss={ADMIN};scopes=admin"}) as gateway:

        async def is_recorded() -> bool:
            return len(await records(gateway, "action=key.create")) == 1

        await wait_until(is_recorded, "what was changed before the start is recorded", timeout_s=30)
        assert (await send(gateway, "POST", "/auth/token", ADMIN, b"")).status == 200
        log = trio.Path(f"/proc/{gateway.nats_child()['pid']}")
        gateway_signal(gateway, signal.SIGSTOP)
        try:
            for method, target in (("POST", "/auth/token"), ("DELETE", "/scans/x"), ("DELETE", "/consumers/x")):
                problem = (await send(gateway, method, target, ADMIN, b"" if method == "POST" else None)).problem(503)
                assert problem["code"] == "audit.away"
        finally:
            gateway_signal(gateway, signal.SIGCONT)
        assert await log.exists()

        async def is_well() -> bool:
            return (await send(gateway, "POST", "/auth/token", ADMIN, b"")).status == 200

        await wait_until(is_well, "changes are made again", timeout_s=20)
        shed = [line for line in (await send(gateway, "GET", "/metrics")).body.decode().splitlines() if "audit" in line]
        assert "headgate_audit_shed_total 3.0" in shed


def gateway_signal(gateway: Gateway, number: int) -> None:
    """Signal the embedded log of a gateway, by its pid."""
    os.kill(int(gateway.nats_child()["pid"]), number)


async def test_an_audit_log_that_is_off_says_so(tmp_path: Path) -> None:
    """Changes are made, nothing is recorded, and whoever asks is told which variable."""
    async with open_gateway(tmp_path / "data", env={"HEADGATE_AUDIT": "off"}) as gateway:
        assert (await send(gateway, "DELETE", "/scans/x")).status == 404
        assert "HEADGATE_AUDIT" in (await send(gateway, "GET", "/audit")).problem(501)["detail"]
