"""Bytes that nobody planned: noise, and good requests with something wrong at random.

Rules of the file:
- Everything comes from one `random.Random`: a seed gives the same bytes again.
"""

import random

import orjson

from tests.support.hostile_corpus import http_packets
from tests.support.hostile_frames import STREAM, UPGRADE_LINES, frame
from tests.support.hostile_packet import LANES, request

__all__ = ["make_bytes"]

TOKENS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\x00",
        b":",
        b",",
        b";",
        b"=",
        b"%",
        b"%00",
        b"%2e%2e/",
        b"/",
        b"?",
        b"#",
    ),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"CONNECT ", b"PRI * HTTP/2.0"),
    *(b"Content-Length: ", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n", b"Host:\r\n"),
    *(b"Connection: close\r\n", b"Connection: Upgrade\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n"),
    *(b"Accept: text/csv;q=x,,;", b"Accept: application/x-ndjson", b"Authorization: Bearer ", b"X-API-Key: \xff"),
    *(b"Origin: null\r\n", b"Origin: http://[\r\n", b'Idempotency-Key: "\r\n', b"Content-Encoding: gzip\r\n"),
    *(
        b"traceparent: 00-0-0-0\r\n",
        b"X-Request-Id: \xe4\r\n",
        b"X-Forwarded-For: ,,;\r\n",
        b"Content-Type: text/\xff\r\n",
    ),
    *(
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"ffffffff\r\n",
        b"-1",
        b"0x10",
        b"99999999999999999999",
        b"1e9",
        b"NaN",
        b"null",
    ),
    *(
        b'{"events":[',
        b'"type":',
        b"]}",
        b"[" * 50,
        b"\xff\xfe",
        b"\xed\xa0\x80",
        "\u2028".encode(),
        b"\x7f",
        b"A" * 300,
    ),
)
# Paths that take bodies, parameters and verbs of all kinds.
TARGETS = (
    *(
        b"/ingest",
        b"/ingest?subject=snapfs.fuzz",
        b"/cache/batch",
        b"/query/sql",
        b"/auth/token",
        b"/healthz",
        b"/readyz",
    ),
    *(
        b"/version",
        b"/actors",
        b"/metrics",
        b"/openapi.json",
        b"/docs",
        b"/docs/x",
        b"/agents",
        b"/agents/x/scan",
        b"/scans",
    ),
    *(b"/scans/x", b"/consumers", b"/consumers/x", b"/consumers/x/reset", b"/stream/dead?durable=x&after=1&limit=2"),
    *(
        b"/stream/pull?subject=snapfs.fuzz&durable=f&wait=0",
        b"/stream/settle",
        b"/stream",
        b"/api/v1/metrics",
        b"/nope",
    ),
)
BODIES = (
    *(b"", b"{}", b"[]", b"null", b'"x"', b"5", b'{"events":[]}', b'{"events":[{"type":"fuzz","data":{"path":"/a"}}]}'),
    *(
        b'[{"path":"/a","size":1,"mtime":1}]',
        b'{"sql":"select 1"}',
        b'{"root":"/x"}',
        b'{"to":"new"}',
        b'{"durable":"x"}',
    ),
    *(b'{"durable":"f","batch":"x","ack":[0]}', b'{"type":"ack"}', b"a" * 500),
)
METHODS = (
    b"GET",
    b"GET",
    b"GET",
    b"POST",
    b"POST",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"OPTIONS",
    b"PATCH",
    b"TRACE",
)


def make_bytes(chance: random.Random) -> bytes:
    """What one connection sends."""
    makers = (_noise, _mutated, _mutated, _mutated, _assembled, _assembled, _json, _frames)
    return chance.choice(makers)(chance)


def _noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(1, 400))


def _good(chance: random.Random) -> bytes:
    body = chance.choice(BODIES)
    length = b"Content-Length: %d" % len(body)
    lines = [length] if body or chance.random() < 0.5 else []
    if body and chance.random() < 0.2:
        lines, body = [b"Transfer-Encoding: chunked"], b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return request(chance.choice(TARGETS), *lines, method=chance.choice(METHODS), body=body)


def _mutated(chance: random.Random) -> bytes:
    """One to three good requests, or one of the corpus, changed in up to six places."""
    if chance.random() < 0.2:
        data = bytearray(chance.choice(http_packets(chance.choice(LANES))).data[:4000])
    else:
        data = bytearray(b"".join(_good(chance) for _ in range(chance.randrange(1, 4))))
    for _ in range(chance.choice([0, 1, 1, 1, 2, 2, 3, 6])):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randrange(1, 20)]
            case 2:
                data[at:at] = chance.choice(TOKENS)
            case 3:
                data[at : at + chance.randrange(1, 20)] = chance.choice(TOKENS)
            case 4:
                start = chance.randrange(len(data) + 1)
                data[at:at] = data[start : start + chance.randrange(1, 200)]
            case _:
                if at < len(data):
                    data[at] ^= 1 << chance.randrange(8)
    return bytes(data[:20_000])


def _assembled(chance: random.Random) -> bytes:
    """A head of tokens in any order."""
    lines = [chance.choice(METHODS), b" ", chance.choice(TARGETS), b" HTTP/1.1\r\nHost: gateway.test\r\n"]
    lines += [chance.choice(TOKENS) for _ in range(chance.randrange(8))]
    return b"".join([*lines, b"\r\n\r\n", chance.choice(BODIES)])


def _value(chance: random.Random, depth: int = 0) -> object:
    """Any JSON value; the names are those that mean something somewhere."""
    names = (
        "events",
        "type",
        "data",
        "path",
        "size",
        "mtime",
        "sql",
        "params",
        "durable",
        "batch",
        "ack",
        "nak",
        "to",
        "root",
    )
    match chance.randrange(9 if depth < 4 else 6):
        case 0:
            return chance.choice([None, True, False])
        case 1:
            return chance.choice([0, -1, 1, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63), 0.5, 1e308])
        case 2 | 3:
            return chance.choice(
                ["", "/a", "file.upsert", "snapfs.fuzz", "a\x00b", "\u2028", "é" * 50, "..", "*", ">", "x" * 300]
            )
        case 4 | 5:
            return chance.choice(names)
        case 6:
            return [_value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case _:
            return {chance.choice(names): _value(chance, depth + 1) for _ in range(chance.randrange(5))}


def _json(chance: random.Random) -> bytes:
    """A request whose framing is right and whose body is some JSON."""
    body = orjson.dumps(_value(chance))
    return request(
        chance.choice(TARGETS), b"Content-Length: %d" % len(body), method=chance.choice(METHODS[3:8]), body=body
    )


def _frames(chance: random.Random) -> bytes:
    """A WebSocket with frames behind it, some right and some not."""
    target = chance.choice([STREAM.replace(b"hostile", b"fuzz"), b"/agents", b"/ws/agents"])
    more = [b"Sec-WebSocket-Protocol: headgate.stream.v1"] if chance.random() < 0.5 else []
    data = bytearray(request(target, *UPGRADE_LINES, *more))
    for _ in range(chance.randrange(1, 8)):
        payload = orjson.dumps(_value(chance)) if chance.random() < 0.6 else chance.randbytes(chance.randrange(60))
        data += frame(
            chance.choice([0, 1, 1, 1, 2, 8, 9, 10, chance.randrange(16)]),
            payload,
            is_final=chance.random() < 0.9,
            reserved_bits=chance.choice([0] * 9 + [4]),
            is_masked=chance.random() < 0.95,
        )
    return bytes(data)
