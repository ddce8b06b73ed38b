"""What is said of bytes that are not JSON: where, and why.

Rules of the file:
- The offset counts bytes of what the client sent, so that a person finds the place in a file.
"""

import re
from typing import Final

import orjson

from engine.errors import Refused

_AT_BYTE: Final = re.compile(r"\(byte (\d+)\)")


def json_refusal(text: bytes, problem: Exception, where: str = "", before: int = 0) -> Refused:
    """Give the refusal of bytes that a decoder did not take.

    Args:
        text: the bytes.
        problem: what the decoder raised.
        where: what part of the body this is, for a person; empty for all of it.
        before: how many bytes of the body stand before it.
    """
    found = _AT_BYTE.search(str(problem))
    offset = int(found[1]) if found and "trailing characters" not in str(problem) else None
    if offset is None:  # cut short, or something after the end, where the first decoder's count is one too far
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError as second:
            offset = len(second.doc[: second.pos].encode(errors="surrogatepass"))
    offset = min(len(text) if offset is None else offset, len(text)) + before
    reason = _AT_BYTE.sub("", str(problem)).removeprefix("JSON is malformed: ").strip()
    return Refused("request.bad-json", f"{where}not JSON at byte {offset}: {reason}", offset=offset)


def check_utf8(body: bytes) -> None:
    """Refuse a body that is not UTF-8, which decoders skip over in members that nobody asks for.

    Raises:
        Refused: with the first wrong byte's offset.
    """
    try:
        body.decode()
    except UnicodeDecodeError as problem:
        raise Refused(
            "request.bad-json", f"the body is not UTF-8 at byte {problem.start}", offset=problem.start
        ) from None
