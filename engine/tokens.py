"""Short-lived tokens, which an API key is exchanged for at `POST /auth/token`.

A token names its key and its end, and carries a code that only the gateways can make. What its holder may do is
looked up in the key each time, so that a key that is revoked or changed takes its tokens with it.

Rules of the file:
- No clock: `now` is given.
- A token that is not whole, not ours or not fresh is None; why is nobody's business.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, NamedTuple

PREFIX: Final = "hgt."
MOST_CHARS: Final = 512
_TOKEN: Final = re.compile(r"hgt\.([A-Za-z0-9_\-]{1,256})\.([0-9]{1,12})\.([A-Za-z0-9_\-]{43})\Z")


class Token(NamedTuple):
    """A token that is ours and fresh.

    Args:
        key_id: the key it was made for.
        expires_at: seconds since the epoch.
    """

    key_id: str
    expires_at: float


def make_token(secret: bytes, key_id: str, expires_at: float) -> str:
    """Give a token.

    Args:
        secret: the gateways'.
        key_id: the API key's.
        expires_at: seconds since the epoch; whole seconds count.
    """
    name = urlsafe_b64encode(key_id.encode()).decode().rstrip("=")
    body = f"{PREFIX}{name}.{int(expires_at)}"
    return f"{body}.{_code(secret, body)}"


def read_token(secret: bytes, text: str, now: float) -> Token | None:
    """Give what a token says, None when it is not ours or not fresh."""
    if len(text) > MOST_CHARS:
        return None
    match = _TOKEN.match(text)
    if match is None:
        return None
    body = text.rpartition(".")[0]
    if not hmac.compare_digest(_code(secret, body), match[3]):
        return None
    expires_at = float(match[2])
    if now >= expires_at:
        return None
    return Token(_text(match[1]), expires_at)


def _text(name: str) -> str:
    return urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()


def _code(secret: bytes, body: str) -> str:
    return urlsafe_b64encode(hmac.digest(secret, body.encode(), hashlib.sha256)).decode().rstrip("=")
