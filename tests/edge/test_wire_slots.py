"""X6: requests at once, through the real gateway: a slot is held for the life of a request, and for no longer."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from tests.support.gateway import Gateway, running_gateway
from tests.support.http import Answer, Connection, ask, open_connection, post_json
from tests.support.http2 import open_http2
from tests.support.ingest import some_events
from tests.support.waiting import wait_until

KEY, OTHER = "secret-of-the-scanner-1", "secret-of-the-agent-22"
SLOW = "select count(*) from generate_series(1, 100000) a, generate_series(1, 100000) b"
POLICY = '"ingests";q=2;qu="concurrent-requests"'


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway where a principal may have two requests of /ingest at once, and one query."""
    env = {
        "AUTH": "on",
        "HEADGATE_API_KEYS": f"one={KEY};scopes=admin,two={OTHER};scopes=admin",
        "HEADGATE_INGESTS_AT_ONCE": "2",
        "HEADGATE_QUERIES_AT_ONCE": "1",
        "HEADGATE_CATALOG": "on",
    }
    with running_gateway(tmp_path_factory.mktemp("slots") / "data", env=env, args=["--http2"]) as running:
        yield running


def of(key: str) -> dict[str, str]:
    """The header of a principal."""
    return {"x-api-key": key}


async def in_use(gateway: Gateway, policy: str) -> float:
    """What the gateway says is held."""
    text = (await ask(gateway.url, "GET", "/metrics", of(OTHER))).body.decode()
    return figure(text, f'headgate_limits_slots_in_use{{policy="{policy}"}}')


def figure(text: str, name: str) -> float:
    """One line of the metrics."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def ingest(gateway: Gateway, key: str = KEY, prefix: str = "") -> Answer:
    """Ask whether there is a slot, with a request that is whole."""
    return await post_json(gateway.url, f"{prefix}/ingest", some_events(1), of(key))


@asynccontextmanager
async def holding(gateway: Gateway, count: int) -> AsyncIterator[list[Connection]]:
    """Requests of one principal whose bodies have not come yet."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(open_connection(gateway.url)) for _ in range(count)]
        for connection in found:
            await connection.send(connection.encode("POST", "/ingest", {**of(KEY), "Content-Length": "1000"}))

        async def are_held() -> bool:
            return await in_use(gateway, "ingests") == count

        await wait_until(are_held, "the slots are held")
        yield found


async def wait_free(gateway: Gateway, policy: str = "ingests") -> None:
    """Wait until nothing is held."""

    async def is_free() -> bool:
        return await in_use(gateway, policy) == 0

    await wait_until(is_free, "every slot is back", timeout_s=30)


async def test_more_at_once_than_the_policy_are_refused_before_their_body(limited: Gateway) -> None:
    """429 with the policy, what is left and when to come back, on both paths; another principal has its own."""
    async with holding(limited, 2):
        async with open_connection(limited.url) as connection:
            await connection.send(connection.encode("POST", "/ingest", {**of(KEY), "Content-Length": "1000000"}))
            answer = await connection.read_answer()
        problem = answer.problem(429)
        assert (problem["code"], problem["violated-policies"]) == ("limits.exceeded", ["ingests"])
        assert answer.header("ratelimit-policy") == POLICY
        assert answer.header("ratelimit") == '"ingests";r=0'
        assert answer.header("retry-after") == "1"
        assert (await ingest(limited, prefix="/api")).status == 429
        assert (await ingest(limited, OTHER)).status == 200
        text = (await ask(limited.url, "GET", "/metrics", of(OTHER))).body.decode()
        assert figure(text, 'headgate_limits_refused_total{policy="ingests"}') == 2
        assert figure(text, 'headgate_limits_slots{policy="ingests"}') == 2
        assert figure(text, 'headgate_limits_table_entries{table="holders"}') == 1
    await wait_free(limited)


async def test_a_refused_request_that_was_whole_keeps_its_connection(limited: Gateway) -> None:
    """Its body is thrown away, and is never taken for the next request; one whose body is still to come ends it."""
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with holding(limited, 2), open_connection(limited.url) as connection:
        for _ in range(3):
            answer = await connection.request("POST", "/ingest", of(KEY), smuggled)
            assert (answer.status, answer.header("connection")) == (429, None)
        assert (await connection.request("GET", "/actors", of(KEY))).status == 200
        await connection.send(connection.encode("POST", "/ingest", {**of(KEY), "Content-Length": "99"}) + smuggled)
        answer = await connection.read_answer()
        assert (answer.status, answer.header("connection")) == (429, "close")
        assert await connection.read_to_end() == b""


