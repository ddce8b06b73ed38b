"""A gateway that speaks TLS: both lanes, WebSockets, hostile packets, reloads.

Rules of the file:
- Packets go through a relay that adds TLS to them and changes nothing else.
"""

import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edge.client import Client, Event, GatewayUnreachable
from tests.support.command import run_command
from tests.support.gateway import Gateway, GatewayDied, open_gateway, running_gateway
from tests.support.hostile_corpus import http_packets
from tests.support.hostile_exchange import CONNECTIONS_COUNT, prove_alive, send_hostile
from tests.support.hostile_frames import frame_packets
from tests.support.hostile_packet import EXPRESS, HANDED_OVER
from tests.support.http import ask
from tests.support.tls import TestPair, make_pair, open_relay, open_tls
from tests.support.waiting import wait_until

HANDSHAKE_DEADLINE_S = 10.0
SLACK_S = 3.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TestPair:
    """The gateway's certificate."""
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, pair: TestPair) -> Iterator[Gateway]:
    """A gateway that speaks TLS."""
    with running_gateway(tmp_path_factory.mktemp("gateway") / "data", env=pair.env) as running:
        yield running


@pytest.mark.parametrize("path", ["/healthz", "/version", "/no/such/path"])
async def test_both_lanes_answer_and_say_hsts(path: str, gateway: Gateway, pair: TestPair) -> None:
    """Every answer tells browsers to stay with TLS, a refusal too."""
    assert gateway.url.startswith("https://")
    async with open_relay(gateway.url, pair.trusting()) as url:
        answer = await ask(url, "GET", path)
        assert answer.status in {200, 404}
        assert answer.header("strict-transport-security") == "max-age=31536000"


async def test_the_client_publishes_and_listens(
    gateway: Gateway, pair: TestPair, own_subject: str, own_durable: str
) -> None:
    """Requests over https and the agent's WebSocket over wss; nobody but the certificate's authority is trusted."""
    async with Client(gateway.url, tls=pair.trusting()) as client:
        await client.publish([Event("t", {"n": 1})], subject=own_subject)
        async with client.agent(durable=own_durable, subject=own_subject) as batches:
            with trio.fail_after(10):
                async for batch in batches:
                    assert [event.data for event in batch.events()] == [{"n": 1}]
                    await batch.ack()
                    break


async def test_a_client_that_does_not_trust_it_says_why(gateway: Gateway) -> None:
    """An unknown authority is named as the reason."""
    async with Client(gateway.url, give_up_s=0) as client:
        with pytest.raises(GatewayUnreachable, match=r"certificate verify failed|CERTIFICATE_VERIFY_FAILED"):
            await client.ready()


async def test_commands_take_whom_to_trust(gateway: Gateway, pair: TestPair, tmp_path: Path) -> None:
    """`--ca`, HEADGATE_CA and `--insecure` reach it; without them the reason is said; a bad file is named."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_text("a")
    (tmp_path / "out").mkdir()
    scan = ("scan", str(tmp_path / "files"), "--gateway", gateway.url, "--give-up", "0")
    for more in (("--ca", str(pair.ca)), ("--insecure",)):
        assert (await run_command(tmp_path / "out", *scan, *more)).code == 0, more
    assert (await run_command(tmp_path / "out", *scan, env={"HEADGATE_CA": str(pair.ca)})).code == 0
    distrusting = await run_command(tmp_path / "out", *scan)
    assert distrusting.code == 3
    assert "certificate verify failed" in distrusting.err
    for bad, why in ((tmp_path / "no", "cannot be read"), (pair.key, "expected PEM certificates")):
        ended = await run_command(tmp_path / "out", *scan, "--ca", str(bad))
        assert ended.code == 2
        assert f"--ca: {bad} {why}" in ended.err or f"--ca: {why}" in ended.err


async def test_plain_http_is_told_to_speak_tls(gateway: Gateway) -> None:
    """A problem in plain text says what to do."""
    answer = await ask(gateway.url, "GET", "/healthz")
    assert (answer.status, answer.header("content-type")) == (400, "application/problem+json")
    assert "https://" in answer.json()["detail"]


async def test_old_versions_and_http2_are_not_spoken(gateway: Gateway, pair: TestPair) -> None:
    """TLS 1.2 and newer; by ALPN HTTP/1.1 alone, whatever else is offered."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = pair.trusting()
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        stream = await open_tls(gateway.url, context)
        assert stream.selected_alpn_protocol() == "http/1.1"
        await trio.aclose_forcefully(stream)
    context = pair.trusting()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(trio.BrokenResourceError):
        await open_tls(gateway.url, context)


