"""Fetches a key set over HTTP.

Rules of the file:
- The one address that was configured, no redirect, no proxy of the environment.
- Bounded in time and in bytes.
"""

from typing import Final

import httpx2
import trio

from engine.errors import Unavailable

WITHIN_S: Final = 5.0
MOST_BYTES: Final = 256 * 1024


async def fetch_jwks(url: str) -> bytes:
    """Fetch a key set.

    Raises:
        Unavailable: it did not come, or it is too large.
    """
    try:
        with trio.fail_after(WITHIN_S):
            async with (
                httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=WITHIN_S) as client,
                client.stream("GET", url, headers={"Accept": "application/json"}) as response,
            ):
                if response.status_code != 200:
                    raise Unavailable("identity.keys-away", f"the key set's server answered {response.status_code}")
                body = b""
                async for piece in response.aiter_bytes(MOST_BYTES):
                    if len(body) <= MOST_BYTES:  # the rest goes nowhere: the loop's generators must end
                        body += piece
                if len(body) > MOST_BYTES:
                    raise Unavailable("identity.keys-away", f"the key set is larger than {MOST_BYTES} bytes")
                return body
    except (httpx2.HTTPError, trio.TooSlowError, OSError) as problem:
        raise Unavailable("identity.keys-away", f"the key set did not come: {type(problem).__name__}") from problem
