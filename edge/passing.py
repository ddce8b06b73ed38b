"""Passes connections between the workers of one gateway, where a request belongs to one of them.

A plain connection goes over whole, as a descriptor, and costs nothing afterwards. One that speaks TLS cannot: its keys
are in this process. It is relayed: the other worker gets one end of a socket pair, and the bytes go through here.

Rules of the file:
- What was read already goes along, byte for byte; the other worker begins with it as if it had read it.
- A worker that serves a connection checks everything anew: nothing is believed because it came from another.
"""

import socket
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final
from urllib.parse import parse_qsl

import orjson
import trio

from actors.mesh import Mesh
from edge.express import Connection
from edge.listener import Listener
from edge.normaliser import Head
from edge.phase import Phase
from edge.tcp_stream import TcpStream
from edge.tls_stream import ClientStream
from engine.errors import Unavailable
from engine.placement import home_of

RELAY_BYTES: Final = 64 * 1024


class Passing:
    """Decides where a request belongs, and brings its connection there.

    Args:
        mesh: the way to the others.
        count: how many workers there are.
    """

    def __init__(self, mesh: Mesh, count: int) -> None:
        self._mesh = mesh
        self._count = count
        self.passed = 0
        self.relayed = 0

    def find_home(self, head: Head) -> int | None:
        """Give the other worker that a request belongs to, None when it may be served here."""
        home = home_of(head.path, partial(_parameters_of, head.query), self._count)
        return None if home == self._mesh.index else home

    def open_to(self, home: int, peer: str, begun: bytes) -> trio.SocketStream | None:
        """Open a connection to another worker, for one stream of HTTP/2; None when it takes none.

        Args:
            home: the worker.
            peer: the client's address.
            begun: the request's head, as HTTP/1.1.
        """
        ours, theirs = socket.socketpair()
        if not self._mesh.hand_over(home, theirs, orjson.dumps({"peer": peer}) + b"\n" + begun):
            ours.close()
            return None
        ours.setblocking(False)
        self.relayed += 1
        return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async def pass_on(self, connection: Connection, head: Head) -> bool:
        """Pass a connection on when its request belongs to another worker.

        Returns:
            Whether the connection is another's now, and this process is done with it.

        Raises:
            Unavailable: it belongs to a worker that can take none now.
        """
        home = self.find_home(head)
        if home is None:
            return False
        about = orjson.dumps({"peer": connection.peer}) + b"\n" + connection.taken()
        stream = connection.stream
        if isinstance(stream, TcpStream):
            whole = socket.fromfd(stream.socket.fileno(), stream.socket.family, socket.SOCK_STREAM)
            if not self._mesh.hand_over(home, whole, about):
                raise _away(home)
            self.passed += 1
            return True
        ours, theirs = socket.socketpair()
        if not self._mesh.hand_over(home, theirs, about):
            ours.close()
            raise _away(home)
        self.relayed += 1
        connection.phase, connection.deadline = Phase.UPGRADED, inf  # the other worker looks after its deadlines
        await _relay(stream, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        return True

    def take_with(self, listener: Listener, nursery: trio.Nursery) -> None:
        """Have connections that others pass on served here."""

        def take(connection: socket.socket, about: bytes) -> None:
            words, _, data = about.partition(b"\n")
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
            nursery.start_soon(listener.adopt, stream, str(orjson.loads(words)["peer"]), data)

        self._mesh.on_connection(take)
        self._mesh.begin_receiving()


def _parameters_of(query: str) -> dict[str, str]:
    """Decode a query; what cannot be decoded belongs to nobody, and whoever gets it refuses it."""
    if not query:
        return {}
    try:
        return dict(parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100))
    except ValueError:
        return {}


def _away(home: int) -> Unavailable:
    """Word that a worker has no room; nobody else may serve what belongs to it."""
    return Unavailable("server.worker-away", f"worker {home}, which this belongs to, can take no connection now")


async def _relay(client: ClientStream, other: trio.SocketStream) -> None:
    """Carry bytes both ways until the other worker has ended, or the client is gone."""
    async with trio.open_nursery() as nursery:

        async def carry_in() -> None:
            if not await _carry(client, other):
                nursery.cancel_scope.cancel()  # so that the other worker hears of it

        nursery.start_soon(carry_in)
        await _carry(other, client)
        nursery.cancel_scope.cancel()
    with suppress(OSError):
        await other.aclose()


async def _carry(source: trio.abc.HalfCloseableStream, target: trio.abc.HalfCloseableStream) -> bool:
    """Carry bytes one way to their end; False when a connection broke before."""
    try:
        while data := await source.receive_some(RELAY_BYTES):
            await target.send_all(data)
        await target.send_eof()
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        return False
    return True
