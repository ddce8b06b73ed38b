"""TLS on an accepted connection.

Our own instead of `trio.SSLStream`, because a front door has to do what that cannot: say goodbye without waiting for
the answer, tell a client that speaks plain HTTP what is wrong, and notice that a client left without losing its bytes.

Rules of the file:
- No renegotiation and no compression: the context forbids both, so a write never waits for a read.
- One task receives and one sends; sends queue.
- No deadline here: the listener's reaper has them (`Phase.HANDSHAKE`).
"""

import contextlib
import os
import ssl
from typing import Final

import trio

from edge.tcp_stream import TcpStream

RECEIVE_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 64 * 1024
HANDSHAKE_BYTE: Final = 0x16
"""What every TLS connection begins with: the type of a handshake's record."""


class NotTlsError(Exception):
    """The client speaks something else, most likely plain HTTP."""


class TlsStream(trio.abc.HalfCloseableStream):
    """The server's end of a TLS connection.

    Args:
        transport: the accepted stream; whoever accepted it closes it.
        context: certificate, versions, protocols.
    """

    def __init__(self, transport: TcpStream, context: ssl.SSLContext) -> None:
        self.transport = transport
        self.socket = transport.socket
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._sending = trio.Lock()
        self._peeked = b""
        self._is_over = False

    async def handshake(self) -> None:
        """Agree with the client on keys.

        Raises:
            NotTlsError: it does not speak TLS; nothing was sent.
            trio.BrokenResourceError: they cannot agree, or it left.
        """
        first = await self.transport.receive_some(RECEIVE_BYTES)
        if first and first[0] != HANDSHAKE_BYTE:
            raise NotTlsError
        self._incoming.write(first)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._feed():
                    raise trio.BrokenResourceError("the client left during the TLS handshake") from None
            except ssl.SSLError as problem:
                await self._flush()  # the alert that says why
                raise trio.BrokenResourceError(f"no TLS with this client: {problem}") from problem
            else:
                await self._flush()
                return

    @property
    def protocol(self) -> str | None:
        """What was agreed on by ALPN, None when nothing was."""
        return self._tls.selected_alpn_protocol()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive; empty when the client has ended, even without a goodbye: HTTP's framing says what is whole."""
        if self._peeked:
            await trio.lowlevel.checkpoint()
            taken = self._peeked[:max_bytes]
            self._peeked = self._peeked[len(taken) :]
            return taken
        if self._is_over:
            return bytes(await self.transport.receive_some(max_bytes))  # nobody reads it as anything any more
        return await self._read(max_bytes or RECEIVE_BYTES)

    async def peek(self) -> bytes:
        """Wait for more and leave it to be received; empty when the client has ended."""
        if not self._peeked:
            self._peeked = await self._read(RECEIVE_BYTES)
        return self._peeked

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send; a cancelled send leaves the connection of no use, as on a plain one."""
        view = memoryview(data)
        async with self._sending:
            for start in range(0, len(view), PIECE_BYTES):
                try:
                    self._tls.write(view[start : start + PIECE_BYTES])
                except ssl.SSLError as problem:
                    raise trio.BrokenResourceError(f"TLS broke: {problem}") from problem
                await self.transport.send_all(self._outgoing.read())

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not block."""
        async with self._sending:
            await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say goodbye, in TLS and in TCP; what still comes is received undeciphered, to be thrown away."""
        self._say_goodbye()
        await self._flush()
        await self.transport.send_eof()

    async def aclose(self) -> None:
        """Say goodbye, without waiting, and close."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The same, for whoever cannot await."""
        if self.socket.fileno() >= 0 and not self._is_over and not self._sending.locked():
            self._say_goodbye()
            with contextlib.suppress(OSError):  # it left, or takes nothing: a goodbye is a courtesy
                os.write(self.socket.fileno(), self._outgoing.read())
        self.socket.close()

    def _say_goodbye(self) -> None:
        self._is_over = True
        # It waits for the client's goodbye, or there was no handshake: ours is written, or there is none.
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()

    async def _read(self, most: int) -> bytes:
        while True:
            try:
                data: bytes = self._tls.read(most)
            except ssl.SSLWantReadError:
                if self._outgoing.pending:
                    await self._flush()
                if not await self._feed():
                    return b""
            except ssl.SSLZeroReturnError:
                await trio.lowlevel.checkpoint()
                return b""
            except ssl.SSLError as problem:
                raise trio.BrokenResourceError(f"TLS broke: {problem}") from problem
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
                return data

    async def _feed(self) -> bool:
        data = await self.transport.receive_some(RECEIVE_BYTES)
        self._incoming.write(data)
        return bool(data)

    async def _flush(self) -> None:
        async with self._sending:
            data = self._outgoing.read()
            if data:
                await self.transport.send_all(data)


ClientStream = TcpStream | TlsStream
"""A client's connection, whichever way it came."""
