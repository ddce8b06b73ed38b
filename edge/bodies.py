"""Request bodies, decoded from their content coding.

Rules of the file:
- The limit holds after decoding: a few bytes may not become many.
"""

import zlib
from typing import Final

from edge.http import Request
from engine.errors import Refused

_GZIP: Final = 16 + zlib.MAX_WBITS


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
    return body if coding == "identity" else gunzip(body, limit_bytes)


def gunzip(body: bytes, limit_bytes: int) -> bytes:
    """Decode one gzip member.

    Raises:
        Refused: it is not gzip, it ends early, something follows it, or it is larger than the limit.
    """
    decoder = zlib.decompressobj(_GZIP)
    try:
        content = decoder.decompress(body, limit_bytes + 1)
    except zlib.error as problem:
        raise Refused("request.bad-encoding", f"the body is not gzip: {problem}") from None
    if len(content) > limit_bytes:
        raise Refused("request.too-large", f"the body is larger than the limit of {limit_bytes} bytes once decoded")
    if not decoder.eof:
        raise Refused("request.bad-encoding", "the gzip body ends early")
    if decoder.unused_data:
        raise Refused("request.bad-encoding", "something follows the gzip body")
    return content
