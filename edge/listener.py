"""The listener: accepts connections, bounds them, looks after their deadlines, lets them go.

Rules of the file:
- A connection that fails ends alone.
- Above the limits a connection is told so and closed at once; it is never queued.
- The reaper cuts what is past its deadline; shutdown cuts what is left, so that nothing can hold it up.

Back-pressure: sheds.
"""

import ctypes
import errno
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import structlog
import trio

from actors.tree import Mailbox
from edge.express import Connection, PassOn
from edge.normaliser import Head
from edge.phase import Phase
from edge.problems import problem_response
from edge.responses import encode_response, request_id_of
from edge.routes import RouteTable
from edge.tcp_stream import TcpStream
from edge.tls_stream import ClientStream, TlsStream
from engine.errors import Unavailable

if TYPE_CHECKING:
    from edge.tls import Certificates

log = structlog.get_logger("listener")
BACKLOG: Final = 1024
BACKLOG_WITHIN_S: Final = 0.02
BACKLOG_MOST_S: Final = 1.0
"""Only where the kernel goes on with handshakes can the backlog last so long."""
LINGER_S: Final = 0.25
"""At shutdown a quiet connection stays so long: a request that is on its way to it is answered, not reset."""
REAP_EVERY_S: Final = 0.5
ACCEPT_PAUSE_S: Final = 0.1
TURNED_AWAY_MOST: Final = 128
"""Connections that are told at once that there is no room; a flood's others are closed without a word."""
USER_TIMEOUT_MS: Final = 10_000
"""`TCP_USER_TIMEOUT`: the kernel gives up on unacknowledged bytes after this, whatever shields a send."""
_SO_ATTACH_FILTER: Final = 26
_NO_MORE_HANDSHAKES: Final = (
    (0x30, 0, 0, 13),  # the byte of the TCP flags
    (0x54, 0, 0, 0x12),  # of these SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone begins a handshake:
    (0x06, 0, 0, 0),  # dropped, and the client tries again, when the socket is closed or somebody else has it
    (0x06, 0, 0, 0xFFFFFFFF),  # everything else, a handshake's end too, is taken
)
"""A classic BPF program for a listening socket: (code, jump if true, jump if false, operand)."""
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Listener:
    """One listening socket and its connections.

    Args:
        table: the routes.
        hand_over: serves a connection on the Quart lane.
        upgrade: serves a connection as a WebSocket.
        most: connections at once.
        most_per_ip: of one address that is not loopback.
        certificates: what TLS is spoken with, None for plain HTTP.
        speak_http2: serves a connection that speaks HTTP/2, None where that is not spoken.
        pass_on: gives a connection to another process; None where there is none.
        shares: other processes accept from the same sockets.
    """

    def __init__(
        self,
        table: RouteTable,
        hand_over: Callable[[Connection, Head], Awaitable[None]],
        upgrade: Callable[[ClientStream, str, Head, bytes, str], Awaitable[None]],
        most: int,
        most_per_ip: int,
        certificates: "Certificates | None" = None,
        speak_http2: Callable[[Connection, bytes], Awaitable[None]] | None = None,
        pass_on: PassOn | None = None,
        *,
        shares: bool = False,
    ) -> None:
        self._certificates = certificates
        self._table = table
        self._hand_over = hand_over
        self._pass_on = pass_on
        self._shares = shares
        self._upgrade = upgrade
        self._speak_http2 = speak_http2
        self._most = most
        self._most_per_ip = most_per_ip
        self._connections: set[Connection] = set()
        self._per_ip: Counter[str] = Counter()
        self._turned_away = 0
        self._draining = False
        self._emptied = trio.Event()

    def mailbox(self) -> Mailbox:
        """How many connections are open, and how many may be."""
        return Mailbox(len(self._connections), self._most)

    async def run(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        """Accept until cancelled; connections live in the nursery that is given."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reap)
            for one in listeners:
                nursery.start_soon(self._accept, one, connections)

    async def stop_accepting(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        """Take whoever stands in the backlog, then close the sockets: nobody is reset for having come just now.

        Closing a listening socket resets its backlog. So no handshake may begin any more before the backlog is taken.
        A socket that is shared is not closed by this; whoever closes it for all sees to the handshakes.
        """
        for one in listeners:
            if not self._shares:
                refuse_handshakes(one.socket)
            is_there_more = True
            with trio.move_on_after(BACKLOG_MOST_S):
                while is_there_more:
                    is_there_more = False
                    with trio.move_on_after(BACKLOG_WITHIN_S):
                        connections.start_soon(self._serve, await one.accept())
                        is_there_more = True
            await one.aclose()

    async def drain(self, within_s: float) -> None:
        """End quiet connections soon, and the others after their answer; cut what is left at the deadline."""
        self._draining = True
        deadline = trio.current_time() + within_s
        await self._wait_emptied(min(LINGER_S, within_s))
        for connection in list(self._connections):
            is_quiet = connection.phase is Phase.IDLE and not _has_sent_more(connection)
            if is_quiet or connection.phase is Phase.HANDSHAKE:
                connection.scope.cancel()
        await self._wait_emptied(deadline - trio.current_time())
        self.cut()

    async def _wait_emptied(self, within_s: float) -> None:
        with trio.move_on_after(max(0.0, within_s)):
            while self._connections:
                self._emptied = trio.Event()
                await self._emptied.wait()

    def cut(self) -> None:
        """End every connection now: the sockets are closed under whatever still waits for them."""
        for connection in list(self._connections):
            connection.scope.cancel()
            connection.stream.socket.close()

    async def _accept(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as problem:
                if problem.errno not in _OUT_OF_RESOURCES:
                    raise
                log.error("cannot accept", error=str(problem))
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            self._table.metrics.connections["accepted"] += 1
            connections.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            peer = str(stream.socket.getpeername()[0])
        except OSError:
            stream.socket.close()
            return
        if not self._has_room(peer):
            await self._turn_away(stream, peer)
            return
        plain = TcpStream(stream)
        await self._run(plain if self._certificates is None else TlsStream(plain, self._certificates.context), peer)

    async def adopt(self, stream: trio.SocketStream, peer: str, data: bytes) -> None:
        """Serve a connection that another process passed on.

        Args:
            stream: the connection, or the other process's end of it; plain in any case.
            peer: the client's address.
            data: what was read of it already, a head at least.
        """
        if self._draining or len(self._connections) >= self._most:
            await self._turn_away(stream, peer)
            return
        await self._run(TcpStream(stream), peer, data)

    async def _run(self, client: ClientStream, peer: str, data: bytes = b"") -> None:
        connection = Connection(
            client,
            peer,
            self._table,
            self._hand_over,
            self._upgrade,
            lambda: self._draining,
            self._speak_http2,
            self._pass_on,
        )
        connection.begin_with(data)
        self._connections.add(connection)
        self._per_ip[peer] += 1
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._per_ip[peer] -= 1
            if not self._per_ip[peer]:
                del self._per_ip[peer]
            _close(client)
            if not self._connections:
                self._emptied.set()

    def _has_room(self, peer: str) -> bool:
        if self._draining or len(self._connections) >= self._most:
            return False
        return self._per_ip[peer] < self._most_per_ip or ip_address(peer.partition("%")[0]).is_loopback

    async def _turn_away(self, stream: trio.SocketStream, peer: str) -> None:
        self._table.metrics.connections["shed"] += 1
        if self._certificates is not None or self._turned_away >= TURNED_AWAY_MOST:
            stream.socket.close()  # a handshake only to say no is what an attacker would like; so is a task for each
            return
        self._turned_away += 1
        try:
            await self._say_no(stream, peer)
        finally:
            self._turned_away -= 1
            stream.socket.close()

    def _no_room(self, peer: str) -> Unavailable:
        if self._draining:
            return Unavailable("server.draining", "the gateway is shutting down")
        if len(self._connections) < self._most:
            detail = f"{self._per_ip[peer]} connections of {peer} are open; the limit is {self._most_per_ip} an address"
        else:
            detail = f"{len(self._connections)} connections are open; the limit is {self._most}"
        return Unavailable("server.too-many-connections", detail)

    async def _say_no(self, stream: trio.SocketStream, peer: str) -> None:
        fault = self._no_room(peer)
        request_id = request_id_of({})
        answer = encode_response(problem_response(fault, request_id), request_id, stays=False, head_only=False)
        try:
            with trio.move_on_after(REAP_EVERY_S):
                await stream.send_all(answer)
                await stream.send_eof()
                await stream.receive_some(1024)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is being turned away; that it left by itself is as good

    async def _reap(self) -> None:
        while True:
            await trio.sleep(REAP_EVERY_S)
            now = trio.current_time()
            for connection in self._connections:
                if connection.deadline < now and not connection.scope.cancel_called:
                    connection.is_late = True
                    connection.scope.cancel()


async def open_listening(host: str, ports: Sequence[int]) -> list[trio.SocketListener]:
    """Bind each port.

    Raises:
        OSError: the address is not to be had.
    """
    listeners = [one for port in ports for one in await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)]
    for one in listeners:
        one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return listeners


def shared_listening(descriptors: list[int]) -> list[trio.SocketListener]:
    """Take part in listening sockets that another process has opened."""
    return [
        trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))
        for descriptor in descriptors
    ]


def refuse_handshakes(listening: trio.socket.SocketType) -> None:
    """Let the kernel drop what would begin a handshake; where it cannot, closing resets who came last."""
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _NO_MORE_HANDSHAKES)
    buffer = ctypes.create_string_buffer(program)
    fields = struct.pack("@HP", len(_NO_MORE_HANDSHAKES), ctypes.addressof(buffer))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fields)
    except OSError as problem:
        log.debug("handshakes go on until the socket is closed", error=str(problem))


def _close(stream: ClientStream) -> None:
    if isinstance(stream, TlsStream):
        stream.close()
    else:
        stream.socket.close()


def _has_sent_more(connection: Connection) -> bool:
    """Say that a request has come on an idle connection and nobody has looked yet."""
    try:
        raw = socket.fromfd(connection.stream.socket.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return False
    with raw:
        try:
            return bool(raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False
