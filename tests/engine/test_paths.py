"""The canonical form of paths (S0.3, S0.6)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.paths import canonical_path, is_canonical


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("C:\\show\\seq\\image.exr", "C:/show/seq/image.exr"),
        ("//server/share//dir/./file.exr", "//server/share/dir/file.exr"),
        ("\\\\server\\share\\x", "//server/share/x"),
        ("/a//b///c", "/a/b/c"),
        ("/a/../b", "/a/../b"),
        ("..", ".."),
        ("/", "/"),
        ("//", "/"),
        ("///", "/"),
        ("///a", "/a"),
        ("/a/", "/a"),
        ("a/", "a"),
        ("./a", "a"),
        ("/.", "/"),
        ("/./", "/"),
        (".", "."),
        ("", ""),
        ("/a/.hidden", "/a/.hidden"),
        ("/a/..b/.c.", "/a/..b/.c."),
        ("C:\\", "C:/"),
        ("C:/", "C:/"),
        ("C:", "C:"),
        ("/C:/", "/C:"),
        ("//server", "//server"),
        ("//server/", "//server"),
        ("/a/.", "/a"),
    ],
)
def test_a_path_becomes_canonical(written: str, canonical: str) -> None:
    """Each spelling of the issue's table has its one canonical form."""
    assert canonical_path(written) == canonical


@given(st.text(alphabet="ab./\\:C", max_size=24))
@example("//a//b")
@example("./")
@example("//.")
def test_canonical_is_a_fixed_point(text: str) -> None:
    """Making a path canonical twice changes nothing, and the quick check agrees with the slow rule."""
    once = canonical_path(text)
    assert canonical_path(once) == once
    assert is_canonical(once)
    assert is_canonical(text) == (once == text)