async def test_the_end_of_an_answer_is_an_end_and_no_break(gateway: Gateway, pair: TestPair) -> None:
    """A client that insists on TLS's goodbye gets it."""
    parts = gateway.url.removeprefix("https://").split(":")
    raw = await trio.open_tcp_stream(parts[0], int(parts[1]))
    strict = trio.SSLStream(raw, pair.trusting(), server_hostname="127.0.0.1", https_compatible=False)
    await strict.send_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    received = b""
    with trio.fail_after(5):
        while data := await strict.receive_some(4096):  # a missing goodbye raises
            received += data
    raw.socket.close()
    assert received.startswith(b"HTTP/1.1 200")


async def test_hostile_packets_do_over_tls_what_they_do_without(gateway: Gateway, pair: TestPair) -> None:
    """T24 over TLS: every packet of both lanes and of the WebSocket, the HTTP/2 prefaces among them."""
    packets = [*http_packets(EXPRESS), *http_packets(HANDED_OVER), *frame_packets()]
    complaints: list[str] = []
    async with open_relay(gateway.url, pair.trusting()) as url:
        for start in range(0, len(packets), CONNECTIONS_COUNT):
            complaints += await send_hostile(
                url, [(packet, None) for packet in packets[start : start + CONNECTIONS_COUNT]]
            )
        await prove_alive(url)
    assert gateway.is_running
    assert not complaints, "\n".join(complaints)
    assert [line for line in gateway.log_lines() if line.get("level") == "error"] == []


async def test_a_replaced_certificate_serves_new_connections(tmp_path: Path) -> None:
    """SIGHUP reads the pair again; connections that are open live on; a pair that is broken changes nothing."""
    pair, other = make_pair(tmp_path / "one"), make_pair(tmp_path / "two")
    async with open_gateway(tmp_path / "data", env=pair.env) as gateway:
        old = await open_tls(gateway.url, pair.trusting())
        pair.cert.write_bytes(other.cert.read_bytes())
        gateway.signal(signal.SIGHUP)
        await wait_until(lambda: "was not read again" in gateway.log_text(), "the mismatch is logged")
        async with Client(gateway.url, tls=pair.trusting()) as client:
            assert (await client.ready()).is_ready
        pair.key.write_bytes(other.key.read_bytes())
        gateway.signal(signal.SIGHUP)
        await wait_until(lambda: "the certificate was read again" in gateway.log_text(), "the pair is read")
        async with Client(gateway.url, tls=other.trusting()) as client:
            assert (await client.ready()).is_ready
        await old.send_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await old.receive_some(4096)).startswith(b"HTTP/1.1 200")
        await trio.aclose_forcefully(old)
        assert await gateway.terminate() == 0


async def test_an_expired_certificate_stops_the_start(tmp_path: Path) -> None:
    """The gateway does not start, says why in one line, and has started no engine."""
    expired = make_pair(tmp_path, days=-1)
    gateway = Gateway(tmp_path / "data", env=expired.env)
    with pytest.raises(GatewayDied, match=r"HEADGATE_TLS_CERT: the certificate in .* expired at"):
        await gateway.start()
    assert gateway.exit_code == 1
    assert "Traceback" not in gateway.log_text()
    assert not (tmp_path / "data" / "nats" / "child.json").exists()


async def test_a_gateway_makes_a_certificate_of_its_own(tmp_path: Path) -> None:
    """`--tls-self-signed`: clients trust DATA/tls/cert.pem; no HSTS, which would lock browsers out later."""
    async with open_gateway(tmp_path / "data", args=["--tls-self-signed"]) as gateway:
        context = ssl.create_default_context(cafile=tmp_path / "data" / "tls" / "cert.pem")
        async with Client(gateway.url, tls=context) as client:
            assert (await client.ready()).is_ready
        async with open_relay(gateway.url, context) as url:
            assert (await ask(url, "GET", "/healthz")).header("strict-transport-security") is None


async def _hold_idle(gateway: Gateway, pair: TestPair, count: int) -> None:
    """Open connections that never shake hands; good clients are served meanwhile, and each is cut in time."""
    began = time.monotonic()
    parts = gateway.url.removeprefix("https://").split(":")

    async def hold(first: bytes) -> None:
        stream = await trio.open_tcp_stream(parts[0], int(parts[1]))
        async with stream:
            await stream.send_all(first)
            with trio.fail_after(HANDSHAKE_DEADLINE_S + SLACK_S):
                try:
                    while await stream.receive_some(1024):
                        pass
                except trio.BrokenResourceError:
                    pass  # a reset is an end as well
            assert time.monotonic() - began > HANDSHAKE_DEADLINE_S - 1

    async with trio.open_nursery() as nursery:
        for index in range(count):
            nursery.start_soon(hold, b"\x16\x03\x01" if index % 2 else b"\x16")
        async with open_relay(gateway.url, pair.trusting()) as url:
            assert (await ask(url, "GET", "/healthz")).status == 200


@pytest.mark.long
async def test_500_idle_handshakes_are_cut(gateway: Gateway, pair: TestPair) -> None:
    """T21, its 500 idle TLS connections."""
    await _hold_idle(gateway, pair, 500)
