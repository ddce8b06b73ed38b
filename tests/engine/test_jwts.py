"""T29: the corpus of JSON Web Tokens. What is good is taken; everything else is 401, and nothing else happens."""

import base64
import hashlib
import hmac
import json
import random
from typing import Any

import jwt
import pytest

from engine.errors import Refused
from engine.identity import Kind
from engine.jwts import (
    MOST_KEYS,
    JwtHeader,
    JwtKey,
    JwtPolicy,
    find_key,
    key_of_pem,
    keys_of_jwks,
    read_jwt_header,
    verify_jwt,
)
from tests.support.jwts import ISSUER, NOW, claims, forge, issue, jwks, pem, private_key

POLICY = JwtPolicy(ISSUER, "headgate", 30.0)
KINDS = ["RS256", "ES256", "EdDSA"]
FETCHED = keys_of_jwks(jwks(*((kind, 0) for kind in KINDS)))
GIVEN = [JwtKey("", "HS256", private_key("HS256"))]


def recognise(token: str, now: float = NOW, policy: JwtPolicy = POLICY) -> str:
    """Whose token this is, as the gateway finds out."""
    header = read_jwt_header(token)
    key = find_key(header, GIVEN, FETCHED)
    if key is None:
        raise Refused("identity.bad-credentials", "no key")
    return verify_jwt(token, key, policy, now).subject


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_token_is_taken(kind: str) -> None:
    """Of each algorithm; what it may do are the scopes that mean something here."""
    token = issue(kind, headgate_subjects=["snapfs.a.>"], headgate_durables="a-* b")
    principal = verify_jwt(token, find_key(read_jwt_header(token), (), FETCHED) or GIVEN[0], POLICY, NOW)
    assert (principal.subject, principal.kind) == ("alice", Kind.JWT)
    assert principal.scopes == {"ingest:write", "stream:read"}
    assert (principal.subjects, principal.durables, principal.paths) == (("snapfs.a.>",), ("a-*", "b"), ())
    assert principal.expires_at == NOW + 330


def test_a_shared_secret_and_a_pem_are_taken() -> None:
    """From the environment, where keys have no names."""
    assert recognise(issue("HS256", header={"kid": ""})) == "alice"
    for kind in KINDS:
        key = key_of_pem(pem(kind).replace("\n", "\\n"))
        assert key.algorithm == kind
        assert verify_jwt(issue(kind), key, POLICY, NOW).subject == "alice"


def test_more_ways_to_say_the_same() -> None:
    """Lists of audiences and scopes; no `typ`, or that of RFC 9068."""
    good = [
        issue(aud=["other", "headgate"]),
        issue(scope=None, scp=["ingest:write"]),
        issue(header={"typ": "at+jwt"}),
        issue(exp=NOW + 0.5),
        issue(exp=NOW - 29),
        issue(iat=NOW + 29),
        issue(nbf=NOW + 29),
    ]
    assert [recognise(token) for token in good] == ["alice"] * len(good)


def with_none(name: str) -> str:
    """An unsigned token that calls its algorithm so."""
    header = {"alg": name, "kid": "RS256-0", "typ": "JWT"}
    return forge(json.dumps(header).encode(), json.dumps(claims()).encode())


def confused(kid: str) -> str:
    """RS256 → HS256: signed with the text of the public key as the secret."""
    head = forge(json.dumps({"alg": "HS256", "kid": kid}).encode(), json.dumps(claims()).encode()).rpartition(".")[0]
    code = hmac.digest(pem("RS256").encode(), head.encode(), hashlib.sha256)
    return f"{head}.{base64.urlsafe_b64encode(code).decode().rstrip('=')}"


