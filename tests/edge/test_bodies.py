"""Bodies decoded from their content coding: bounded after decoding, and nothing but one whole member."""

import gzip
import random
import zlib

import pytest
import trio

from edge.bodies import INLINE_BYTES, gunzip, read_decoded_body, read_json_object
from edge.http import Request
from engine.errors import Refused

LIMIT = 64 * 1024


def request_with(body: bytes, coding: str | None = None) -> Request:
    """A request with this body, which notes how much it was asked for."""

    async def read(limit_bytes: int) -> bytes:
        assert limit_bytes == LIMIT
        return body

    headers = {} if coding is None else {"content-encoding": coding}
    return Request("POST", "/", "", headers, "127.0.0.1", "id", read)


async def refusal_code(body: bytes, limit: int = LIMIT) -> str:
    """What is said of this gzip body."""
    with pytest.raises(Refused) as caught:
        await gunzip(body, limit)
    return caught.value.kind.code


@pytest.mark.parametrize("coding", [None, "identity", "IDENTITY", "gzip", "GZip", "x-gzip"])
async def test_a_body_is_read_in_its_coding(coding: str | None) -> None:
    """Plain or gzip, in any case, the content is the same."""
    content = b'{"events":[]}'
    is_plain = coding is None or coding.lower() == "identity"
    body = content if is_plain else gzip.compress(content)
    assert await read_decoded_body(request_with(body, coding), LIMIT) == content


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "gzip;q=1", "", "zstd", "compress"])
async def test_an_unknown_coding_is_refused_before_the_body_is_read(coding: str) -> None:
    """415, and nothing was read."""

    async def read(_: int) -> bytes:
        raise AssertionError("the body was read")

    request = Request("POST", "/", "", {"content-encoding": coding}, "127.0.0.1", "id", read)
    with pytest.raises(Refused) as caught:
        await read_decoded_body(request, LIMIT)
    assert caught.value.kind.code == "request.unknown-encoding"


@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT])
@pytest.mark.parametrize("level", [0, 1, 9])
async def test_content_up_to_the_limit_is_decoded(size: int, level: int) -> None:
    """The limit is a limit, not one less, however well it was compressed."""
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert await gunzip(gzip.compress(content, level), LIMIT) == content


@pytest.mark.parametrize("size", [LIMIT + 1, 100 * LIMIT])
async def test_content_over_the_limit_is_refused(size: int) -> None:
    """413, a byte over it or a hundred times."""
    assert await refusal_code(gzip.compress(b"0" * size)) == "request.too-large"


