"""T29 for opaque tokens: what an issuer's answer makes of one, and what it does not."""

import json
import random

import pytest

from engine.errors import Refused
from engine.identity import Kind
from engine.introspection import digest_of_token, read_introspection
from engine.jwts import JwtPolicy

NOW = 1_800_000_000.0
POLICY = JwtPolicy("https://issuer.example", "headgate", 30.0)
GOOD = {"active": True, "sub": "alice", "scope": "stream:read openid", "exp": NOW + 60}


def read(claims: object, policy: JwtPolicy = POLICY) -> str:
    """Whose token it is; `nobody`, `401`, or `no answer`."""
    try:
        found = read_introspection(json.dumps(claims).encode(), "the-token", policy, NOW)
    except Refused:
        return "401"
    except ValueError:
        return "no answer"
    return "nobody" if found is None else found.subject


def test_an_active_token_is_somebodys() -> None:
    """With the scopes that mean something here, its end, and a name that is not the token."""
    claims = {**GOOD, "headgate_subjects": ["snapfs.ours"], "headgate_durables": "a-* b"}
    found = read_introspection(json.dumps(claims).encode(), "the-token", POLICY, NOW)
    assert found is not None
    assert (found.subject, found.kind, set(found.scopes)) == ("alice", Kind.OPAQUE, {"stream:read"})
    assert (found.subjects, found.durables, found.expires_at) == (("snapfs.ours",), ("a-*", "b"), NOW + 90)
    assert found.key_id == digest_of_token("the-token")
    assert "the-token" not in repr(found)


ANSWERS: dict[str, tuple[object, str]] = {
    "good": (GOOD, "alice"),
    "without an end": ({"active": True, "sub": "a"}, "a"),
    "a user's name": ({"active": True, "username": "u", "client_id": "c"}, "u"),
    "a client's name": ({"active": True, "client_id": "c"}, "c"),
    "for us": ({**GOOD, "aud": "headgate"}, "alice"),
    "for us among others": ({**GOOD, "aud": ["x", "headgate"]}, "alice"),
    "of our issuer": ({**GOOD, "iss": "https://issuer.example"}, "alice"),
    "within the leeway": ({**GOOD, "exp": NOW - 29}, "alice"),
    "not active": ({"active": False}, "nobody"),
    "not active, with claims": ({**GOOD, "active": False}, "nobody"),
    "expired": ({**GOOD, "exp": NOW - 31}, "401"),
    "not yet": ({**GOOD, "nbf": NOW + 31}, "401"),
    "for another": ({**GOOD, "aud": "other"}, "401"),
    "for others": ({**GOOD, "aud": ["x", "y"]}, "401"),
    "for nobody": ({**GOOD, "aud": []}, "401"),
    "for a beginning of us": ({**GOOD, "aud": "headgate2"}, "401"),
    "of another issuer": ({**GOOD, "iss": "https://evil.example"}, "401"),
    "bound to a key": ({**GOOD, "cnf": {"jkt": "x"}}, "401"),
    "of another type": ({**GOOD, "token_type": "DPoP"}, "401"),
    "a refresh token": ({**GOOD, "token_type": "refresh_token"}, "401"),
    "nobody's": ({"active": True, "scope": "admin"}, "401"),
    "an empty name": ({**GOOD, "sub": ""}, "401"),
    "a name with a line": ({**GOOD, "sub": "a\nb"}, "401"),
    "a long name": ({**GOOD, "sub": "a" * 257}, "401"),
    "an end in words": ({**GOOD, "exp": "tomorrow"}, "401"),
    "an end that is none": ({**GOOD, "exp": True}, "401"),
    "scopes in numbers": ({**GOOD, "scope": [1]}, "401"),
    "an empty allow list": ({**GOOD, "headgate_paths": []}, "401"),
    "active in words": ({**GOOD, "active": "true"}, "no answer"),
    "active as a number": ({**GOOD, "active": 1}, "no answer"),
    "without active": ({"sub": "a"}, "no answer"),
    "a list": ([GOOD], "no answer"),
    "null": (None, "no answer"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_what_it_says_and_no_more(name: str) -> None:
    """Only `true` is active."""
    claims, expected = ANSWERS[name]
    assert read(claims) == expected


def test_without_a_policy_audience_and_issuer_are_not_looked_at() -> None:
    """They are the operator's to set."""
    assert read({**GOOD, "aud": "x", "iss": "y"}, JwtPolicy("", "", 30.0)) == "alice"


@pytest.mark.parametrize("answer", [b"", b"{", b"[" * 100_000, b'{"active":true,"active":false}', b"\xff", b"active"])
def test_what_is_not_json_is_no_answer(answer: bytes) -> None:
    """Neither a yes nor a no; a name that is there twice as little as noise."""
    with pytest.raises(ValueError, match="expected"):
        read_introspection(answer, "t", POLICY, NOW)


def test_no_answer_raises_anything_else(chance: random.Random) -> None:
    """Whatever the issuer says in whatever claim."""
    values: list[object] = [None, True, 1, -1, 1e300, "x", "", [], ["x"], {}, {"a": 1}, "\0", NOW]
    names = [
        "sub",
        "scope",
        "exp",
        "nbf",
        "aud",
        "iss",
        "token_type",
        "username",
        "headgate_paths",
        "headgate_durables",
    ]
    for _ in range(3000):
        claims = {**GOOD, **{chance.choice(names): chance.choice(values) for _ in range(3)}}
        assert read(claims) in {"alice", "401"} | {str(value) for value in values}
