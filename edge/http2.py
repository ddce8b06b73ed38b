"""HTTP/2: what all connections of a process share.

Rules of the file:
- HTTP/2 is another way in, nothing else: requests are answered by the route table, behind its guard, with its limits,
  logs and figures, as on the lanes.
- Off unless it is asked for. Over TLS it is agreed on by ALPN; without TLS the client must know (its preface is the
  first thing it sends); the upgrade from HTTP/1.1 is never offered.
- WebSockets are not offered over it (RFC 8441): clients open a connection of HTTP/1.1 for them.
"""

from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog
import trio

from edge.express import Connection
from edge.http2_session import Session
from edge.routes import RouteTable
from engine.http2_floods import ENHANCE_YOUR_CALM

if TYPE_CHECKING:
    from edge.passing import Passing

log = structlog.get_logger("http2")


class Http2:
    """Serves connections that speak HTTP/2.

    Args:
        table: the routes.
        draining: set when the gateway goes.
        most_streams: requests at once, of all connections; one more is refused, which tells a client to try again. One
            address that is not loopback has half of them, so that it cannot take them from all others.
        passing: knows requests that belong to other workers; None where there are none.
    """

    def __init__(
        self, table: RouteTable, draining: trio.Event, most_streams: int, passing: "Passing | None" = None
    ) -> None:
        self.table = table
        self.draining = draining
        self.most_streams = most_streams
        self.passing = passing
        self.streams = 0
        self.counts = table.metrics.http2
        self._of_address: Counter[str] = Counter()

    async def serve(self, connection: Connection, begun: bytes) -> None:
        """Serve a connection to its end.

        Args:
            connection: the connection; whoever accepted it closes it.
            begun: what was received of it already.
        """
        self.counts["connections"] += 1
        await Session(self, connection, begun).run()

    def take_place(self, peer: str) -> bool:
        """Take the place of one stream; False when there is none."""
        if self.streams >= self.most_streams:
            return False
        if self._of_address[peer] >= self.most_streams // 2 and not ip_address(peer.partition("%")[0]).is_loopback:
            return False
        self.streams += 1
        self._of_address[peer] += 1
        return True

    def give_place(self, peer: str) -> None:
        """Give it back."""
        self.streams -= 1
        self._of_address[peer] -= 1
        if not self._of_address[peer]:
            del self._of_address[peer]

    def note_end(self, code: int, detail: str, peer: str) -> None:
        """Note that a connection was ended for what its client did."""
        self.counts["calmed" if code == ENHANCE_YOUR_CALM else "broken"] += 1
        log.info("connection ended", peer=peer, code=code, detail=detail)