async def test_a_slot_is_back_when_its_request_is_answered(limited: Gateway) -> None:
    """Well or not, a hundred times on one connection; what is left is said each time."""
    async with open_connection(limited.url) as connection:
        for body in [b'{"events":[]}', b"[", b"{}", b'{"events":[{"type":"note","data":{}}]}'] * 25:
            answer = await connection.request("POST", "/ingest", of(KEY), body)
            assert answer.status in {200, 400, 422}
            assert (answer.header("ratelimit-policy"), answer.header("ratelimit")) == (POLICY, '"ingests";r=1')
    await wait_free(limited)


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
async def test_a_slot_is_back_when_its_client_goes_away(limited: Gateway, is_reset: bool) -> None:
    """In the middle of a body, politely or not."""
    async with holding(limited, 2) as connections:
        assert (await ingest(limited)).status == 429
        for connection in connections:
            if is_reset:
                connection.reset()
            else:
                await connection.aclose()
        await wait_free(limited)
        assert (await ingest(limited)).status == 200


async def test_streams_of_http_2_hold_and_give_back_as_requests_do(limited: Gateway) -> None:
    """Answered, reset by the client, or left with the whole connection."""
    async with open_http2(limited.url) as client:
        headers = of(KEY) | {"content-length": "1000"}
        held = [await client.begin("POST", "/ingest", headers, ends=False) for _ in range(2)]

        async def are_held() -> bool:
            return await in_use(limited, "ingests") == 2

        await wait_until(are_held, "the slots are held", timeout_s=30)
        assert (await client.ask("POST", "/ingest", of(KEY), b"{}")).status == 429
        client.h2.reset_stream(held[0])
        await client.flush()
        body = b'{"events":[{"type":"note","data":{}}]}'

        async def is_taken() -> bool:
            answer = await client.ask("POST", "/ingest", of(KEY), body)
            assert answer.status == 429 or answer.header("ratelimit") == '"ingests";r=0'
            return answer.status == 200

        await wait_until(is_taken, "the slot of the stream that was reset is back", timeout_s=30)
        assert await in_use(limited, "ingests") == 1
    await wait_free(limited)


async def test_a_slot_is_held_while_a_query_runs_and_back_when_its_client_left(limited: Gateway) -> None:
    """S4.8: beside the thousand a minute, and told apart from them."""

    async def answers() -> bool:
        return (await post_json(limited.url, "/query/sql", {"sql": "select 1"}, of(KEY))).status == 200

    await wait_until(answers, "the catalog answers", timeout_s=30)
    async with open_connection(limited.url) as connection:
        body = b'{"sql":"%s"}' % SLOW.encode()
        await connection.send(connection.encode("POST", "/query/sql", of(KEY), body))

        async def runs() -> bool:
            return await in_use(limited, "running-queries") == 1

        await wait_until(runs, "the query runs")
        answer = await post_json(limited.url, "/query/sql", {"sql": "select 1"}, of(KEY))
        assert answer.problem(429)["violated-policies"] == ["running-queries"]
        assert '"queries";q=1000;w=60' in str(answer.header("ratelimit-policy"))
    await wait_free(limited, "running-queries")
    answer = await post_json(limited.url, "/query/sql", {"sql": "select 1"}, of(KEY))
    assert answer.status == 200
    assert str(answer.header("ratelimit")).endswith(', "running-queries";r=0')


async def test_nothing_is_left_over_after_a_storm(limited: Gateway) -> None:
    """Two hundred requests at once, some end in the middle: two at a time are taken, and all slots come back."""
    statuses: list[int] = []

    async def one(number: int) -> None:
        async with open_connection(limited.url) as connection:
            body = b'{"events":[{"type":"note","data":{}}]}'
            if number % 4 == 0:
                await connection.send(connection.encode("POST", "/ingest", {**of(KEY), "Content-Length": "99"}) + body)
                connection.reset()
            else:
                statuses.append((await connection.request("POST", "/ingest", of(KEY), body)).status)

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(one, number)
    assert set(statuses) <= {200, 429}
    assert 200 in statuses
    await wait_free(limited)
