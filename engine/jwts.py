"""JSON Web Tokens of others: which key may have signed one, and what a good one says.

Rules of the file:
- No clock: `now` is given.
- A key has one algorithm, fixed by what kind of key it is; a token never chooses. What a token says of keys (`jku`,
  `x5u`, `jwk`, `x5c`) is a reason to refuse it.
- Both of its objects are read strictly before anything is believed: a name that is there twice is refused.
- `iss`, `aud`, `sub`, `exp` and `iat` are required.

Source: RFC 7519, RFC 8725; `RELIABILITY.md` 4.5; T29.
"""

import binascii
import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from engine.errors import Refused
from engine.identity import Kind, Principal, known_scopes

MOST_CHARS: Final = 8192
MOST_KEYS: Final = 64
MOST_SUBJECT_CHARS: Final = 256
LEAST_RSA_BITS: Final = 2048
ALGORITHMS: Final = frozenset({"HS256", "RS256", "ES256", "EdDSA"})
_TYPES: Final = frozenset({"JWT", "AT+JWT", "APPLICATION/AT+JWT"})
_NOT_TAKEN: Final = frozenset({"jku", "x5u", "jwk", "x5c", "x5t", "crit", "zip", "enc", "b64", "cty"})
_ALGORITHM_OF_TYPE: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
_PART: Final = re.compile(r"[A-Za-z0-9_\-]+\Z")
_REQUIRED: Final = ("exp", "iat", "iss", "aud", "sub")


class JwtKey(NamedTuple):
    """A key and the one algorithm it is for.

    Args:
        kid: its name in a key set, empty for a key of the environment.
        algorithm: one of `ALGORITHMS`.
        key: as PyJWT takes it.
    """

    kid: str
    algorithm: str
    key: Any


class JwtPolicy(NamedTuple):
    """What every token must say.

    Args:
        issuer: who made it.
        audience: whom it is for: this gateway.
        leeway_s: how much clocks may differ, seconds.
    """

    issuer: str
    audience: str
    leeway_s: float


class JwtHeader(NamedTuple):
    """What a token says of its signature, not believed yet."""

    algorithm: str
    kid: str


def read_jwt_header(token: str) -> JwtHeader:
    """Read a token's header.

    Raises:
        Refused: it is no token that could be good here.
    """
    if len(token) > MOST_CHARS:
        raise _refused(f"the token is longer than {MOST_CHARS} characters")
    parts = token.split(".")
    if len(parts) != 3 or not all(_PART.match(part) for part in parts):
        raise _refused("expected a signed token of three parts")
    header = _read_object(parts[0])
    _read_object(parts[1])
    if _NOT_TAKEN & header.keys():
        raise _refused("the token's header asks for what is not done here")
    algorithm, kid, typ = header.get("alg"), header.get("kid", ""), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise _refused(f"expected a token signed with one of {', '.join(sorted(ALGORITHMS))}")
    if not isinstance(kid, str) or len(kid) > 256 or not isinstance(typ, str) or typ.upper() not in _TYPES:
        raise _refused("the token's header is not one of an access token")
    return JwtHeader(algorithm, kid)


def find_key(header: JwtHeader, given: Iterable[JwtKey], fetched: Iterable[JwtKey] | None) -> JwtKey | None:
    """Find the key that must have signed a token.

    Args:
        header: the token's.
        given: the environment's keys, which have no names.
        fetched: the key set's, None where there is none.
    """
    if header.kid and fetched is not None:
        return next((one for one in fetched if one.kid == header.kid and one.algorithm == header.algorithm), None)
    fitting = [one for one in given if one.algorithm == header.algorithm]
    if not fitting and fetched is not None:
        fitting = [one for one in fetched if one.algorithm == header.algorithm]
    return fitting[0] if len(fitting) == 1 else None