async def test_a_bomb_costs_no_more_than_the_limit() -> None:
    """A few KiB that would become a GiB are refused without becoming it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    block = bytes(1024 * 1024)
    bomb = b"".join(packer.compress(block) for _ in range(256)) + packer.flush()
    assert len(bomb) < 300_000
    assert await refusal_code(bomb) == "request.too-large"
    assert await refusal_code(gzip.compress(bomb)) == "request.too-large"


@pytest.mark.parametrize("size", [INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 10 * INLINE_BYTES])
@pytest.mark.parametrize("limit", [INLINE_BYTES - 1, INLINE_BYTES, 20 * INLINE_BYTES])
async def test_a_large_body_is_decoded_like_a_small_one(size: int, limit: int) -> None:
    """What is decoded in a thread, because it is large, has the same limit to the byte."""
    content = random.Random(size).randbytes(1000) * (size // 1000 + 1)
    body = gzip.compress(content[:size])
    if size > limit:
        assert await refusal_code(body, limit) == "request.too-large"
    else:
        assert await gunzip(body, limit) == content[:size]
        assert await refusal_code(body[:-1], limit) == "request.bad-encoding"
        assert await refusal_code(body + b"x", limit) == "request.bad-encoding"


async def test_others_run_while_a_bomb_is_decoded() -> None:
    """Overloaded here: forty bombs at once, and a task that only wants its turn gets it again and again."""
    bomb = gzip.compress(bytes(20 << 20))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        async with trio.open_nursery() as bombs:
            for _ in range(40):
                bombs.start_soon(refusal_code, bomb, 8 << 20)
        nursery.cancel_scope.cancel()
    assert turns > 100, "the bombs held everybody up"


async def test_a_body_that_ends_early_is_refused() -> None:
    """Every proper beginning of a member is refused: nothing of a cut body is ever taken for the whole."""
    whole = gzip.compress(b'{"events":[]}' * 10)
    for end in range(len(whole)):
        assert await refusal_code(whole[:end]) == "request.bad-encoding", end


async def test_what_follows_a_member_is_refused() -> None:
    """A second member, zeros or anything else: two readers could disagree about it."""
    whole = gzip.compress(b"[]")
    for more in (b"\0", b"x", b"\r\n", whole, gzip.compress(b"")):
        assert await refusal_code(whole + more) == "request.bad-encoding"


async def test_a_damaged_member_is_refused() -> None:
    """Each damaged byte that matters is found, by structure or by checksum, and none raises anything else."""
    content = b'{"events":[{"type":"a","data":{}}]}' * 4
    whole = gzip.compress(content, mtime=0)
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        try:
            assert await gunzip(damaged, LIMIT) == content  # a byte of the head that means nothing here
        except Refused as refusal:
            assert refusal.kind.code in {"request.bad-encoding", "request.too-large"}  # noqa: PT017  # a good end too
    assert await refusal_code(whole[:-8] + bytes(4) + whole[-4:]) == "request.bad-encoding"  # the checksum
    assert await refusal_code(whole[:-4] + bytes(4)) == "request.bad-encoding"  # the length


@pytest.mark.parametrize("body", [b"", b"[]", b"\x1f\x8b", zlib.compress(b"[]"), zlib.compress(b"[]")[2:-4]], ids=repr)
async def test_what_is_no_gzip_is_refused(body: bytes) -> None:
    """Plain bytes, and the two neighbours of gzip."""
    assert await refusal_code(body) == "request.bad-encoding"


async def test_a_json_object_is_read_in_its_coding() -> None:
    """Plain or gzip, the members are the same."""
    body = b' {"to":"new", "n":1}\n'
    for sent, coding in ((body, None), (gzip.compress(body), "gzip")):
        assert await read_json_object(request_with(sent, coding), LIMIT) == {"to": "new", "n": 1}


async def test_an_empty_body_may_stand_for_an_empty_object() -> None:
    """Only where the route says so."""
    assert await read_json_object(request_with(b""), LIMIT, may_be_empty=True) == {}
    with pytest.raises(Refused) as caught:
        await read_json_object(request_with(b""), LIMIT)
    assert caught.value.kind.code == "request.bad-json"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b'{"to":}', "request.bad-json", "byte 6"),
        (b'{"to":"\xff"}', "request.bad-json", "not JSON at byte"),
        (b'{"to":1} x', "request.bad-json", "byte 9"),
        (b"[1]", "request.wrong-shape", "an array; expected an object"),
        (b'"x"', "request.wrong-shape", "a string"),
        (b"1", "request.wrong-shape", "a number"),
        (b"1.5", "request.wrong-shape", "a number"),
        (b"true", "request.wrong-shape", "a boolean"),
        (b"null", "request.wrong-shape", "null"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "request.wrong-shape", "32 levels"),
        (b'{"a":' * 9000 + b"1" + b"}" * 9000, "request.bad-json", "not JSON"),
    ],
)
async def test_what_is_no_json_object_is_refused(body: bytes, code: str, said: str) -> None:
    """The text says what it was, or where it stopped being JSON."""
    with pytest.raises(Refused, match=said) as caught:
        await read_json_object(request_with(body), LIMIT)
    assert caught.value.kind.code == code
