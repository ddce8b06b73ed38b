"""Principals: scopes that follow from others, and allow lists."""

import pytest

from engine.errors import Refused
from engine.identity import NOBODY, OPEN, SCOPES, Kind, Principal, expand_scopes, known_scopes


def who(**lists: tuple[str, ...]) -> Principal:
    """Somebody with allow lists."""
    return Principal("one", Kind.KEY, frozenset(), **lists)  # type: ignore[arg-type]  # only lists are given


def test_scopes_that_follow_from_others() -> None:
    """`admin` is everything; writing files is reading them; nothing else follows."""
    assert expand_scopes(["admin"]) == SCOPES
    assert expand_scopes(["filestore:admin"]) == {"filestore:admin", "filestore:write", "filestore:read"}
    assert expand_scopes(["stream:read"]) == {"stream:read"}
    assert expand_scopes([]) == frozenset()
    assert known_scopes(["openid", "filestore:write", "*"]) == {"filestore:write", "filestore:read"}
    with pytest.raises(ValueError, match="bogus"):
        expand_scopes(["bogus"])


def test_a_missing_scope_is_named() -> None:
    """403, and a client can read which it needs."""
    with pytest.raises(Refused) as caught:
        NOBODY.check_scope("query:sql")
    assert (caught.value.kind.status, caught.value.members["scope"]) == (403, "query:sql")
    for scope in ("query:sql", "admin"):
        OPEN.check_scope(scope)


@pytest.mark.parametrize(
    ("lists", "check", "good", "bad"),
    [
        ({}, "check_subject", ["a", "a.b", "a.>"], []),
        (
            {"subjects": ("a.>", "b.c")},
            "check_subject",
            ["a.b", "a.b.c", "a.>", "b.c"],
            ["a", "b", "b.d", ">", "*.b", "ab.c"],
        ),
        ({}, "check_durable", ["x"], []),
        ({"durables": ("t-*", "x")}, "check_durable", ["t-", "t-1", "x"], ["t", "xx", "*", "", "T-1"]),
        ({}, "check_path", ["/"], []),
        ({"paths": ("/a/b", "/c/")}, "check_path", ["/a/b", "/a/b/c", "/c/d"], ["/a", "/a/bc", "/", "", "/c", "/cd"]),
    ],
)
def test_an_allow_list_lets_pass_what_it_names(
    lists: dict[str, tuple[str, ...]], check: str, good: list[str], bad: list[str]
) -> None:
    """An empty list lets everything pass; one that is not empty nothing else, by whole names."""
    principal = who(**lists)
    for name in good:
        getattr(principal, check)(name)
    for name in bad:
        with pytest.raises(Refused) as caught:
            getattr(principal, check)(name)
        assert caught.value.kind.code == "identity.not-allowed"
