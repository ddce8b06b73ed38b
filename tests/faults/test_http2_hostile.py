"""Hostile HTTP/2: floods, broken frames, bombs and noise end one connection at most, with the reason (T24, T25).

Rules of the file:
- Without TLS (prior knowledge), so that a test's bytes are the gateway's; `tests/edge/test_wire_http2.py` has TLS.
- After everything the gateway holds what it held before.
"""

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from hpack import Encoder

from tests.support.baseline import take_baseline, wait_back_at
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.hostile_exchange import prove_alive
from tests.support.http import ask
from tests.support.http2 import Http2Client, count_of, frame, open_http2
from tests.support.waiting import wait_until

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, COMPRESSION_ERROR = 1, 3, 5, 6, 9
REFUSED_STREAM, ENHANCE_YOUR_CALM = 7, 11
GET = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/healthz")]
PULL = [*GET[:3], (":path", "/stream/pull?subject=snapfs.none&durable=http2-hostile&wait=20")]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that takes HTTP/2 from clients that know."""
    with running_gateway(tmp_path_factory.mktemp("gateway") / "data", env={"HTTP2": "on"}) as running:
        yield running


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Http2Client]:
    """A connection that has greeted."""
    async with open_http2(gateway.url) as client:
        yield client


def block(pairs: list[tuple[str, str]]) -> bytes:
    """A header block that leaves nothing in the table."""
    return Encoder().encode([(name, value, True) for name, value in pairs])


def request(number: int, pairs: list[tuple[str, str]] = GET, flags: int = END_STREAM | END_HEADERS) -> bytes:
    """A frame that begins a stream."""
    return frame(HEADERS, flags, number, block(pairs))


async def send_until_ended(client: Http2Client, pieces: Iterator[bytes]) -> tuple[int, str]:
    """Send until the gateway has had enough; its last word."""

    async def send() -> None:
        try:
            for piece in pieces:
                await client.raw(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has ended already

    client.believes = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        last = await client.end()
        nursery.cancel_scope.cancel()
    assert last is not None
    return last.code, last.detail


async def test_rapid_reset_is_ended_after_its_allowance(gateway: Gateway) -> None:
    """CVE-2023-44487: of ten thousand streams that are opened and reset, a few hundred begin."""
    before = await count_of(gateway, "requests")
    async with open_http2(gateway.url) as client:
        pieces = (request(n, PULL) + frame(RST, 0, n, b"\0\0\0\x08") for n in range(1, 20_000, 2))
        code, detail = await send_until_ended(client, pieces)
    assert (code, "resets" in detail) == (ENHANCE_YOUR_CALM, True)
    assert await count_of(gateway, "requests") - before < 1000
    await prove_alive(gateway.url)


async def test_what_makes_the_gateway_reset_counts_as_a_reset(gateway: Gateway) -> None:
    """CVE-2025-8671: windows that overflow have the gateway reset streams, and its allowance is the same."""
    async with open_http2(gateway.url) as client:
        pieces = (request(n, PULL) + frame(WINDOW, 0, n, b"\x7f\xff\xff\xff") for n in range(1, 20_000, 2))
        code, detail = await send_until_ended(client, pieces)
    assert code == ENHANCE_YOUR_CALM
    assert "resets" in detail
    await prove_alive(gateway.url)


FLOODS = {
    "pings": frame(PING, 0, 0, bytes(8)),
    "settings": frame(SETTINGS, 0, 0),
    "unknown settings": frame(SETTINGS, 0, 0, b"".join(n.to_bytes(2) + bytes(4) for n in range(1000, 1100))),
    "unknown frames": frame(0xEE, 0, 0, b"x"),
    "priorities": frame(PRIORITY, 0, 1, bytes(4) + b"\x01"),
    "resets of nothing": request(1) + frame(RST, 0, 1, bytes(4)) * 2000,
    "windows": frame(WINDOW, 0, 0, b"\0\0\0\1"),
    "empty data": request(1, [(":method", "POST"), *GET[1:3], (":path", "/ingest")], END_HEADERS)
    + frame(DATA, 0, 1) * 2000,
    "headers without end": request(1, GET, 0) + frame(CONTINUATION, 0, 1, b"\0" * 2000) * 40,
    "a block without end": request(1, GET, 0) + frame(CONTINUATION, 0, 1, b"\0" * 16_000) * 10,
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_its_connection(name: str, gateway: Gateway, client: Http2Client) -> None:
    """Each kind is told to calm down, with what and how many; the next client is served."""
    code, detail = await send_until_ended(client, (FLOODS[name] for _ in range(3000)))
    assert code == ENHANCE_YOUR_CALM, (code, detail)
    assert "limit" in detail or "longer than" in detail
    await prove_alive(gateway.url)


BROKEN = {
    "data for no stream": (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    "data for a stream that never was": (frame(DATA, 0, 1, b"x" * 20), PROTOCOL_ERROR),
    "headers for no stream": (request(0), PROTOCOL_ERROR),
    "headers with an even number": (request(2), PROTOCOL_ERROR),
    "a number that goes back": (request(5) + request(3), None),
    "a reset of a stream that never was": (frame(RST, 0, 1, bytes(4)), PROTOCOL_ERROR),
    "settings of odd length": (frame(SETTINGS, 0, 0, b"x" * 5), FRAME_SIZE_ERROR),
    "an acknowledgement with settings": (frame(SETTINGS, 1, 0, bytes(6)), None),
    "settings for a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "a window of 2^31": (frame(SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"), FLOW_CONTROL_ERROR),
    "a frame size of 0": (frame(SETTINGS, 0, 0, b"\0\x05\0\0\0\0"), PROTOCOL_ERROR),
    "push turned on by 2": (frame(SETTINGS, 0, 0, b"\0\x02\0\0\0\x02"), PROTOCOL_ERROR),
    "a window opened by nothing": (frame(WINDOW, 0, 0, bytes(4)), PROTOCOL_ERROR),
    "the connection's window overflows": (frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
    "a short ping": (frame(PING, 0, 0, b"x" * 7), FRAME_SIZE_ERROR),
    "a ping for a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "a table index that is not there": (frame(HEADERS, 5, 1, b"\xff\xff\xff\x7f"), None),
    "a table that is larger than allowed": (frame(HEADERS, 5, 1, b"\x3f\xe1\xff\x07"), None),
    "a header that ends early": (frame(HEADERS, 5, 1, b"\x00\x7f"), None),
    "a promise by a client": (frame(PUSH, END_HEADERS, 1, bytes(4)), PROTOCOL_ERROR),
    "a continuation of nothing": (frame(CONTINUATION, END_HEADERS, 1), PROTOCOL_ERROR),
    "something inside a header block": (request(1, GET, 0) + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "another stream's continuation": (request(1, GET, 0) + frame(CONTINUATION, 4, 3), PROTOCOL_ERROR),
    "padding longer than its frame": (request(1, GET, 4) + frame(DATA, PADDED, 1, b"\xffx"), PROTOCOL_ERROR),
    "a frame that is too long": (frame(DATA, 0, 1, length=16_385), FRAME_SIZE_ERROR),
    "sixteen megabytes": (frame(PING, 0, 0, length=2**24 - 1), FRAME_SIZE_ERROR),
    "a stream that depends on itself": (frame(PRIORITY, 0, 1, b"\0\0\0\1\0"), PROTOCOL_ERROR),
    "trailers without an end": (request(1, GET, 4) + request(1, [("x", "y")], 4), PROTOCOL_ERROR),
    "more body than was said": (
        request(1, [(":method", "POST"), *GET[1:3], (":path", "/ingest"), ("content-length", "5")], END_HEADERS)
        + frame(DATA, 0, 1, b"x" * 20),
        PROTOCOL_ERROR,
    ),
    "less body than was said": (
        request(1, [(":method", "POST"), *GET[1:3], (":path", "/ingest"), ("content-length", "25")], END_HEADERS)
        + frame(DATA, END_STREAM, 1, b"x" * 20),
        PROTOCOL_ERROR,
    ),
    "more streams than allowed": (b"".join(request(n, PULL) for n in range(1, 205, 2)), PROTOCOL_ERROR),
    "HTTP/1.1 in the middle": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_http2_ends_its_connection(name: str, gateway: Gateway, client: Http2Client) -> None:
    """GOAWAY with the code of RFC 9113 where it names one, and some code where it lets us choose."""
    data, wanted = BROKEN[name]
    code, detail = await send_until_ended(client, iter([data]))
    assert code == wanted or (wanted is None and code != 0), (code, detail)
    await prove_alive(gateway.url)


@pytest.mark.parametrize(
    "preface", [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"x" * 50]
)
async def test_half_a_preface_is_no_preface(preface: bytes, gateway: Gateway) -> None:
    """What begins like one and goes on otherwise is ended."""
    stream = await trio.open_tcp_stream(gateway.host, gateway.port)
    client = Http2Client(stream, "h")
    async with stream:
        await client.raw(preface)
        await client.end()
    await prove_alive(gateway.url)


async def test_a_preface_in_the_middle_or_by_upgrade_is_none(gateway: Gateway) -> None:
    """Prior knowledge is known before anything else: after a request, and as `Upgrade: h2c`, HTTP/1.1 stays."""
    stream = await trio.open_tcp_stream(gateway.host, gateway.port)
    async with stream:
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in await stream.receive_some(65_536)
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert b"HTTP/1.1 400 " in await stream.receive_some(65_536)
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    for target in ("/healthz", "/version"):
        assert (await ask(gateway.url, "GET", target, upgrade)).status == 200


async def test_a_bomb_of_headers_is_not_unpacked(gateway: Gateway, client: Http2Client) -> None:
    """CVE-2016-6581: one entry of the table, named ten thousand times, ends at 64 KiB."""
    bomb = b"\x40\x01a\x7f\x81\x1e" + b"x" * 4000 + b"\xbe" * 10_000
    code, _ = await send_until_ended(client, iter([frame(HEADERS, 5, 1, bomb)]))
    assert code == ENHANCE_YOUR_CALM
    await prove_alive(gateway.url)


async def test_a_large_head_costs_its_stream_alone(client: Http2Client) -> None:
    """Above HTTP/1.1's limits the answer is HTTP/1.1's, and the connection goes on."""
    for pairs, status in (
        ([*GET, ("x", "y" * 20_000)], 431),
        ([*GET, *[(f"x{n}", "y") for n in range(101)]], 431),
        ([*GET[:3], (":path", "/" + "x" * 9000)], 414),
        ([*GET, ("connection", "close")], 400),
        ([*GET, ("host", "other")], 400),
        ([*GET, ("content-length", "5")], 400),
        (GET, 200),
    ):
        number = await client.begin_with(pairs)
        assert (await client.answer(number)).status == status
    assert not client.goaways


async def test_the_table_that_is_kept_for_a_client_stays_small(client: Http2Client) -> None:
    """A client that offers to keep four gigabytes of headers is told that four kilobytes do."""
    await client.raw(frame(SETTINGS, 0, 0, b"\0\x01\xff\xff\xff\xff"))
    client.h2.decoder.max_allowed_table_size = 2**32 - 1
    for _ in range(50):
        assert (await client.ask("GET", "/healthz")).status == 200
    assert client.h2.decoder.header_table_size == 4096


async def test_noise_ends_nothing_but_its_connection(gateway: Gateway, chance: random.Random) -> None:
    """T25: random frames, good ones among them, whole and cut: the process lives, and nothing of them stays."""
    baseline = await take_baseline(gateway)
    await throw_noise(gateway, chance, 500)
    await prove_alive(gateway.url)
    await wait_back_at(gateway, baseline)
    assert '"level":"error"' not in gateway.log_path.read_text()


@pytest.mark.long
async def test_much_noise_ends_nothing_but_its_connection(gateway: Gateway, chance: random.Random) -> None:
    """T25 at its length: twenty thousand connections of random frames."""
    baseline = await take_baseline(gateway)
    await throw_noise(gateway, chance, 20_000)
    await prove_alive(gateway.url)
    await wait_back_at(gateway, baseline)
    assert '"level":"error"' not in gateway.log_path.read_text()


async def throw_noise(gateway: Gateway, chance: random.Random, count: int) -> None:
    """So many connections of random frames, ten at a time."""
    room = trio.CapacityLimiter(10)

    async def throw(data: bytes) -> None:
        async with room:
            stream = await trio.open_tcp_stream(gateway.host, gateway.port)
            async with stream:
                with trio.move_on_after(20) as patience:
                    try:
                        await stream.send_all(data)
                        await stream.send_eof()
                        while await stream.receive_some(65_536):
                            pass
                    except trio.BrokenResourceError:
                        pass  # it was ended already
                assert not patience.cancelled_caught, data.hex()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(throw, _noise(chance))


def _noise(chance: random.Random) -> bytes:
    data = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
    number = 1
    for _ in range(chance.randrange(1, 40)):
        kind = chance.randrange(12)
        if kind in {0, 1, 2}:
            path = chance.choice(["/healthz", "/version", "/ingest", "/nope", PULL[3][1]])
            method = chance.choice(["GET", "POST", "HEAD", "PUT"])
            data += request(number, [(":method", method), *GET[1:3], (":path", path)], chance.choice([4, 5, 5]))
            number += 2
        elif kind == 3:
            size = chance.randrange(100)
            lie = size if chance.random() < 0.9 else chance.randrange(2**14)
            data += frame(
                chance.randrange(12), chance.randrange(256), chance.randrange(8), chance.randbytes(size), length=lie
            )
        elif kind == 4:
            data += frame(RST, 0, max(1, number - 2), chance.randbytes(4))
        elif kind == 5:
            data += frame(WINDOW, 0, chance.choice([0, max(1, number - 2)]), chance.randrange(1, 2**31).to_bytes(4))
        elif kind == 6:
            data += frame(SETTINGS, 0, 0, chance.choice([1, 3, 4, 6, 99]).to_bytes(2) + chance.randbytes(4))
        else:
            flags = chance.choice([0, 1, 8])
            data += frame(DATA, flags, max(1, number - 2), chance.randbytes(chance.randrange(200)))
    return data if chance.random() < 0.7 else data[: chance.randrange(len(data))]


async def test_everybody_above_the_limit_is_told_to_come_back(tmp_path: Path) -> None:
    """Overloaded: above HEADGATE_CONNECTIONS streams of all connections, one more is refused, and may be sent again."""
    env = {"HTTP2": "on", "HEADGATE_CONNECTIONS": "16"}
    async with (
        open_gateway(tmp_path / "data", env=env) as small,
        open_http2(small.url) as one,
        open_http2(small.url) as two,
    ):
        for client in (one, two):
            for _ in range(8):
                await client.begin_with(PULL)
            if client is one:  # whose streams have begun when this is answered
                assert (await one.answer(await one.begin_with(GET))).status == 200
        refused = await two.begin_with(GET)
        answer = await two.answer(refused)
        assert (answer.reset, answer.status) == (REFUSED_STREAM, 0)
        for number in list(one.answers)[:8]:
            one.h2.reset_stream(number, 8)
        await one.flush()

        async def is_taken() -> bool:
            return (await two.answer(await two.begin_with(GET))).status == 200

        await wait_until(is_taken, "there is room again")
