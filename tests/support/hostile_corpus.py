"""The corpus of hostile packets: every head of `hostile_heads`, and here bodies, garbage and upgrades.

Rules of the file:
- No randomness but a fixed seed: a failing packet is named, and its bytes are the same tomorrow.
- A bug in a parser is found by a new packet here first.
"""

import gzip
import random
from dataclasses import replace

from tests.support.hostile_heads import head_packets
from tests.support.hostile_packet import Lane, Packet, post, request

__all__ = ["http_packets"]

UPGRADE = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
STREAM = b"/stream?subject=snapfs.files&durable=hostile"


def http_packets(lane: Lane) -> list[Packet]:
    """Every packet of the corpus, aimed at one lane."""
    packets = [*head_packets(lane), *_bodies(lane), *_garbage(lane), *_upgrades(lane)]
    return [replace(packet, prelude=lane.prelude) for packet in packets]


def _bodies(lane: Lane) -> list[Packet]:
    te, json = b"Transfer-Encoding: chunked", b"Content-Type: application/json"
    chunked = {
        "size not hexadecimal": b"zz\r\nhello\r\n0\r\n\r\n",
        "size negative": b"-5\r\nhello\r\n0\r\n\r\n",
        "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
        "size past 64 bits": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "size empty": b"\r\nhello\r\n0\r\n\r\n",
        "data longer than its size": b"5\r\nhello, world\r\n0\r\n\r\n",
        "no line end after the data": b"5\r\nhello0\r\n\r\n",
        "size with an underscore": b"1_0\r\nhello\r\n0\r\n\r\n",
    }
    deep = b'{"events":' + b"[" * 20_000
    bomb = gzip.compress(bytes(20 << 20))
    odd = lane.post_statuses
    return [
        *(Packet(f"chunk: {name}", post(lane, te, body=body), odd, closes=True) for name, body in chunked.items()),
        Packet("chunk: giant extension", post(lane, te, body=b"5;" + b"x" * 70_000 + b"\r\nhello\r\n0\r\n\r\n")),
        Packet("chunk: bare LF", post(lane, te, body=b"5\nhello\n0\n\n")),
        Packet("chunk: hostile trailers", post(lane, te, body=b"0\r\nContent-Length: 5\r\nHost: x\r\n\r\n")),
        Packet("chunk: endless trailers", post(lane, te, body=b"0\r\n" + b"X-Name: 1234567\r\n" * 4000)),
        Packet("chunk: half", post(lane, te, body=b"5\r\nhel")),
        Packet("chunk: 3000 of one byte", post(lane, te, json, body=b"1\r\n[\r\n" * 3000 + b"0\r\n\r\n")),
        Packet("half a body", post(lane, b"Content-Length: 100", body=b"hello")),
        Packet("body after GET", request(lane.path, b"Content-Length: 5", body=b"hello")),
        Packet("body longer than its length", post(lane, b"Content-Length: 2", json, body=b"{}GARBAGE\r\n\r\n")),
        Packet("smuggled request in a GET", request(lane.path, b"Content-Length: 60", body=request(b"/nope"))),
        Packet("expectation never met", post(lane, b"Content-Length: 100", b"Expect: 100-continue")),
        Packet("unknown expectation", post(lane, b"Content-Length: 5", b"Expect: 200-ok", body=b"hello")),
        Packet(
            "broken gzip", post(lane, b"Content-Encoding: gzip", json, b"Content-Length: 5", body=b"\x1f\x8b\x08\0\0")
        ),
        Packet("gzip bomb", post(lane, b"Content-Encoding: gzip", json, b"Content-Length: %d" % len(bomb), body=bomb)),
        Packet("20,000 brackets", post(lane, json, b"Content-Length: %d" % len(deep), body=deep)),
        Packet("invalid UTF-8 in JSON", post(lane, json, b"Content-Length: 4", body=b'"\xff\xfe"')),
        Packet("200 requests in one packet", request(lane.path) * 200, frozenset({200})),
        Packet(
            "a good request and garbage",
            request(lane.path) + b"\x00\x01\x02GARBAGE\r\n\r\n",
            frozenset({200}),
            closes=True,
        ),
        Packet("close and a request after it", request(lane.path, b"Connection: close") + request(b"/nope")),
        Packet("HTTP/1.0 and a request after it", request(lane.path, version=b"HTTP/1.0") + request(b"/nope")),
        Packet("HEAD and a request after it", request(lane.path, method=b"HEAD") + request(lane.path)),
    ]


