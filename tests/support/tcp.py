"""A connection over TCP, with both its ends in the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from edge.tcp_stream import TcpStream


@asynccontextmanager
async def open_tcp() -> AsyncIterator[tuple[TcpStream, trio.SocketStream]]:
    """Our end and a client's, closed afterwards."""
    (listening,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with (
        listening,
        await trio.open_tcp_stream(*listening.socket.getsockname()) as theirs,
        TcpStream(await listening.accept()) as ours,
    ):
        yield ours, theirs