def verify_jwt(token: str, key: JwtKey, policy: JwtPolicy, now: float) -> Principal:
    """Give whose token this is.

    Raises:
        Refused: its signature is not the key's, or it says what it must not.
    """
    try:
        claims = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=policy.audience,
            issuer=policy.issuer,
            options={"require": list(_REQUIRED), "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as problem:
        raise _refused(f"the token is not valid here: {_WORDS.get(type(problem), 'its signature is wrong')}") from None
    expires_at, issued_at = read_time_claim(claims, "exp"), read_time_claim(claims, "iat")
    if now >= expires_at + policy.leeway_s:
        raise Refused("identity.expired", "the token has expired")
    if issued_at > now + policy.leeway_s or read_time_claim(claims, "nbf", issued_at) > now + policy.leeway_s:
        raise _refused("the token is not valid yet")
    return Principal(
        check_subject(claims["sub"]),
        Kind.JWT,
        known_scopes(read_words(claims, "scope", "scp", "scopes")),
        read_words(claims, "headgate_subjects"),
        read_words(claims, "headgate_durables"),
        read_words(claims, "headgate_paths"),
        "",
        expires_at + policy.leeway_s,
    )


def check_subject(subject: object) -> str:
    """Give back whose a token is.

    Raises:
        Refused: it is no name.
    """
    if not isinstance(subject, str) or not 0 < len(subject) <= MOST_SUBJECT_CHARS or not subject.isprintable():
        raise _refused(f"sub: expected 1 to {MOST_SUBJECT_CHARS} printable characters")
    return subject


def keys_of_jwks(document: bytes) -> list[JwtKey]:
    """Read a key set; keys that are for something else are passed over.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(document, object_pairs_hook=read_once)
    except (ValueError, RecursionError):
        raise ValueError("expected a JSON key set") from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or len(keys) > MOST_KEYS:
        raise ValueError(f'expected {{"keys":[…]}} with at most {MOST_KEYS} keys')
    return [key for one in keys if isinstance(one, dict) and (key := _key_of_jwk(one)) is not None]


def key_of_pem(text: str) -> JwtKey:
    """Read a public key; its kind says the algorithm.

    Raises:
        ValueError: it is none, or of a kind that is not taken.
    """
    try:
        key = load_pem_public_key(text.replace("\\n", "\n").encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("expected a public key in PEM") from None
    algorithm = _algorithm_of(key)
    if algorithm is None:
        raise ValueError(f"expected RSA of {LEAST_RSA_BITS} bits or more, P-256, or Ed25519")
    return JwtKey("", algorithm, key)


def _key_of_jwk(entry: dict[str, Any]) -> JwtKey | None:
    kid = entry.get("kid", "")
    if entry.get("use", "sig") != "sig" or not isinstance(kid, str):
        return None
    algorithm = _ALGORITHM_OF_TYPE.get(str(entry.get("kty")))  # a secret (`oct`) in a set that everybody reads is none
    if algorithm is None:
        return None
    if entry.get("alg", algorithm) != algorithm or "d" in entry:
        return None
    try:
        key = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, binascii.Error):
        return None
    return JwtKey(kid, algorithm, key) if _algorithm_of(key) == algorithm else None


def _algorithm_of(key: object) -> str | None:
    if isinstance(key, RSAPublicKey) and key.key_size >= LEAST_RSA_BITS:
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ES256"
    return "EdDSA" if isinstance(key, Ed25519PublicKey) else None


def _read_object(part: str) -> dict[str, Any]:
    try:
        found = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)), object_pairs_hook=read_once)
    except (ValueError, RecursionError):
        raise _refused("a part of the token is not JSON in base64, or says something twice") from None
    if not isinstance(found, dict):
        raise _refused("a part of the token is not an object")
    return found


def read_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members, for `json.loads`.

    Raises:
        ValueError: a name is there twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def read_time_claim(claims: dict[str, Any], name: str, default: float | None = None) -> float:
    """Give what a claim says of a time, seconds since 1970.

    Raises:
        Refused: it says none.
    """
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12 or math.isnan(value):
        raise _refused(f"{name}: expected seconds since 1970")
    return float(value)


def read_words(claims: dict[str, Any], *names: str) -> tuple[str, ...]:
    """Give what claims list, as words in a text or as a list; names that are not there list nothing.

    Raises:
        Refused: one lists something else, or an allow list is empty, which would allow everything.
    """
    found: list[str] = []
    for name in names:
        value = claims.get(name, ())
        words = value.split() if isinstance(value, str) else value
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) and word for word in words):
            raise _refused(f"{name}: expected words in a text, or a list of texts")
        if name in claims and not words and name.startswith("headgate_"):
            raise _refused(f"{name}: expected at least one, because an empty list would allow everything")
        found += words
    return tuple(found)


def _refused(detail: str) -> Refused:
    return Refused("identity.bad-credentials", detail)


_WORDS: Final[dict[type[Exception], str]] = {
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is of another issuer",
    jwt.MissingRequiredClaimError: f"expected {', '.join(_REQUIRED)}",
}
