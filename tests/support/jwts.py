"""An issuer of JSON Web Tokens for tests: real keys, and tokens that are right but for what a test changes."""

import base64
import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

__all__ = ["ISSUER", "NOW", "claims", "forge", "issue", "jwks", "pem", "private_key"]

ISSUER = "https://issuer.example"
NOW = 1_800_000_000.0
SECRET = b"a secret of the issuer's, of 32 bytes or more"


@cache
def private_key(kind: str, number: int = 0) -> Any:
    """A key of a kind: `RS256`, `ES256`, `EdDSA`, `HS256`, or one that is not taken: `RS256-1024`, `ES384`."""
    match kind:
        case "HS256":
            return SECRET + str(number).encode()
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "RS256-1024":
            return rsa.generate_private_key(65537, 1024)  # noqa: S505  # weak on purpose: it must be refused
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ES384":
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def pem(kind: str, number: int = 0) -> str:
    """A public key in PEM."""
    public = private_key(kind, number).public_key()
    return str(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    )


def claims(**changes: object) -> dict[str, object]:
    """What a good token says; a change of None takes it out."""
    good: dict[str, object] = {
        "iss": ISSUER,
        "aud": "headgate",
        "sub": "alice",
        "iat": int(NOW),
        "exp": int(NOW) + 300,
        "scope": "openid ingest:write stream:read",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def issue(
    kind: str = "RS256",
    number: int = 0,
    *,
    header: dict[str, object] | None = None,
    changes: dict[str, object] | None = None,
    **more: object,
) -> str:
    """A signed token; `header`, `changes` and `more` are what is different from a good one."""
    fields: dict[str, Any] = {"kid": f"{kind}-{number}", **(header or {})}
    return jwt.encode(claims(**(changes or {}), **more), private_key(kind, number), kind, fields)


def forge(header: bytes, payload: bytes, signature: bytes = b"x" * 64) -> str:
    """A token of exactly these parts."""
    parts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (header, payload, signature))
    return ".".join(parts)


def jwks(*kinds: tuple[str, int], more: tuple[dict[str, Any], ...] = ()) -> bytes:
    """A key set with these keys, each named by its kind and number."""
    keys = []
    for kind, number in kinds:
        algorithm = jwt.get_algorithm_by_name(kind)
        key = private_key(kind, number)
        entry = algorithm.to_jwk(key if kind == "HS256" else key.public_key(), as_dict=True)
        keys.append({**entry, "kid": f"{kind}-{number}", "use": "sig", "alg": kind})
    return json.dumps({"keys": [*keys, *more]}).encode()
