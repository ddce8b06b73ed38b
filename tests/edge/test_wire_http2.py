"""HTTP/2 over TLS with clients that others wrote: every lane, bodies both ways, and the same answers as HTTP/1.1."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import orjson
import pytest
import trio

from tests.support.gateway import Gateway, running_gateway
from tests.support.http import ask
from tests.support.http2 import open_http2
from tests.support.tls import TestPair, make_pair, open_relay

VARYING = {"date", "x-request-id", "traceparent", "connection"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TestPair:
    """The gateway's certificate."""
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, pair: TestPair) -> Iterator[Gateway]:
    """A gateway that speaks HTTP/2 by ALPN."""
    with running_gateway(tmp_path_factory.mktemp("gateway") / "data", env=pair.env, args=["--http2"]) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/healthz"),
        ("GET", "/version"),
        ("HEAD", "/version"),
        ("GET", "/"),
        ("GET", "/no/such/path"),
        ("DELETE", "/healthz"),
        ("GET", "/stream"),
        ("GET", "/consumers/nobody"),
        ("POST", "/cache/batch"),
        ("GET", "/stream/pull?durable=a%20b"),
        ("GET", "/healthz/../version"),
        ("OPTIONS", "/ingest"),
    ],
)
async def test_an_answer_is_the_one_of_http_1(method: str, path: str, gateway: Gateway, pair: TestPair) -> None:
    """Status, headers and body are those of HTTP/1.1, on both lanes, for errors too."""
    async with open_relay(gateway.url, pair.trusting()) as url:
        old = await ask(url, method, path)
    async with open_http2(gateway.url, pair.trusting()) as client:
        new = await client.ask(method, path)
    assert new.status == old.status
    wanted = {name.lower(): value for name, value in old.headers if name.lower() not in VARYING}
    found = {name: value for name, value in new.headers if name not in VARYING and name != ":status"}
    if "problem" in wanted.get("content-type", ""):  # whose length is that of its request's id
        wanted.pop("content-length")
        found.pop("content-length")
    assert found == wanted
    if method != "HEAD":
        strip = ("request_id", "uptime_seconds", "timestamp")
        was, now = orjson.loads(old.body), new.json()
        assert {k: v for k, v in now.items() if k not in strip} == {k: v for k, v in was.items() if k not in strip}
    else:
        assert not new.body


async def test_a_client_of_others_publishes_large_and_small(
    gateway: Gateway, pair: TestPair, own_subject: str, own_durable: str
) -> None:
    """Httpx: events of some bytes and of some megabytes are stored whole, and pulled again over HTTP/2."""
    counts = [(1, 1), (60_000, 1), (70_000, 1), (500_000, 12)]
    async with httpx2.AsyncClient(http2=True, verify=pair.trusting(), base_url=gateway.url, timeout=20) as client:
        for size, count in counts:
            body = {"events": [{"type": "t", "data": {"x": "x" * size}}] * count}
            answer = await client.post("/ingest", params={"subject": own_subject}, json=body)
            assert answer.http_version == "HTTP/2"
            assert answer.status_code == 200, answer.text
        asked = {"durable": own_durable, "subject": own_subject, "wait": "5", "max_bytes": "4000000"}
        sizes: list[int] = []
        while len(sizes) < 15:
            answer = await client.get("/stream/pull", params=asked)
            assert answer.status_code == 200, answer.text
            pulled = answer.json()
            if pulled["batch"] is None:
                continue
            sizes += [len(event["data"]["x"]) for one in pulled["messages"] for event in one["data"]["events"]]
            settled = {"durable": own_durable, "batch": pulled["batch"], "ack": list(range(len(pulled["messages"])))}
            answer = await client.post("/stream/settle", json=settled)
            assert answer.status_code == 200, (answer.text, settled)
        assert sizes == [size for size, count in counts for _ in range(count)]


