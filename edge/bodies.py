"""Request bodies, decoded from their content coding, and JSON ones as values.

Rules of the file:
- The limit holds after decoding: a few bytes may not become many, and who sends such does not hold up others.
"""

import zlib
from typing import Final

import orjson
import trio

from edge.http import Request
from engine.bad_json import json_refusal
from engine.errors import Refused
from engine.json_depth import check_depth

SMALL_BODY_BYTES: Final = 64 * 1024
"""For bodies that hold a few members, as the management routes take them."""
INLINE_BYTES: Final = 128 * 1024
"""Decoded at once; about a third of a millisecond, which nobody else notices."""
GUNZIP_THREADS: Final = 2
_LIMITER: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("gunzip")
_GZIP: Final = 16 + zlib.MAX_WBITS
_JSON_NAMES: Final = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean"} | {
    type(None): "null"
}


async def read_decoded_body(request: Request, limit_bytes: int) -> bytes:
    """Read a request's body, gunzipped where it says so.

    Args:
        request: its body not read yet.
        limit_bytes: before and after decoding.

    Raises:
        Refused: too large, an unknown coding, or not what its coding says.
    """
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding not in {"identity", "gzip", "x-gzip"}:
        raise Refused("request.unknown-encoding", f"Content-Encoding is {coding!r}; expected gzip or none")
    body = await request.read_body(limit_bytes)
    return body if coding == "identity" else await gunzip(body, limit_bytes)


async def read_json_object(
    request: Request, limit_bytes: int = SMALL_BODY_BYTES, *, may_be_empty: bool = False
) -> dict[str, object]:
    """Read a request's body as a JSON object.

    Args:
        request: its body not read yet.
        limit_bytes: before and after decoding.
        may_be_empty: no body at all means an empty object.

    Raises:
        Refused: as `read_decoded_body`; or not JSON (with the byte), nested too deep, or not an object.
    """
    body = await read_decoded_body(request, limit_bytes)
    if not body and may_be_empty:
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise json_refusal(body, problem) from None
    check_depth(body, 0)
    if not isinstance(value, dict):
        raise Refused("request.wrong-shape", f"the body is {_JSON_NAMES[type(value)]}; expected an object")
    return value


async def gunzip(body: bytes, limit_bytes: int) -> bytes:
    """Decode one gzip member; a large one in a thread, because a few kilobytes can become many megabytes.

    Raises:
        Refused: it is not gzip, it ends early, something follows it, or it is larger than the limit.
    """
    decoder = zlib.decompressobj(_GZIP)
    try:
        content = decoder.decompress(body, min(INLINE_BYTES, limit_bytes + 1))
        if not decoder.eof and len(content) == INLINE_BYTES <= limit_bytes:
            left_bytes = limit_bytes + 1 - len(content)
            content += await trio.to_thread.run_sync(
                decoder.decompress, decoder.unconsumed_tail, left_bytes, limiter=_threads()
            )
    except zlib.error as problem:
        raise Refused("request.bad-encoding", f"the body is not gzip: {problem}") from None
    if len(content) > limit_bytes:
        raise Refused("request.too-large", f"the body is larger than the limit of {limit_bytes} bytes once decoded")
    if not decoder.eof:
        raise Refused("request.bad-encoding", "the gzip body ends early")
    if decoder.unused_data:
        raise Refused("request.bad-encoding", "something follows the gzip body")
    return content


def _threads() -> trio.CapacityLimiter:
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = trio.CapacityLimiter(GUNZIP_THREADS)
        _LIMITER.set(limiter)
        return limiter
