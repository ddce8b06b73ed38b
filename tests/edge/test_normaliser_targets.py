"""What a request's target must be (4.2): one path, decoded once, or a refusal."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.normaliser import MAX_HEAD_BYTES, MAX_TARGET_BYTES, Head, check_head, head_too_large
from engine.errors import Refused


def check(target: bytes) -> Head:
    """Check a head with this target."""
    return check_head(b"GET", target, "1.1", [(b"Host", b"x")])


def refusal(target: bytes) -> Refused:
    """The refusal of such a head."""
    with pytest.raises(Refused) as caught:
        check(target)
    return caught.value


TARGETS = {
    b"/": ("/", ""),
    b"/ingest": ("/ingest", ""),
    b"/cache/batch?x=1": ("/cache/batch", "x=1"),
    b"/?": ("/", ""),
    b"/a?b?c=/../%41": ("/a", "b?c=/../%41"),
    b'/a?x={%22y%22}[|]^`"<>': ("/a", 'x={%22y%22}[|]^`"<>'),
    b"/a?%00": ("/a", "%00"),
    b"/%61%2Dz": ("/a-z", ""),
    b"/%e2%82%ac": ("/€", ""),
    b"/%7Euser": ("/~user", ""),
    b"/a.b/..c/d..": ("/a.b/..c/d..", ""),
    b"/...": ("/...", ""),
    b"/%252e%252e": ("/%2e%2e", ""),
    b"/%252f": ("/%2f", ""),
    b"/a//b": ("/a//b", ""),
    b"//host/path": ("//host/path", ""),
    b"/a/": ("/a/", ""),
    b"/!$&'()*+,;=:@": ("/!$&'()*+,;=:@", ""),
    b"/" + b"a" * (MAX_TARGET_BYTES - 1): ("/" + "a" * (MAX_TARGET_BYTES - 1), ""),
}


@pytest.mark.parametrize(("target", "parts"), TARGETS.items(), ids=lambda value: repr(value)[:30])
def test_a_target_has_one_path(target: bytes, parts: tuple[str, str]) -> None:
    """Decoded once, and never again: routing and everything after it see this path."""
    head = check(target)
    assert (head.path, head.query) == parts
    assert head.target == target.decode()


BAD_TARGETS = [
    b"",
    b"*",
    b"a",
    b"?x",
    b"http://x/",
    b"HTTP://x/a",
    b"x:80",
    b"\\a",
    b"/a#b",
    b"/a?b#c",
    b"#",
    b"/a b",
    b"/a\tb",
    b"/a\x00",
    b"/a\x7f",
    b"/a\x1f",
    b"/\xc3\xa9",
    b"/a?\xc3\xa9",
    b"/a? b",
    b"/a?\x00",
    b"/a?b\\c",
    b"/a\\b",
    b"/a\\..\\b",
    b"/%",
    b"/%4",
    b"/%zz",
    b"/%u0041",
    b"/a?%",
    b"/a?%4",
    b"/a?%gg",
    b"/%00",
    b"/a%00b",
    b"/%2f",
    b"/%2F",
    b"/a%2fb",
    b"/%5c",
    b"/%5C",
    b"/.",
    b"/..",
    b"/a/.",
    b"/a/..",
    b"/a/./b",
    b"/a/../b",
    b"/../a",
    b"/%2e",
    b"/%2E%2e",
    b"/a/%2e%2e/b",
    b"/a/.%2e",
    b"/a/%2e./",
    b"/%0d%0aX:1",
    b"/%1f",
    b"/%7f",
    b"/%09",
    b"/%ff",
    b"/%c0%af",
    b"/%c0%ae%c0%ae/",
    b"/%e2%82",
    b"/%ed%a0%80",
    b"/a|b",
    b"/a{b}",
    b'/a"b',
    b"/<a>",
    b"/a^b",
    b"/a`b",
]


@pytest.mark.parametrize("target", BAD_TARGETS, ids=repr)
def test_a_target_that_can_be_read_in_two_ways_is_refused(target: bytes) -> None:
    """Other forms, controls, raw bytes, broken and forbidden escapes, dot segments raw and encoded: 400."""
    assert refusal(target).kind.code == "request.malformed"


def test_a_target_is_bounded() -> None:
    """8 KiB are taken, a byte more is 414, whether it is path or query."""
    check(b"/?" + b"q" * (MAX_TARGET_BYTES - 2))
    for target in (b"/" + b"a" * MAX_TARGET_BYTES, b"/?" + b"q" * (MAX_TARGET_BYTES - 1)):
        assert refusal(target).kind.code == "request.target-too-long"


def test_a_head_that_is_too_large_is_told_why() -> None:
    """Its first line is the reason when that alone is too long, else the block is."""
    assert head_too_large(b"GET /" + b"a" * MAX_HEAD_BYTES).kind.status == 414
    assert head_too_large(b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES).kind.status == 431


pieces = st.sampled_from(
    [b"/", b".", b"..", b"%2e", b"%2f", b"%5c", b"\\", b"%00", b"a", b"%", b"%25", b"?", b"#", b"\xff", b"%e2%82%ac"]
)


@given(st.lists(pieces, max_size=8).map(b"".join) | st.binary(max_size=20).map(lambda data: b"/" + data))
@example(b"/%25%32%65%25%32%65")
def test_an_accepted_path_is_safe_whatever_it_was_made_of(target: bytes) -> None:
    """One leading slash at least, no dot segment, no control, no backslash, and text."""
    try:
        head = check(target)
    except Refused as refused:
        assert refused.kind.status in {400, 414}  # noqa: PT017  # refusing is one of two good ends
        return
    assert head.path.startswith("/")
    assert not {".", ".."} & set(head.path.split("/"))
    assert not any(ord(char) < 0x20 or char in "\\\x7f" for char in head.path)
    assert "#" not in head.query
    assert head.query.isascii()
    assert head.query.isprintable()
