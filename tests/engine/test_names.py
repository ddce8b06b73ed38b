"""Names that become part of a subject: nobody injects another one (S0.11, E2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.names import MAX_NAME_CHARS, check_subject_name, check_token, is_covered, is_of_filter

GOOD = ["a", "mysql", "my-sql_2", "A1", "é", "日本", "a:b", "$x", "x" * MAX_NAME_CHARS, "%41", "a,b", "🎬"]
BAD = [
    "",
    "x" * (MAX_NAME_CHARS + 1),
    " ",
    "a b",
    "a\tb",
    "a\n",
    "\na",
    "a\r\nPUB x 0",
    "a\x00",
    "a\x7f",
    "a\x1b",
    "*",
    "a*",
    ">",
    "a>",
    "a.b",
    ".",
    "a/b",
    "a\\b",
    "a\u00a0b",
    "a\u2028b",
    "a\u200bb",
    "a\ud800",
    "\ufeffa",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_name_is_given_back(text: str) -> None:
    """A durable's or stream's name is one token, and a subject of one token too."""
    assert check_token(text) == text
    assert check_subject_name(text) == text


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_what_would_be_more_than_a_name_is_refused(text: str) -> None:
    """Empty, too long, separators, wildcards, white space and what cannot be printed."""
    with pytest.raises(ValueError, match="expected"):
        check_token(text)


@pytest.mark.parametrize("text", [one for one in BAD if one != "a.b"], ids=ascii)
def test_a_subject_holds_only_names(text: str) -> None:
    """A forbidden character is refused in every token of a subject."""
    for subject in (text, f"a.{text}", f"{text}.a", f"a.{text}.b"):
        with pytest.raises(ValueError, match="expected"):
            check_subject_name(subject)


@pytest.mark.parametrize(
    "text", ["a..b", ".a", "a.", ".", "..", "a.b.", "snapfs.*", "snapfs.>", "a. b", "a.b\n"], ids=repr
)
def test_a_subject_has_no_empty_token_and_no_wildcard(text: str) -> None:
    """Dots stand between names, one at a time."""
    with pytest.raises(ValueError, match="single dots"):
        check_subject_name(text)


def test_a_subjects_length_is_bounded() -> None:
    """The limit counts the whole subject."""
    longest = "a." * (MAX_NAME_CHARS // 2 - 1) + "ab"
    assert len(longest) == MAX_NAME_CHARS
    assert check_subject_name(longest) == longest
    with pytest.raises(ValueError, match=str(MAX_NAME_CHARS)):
        check_subject_name(longest + "c")


@given(st.text(max_size=20))
def test_no_name_adds_a_word_to_a_command(text: str) -> None:
    """What passes is one word of a control line, whatever it was made of."""
    try:
        check_subject_name(text)
    except ValueError:
        return
    line = f"SUB {text} 1\r\n"
    assert line.split() == ["SUB", text, "1"]
    assert line.split(" ") == ["SUB", text, "1\r\n"]
    assert line.splitlines() == [f"SUB {text} 1"]


@pytest.mark.parametrize(
    ("subject", "patterns", "covered"),
    [
        ("snapfs.files", ["snapfs.>"], True),
        ("snapfs.a.b", ["snapfs.>"], True),
        ("snapfs", ["snapfs.>"], False),
        ("snapfs2.files", ["snapfs.>"], False),
        ("snapfsx", ["snapfs.>"], False),
        ("a.snapfs.files", ["snapfs.>"], False),
        ("files", ["files"], True),
        ("files.a", ["files"], False),
        ("b.x", ["a.>", "b.>"], True),
        ("b.x", [], False),
        ("$JS.API.STREAM.DELETE.S", ["snapfs.>"], False),
    ],
)
def test_a_subject_is_covered_by_the_streams_patterns(subject: str, patterns: list[str], *, covered: bool) -> None:
    """`family.>` takes everything below the family, and a plain pattern itself."""
    assert is_covered(subject, patterns) is covered


@pytest.mark.parametrize(
    ("pattern", "taken", "others"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "a.c"]),
        ("a.*", ["a.b"], ["a", "a.b.c", "b.a"]),
        ("a.*.c", ["a.b.c"], ["a.b", "a.b.d"]),
        ("a.>", ["a.b", "a.b.c"], ["a", "ab.c"]),
        ("a.*.>", ["a.b.c", "a.b.c.d"], ["a.b"]),
        (">", ["a", "a.b"], []),
    ],
)
def test_a_filter_takes_subjects_as_the_log_does(pattern: str, taken: list[str], others: list[str]) -> None:
    """Token by token."""
    assert all(is_of_filter(one, pattern) for one in taken)
    assert not any(is_of_filter(one, pattern) for one in others)
