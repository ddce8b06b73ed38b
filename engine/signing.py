"""Signed requests: HTTP Message Signatures (RFC 9421) with hmac-sha256, and the body's digest (RFC 9530).

What is kept of a key that signs is not the key: it is a secret made from it, one way. Whoever steals the keys file can
sign requests until the key is replaced, as with any shared secret; they have no key to show as a bearer or to exchange
for a token, and nothing that would be of use to another service.

Rules of the file:
- No clock, no chance: `now` and nonces are given.
- A signature covers at least method, path and query, and the digest of a body where there is one; it is made within the
  window, and counts once.
- Parsing and comparing are the library's; what is believed of a signature is decided here.

What must change with it: `edge/client_signing.py` signs, the README says what a signature covers.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)
from http_message_signatures.digests import ContentDigest
from http_message_signatures.exceptions import HTTPMessageSignaturesException

from engine.errors import Refused, Unavailable

COVERED: Final = ("@method", "@path", "@query")
LABEL: Final = "headgate"
AHEAD_S: Final = 30.0
"""How far a signer's clock may be ahead."""
MOST_SEEN: Final = 200_000
"""Signatures remembered: with a window of 60 s 2,200 signed requests a second, in 35 MB at the worst."""
_DERIVED_FOR: Final = b"headgate request signing 1"
_KEY_ID: Final = re.compile(r';\s*keyid="([A-Za-z0-9._\-]{1,128})"')


class Signed(NamedTuple):
    """A signature that is good.

    Args:
        content_digest: what the body must have, None where there must be no body.
        mark: names the signature, so that it counts once.
    """

    content_digest: str | None
    mark: bytes


class _Message(NamedTuple):
    """A request as the library takes it."""

    method: str
    url: str
    headers: dict[str, str]


class _Secret(HTTPSignatureKeyResolver):
    """Knows one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def resolve_public_key(self, key_id: str) -> bytes:
        """Give what checks a signature."""
        return self._secret

    def resolve_private_key(self, key_id: str) -> bytes:
        """Give what makes one."""
        return self._secret


class _Verifier(HTTPMessageVerifier):
    """The library's, without its clock."""

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """Leave it to `verify_request`, which is given the time."""


def secret_of(key: str) -> str:
    """Give what is kept of a key that signs, hexadecimal."""
    return hmac.digest(key.encode(), _DERIVED_FOR, hashlib.sha256).hex()


def read_key_id(signature_input: str) -> str:
    """Give which key claims to have signed; nothing is proved yet.

    Raises:
        Refused: it does not say, or says several.
    """
    found = _KEY_ID.findall(signature_input)
    if len(found) != 1:
        raise _refused('Signature-Input: expected one signature with keyid="…", the id of an API key')
    return str(found[0])


def verify_request(
    secret: bytes, method: str, target: str, headers: Mapping[str, str], now: float, window_s: float
) -> Signed:
    """Say that a request is signed with this secret, and what its body must be.

    Args:
        secret: of the key that claims to have signed it.
        method: as sent.
        target: as sent.
        headers: names in lower case to values.
        now: seconds since the epoch.
        window_s: how old a signature may be, seconds.

    Raises:
        Refused: it is not, or not so that it would mean something.
    """
    message = _Message(method, f"http://{headers.get('host', '')}{target}", dict(headers))
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    required = (*COVERED, "content-digest") if has_body else COVERED
    verifier = _Verifier(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=_Secret(secret))
    try:
        [result] = verifier.verify(message, max_age=None, require_components=required)
    except (InvalidSignature, HTTPMessageSignaturesException, ValueError, TypeError) as problem:
        raise _refused(f"the signature is not valid here: {_explain(problem, required)}") from None
    created, expires = result.parameters.get("created"), result.parameters.get("expires")
    if not isinstance(created, int) or not now - window_s <= created <= now + AHEAD_S:
        raise _refused(f"created: expected a time at most {window_s:g} s ago, by the gateway's clock ({int(now)})")
    if isinstance(expires, int) and now > expires:
        raise _refused("the signature has expired")
    signed = result.covered_components
    # Of what was signed, not of what was sent: a blank or a label more would be another text and the same signature.
    mark = hashlib.sha256("\n".join(f"{name}: {value}" for name, value in signed.items()).encode()).digest()[:16]
    return Signed(signed.get('"content-digest"'), mark)


def check_content(signed: Signed, body: bytes) -> None:
    """Hold a body to what was signed.

    Raises:
        Refused: it is another one.
    """
    if signed.content_digest is None:
        if body:
            raise _refused("the signature does not cover the body: expected content-digest among its components")
        return
    try:
        ContentDigest.verify(signed.content_digest, body)
    except (InvalidSignature, HTTPMessageSignaturesException, ValueError) as problem:
        raise _refused(f"content-digest: {problem}") from None


def sign_request(
    key_id: str, secret: bytes, method: str, url: str, body: bytes | None, created: int, nonce: str
) -> dict[str, str]:
    """Give the headers that sign a request.

    Args:
        key_id: the API key's.
        secret: made from it.
        method: upper case.
        url: absolute, as it will be asked for.
        body: None for none.
        created: seconds since the epoch.
        nonce: never used before, so that two requests of one second differ.

    Raises:
        ValueError: the address cannot be signed.
    """
    message = _Message(method, url, {})
    signer = HTTPMessageSigner(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=_Secret(secret))
    try:
        signer.sign(
            message,
            key_id=key_id,
            created=datetime.fromtimestamp(created, UTC),
            nonce=nonce,
            label=LABEL,
            covered_component_ids=COVERED,
            body=body,
        )
    except HTTPMessageSignaturesException as problem:
        raise ValueError(f"the request cannot be signed: {problem}") from None
    return message.headers


class SeenSignatures:
    """The signatures that have counted already, for as long as they would count again.

    Args:
        window_s: how old a signature may be.
        most: how many are remembered.
    """

    def __init__(self, window_s: float, most: int = MOST_SEEN) -> None:
        self.window_s = window_s
        self._most = most
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        """Count them."""
        return len(self._until)

    def add(self, mark: bytes, now: float) -> None:
        """Have a signature count, once.

        Raises:
            Refused: it has counted.
            Unavailable: too many are remembered; none is forgotten before its time.
        """
        while self._until and self._until[first := next(iter(self._until))] < now:
            del self._until[first]
        if mark in self._until:
            raise _refused("the signature was used before; sign each request anew, with a nonce")
        if len(self._until) >= self._most:
            raise Unavailable(
                "identity.away", f"{self._most} signatures of the last {self.window_s:g} s are remembered"
            )
        self._until[mark] = now + self.window_s + AHEAD_S


def _explain(problem: Exception, required: tuple[str, ...]) -> str:
    text = str(problem)
    if "not covered" in text or "Required component" in text:
        return f"expected it to cover {', '.join(required)}"
    return text[:200] if text else "it does not fit the request, or is of another key"


def _refused(detail: str) -> Refused:
    return Refused("identity.bad-signature", detail)