async def test_a_hundred_streams_at_once_are_a_hundred_answers(gateway: Gateway, pair: TestPair) -> None:
    """As many as the server says; they all get what they asked for, on both lanes."""
    async with open_http2(gateway.url, pair.trusting()) as client:
        numbers = [await client.begin("GET", "/healthz" if n % 2 else "/version") for n in range(100)]
        for number in numbers:
            assert (await client.answer(number)).status == 200
        assert not client.goaways


async def test_a_body_is_asked_for_and_measured(gateway: Gateway, pair: TestPair) -> None:
    """Expect: 100-continue is answered; a body that is too large is refused before and while it comes."""
    async with open_http2(gateway.url, pair.trusting()) as client:
        body = orjson.dumps({"events": [{"type": "t", "data": {"n": 1}}]})
        number = await client.begin("POST", "/ingest", {"expect": "100-continue"}, ends=False)
        while not client.answers[number].informational:
            await client.pump()
        await client.send_body(number, body)
        answer = await client.answer(number)
        assert (answer.informational, answer.status) == ([100], 200)
        number = await client.begin("POST", "/ingest", {"content-length": "900000000"}, ends=False)
        assert (await client.answer(number)).status == 413
        number = await client.begin("POST", "/ingest", ends=False)
        await client.send_body(number, b" " * 9_000_000)
        assert (await client.answer(number)).status == 413
        assert (await client.ask("GET", "/healthz")).status == 200
        assert not client.goaways


async def test_a_slow_reader_gets_everything_and_holds_up_nobody(gateway: Gateway, pair: TestPair) -> None:
    """A stream whose window is shut waits; the others are answered; opened again, it gets the rest."""
    async with open_http2(gateway.url, pair.trusting()) as client:
        client.opens_windows = False
        client.h2.increment_flow_control_window(10_000_000)
        large = await client.begin("GET", "/openapi.json")
        while len(client.answers[large].body) < 65_535:
            await client.pump()
        assert (await client.ask("GET", "/healthz")).status == 200
        assert not client.answers[large].is_whole
        client.h2.increment_flow_control_window(10_000_000, large)
        await client.flush()
        answer = await client.answer(large)
        assert len(answer.body) == int(answer.header("content-length") or 0)
        assert "/ingest" in answer.json()["paths"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_curl_speaks_it(gateway: Gateway, pair: TestPair, tmp_path: Path) -> None:
    """Its --http2: a question and a body, and HTTP/1.1 still where that is all a client knows."""
    said = await trio.run_process(["curl", "--version"], capture_stdout=True)
    if b"HTTP2" not in said.stdout:
        pytest.skip("this curl has no HTTP/2")
    (tmp_path / "body").write_bytes(orjson.dumps({"events": [{"type": "t", "data": {"x": "x" * 1000}}] * 1000}))
    common = ["curl", "-sS", "--max-time", "20", "--cacert", str(pair.ca), "-o", "/dev/null"]
    for version, wanted in (("--http2", b"2 200"), ("--http1.1", b"1.1 200")):
        for more in ([f"{gateway.url}/version"], ["--data-binary", f"@{tmp_path}/body", f"{gateway.url}/ingest"]):
            said = await trio.run_process(
                [*common, version, "-w", "%{http_version} %{http_code}", *more], capture_stdout=True
            )
            assert said.stdout == wanted


async def test_sockets_are_not_offered_over_it(gateway: Gateway, pair: TestPair) -> None:
    """RFC 8441 is not spoken: the setting is 0, CONNECT is refused, and HTTP/1.1 takes the socket beside it."""
    async with open_http2(gateway.url, pair.trusting()) as client:
        assert client.h2.remote_settings.enable_connect_protocol == 0
        number = await client.begin_with(
            [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/stream"),
             (":authority", client.authority)], ends=False,
        )  # fmt: skip
        assert (await client.answer(number)).status == 400
        number = await client.begin_with([(":method", "CONNECT"), (":authority", client.authority)], ends=False)
        assert (await client.answer(number)).status == 405
