"""Certificates are read, checked, made and kept fresh; what cannot be used is said with its variable."""

import ssl
import stat
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization

from edge.express import HANDSHAKE_WITHIN_S
from edge.listener import Listener, open_listening
from edge.routes import RouteTable
from edge.serve_tls import LOOK_EVERY_S, run_reloads
from edge.tcp_stream import TcpStream
from edge.tls import Certificates, make_own, open_pair
from edge.tls_stream import NotTlsError, TlsStream
from engine.errors import Refused
from engine.metrics import Metrics
from engine.settings import load_settings
from tests.support.tls import TestPair, make_pair


def _garbage(pair: TestPair) -> dict[str, object]:
    pair.cert.write_text("hello")
    return {"tls_cert": pair.cert, "tls_key": pair.key}


def _with_passphrase(pair: TestPair) -> dict[str, object]:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return {"tls_cert": pair.cert, "tls_key": pair.key}


def _other_key(pair: TestPair) -> dict[str, object]:
    other = make_pair(pair.cert.parent / "other")
    return {"tls_cert": pair.cert, "tls_key": other.key}


def _expired(pair: TestPair) -> dict[str, object]:
    old = make_pair(pair.cert.parent / "old", days=-1)
    return {"tls_cert": old.cert, "tls_key": old.key}