def _garbage(lane: Lane) -> list[Packet]:
    chance = random.Random(4711)
    settings = b"\0\0\0\x04\0\0\0\0\0"
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    hello = bytes.fromhex("16030100c8010000c40303") + chance.randbytes(32) + bytes.fromhex("20") + chance.randbytes(165)
    return [
        *(Packet(f"random bytes {number}", chance.randbytes(200)) for number in range(5)),
        Packet("nothing", b""),
        Packet("one byte", b"G"),
        Packet("1000 NULs", bytes(1000)),
        Packet("2000 line ends", b"\r\n" * 2000),
        Packet("70,000 bytes without a line end", b"A" * 70_000),
        Packet("half a request line", b"GET " + lane.path[:3]),
        Packet("half a header", request(lane.path)[:-9]),
        Packet("all but the last byte", request(lane.path)[:-1]),
        Packet("TLS ClientHello", hello),
        Packet("SSLv2 ClientHello", bytes.fromhex("802e0100020015000000100100800200800300800600400700c0") + bytes(16)),
        Packet("SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n"),
        Packet("Redis command", b"*1\r\n$4\r\nPING\r\n"),
        Packet("NATS command", b'CONNECT {"verbose":false}\r\nPING\r\n'),
        Packet("SIP request", b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm\r\n\r\n"),
        Packet("a response", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        Packet("PROXY protocol 1", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + request(lane.path)),
        Packet("PROXY protocol 2", bytes.fromhex("0d0a0d0a000d0a515549540a20000000") + request(lane.path)),
        Packet("HTTP/2 preface", preface),
        Packet("HTTP/2 preface and settings", preface + settings),
        Packet("HTTP/2 preface and a request", preface + settings + bytes.fromhex("000003010500000001828684")),
        Packet("HTTP/2 preface and garbage", preface + chance.randbytes(100)),
        Packet("HTTP/2 preface and a giant frame", preface + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(100)),
        Packet("HTTP/2 rapid reset", preface + settings + _rapid_reset(50)),
        Packet("HTTP/2 preface cut off", preface[:18]),
    ]


def _rapid_reset(stream_count: int) -> bytes:
    """CVE-2023-44487 in small: a request and its reset, over and over."""
    frames = bytearray()
    for stream in range(1, 2 * stream_count, 2):
        headers = bytes.fromhex("828684") + b"\x01\x0cgateway.test"
        frames += len(headers).to_bytes(3) + b"\x01\x05" + stream.to_bytes(4) + headers
        frames += b"\0\0\x04\x03\0" + stream.to_bytes(4) + b"\0\0\0\x08"
    return bytes(frames)


def _upgrades(lane: Lane) -> list[Packet]:
    h2c = (b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    trailing = {
        "a byte": b"x",
        "a request": request(lane.path),
        "a good frame": bytes.fromhex("818100000000") + b"x",
        "half a frame": b"\x81\xff\0\0",
        "50,000 NULs": bytes(50_000),
        "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }
    asked = {
        "without a key": UPGRADE,
        "with a short key": (*UPGRADE, b"Sec-WebSocket-Key: eA=="),
        "with a key that is no base64": (*UPGRADE, b"Sec-WebSocket-Key: !!!!"),
        "with two keys": (*UPGRADE, KEY, KEY),
        "with version 8": (*UPGRADE[:2], b"Sec-WebSocket-Version: 8", KEY),
        "without a version": (*UPGRADE[:2], KEY),
        "with a length": (*UPGRADE, KEY, b"Content-Length: 5"),
        "with a coding": (*UPGRADE, KEY, b"Transfer-Encoding: chunked"),
        "without Connection": (UPGRADE[0], UPGRADE[2], KEY),
        "without Upgrade": (*UPGRADE[1:], KEY),
        "with a giant protocol list": (*UPGRADE, KEY, b"Sec-WebSocket-Protocol: " + b"a," * 4000),
        "with a broken extension": (*UPGRADE, KEY, b"Sec-WebSocket-Extensions: permessage-deflate; =;;"),
    }
    no_switch = frozenset({200, 400, 404, 426, 501})
    ws = (*UPGRADE, KEY)
    packets = [
        Packet("h2c upgrade", request(lane.path, *h2c), no_switch),
        Packet("h2c upgrade and frames", request(lane.path, *h2c) + b"\0\0\0\x04\0\0\0\0\0", no_switch),
        Packet("h2c upgrade without settings", request(lane.path, *h2c[:2]), no_switch),
        Packet("upgrade to nonsense", request(lane.path, b"Upgrade: teapot/1", b"Connection: Upgrade"), no_switch),
        Packet("upgrade with a method of its own", request(STREAM, *ws, method=b"POST"), frozenset({400, 405, 426})),
        Packet("upgrade in HTTP/1.0", request(STREAM, *ws, version=b"HTTP/1.0"), frozenset({400, 426, 505})),
        Packet("upgrade without parameters", request(b"/stream", *ws)),
        Packet("stream without an upgrade", request(STREAM), frozenset({400, 426})),
    ]
    for where, target in {"the stream": STREAM, "the lane's own route": lane.path, "nothing": b"/nope"}.items():
        packets.append(Packet(f"upgrade of {where}, left alone", request(target, *ws)))
        for what, tail in trailing.items():
            packets.append(Packet(f"upgrade of {where} and {what}", request(target, *ws) + tail))
    packets += [Packet(f"upgrade {what}", request(STREAM, *lines)) for what, lines in asked.items()]
    return packets
