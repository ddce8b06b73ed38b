"""What the server that issued an opaque token says about it.

Rules of the file:
- No clock: `now` is given.
- Active is what the answer calls `true`, whose life has begun and not ended, and which is for this gateway where the
  answer says for whom it is.
- A token that is bound to more than itself (`cnf`: a key or a certificate of its holder) is refused: nobody here could
  check that.

Source: RFC 7662.
"""

import hashlib
import json
from typing import Any, Final

from engine.errors import Refused
from engine.identity import Kind, Principal, known_scopes
from engine.jwts import JwtPolicy, check_subject, read_once, read_time_claim, read_words

OWN_PREFIXES: Final = ("hg_", "hgt.")
"""What is ours and was not recognised is nobody else's: it is not told to another server."""


def digest_of_token(token: str) -> str:
    """Give what names a token in records, without being it: the beginning of its SHA-256."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def read_introspection(answer: bytes, token: str, policy: JwtPolicy, now: float) -> Principal | None:
    """Give whose token this is, None when it is not active.

    Args:
        answer: the body, with status 200.
        token: what was asked about.
        policy: what `iss` and `aud` must be where the answer has them and the policy too; how much clocks may differ.
        now: seconds since the epoch.

    Raises:
        Refused: it is active, and not for this.
        ValueError: it is no such answer.
    """
    try:
        claims = json.loads(answer, object_pairs_hook=read_once)
    except (ValueError, RecursionError):
        raise ValueError("expected a JSON object") from None
    if not isinstance(claims, dict) or not isinstance(claims.get("active"), bool):
        raise ValueError("expected an object with `active`, true or false")
    if not claims["active"]:
        return None
    ends_at = None
    if "exp" in claims:
        ends_at = read_time_claim(claims, "exp") + policy.leeway_s
        if now >= ends_at:
            raise Refused("identity.expired", "the token has expired")
    if read_time_claim(claims, "nbf", 0.0) > now + policy.leeway_s:
        raise Refused("identity.bad-credentials", "the token is not valid yet")
    if "cnf" in claims or str(claims.get("token_type", "bearer")).lower() not in {"bearer", "access_token"}:
        raise Refused("identity.bad-credentials", "expected a bearer token that is bound to nothing else")
    audience = claims.get("aud", policy.audience)
    if policy.audience and policy.audience not in (audience if isinstance(audience, list) else [audience]):
        raise Refused("identity.bad-credentials", "the token is for another audience")
    if policy.issuer and claims.get("iss", policy.issuer) != policy.issuer:
        raise Refused("identity.bad-credentials", "the token is of another issuer")
    return Principal(
        check_subject(_subject_of(claims)),
        Kind.OPAQUE,
        known_scopes(read_words(claims, "scope")),
        read_words(claims, "headgate_subjects"),
        read_words(claims, "headgate_durables"),
        read_words(claims, "headgate_paths"),
        digest_of_token(token),
        ends_at,
    )


def _subject_of(claims: dict[str, Any]) -> object:
    return next((claims[name] for name in ("sub", "username", "client_id") if name in claims), None)
