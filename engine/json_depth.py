"""How deep a JSON text nests, and the limit on it.

Deep nesting breaks the recursion limits of common parsers downstream; real events have depth 4.

Rules of the file:
- Exact, and ask it only about text that a decoder has taken: the brackets then match.
- Cheap for the common case: counting brackets is enough to see that they cannot nest too deep.
"""

import re
from typing import Final

from engine.errors import Refused

MAX_DEPTH: Final = 32
_TEXTS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_NOT_BRACKETS: Final = bytes(code for code in range(256) if code not in b"{}[]")
_ONE_KIND: Final = bytes.maketrans(b"[]", b"{}")


def check_depth(text: bytes, ordinary_count: int) -> None:
    """Refuse a text that nests deeper than `MAX_DEPTH`.

    Args:
        text: a valid JSON text, or several in a row.
        ordinary_count: how many brackets of it open side by side at most four deep, as events and their data do.

    Raises:
        Refused: it nests deeper.
    """
    if text.count(b"{") + text.count(b"[") <= ordinary_count + MAX_DEPTH - 4:
        return  # even if all the others nest, and none of them stands in a string
    skeleton = _TEXTS.sub(b"", text).translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        skeleton = skeleton.replace(b"{}", b"")  # exactly the innermost level of every branch
        if not skeleton:
            return
    raise depth_refusal()


def depth_refusal() -> Refused:
    """Give the refusal of a text that nests too deep."""
    return Refused(
        "request.wrong-shape", f"the body nests deeper than the limit of {MAX_DEPTH} levels", limit=MAX_DEPTH
    )
