"""`/stream/pull` and `/stream/settle`: curl and cron jobs are agents of the same durables, on the real gateway."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
import trio

from tests.support.agent_v1 import open_agent_v1
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.http import Answer, ask, open_connection
from tests.support.nats_client import NatsClient, open_embedded_log
from tests.support.waiting import let_pass, wait_until


async def publish(log: NatsClient, subject: str, count: int, size: int = 1) -> list[int]:
    """Put frames on the log; gives their sequences."""
    frame = orjson.dumps({"events": [{"type": "note", "data": {"x": "x" * size}}]})
    return [await log.publish(subject, frame) for _ in range(count)]


def target(subject: str, durable: str, **more: object) -> str:
    """The target of a pull; `from_` is `from`."""
    parameters = {"subject": subject, "durable": durable, **{name.rstrip("_"): one for name, one in more.items()}}
    return f"/stream/pull?{urlencode(parameters)}"


async def pull(gateway: Gateway, subject: str, durable: str, **more: object) -> dict[str, Any]:
    """Pull, and expect an answer."""
    answer = await ask(gateway.url, "GET", target(subject, durable, **more))
    assert answer.status == 200, answer.body
    pulled: dict[str, Any] = answer.json()
    assert [one["index"] for one in pulled["messages"]] == list(range(len(pulled["messages"])))
    return pulled


async def send_settle(gateway: Gateway, durable: str, body: dict[str, object]) -> Answer:
    """Send a settle frame."""
    async with open_connection(gateway.url) as connection:
        return await connection.request("POST", "/stream/settle", {}, orjson.dumps({"durable": durable, **body}))


async def settle(gateway: Gateway, durable: str, batch: str, **verdicts: object) -> dict[str, Any]:
    """Settle, and expect an answer."""
    answer = await send_settle(gateway, durable, {"batch": batch, **verdicts})
    assert answer.status == 200, answer.body
    settled: dict[str, Any] = answer.json()
    return settled


async def info_of(log: NatsClient, durable: str) -> dict[str, Any]:
    """What the log knows of a durable."""
    [info] = await log.find_consumers("SNAPFS_FILES", durable)
    return info


async def test_what_is_pulled_is_settled_one_by_one(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """A batch with its lease; acknowledged, refused and terminated in one body, each confirmed by the log."""
    async with open_embedded_log(gateway) as log:
        sequences = await publish(log, own_subject, 5)
        first = await pull(gateway, own_subject, own_durable, batch=3)
        assert [one["seq"] for one in first["messages"]] == sequences[:3]
        assert [one["delivered"] for one in first["messages"]] == [1, 1, 1]
        assert 0 < first["lease_s"] <= 30
        assert (first["gaps"], first["pending"]) == ([], 2)
        verdicts = {"ack": [0], "nak": [{"i": 1}], "term": [{"i": 2, "reason": "no"}]}
        settled = await settle(gateway, own_durable, first["batch"], **verdicts)
        assert settled == {"type": "settled", "batch": first["batch"], "confirmed": [[0, 2]], "late": []}
        info = await info_of(log, own_durable)
        assert info["ack_floor"]["stream_seq"] == sequences[0]
        rest = await pull(gateway, own_subject, own_durable)
        assert sorted(one["seq"] for one in rest["messages"]) == [sequences[1], *sequences[3:]]
        assert {one["seq"]: one["delivered"] for one in rest["messages"]}[sequences[1]] == 2
        again = await settle(gateway, own_durable, rest["batch"], ack=[[0, 2]])
        assert again["confirmed"] == [[0, 2]]
        twice = await settle(gateway, own_durable, rest["batch"], ack=[[0, 2]])
        assert (twice["confirmed"], twice["late"]) in [([], []), ([], [[0, 2]])]
        assert (await info_of(log, own_durable))["num_ack_pending"] == 0
        dead = (await ask(gateway.url, "GET", f"/stream/dead?durable={own_durable}")).json()["dead"]
        assert [(one["seq"], one["reason"]) for one in dead] == [(sequences[2], "no")]


async def test_a_pull_waits_for_what_comes(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Without `wait` it answers at once, with nothing; with it, with the first that comes, soon."""
    empty = await pull(gateway, own_subject, own_durable)
    assert (empty["batch"], empty["messages"], empty["pending"]) == (None, [], 0)
    pulled: list[dict[str, Any]] = []

    async def wait() -> None:
        pulled.append(await pull(gateway, own_subject, own_durable, wait=20))

    async with open_embedded_log(gateway) as log, trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_until(lambda: _waits(log, own_durable), "the pull waits")
        with trio.fail_after(5):
            [sequence] = await publish(log, own_subject, 1)
            while not pulled:
                await let_pass(0.01)
    assert [one["seq"] for one in pulled[0]["messages"]] == [sequence]


