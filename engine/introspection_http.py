"""Asks the server that issued an opaque token about it, over HTTP.

Rules of the file:
- The one address that was configured, no redirect, no proxy of the environment; the token goes nowhere else.
- Bounded in time and in bytes. Connections are kept, because a question comes with every new token.
"""

from base64 import b64encode
from typing import Final
from urllib.parse import quote, urlencode

import httpx2
import trio

from engine.errors import Unavailable

WITHIN_S: Final = 5.0
MOST_BYTES: Final = 64 * 1024
AT_ONCE: Final = 16


class IntrospectionEndpoint:
    """The configured server.

    Args:
        url: its introspection endpoint.
        client_id: who asks it, empty for nobody.
        client_secret: what proves that.
    """

    def __init__(self, url: str, client_id: str, client_secret: str) -> None:
        self._url = url
        self._headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        if client_id:
            pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"  # RFC 6749, 2.3.1
            self._headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=4, keepalive_expiry=10.0)
        self._client = httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=WITHIN_S, limits=limits)

    async def ask(self, token: str) -> bytes:
        """Ask about a token.

        Raises:
            Unavailable: no answer that could be one.
        """
        content = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        try:
            with trio.fail_after(WITHIN_S):
                async with self._client.stream("POST", self._url, content=content, headers=self._headers) as response:
                    body = b""
                    async for piece in response.aiter_bytes(MOST_BYTES):
                        if len(body) <= MOST_BYTES:  # the rest goes nowhere: the loop's generators must end
                            body += piece
        except (httpx2.HTTPError, trio.TooSlowError, OSError) as problem:
            raise Unavailable("identity.away", f"their issuer gave no answer ({type(problem).__name__})") from problem
        if response.status_code != 200 or len(body) > MOST_BYTES:
            raise Unavailable("identity.away", f"their issuer answered {response.status_code}")
        return body

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
