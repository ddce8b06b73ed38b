"""How a client shows who it is: a token with every request, or a signature over each of them.

Rules of the file:
- A key that signs is never sent: of it the gateway sees its id and what was signed with it.
- Each try is signed anew, because a signature counts once.
"""

import re
import secrets
import time
from collections.abc import Generator, Sequence
from typing import Final

import httpx2

from edge.client_retry import is_header_text

SIGN: Final = "sign:"
"""What stands before a key that signs, where a token is expected; no token holds a colon."""
_KEY: Final = re.compile(r"hg_([0-9a-f]{16})_[A-Za-z0-9_\-]{43}\Z")


class Credentials(httpx2.Auth):
    """What a client puts into each request.

    Args:
        token: sent as a bearer; `sign:` and an API key sign each request with that key; None is nobody.

    Raises:
        ValueError: it cannot be a header, or is no key that can sign.
    """

    requires_request_body = True

    def __init__(self, token: str | None) -> None:
        self._key_id = ""
        self._secret = b""
        self._bearer = ""
        self.present(token)

    def present(self, token: str | None) -> None:
        """Show another token from now on.

        Raises:
            ValueError: it cannot be a header, or is no key that can sign.
        """
        if token is None:
            self._bearer = self._key_id = ""
            return
        if not token.startswith(SIGN):
            if not is_header_text(token):
                raise ValueError("the token has characters that a header cannot carry")
            self._bearer, self._key_id = f"Bearer {token}", ""
            return
        key = token.removeprefix(SIGN)
        match = _KEY.match(key)
        if match is None:
            raise ValueError("expected sign: and a key that `headgate keys create --signed` printed")
        from engine.signing import secret_of  # with the libraries of those who sign

        self._bearer, self._key_id = "", match[1]
        self._secret = bytes.fromhex(secret_of(key))

    def headers(self, method: str, url: str, body: bytes | None = None) -> dict[str, str]:
        """Give what one request carries.

        Args:
            method: upper case.
            url: absolute; the one of a WebSocket with http or https.
            body: None for none.
        """
        if not self._key_id:
            return {"authorization": self._bearer} if self._bearer else {}
        from engine.signing import sign_request  # with the libraries of those who sign

        nonce = secrets.token_urlsafe(16)
        return sign_request(self._key_id, self._secret, method, url, body, int(time.time()), nonce)

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Put it into a request, as the HTTP library asks for it."""
        body = request.content
        request.headers.update(self.headers(request.method, str(request.url), body or None))
        yield request

    def upgrade_headers(self, url: str) -> Sequence[tuple[bytes, bytes]]:
        """Give what a WebSocket's upgrade carries."""
        return [(name.encode(), value.encode()) for name, value in self.headers("GET", url).items()]