async def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """Cancelled there: its pull ends, and what comes afterwards goes to the next at once, for the first time."""
    async with open_embedded_log(gateway) as log:
        async with open_connection(gateway.url) as connection, trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, _get(target(own_subject, own_durable, wait=50)))
            await wait_until(lambda: _waits(log, own_durable), "the pull waits")
        await wait_until(lambda: _waits(log, own_durable, count=0), "the pull is gone")
        await publish(log, own_subject, 2)
        with trio.fail_after(2):
            pulled = await pull(gateway, own_subject, own_durable, wait=5)
        assert [one["delivered"] for one in pulled["messages"]] == [1, 1]


async def test_bytes_bound_a_batch(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """At most `max_bytes`; a message that is larger comes alone."""
    async with open_embedded_log(gateway) as log:
        await publish(log, own_subject, 4, 1000)
    assert len((await pull(gateway, own_subject, own_durable, max_bytes=2500))["messages"]) == 2
    assert len((await pull(gateway, own_subject, own_durable, max_bytes=10, wait=2))["messages"]) == 1


async def test_sockets_and_pulls_share_one_durable(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """One cursor: what a socket holds is not pulled, and what was pulled is not sent."""
    async with open_embedded_log(gateway) as log, open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        sequences = await publish(log, own_subject, 6)
        await agent.credit(2, 1 << 20)
        held: list[int] = []
        while len(held) < 2:
            held += (await agent.receive()).sequences
        pulled = await pull(gateway, own_subject, own_durable)
        assert sorted(held + [one["seq"] for one in pulled["messages"]]) == sequences


async def test_a_batch_that_is_not_here_is_late(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Of another gateway, of before a restart, or made up: never confirmed, whatever is said of it."""
    for batch in ("made-up", "x" * 80):
        settled = await settle(gateway, own_durable, batch, ack=[[0, 5]], nak=[{"i": 7}])
        assert (settled["confirmed"], settled["late"]) == ([], [[0, 5], [7, 7]])


async def test_after_a_reset_or_a_removal_a_verdict_is_late(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """What was pulled before belongs to nobody any more: not confirmed, not failed, and no dead letter is written."""
    async with open_embedded_log(gateway) as log:
        await publish(log, own_subject, 2)
    for method, path in (("POST", f"/consumers/{own_durable}/reset"), ("DELETE", f"/consumers/{own_durable}")):
        pulled = await pull(gateway, own_subject, own_durable, wait=5)
        last = len(pulled["messages"]) - 1
        body = {"to": "all"} if method == "POST" else None
        answer = await ask(gateway.url, method, path, {}, orjson.dumps(body) if body else b"")
        assert answer.status == 200, answer.body
        settled = await settle(gateway, own_durable, pulled["batch"], ack=[[0, last]])
        assert (settled["confirmed"], settled["late"], settled.get("failed", [])) == ([], [[0, last]], [])


async def test_head_takes_no_message(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """HEAD is safe: it is refused, with what is allowed, and the next pull has everything for the first time."""
    async with open_embedded_log(gateway) as log:
        sequences = await publish(log, own_subject, 2)
    refused = await ask(gateway.url, "HEAD", target(own_subject, own_durable))
    assert (refused.status, refused.header("allow")) == (405, "GET")
    pulled = await pull(gateway, own_subject, own_durable, wait=5)
    assert [(one["seq"], one["delivered"]) for one in pulled["messages"]] == [(one, 1) for one in sequences]


async def test_after_the_lease_a_verdict_is_late(gateway_short: Gateway, own_subject: str, own_durable: str) -> None:
    """Nobody extends a pull's lease: the message comes again, and the first holder's word is late."""
    async with open_embedded_log(gateway_short) as log:
        await publish(log, own_subject, 1)
        first = await pull(gateway_short, own_subject, own_durable)
        assert first["lease_s"] <= 1
        second = await pull(gateway_short, own_subject, own_durable, wait=10)
        assert [one["delivered"] for one in second["messages"]] == [2]
        late = await settle(gateway_short, own_durable, first["batch"], ack=[0])
        assert (late["confirmed"], late["late"]) == ([], [[0, 0]])
        assert (await settle(gateway_short, own_durable, second["batch"], ack=[0]))["confirmed"] == [[0, 0]]


async def test_progress_extends_a_lease(gateway_short: Gateway, own_subject: str, own_durable: str) -> None:
    """Said in time, it is still the holder's after three leases."""
    async with open_embedded_log(gateway_short) as log:
        await publish(log, own_subject, 1)
        pulled = await pull(gateway_short, own_subject, own_durable)
        for _ in range(8):
            await let_pass(0.4)
            await settle(gateway_short, own_durable, pulled["batch"], progress=[0], confirm=False)
        assert (await settle(gateway_short, own_durable, pulled["batch"], ack=[0]))["confirmed"] == [[0, 0]]
        assert (await info_of(log, own_durable))["num_redelivered"] == 0


async def test_a_gap_comes_with_what_is_pulled(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """What was removed since the last pull stands beside the messages."""
    async with open_embedded_log(gateway) as log:
        sequences = await publish(log, own_subject, 6)
        first = await pull(gateway, own_subject, own_durable, batch=2)
        await settle(gateway, own_durable, first["batch"], ack=[[0, 1]])
        for sequence in sequences[2:4]:
            await log.api("STREAM.MSG.DELETE.SNAPFS_FILES", {"seq": sequence})
        second = await pull(gateway, own_subject, own_durable)
        assert second["gaps"] == [{"from": sequences[2], "to": sequences[3], "reason": "deleted"}]
        assert [one["seq"] for one in second["messages"]] == sequences[4:]


async def test_many_pulls_at_once_share_the_messages(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Overloaded with pulls, each message is given to one of them; beyond the bound they are told to come back."""
    seen: list[int] = []
    statuses: list[int] = []

    async def one() -> None:
        answer = await ask(gateway.url, "GET", target(own_subject, own_durable, batch=1, wait=1))
        statuses.append(answer.status)
        if answer.status == 200:
            seen.extend(message["seq"] for message in answer.json()["messages"])

    async with open_embedded_log(gateway) as log:
        sequences = await publish(log, own_subject, 20)
        async with trio.open_nursery() as nursery:
            for _ in range(300):
                nursery.start_soon(one)
    assert sorted(seen) == sequences
    assert set(statuses) <= {200, 503}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("durable=d", "subject"),
        ("subject=snapfs.x", "durable"),
        ("subject=snapfs.x&durable=a.b", "durable"),
        ("subject=other.x&durable=d", "subject"),
        ("subject=snapfs.x&durable=d&wait=61", "wait"),
        ("subject=snapfs.x&durable=d&wait=nan", "wait"),
        ("subject=snapfs.x&durable=d&batch=0", "batch"),
        ("subject=snapfs.x&durable=d&max_bytes=0", "max_bytes"),
        ("subject=snapfs.x&durable=d&from=x", "from"),
        ("subject=snapfs.x&durable=d&exclusive=1", "exclusive"),
    ],
)
async def test_a_pull_that_cannot_be_is_refused(gateway: Gateway, query: str, said: str) -> None:
    """400 with the parameter's name."""
    assert said in (await ask(gateway.url, "GET", f"/stream/pull?{query}")).problem(400)["detail"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "durable"),
        ({"durable": "d"}, "batch"),
        ({"durable": 5, "batch": "b"}, "durable"),
        ({"durable": "d", "batch": "b", "ack": "x"}, "ack"),
        ({"durable": "d", "batch": "b", "confirm": 1}, "confirm"),
        ({"durable": "d", "batch": "b", "more": 1}, "more"),
    ],
)
async def test_a_verdict_that_cannot_be_read_is_refused(gateway: Gateway, body: dict[str, object], said: str) -> None:
    """422, and nothing of it was done."""
    async with open_connection(gateway.url) as connection:
        answer = await connection.request("POST", "/stream/settle", {}, orjson.dumps(body))
    assert said in answer.problem(422)["detail"]


async def test_an_index_outside_the_batch_is_refused(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """422 with the range; the batch is settled afterwards as if nothing had been said."""
    async with open_embedded_log(gateway) as log:
        await publish(log, own_subject, 1)
    pulled = await pull(gateway, own_subject, own_durable)
    answer = await send_settle(gateway, own_durable, {"batch": pulled["batch"], "ack": [[0, 1]]})
    assert "index 1 is outside" in answer.problem(422)["detail"]
    assert (await settle(gateway, own_durable, pulled["batch"], ack=[0]))["confirmed"] == [[0, 0]]


@pytest.fixture(scope="module")
def gateway_short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose leases are one second."""
    env = {"HEADGATE_ACK_WAIT_S": "1", "HEADGATE_CATALOG": "off"}
    with running_gateway(tmp_path_factory.mktemp("short") / "data", env=env) as running:
        yield running


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def _waits(log: NatsClient, durable: str, count: int = 1) -> bool:
    found = await log.find_consumers("SNAPFS_FILES", durable)
    return bool(found) and found[0]["num_waiting"] == count


async def test_a_gateway_that_was_killed_confirms_nothing_of_before(tmp_path: Path) -> None:
    """SIGKILL between pull and settle: the verdict is late, and the message comes again."""
    env = {"HEADGATE_ACK_WAIT_S": "1", "HEADGATE_CATALOG": "off"}
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        async with open_embedded_log(gateway) as log:
            await publish(log, "snapfs.files", 2)
        pulled = await pull(gateway, "snapfs.files", "cron")
        gateway.kill()
        await gateway.start()
        late = await settle(gateway, "cron", pulled["batch"], ack=[[0, 1]])
        assert (late["confirmed"], late["late"]) == ([], [[0, 1]])
        again: list[int] = []
        while len(again) < 2:
            one = await pull(gateway, "snapfs.files", "cron", wait=5)
            assert all(message["delivered"] > 1 for message in one["messages"])
            again += [message["seq"] for message in one["messages"]]
            assert (await settle(gateway, "cron", one["batch"], ack=[[0, len(one["messages"]) - 1]]))["late"] == []
        assert again == [1, 2]