good_claims = json.dumps(claims()).encode()
good_header = b'{"alg":"RS256","kid":"RS256-0"}'
good = issue()
CORPUS: dict[str, str] = {
    "none": with_none("none"),
    "None": with_none("None"),
    "NONE": with_none("NONE"),
    "none without a signature": with_none("none").rpartition(".")[0] + ".",
    "no signature": good.rpartition(".")[0] + ".",
    "two parts": good.rpartition(".")[0],
    "four parts": good + ".x",
    "empty": "..",
    "RS256 to HS256": confused("RS256-0"),
    "RS256 to HS256 without a name": confused(""),
    "the key of another name": issue(number=1, header={"kid": "RS256-0"}),
    "a name that is not there": issue(header={"kid": "RS256-9"}),
    "another kind's name": issue(header={"kid": "ES256-0"}),
    "a name that is a path": issue(header={"kid": "../../dev/null"}),
    "a name that is SQL": issue(header={"kid": "' OR 1=1 --"}),
    "a huge name": issue(header={"kid": "x" * 300}),
    "HS256 with another secret": issue("HS256", 1, header={"kid": ""}),
    "jku": issue(header={"jku": "http://127.0.0.1:1/keys"}),
    "x5u": issue(header={"x5u": "http://127.0.0.1:1/keys"}),
    "x5c": issue(header={"x5c": ["AAAA"]}),
    "its own key": issue(header={"jwk": json.loads(jwks(("RS256", 1)))["keys"][0]}),
    "crit": issue(header={"crit": ["exp"], "exp": 1}),
    "b64": issue(header={"b64": False, "crit": ["b64"]}),
    "zip": issue(header={"zip": "DEF"}),
    "nested": issue(header={"cty": "JWT"}),
    "another type": issue(header={"typ": "dpop+jwt"}),
    "a logout token": issue(header={"typ": "logout+jwt"}),
    "RS512": jwt.encode(claims(), private_key("RS256"), "RS512", {"kid": "RS256-0"}),
    "PS256": jwt.encode(claims(), private_key("RS256"), "PS256", {"kid": "RS256-0"}),
    "ES384": jwt.encode(claims(), private_key("ES384"), "ES384", {"kid": "ES256-0"}),
    "expired": issue(exp=NOW - 31),
    "expired at the leeway": issue(exp=NOW - 30),
    "not yet": issue(nbf=NOW + 31),
    "made in the future": issue(iat=NOW + 31),
    "another issuer": issue(iss="https://evil.example"),
    "an issuer that only begins so": issue(iss=ISSUER + "/x"),
    "another audience": issue(aud="other"),
    "audiences of others": issue(aud=["other", "headgate2"]),
    "no audience at all": issue(aud=[]),
    "no expiry": issue(exp=None),
    "no issue time": issue(iat=None),
    "no issuer": issue(iss=None),
    "no audience": issue(aud=None),
    "no subject": issue(sub=None),
    "an empty subject": issue(sub=""),
    "a subject with a line": issue(sub="a\nb"),
    "a huge subject": issue(sub="x" * 257),
    "scopes that are a number": issue(scope=7),
    "scopes that are an object": issue(scope={"admin": True}),
    "an empty allow list": issue(headgate_subjects=[]),
    "an expiry that is a text": forge(good_header, json.dumps(claims(exp="tomorrow")).encode()),
    "huge": issue(more="x" * 9000),
    "bad base64": good[:-10] + "!" + good[-9:],
    "padding": good + "=",
    "blanks": good[:30] + " " + good[31:],
    "not JSON": forge(b"{", good_claims),
    "a payload that is not JSON": forge(good_header, b"\xff\xfe"),
    "a payload that is a list": forge(good_header, b"[]"),
    "a header that is a list": forge(b"[]", good_claims),
    "a claim twice": forge(good_header, good_claims[:-1] + b',"sub":"mallory"}'),
    "an algorithm twice": forge(b'{"alg":"none","alg":"RS256","kid":"RS256-0"}', good_claims),
    "a list as the algorithm": forge(b'{"alg":["RS256"],"kid":"RS256-0"}', good_claims),
    "no algorithm": forge(b'{"kid":"RS256-0"}', good_claims),
    "a number as the name": forge(b'{"alg":"RS256","kid":7}', good_claims),
    "deep": forge(good_header, b"[" * 3000 + b"]" * 3000),
    "NaN": forge(good_header, good_claims.replace(str(int(NOW) + 300).encode(), b"NaN")),
    "an encrypted token": "eyJhbGciOiJSU0EtT0FFUCJ9.AAAA.BBBB.CCCC.DDDD",
    "ES256 with zeros": forge(b'{"alg":"ES256","kid":"ES256-0"}', good_claims, b"\0" * 64),
    "EdDSA with zeros": forge(b'{"alg":"EdDSA","kid":"EdDSA-0"}', good_claims, b"\0" * 64),
}


