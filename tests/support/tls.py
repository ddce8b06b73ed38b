"""Certificates for tests, and a relay that lets a client that speaks plain TCP talk to a gateway that speaks TLS.

Rules of the file:
- The relay changes no byte: what a test sends through it is what the gateway deciphers.
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import trio
import trustme


@dataclass(frozen=True)
class TestPair:
    """A certificate for 127.0.0.1 and its key, as files, and who signed it."""

    __test__ = False

    cert: Path
    key: Path
    ca: Path

    @property
    def env(self) -> dict[str, str]:
        """The settings that make a gateway use it."""
        return {"HEADGATE_TLS_CERT": str(self.cert), "HEADGATE_TLS_KEY": str(self.key)}

    def trusting(self) -> ssl.SSLContext:
        """What a client needs to trust it."""
        return ssl.create_default_context(cafile=self.ca)


def make_pair(folder: Path, name: str = "gateway", *, days: float = 1) -> TestPair:
    """Make a pair that is valid for so many days from now; negative ones have expired."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    now = datetime.now(UTC)
    issued = authority.issue_cert(
        "127.0.0.1", "localhost", not_before=now - timedelta(days=30), not_after=now + timedelta(days=days)
    )
    cert, key, ca = folder / f"{name}.crt", folder / f"{name}.key", folder / f"{name}-ca.crt"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(ca))
    return TestPair(cert, key, ca)


async def open_tls(url: str, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    """Connect and shake hands."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    stream = await trio.open_tcp_stream(parts.hostname, parts.port)
    secured = trio.SSLStream(stream, context, server_hostname=parts.hostname, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException:  # raised again: a stream that nobody gets is closed
        stream.socket.close()
        raise
    return secured


@asynccontextmanager
async def open_relay(url: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """Relay plain TCP to the TLS gateway at `url` for the length of the block; gives the address to talk to."""

    async def serve(client: trio.SocketStream) -> None:
        try:
            gateway = await open_tls(url, context)
            async with gateway, client, trio.open_nursery() as nursery:
                nursery.start_soon(_pump, client, gateway, nursery.cancel_scope.cancel)
                nursery.start_soon(_pump, gateway, client, nursery.cancel_scope.cancel)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            client.socket.close()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, end: Callable[[], None]) -> None:
    while data := await source.receive_some(65_536):
        await sink.send_all(data)
    end()
