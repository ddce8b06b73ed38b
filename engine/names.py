"""Names that go into subjects of the log: subjects, streams, durables.

Rules of the file:
- A name from outside is checked before it becomes part of a subject, so that nobody injects one.

Source: S0.11, E2; `RELIABILITY.md` 4.7.
"""

import re
from collections.abc import Iterable
from typing import Final

MAX_NAME_CHARS: Final = 128
_TOKEN: Final = re.compile(r"[^\s.*>/\\\x00-\x20\x7f]+\Z")


def check_token(text: str) -> str:
    """Give back a durable's or stream's name.

    Raises:
        ValueError: it is empty, too long, or holds whitespace, `.`, `*`, `>`, `/`, `\\` or non-printables.
    """
    if not text or len(text) > MAX_NAME_CHARS:
        raise ValueError(f"expected 1 to {MAX_NAME_CHARS} characters")
    if not _TOKEN.match(text) or not text.isprintable():
        raise ValueError("expected a name without whitespace, `.`, `*`, `>`, `/`, `\\` or non-printable characters")
    return text


def check_subject_name(text: str) -> str:
    """Give back a subject of one or more tokens.

    Raises:
        ValueError: a token is empty or holds a wildcard or another forbidden character.
    """
    if len(text) > MAX_NAME_CHARS:
        raise ValueError(f"expected at most {MAX_NAME_CHARS} characters")
    for token in text.split("."):
        try:
            check_token(token)
        except ValueError:
            raise ValueError(
                "expected tokens separated by single dots, without wildcards (`*`, `>`), whitespace or slashes"
            ) from None
    return text


def subjects_of(subject: str) -> list[str]:
    """Give the subjects that a stream takes: `snapfs.>`, and its default subject's family where it is another."""
    family = f"{subject.partition('.')[0]}.>"
    return ["snapfs.>"] if family == "snapfs.>" else ["snapfs.>", family]


def is_covered(subject: str, patterns: Iterable[str]) -> bool:
    """Say that one of the patterns, such as `snapfs.>`, takes the subject."""
    for pattern in patterns:
        if pattern == subject or (pattern.endswith(".>") and subject.startswith(pattern[:-1])):
            return True
    return False


def is_of_filter(subject: str, pattern: str) -> bool:
    """Say that a consumer's filter takes a subject: `*` is any one token, and `>` at the end any that follow."""
    tokens, wanted = subject.split("."), pattern.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(tokens) == len(wanted) and all(b in ("*", a) for a, b in zip(tokens, wanted, strict=True))