@pytest.mark.parametrize("name", CORPUS)
def test_what_is_wrong_is_401(name: str) -> None:
    """Each is refused as 401, and what is said quotes nothing of it."""
    with pytest.raises(Refused) as caught:
        recognise(CORPUS[name])
    assert caught.value.kind.status == 401
    assert CORPUS[name] not in caught.value.detail
    assert "mallory" not in caught.value.detail


@pytest.mark.parametrize("value", [True, "1", -1, 1e13, [1], {}])
@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_a_time_is_a_number_of_seconds(claim: str, value: object) -> None:
    """Also where the signature is right."""
    try:
        token = issue(changes={claim: value})
    except TypeError:
        return  # the library that signs refuses it too
    with pytest.raises(Refused):
        recognise(token)


def test_any_change_of_a_good_token_is_noticed(chance: random.Random) -> None:
    """At every place, one other character; base64's spare bits at a part's end may mean nothing."""
    for at in range(0, len(good), 3):
        if good[at] == "." or good[at + 1 : at + 2] in ("", "."):
            continue
        other = chance.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".replace(good[at], ""))
        with pytest.raises(Refused):
            recognise(good[:at] + other + good[at + 1 :])


def test_whatever_comes_nothing_else_is_raised(chance: random.Random) -> None:
    """Random parts, random cuts."""
    for _ in range(300):
        header = chance.choice([good_header, b"{}", b"null", b"7", chance.randbytes(20)])
        payload = chance.choice([good_claims, b"{}", b"null", chance.randbytes(40)])
        token = forge(header, payload, chance.randbytes(chance.choice([0, 1, 63, 64, 256])))
        with pytest.raises(Refused):
            recognise(token[: chance.choice([None, len(token) // 2, -1])])


def test_a_key_set_gives_only_keys_that_sign_here() -> None:
    """No secrets, no private keys, none for encryption, none too short, none of another curve, none that is broken."""
    rsa_key, ec_key = (json.loads(jwks((kind, 0)))["keys"][0] for kind in ("RS256", "ES256"))
    odd: tuple[dict[str, Any], ...] = (
        {**rsa_key, "use": "enc"},
        {**rsa_key, "alg": "RS512"},
        {**rsa_key, "kid": 7},
        {**rsa_key, "d": "AAAA"},
        {**rsa_key, "n": "!!"},
        {**rsa_key, "n": 7},
        {**rsa_key, "n": ""},
        {**ec_key, "crv": "P-384"},
        {**ec_key, "x": ec_key["y"]},
        {**ec_key, "crv": None},
        {"kty": "oct", "k": "AAAA"},
        {"kty": "EC"},
        {"kty": ["RSA"]},
        {"kty": "XYZ"},
        {},
    )
    weak = json.loads(jwks(("RS256", 5)))["keys"][0]
    short = jwt.get_algorithm_by_name("RS256").to_jwk(private_key("RS256-1024").public_key(), as_dict=True)
    found = keys_of_jwks(jwks(("HS256", 0), ("EdDSA", 0), more=(*odd, {**weak, **short})))
    assert [(one.kid, one.algorithm) for one in found] == [("EdDSA-0", "EdDSA")]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":7}',
        b'{"keys":[],"keys":[]}',
        b"\xff",
        b"[" * 100_000,
        json.dumps({"keys": [{}] * (MOST_KEYS + 1)}).encode(),
    ],
    ids=range(8),
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    """And the keys from before stay."""
    with pytest.raises(ValueError, match="expected"):
        keys_of_jwks(document)


@pytest.mark.parametrize("kind", ["RS256-1024", "ES384"])
def test_a_weak_or_foreign_public_key_is_refused(kind: str) -> None:
    """At the start, by its variable."""
    with pytest.raises(ValueError, match="expected RSA of 2048"):
        key_of_pem(pem(kind))


def test_a_name_is_looked_up_in_the_set_alone() -> None:
    """Without a name it takes the one key that fits; where two fit, none."""
    two = keys_of_jwks(jwks(("RS256", 0), ("RS256", 1)))
    assert find_key(JwtHeader("RS256", "RS256-1"), (), two) == two[1]
    assert find_key(JwtHeader("RS256", ""), (), two) is None
    assert find_key(JwtHeader("RS256", ""), (), two[:1]) == two[0]
    assert find_key(JwtHeader("ES256", "RS256-1"), (), two) is None
    assert find_key(JwtHeader("HS256", "RS256-1"), GIVEN, two) is None
    assert find_key(JwtHeader("HS256", "any"), GIVEN, None) == GIVEN[0]
