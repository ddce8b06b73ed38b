"""`/consumers`: what reads the stream is listed, moved, paused and removed, on the real gateway."""

from datetime import UTC, datetime

import orjson
import pytest
import trio

from tests.support.agent import Agent, AgentFailed, Batch, open_agent
from tests.support.gateway import Gateway
from tests.support.http import Answer, ask, open_connection
from tests.support.ingest import ingest, some_events
from tests.support.nats_client import NatsClient, open_embedded_log


async def send(gateway: Gateway, method: str, path: str, body: object = None) -> Answer:
    """One request with a JSON body, or none."""
    async with open_connection(gateway.url) as connection:
        return await connection.request(method, path, {}, b"" if body is None else orjson.dumps(body))


async def make_durable(log: NatsClient, durable: str, subject: str, **config: object) -> None:
    """Make a consumer as native clients do."""
    members = {"durable_name": durable, "ack_policy": "explicit", "filter_subject": subject, **config}
    request = {"stream_name": "SNAPFS_FILES", "config": members}
    await log.api(f"CONSUMER.DURABLE.CREATE.SNAPFS_FILES.{durable}", request)


async def publish(log: NatsClient, subject: str, count: int) -> list[int]:
    """Put numbered frames on the log; gives their sequences."""
    frames = [orjson.dumps({"events": [{"type": "note", "data": {"n": number}}]}) for number in range(count)]
    return [await log.publish(subject, frame) for frame in frames]


def numbers(messages: list[object]) -> list[int]:
    """Which of `publish` these are."""
    return [one["events"][0]["data"]["n"] for one in messages]  # type: ignore[index]  # the shape is the claim


async def receive_all(agent: Agent, count: int) -> Batch:
    """Take batches until all of `publish`'s came, some perhaps twice; all but the last, which is given, are settled."""
    received: set[int] = set()
    while True:
        batch = await agent.receive()
        received.update(numbers(batch.messages))
        if received == set(range(count)):
            return batch
        await agent.ack(batch)


