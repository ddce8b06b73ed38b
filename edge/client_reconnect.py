"""Staying connected to a gateway: come back after every end of a connection that is worth it.

Rules of the file:
- Only `GatewayUnavailable` is come back from. What else ends a connection is for the caller.
- The delays start small again after something went well: the connection says so, or has lived for `CALM_S`.

What must change with it: `edge/client_retry.py` decides which ends of a connection are worth coming back from.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import urlencode, urlsplit

import trio

from edge.client_retry import Backoff, GatewayError, GatewayUnavailable
from edge.client_socket import Socket, open_socket

CALM_S: Final = 10.0
"""A connection that lived this long was a good one: the next delay starts small again. A batch says so as well."""

OnTrouble = Callable[[GatewayError, float], None]
"""Called with what went wrong and the seconds until the next try."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Which gateway, and what every request to it carries.

    Args:
        base_url: the gateway's, with http or https.
        headers: gives what the upgrade carries, for its address; asked for each of them.
        tls: used where the address has https.
    """

    base_url: str
    headers: Callable[[str], Sequence[tuple[bytes, bytes]]]
    tls: ssl.SSLContext

    def upgrade_headers(self, resource: str) -> Sequence[tuple[bytes, bytes]]:
        """Give what the upgrade to this request target carries."""
        parts = urlsplit(self.base_url)
        return self.headers(f"{parts.scheme}://{parts.netloc}{resource}")

    def resource(self, parameters: dict[str, str | int]) -> str:
        """Give the request target of the upgrade to `/stream`."""
        return f"{urlsplit(self.base_url).path}/stream?{urlencode(parameters)}"


async def stay_connected(
    destination: Destination,
    parameters: Callable[[], dict[str, str | int]],
    serve: Callable[[Socket, Backoff], Awaitable[NoReturn]],
    on_trouble: OnTrouble,
    subprotocols: Sequence[str] = (),
) -> NoReturn:
    """Connect to `/stream` again and again.

    Args:
        parameters: asked for the query of each connection.
        serve: lives on one connection, until it ends.
        on_trouble: told of every lost connection and every failed try.

    Raises:
        GatewayRefused: coming back would be of no use.
        GatewayBroken: what the gateway says cannot be understood.
    """
    backoff = Backoff()
    while True:
        began = trio.current_time()
        target = destination.resource(parameters())
        try:
            async with open_socket(
                destination.base_url, target, destination.upgrade_headers(target), destination.tls, subprotocols
            ) as socket:
                await serve(socket, backoff)
        except GatewayUnavailable as error:
            if trio.current_time() - began >= CALM_S:
                backoff.reset()
            delay_s = backoff.next_delay_s(error.retry_after_s)
            on_trouble(error, delay_s)
        await trio.sleep(delay_s)
