"""A small server that issued opaque tokens and is asked about them (RFC 7662), in the test's own Trio run.

Rules of the file:
- It answers what the RFC wants: who asks must say who they are; of what is not known it says `{"active":false}` alone.
"""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs

import orjson
import trio

from tests.support.peers import read_request

CLIENT, SECRET = "head gate", "hunter2+secret/of the client"
"""With characters that RFC 6749 has encoded before they are joined."""
_BASIC = "Basic " + b64encode(b"head%20gate:hunter2%2Bsecret%2Fof%20the%20client").decode()


class Issuer:
    """The server and its tokens; what a test changes counts from the next question on.

    Attributes:
        tokens: what is said of each that is active.
        asked: the tokens that were asked about, in order.
        is_away: connections are closed without an answer.
        hold: while set, answers wait for it.
        body: sent instead of an answer, with this status.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/introspect"
        self.tokens: dict[str, dict[str, object]] = {}
        self.asked: list[str] = []
        self.is_away = False
        self.hold: trio.Event | None = None
        self.body: tuple[int, bytes] | None = None
        self.most_at_once = 0
        self._at_once = 0

    async def serve_one(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # whoever asked hung up
                await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        data = b""
        while True:
            asked = await read_request(stream, data)
            if asked is None:
                return
            request_line, headers, body, data = asked
            assert request_line == "POST /introspect HTTP/1.1"
            [token] = parse_qs(body.decode(), strict_parsing=True)["token"]
            self.asked.append(token)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            try:
                if self.hold is not None:
                    await self.hold.wait()
            finally:
                self._at_once -= 1
            if self.is_away:
                return
            status, answer = self.body or self._answer(headers.get("authorization", ""), token)
            await stream.send_all(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(answer), answer))

    def _answer(self, authorization: str, token: str) -> tuple[int, bytes]:
        if authorization != _BASIC:
            return 401, b'{"error":"invalid_client"}'
        claims = self.tokens.get(token)
        return 200, orjson.dumps({"active": False} if claims is None else {"active": True, **claims})


@asynccontextmanager
async def open_issuer() -> AsyncIterator[Issuer]:
    """Run the server for the length of the block."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        issuer = Issuer(listener.socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, issuer.serve_one, [listener])
        yield issuer
        nursery.cancel_scope.cancel()