async def test_a_consumer_is_described(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """What waits, what is held, how old the oldest waiting message is, and how many sockets are attached."""
    async with open_embedded_log(gateway) as log, open_agent(gateway.url, own_durable, subject=own_subject) as agent:
        await publish(log, own_subject, 3)
        batch = await agent.receive()
        one = (await ask(gateway.url, "GET", f"/consumers/{own_durable}")).json()
        assert (one["durable"], one["subject"], one["ephemeral"], one["filter"]) == (
            own_durable,
            own_subject,
            False,
            None,
        )
        assert (one["attached"], one["paused_until"]) == (1, None)
        assert one["pending"] + one["ack_pending"] == 3
        assert one["ack_pending"] >= len(batch.messages)
        assert (one["lag_s"] == 0.0) == (one["pending"] == 0)
        listed = (await ask(gateway.url, "GET", "/consumers")).json()
        assert own_durable in [each["durable"] for each in listed["consumers"]]
        assert listed["next"] is None


async def test_the_lag_is_the_age_of_the_oldest_waiting_message(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """Counted from when it was stored, and only messages of the consumer's own subject count."""
    async with open_embedded_log(gateway) as log:
        await make_durable(log, own_durable, own_subject)
        await publish(log, "snapfs.somebody-else", 2)
        assert (await ask(gateway.url, "GET", f"/consumers/{own_durable}")).json()["lag_s"] == 0.0
        began = datetime.now(UTC)
        await publish(log, own_subject, 2)
        one = (await ask(gateway.url, "GET", f"/consumers/{own_durable}")).json()
        assert 0.0 <= one["lag_s"] <= (datetime.now(UTC) - began).total_seconds() + 0.1
        assert one["pending"] == 2


@pytest.mark.parametrize(
    ("to", "expected"),
    [("all", [0, 1, 2, 3, 4]), ("new", []), ("last", [4]), ("seq", [2, 3, 4]), ("time", [3, 4])],
)
@pytest.mark.parametrize("config", [{}, {"deliver_policy": "new"}], ids=["in place", "made again"])
async def test_a_consumer_is_moved(
    gateway: Gateway, own_subject: str, own_durable: str, to: str, expected: list[int], config: dict[str, object]
) -> None:
    """To each kind of position, with its own configuration, also where the log cannot move it in place."""
    async with open_embedded_log(gateway) as log:
        await make_durable(log, own_durable, own_subject, max_ack_pending=77, **config)
        sequences = await publish(log, own_subject, 3)
        third = datetime.now(UTC).isoformat()
        sequences += [
            await log.publish(own_subject, orjson.dumps({"events": [{"type": "note", "data": {"n": number}}]}))
            for number in (3, 4)
        ]
        if to == "seq":
            to = f"seq:{sequences[2]}"
        elif to == "time":
            to = f"time:{third}"
        answer = await send(gateway, "POST", f"/consumers/{own_durable}/reset", {"to": to})
        assert answer.status == 200, answer.body
        moved = answer.json()
        assert moved["reset"]["in_place"] is (not config)
        assert (moved["pending"], moved["ack_pending"]) == (len(expected), 0)
        [info] = await log.find_consumers("SNAPFS_FILES", own_durable)
        assert (info["config"]["max_ack_pending"], info["config"]["filter_subject"]) == (77, own_subject)
        assert not await log.find_consumers("SNAPFS_FILES", "probe")
        async with open_agent(gateway.url, own_durable, subject=own_subject) as agent:
            if expected:
                received = numbers((await agent.receive()).messages)
                assert received == expected[: len(received)]
            else:
                await agent.receive_nothing(0.1)


async def test_agents_go_on_from_the_new_position(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """The socket stays; the old batch's acknowledgement counts for nothing, and everything comes again."""
    async with open_embedded_log(gateway) as log, open_agent(gateway.url, own_durable, subject=own_subject) as agent:
        await publish(log, own_subject, 4)
        old = await receive_all(agent, 4)
        answer = await send(gateway, "POST", f"/consumers/{own_durable}/reset", {"to": "all"})
        assert answer.status == 200
        await agent.ack(old)
        last = await receive_all(agent, 4)
        one = (await ask(gateway.url, "GET", f"/consumers/{own_durable}")).json()
        assert (one["attached"], one["pending"]) == (1, 0)
        assert one["ack_pending"] >= len(set(numbers(last.messages)))


async def test_a_paused_consumer_delivers_nothing_until_it_is_resumed(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """The log's own pause: it holds for every gateway, and the agent just waits."""
    async with open_embedded_log(gateway) as log, open_agent(gateway.url, own_durable, subject=own_subject) as agent:
        paused = await send(gateway, "POST", f"/consumers/{own_durable}/pause", {"for_s": 600})
        assert paused.json()["paused_until"] > datetime.now(UTC).isoformat()
        await publish(log, own_subject, 1)
        await agent.receive_nothing(0.3)
        resumed = await send(gateway, "POST", f"/consumers/{own_durable}/resume")
        assert resumed.json()["paused_until"] is None
        assert numbers((await agent.receive()).messages) == [0]


async def test_a_consumer_is_removed_only_where_nobody_would_make_it_anew(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """409 while sockets are attached; with force they are told, and the durable is gone."""
    async with open_agent(gateway.url, own_durable, subject=own_subject) as agent:
        refused = (await send(gateway, "DELETE", f"/consumers/{own_durable}")).problem(409)
        assert "1 sockets" in refused["detail"]
        assert (await send(gateway, "DELETE", f"/consumers/{own_durable}?force=1")).json()["deleted"] is True
        with pytest.raises(AgentFailed, match="gone from the log"):
            await agent.receive()
    (await send(gateway, "DELETE", f"/consumers/{own_durable}")).problem(404)
    assert (await ask(gateway.url, "GET", f"/consumers/{own_durable}")).problem(404)["code"] == "request.not-found"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/consumers/a.b", None, 400, "durable:"),
        ("GET", "/consumers/a%20b", None, 400, "durable:"),
        ("GET", "/consumers/%3E", None, 400, "durable:"),
        ("GET", "/consumers?offset=x", None, 400, "offset:"),
        ("GET", "/consumers/", None, 404, "nothing at"),
        ("PUT", "/consumers/d", None, 405, "GET, HEAD, DELETE"),
        ("GET", "/consumers/d/reset", None, 405, "POST"),
        ("POST", "/consumers/d/reset", None, 400, "not JSON"),
        ("POST", "/consumers/d/reset", [], 422, "an array"),
        ("POST", "/consumers/d/reset", {}, 422, "to: expected"),
        ("POST", "/consumers/d/reset", {"to": 5}, 422, "to: expected"),
        ("POST", "/consumers/d/reset", {"to": "x"}, 400, "to: expected"),
        ("POST", "/consumers/d/reset", {"to": "all", "now": 1}, 422, "'now'"),
        ("POST", "/consumers/d/reset", {"to": "all"}, 404, "no consumer 'd'"),
        ("POST", "/consumers/d/pause", {"for_s": "1"}, 422, "for_s:"),
        ("POST", "/consumers/d/pause", {"for_s": True}, 422, "for_s:"),
        ("POST", "/consumers/d/pause", {"for_s": 0}, 422, "for_s:"),
        ("POST", "/consumers/d/pause", {"for_s": 1e300}, 400, "for_s:"),
        ("POST", "/consumers/d/pause", {"for_s": 1}, 404, "no consumer 'd'"),
        ("POST", "/consumers/d/resume", {"for_s": 1}, 422, "'for_s'"),
        ("DELETE", "/consumers/d", None, 404, "no consumer 'd'"),
    ],
)
async def test_what_cannot_be_is_refused(
    gateway: Gateway, method: str, path: str, body: object, status: int, said: str
) -> None:
    """With a problem body that names what was wrong; no name becomes part of a subject unchecked."""
    assert said in (await send(gateway, method, path, body)).problem(status)["detail"]


async def test_names_are_no_labels(gateway: Gateway) -> None:
    """Whatever names are asked for, the counters know the template alone."""
    for number in range(5):
        await ask(gateway.url, "GET", f"/consumers/nobody-{number}")
    text = (await ask(gateway.url, "GET", "/metrics")).body
    assert b'route="/consumers/{durable}"' in text
    assert b"nobody-" not in text


async def test_cancelled_here_a_consumer_is_as_it_was(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """A client that leaves in the middle of a move leaves a consumer that is there, moved or not."""
    async with open_embedded_log(gateway) as log:
        await make_durable(log, own_durable, own_subject)
        await publish(log, own_subject, 2)
        for pause_s in (0.0, 0.001, 0.003):
            with trio.move_on_after(pause_s):
                await send(gateway, "POST", f"/consumers/{own_durable}/reset", {"to": "new"})
        one = (await ask(gateway.url, "GET", f"/consumers/{own_durable}")).json()
        assert one["pending"] in {0, 2}


async def test_many_at_once_are_all_answered(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Overloaded with questions, every one is answered, and the list stays whole."""
    await ingest(gateway, own_subject, some_events(1))
    async with open_embedded_log(gateway) as log:
        await make_durable(log, own_durable, own_subject)
    statuses: list[int] = []

    async def one() -> None:
        statuses.append((await ask(gateway.url, "GET", f"/consumers/{own_durable}")).status)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(one)
    assert statuses == [200] * 50