@pytest.mark.parametrize(
    ("spoil", "variable", "reason"),
    [
        (lambda pair: {"tls_cert": pair.cert}, "HEADGATE_TLS_KEY", "is set"),
        (lambda pair: {"tls_key": pair.key}, "HEADGATE_TLS_CERT", "is set"),
        (lambda pair: {"tls_cert": pair.cert / "no", "tls_key": pair.key}, "HEADGATE_TLS_CERT", "cannot be read"),
        (lambda pair: {"tls_cert": pair.cert, "tls_key": pair.key / "no"}, "HEADGATE_TLS_KEY", "cannot be read"),
        (lambda pair: {"tls_cert": pair.cert, "tls_key": pair.cert}, "HEADGATE_TLS_KEY", "expected a PEM key"),
        (lambda pair: {"tls_cert": pair.key, "tls_key": pair.key}, "HEADGATE_TLS_CERT", "expected PEM certificates"),
        (lambda pair: {"tls_cert": pair.cert, "tls_self_signed": "on"}, "HEADGATE_TLS_SELF_SIGNED", "expected off"),
        (_garbage, "HEADGATE_TLS_CERT", "expected PEM certificates"),
        (_with_passphrase, "HEADGATE_TLS_KEY", "passphrase"),
        (_other_key, "HEADGATE_TLS_KEY", "not that of the certificate"),
        (_expired, "HEADGATE_TLS_CERT", "expired at"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_variable(
    spoil: Callable[[TestPair], dict[str, object]], variable: str, reason: str, tmp_path: Path
) -> None:
    """T33: the text names the variable and says why."""
    settings = load_settings({**spoil(make_pair(tmp_path)), "data": tmp_path / "data"})
    with pytest.raises(Refused) as refused:
        open_pair(settings)
    assert refused.value.detail.startswith(f"{variable}: ")
    assert reason in refused.value.detail


def test_a_certificate_of_our_own_is_made_once_and_kept(tmp_path: Path) -> None:
    """A restart keeps what clients trust; another address, or too little time left, makes another."""
    now = datetime.now(UTC)
    cert, key = make_own(tmp_path, "127.0.0.1", now)
    first = cert.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert make_own(tmp_path, "127.0.0.1", now + timedelta(days=300)) == (cert, key)
    assert cert.read_bytes() == first
    make_own(tmp_path, "127.0.0.1", now + timedelta(days=380))
    assert cert.read_bytes() != first
    second = cert.read_bytes()
    make_own(tmp_path, "gateway.example", now + timedelta(days=380))
    assert cert.read_bytes() != second
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


async def test_a_changed_pair_is_read_again(tmp_path: Path, patient_clock: trio.testing.MockClock) -> None:
    """Files that change are read within ten seconds; half of a pair changes nothing and is refused once."""
    pair = make_pair(tmp_path)
    certificates = Certificates(pair.cert, pair.key)
    first = certificates.context
    send, signals = trio.open_memory_channel[int](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_reloads, certificates, signals)
        await trio.sleep(2.5 * LOOK_EVERY_S)
        assert certificates.reloads == 0
        other = make_pair(tmp_path / "next")
        pair.cert.write_bytes(other.cert.read_bytes())
        await trio.sleep(3 * LOOK_EVERY_S)
        assert certificates.context is first
        assert (certificates.reloads, certificates.refused_reloads) == (0, 1)
        pair.key.write_bytes(other.key.read_bytes())
        await trio.sleep(1.5 * LOOK_EVERY_S)
        assert certificates.reloads == 1
        assert certificates.context is not first
        await send.send(1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()


Ends = tuple[TlsStream, trio.SocketStream, ssl.SSLContext]


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    """The gateway's end of a connection, the client's, and whom the client trusts."""
    pair = make_pair(tmp_path)
    certificates = Certificates(pair.cert, pair.key)
    ours, theirs = trio.socket.socketpair()
    served = TcpStream(trio.SocketStream(ours))
    yield TlsStream(served, certificates.context), trio.SocketStream(theirs), pair.trusting()
    served.socket.close()
    theirs.close()


async def test_bytes_pass_both_ways_and_the_goodbye_is_said(ends: Ends) -> None:
    """What goes in comes out, a peek takes nothing, and an end is an end and no break."""
    server, client_end, context = ends
    client = trio.SSLStream(client_end, context, server_hostname="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handshake)
        nursery.start_soon(client.do_handshake)
    content = bytes(range(256)) * 4096
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, content)
        received = bytearray()
        while len(received) < len(content):
            received += await client.receive_some(50_000)
    assert received == content
    await client.send_all(b"hello")
    assert await server.peek() == b"hello"
    assert await server.receive_some(2) == b"he"
    assert await server.receive_some(100) == b"llo"
    await server.send_eof()
    assert await client.receive_some(1) == b""  # not a broken connection: TLS's goodbye came
    server.close()


async def test_a_client_that_is_cancelled_in_the_middle_of_a_receive_can_go_on(ends: Ends) -> None:
    """Cancelled here: a receive that was given up loses nothing."""
    server, client_end, context = ends
    client = trio.SSLStream(client_end, context, server_hostname="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handshake)
        nursery.start_soon(client.do_handshake)
    with trio.move_on_after(0.01):
        await server.receive_some(10)
    with trio.move_on_after(0.01):
        await server.peek()
    await client.send_all(b"still there")
    assert await server.receive_some(100) == b"still there"


async def test_plain_http_is_told_apart(ends: Ends) -> None:
    """The first byte says what a client speaks."""
    server, client_end, _ = ends
    await client_end.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(NotTlsError):
        await server.handshake()


@pytest.mark.parametrize(
    "garbage", [b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff" + b"a" * 70_000, b""]
)
async def test_a_broken_handshake_is_the_connection_s_own_failure(garbage: bytes, ends: Ends) -> None:
    """Whatever comes, the handshake ends with a broken connection and nothing else."""
    server, client_end, _ = ends
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            try:
                await client_end.send_all(garbage)
                await client_end.send_eof()
            except trio.BrokenResourceError:
                pass  # the server has seen enough

        nursery.start_soon(send)
        with pytest.raises(trio.BrokenResourceError):
            await server.handshake()
        server.close()


async def test_a_handshake_that_does_not_end_is_cut(tmp_path: Path, patient_clock: trio.testing.MockClock) -> None:
    """T21: ten seconds, counted among the connections meanwhile; beyond the bound a client is closed, not queued."""

    async def never(*_: object) -> None:
        raise AssertionError("nothing was agreed on, so nothing can be served")

    pair = make_pair(tmp_path)
    most = 3
    listener = Listener(RouteTable([], Metrics()), never, never, most, most, Certificates(pair.cert, pair.key))
    (socket,) = await open_listening("127.0.0.1", [0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run, [socket], nursery)
        idle = [await trio.testing.open_stream_to_socket_listener(socket) for _ in range(most)]
        for index, client in enumerate(idle):
            await client.send_all(b"\x16\x03\x01"[:index])
        began = trio.current_time()
        while listener.mailbox().depth < most:
            await trio.testing.wait_all_tasks_blocked()
        one_more = await trio.testing.open_stream_to_socket_listener(socket)
        assert await _ended(one_more)
        assert trio.current_time() - began < 1
        for client in idle:
            assert await _ended(client)
        assert HANDSHAKE_WITHIN_S <= trio.current_time() - began < HANDSHAKE_WITHIN_S + 2
        assert listener.mailbox().depth == 0
        nursery.cancel_scope.cancel()
    await socket.aclose()


async def _ended(client: trio.SocketStream) -> bool:
    async with client:
        try:
            return await client.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True  # a reset is an end as well
