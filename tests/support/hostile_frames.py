"""WebSocket frames that RFC 6455 forbids, or allows and nobody should send.

Rules of the file:
- Each packet follows an upgrade of `/stream` that went well; `upgraded_packets` are the same bytes in one packet with
  the upgrade, which is what kills servers.
- Where the RFC has the connection fail, it must end, and a close frame has the RFC's code: 1002 (protocol), 1007 (not
  UTF-8), 1009 (too big). The frame itself is a SHOULD (RFC 6455 section 7.1.7); only for 1009 is it demanded here.
- An upgrade with something behind it may be refused whole: a client has to wait for the 101. But what is accepted is
  read from its first byte on.
"""

import random
from dataclasses import replace

from tests.support.hostile_packet import Packet, request

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "STREAM",
    "TEXT",
    "UPGRADE_LINES",
    "close_code_in",
    "frame",
    "frame_packets",
    "upgraded_packets",
]

STREAM = b"/stream?subject=snapfs.files&durable=hostile"
UPGRADE_LINES = (
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
UPGRADE_REQUEST = request(STREAM, *UPGRADE_LINES)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = bytes.fromhex("37fa213d")
MAX_MESSAGE_BYTES = 1 << 20  # RELIABILITY.md 4.1

CloseCodes = frozenset[int | None]
PROTOCOL: CloseCodes = frozenset({1002, None})
NOT_UTF8: CloseCodes = frozenset({1007, None})
TOO_BIG: CloseCodes = frozenset({1009})


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    is_final: bool = True,
    reserved_bits: int = 0,
    is_masked: bool = True,
    length_field: bytes | None = None,
) -> bytes:
    """One frame from a client, right or wrong.

    Args:
        opcode: four bits.
        payload: before the masking.
        is_final: the FIN bit.
        reserved_bits: 4 for RSV1, 2 for RSV2, 1 for RSV3.
        is_masked: clients must; servers must not.
        length_field: its bytes instead of the right ones, without the mask bit.
    """
    size = len(payload)
    if length_field is None:
        length_field = (
            bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65_536 else b"\x7f" + size.to_bytes(8)
        )
    first = (0x80 if is_final else 0) | reserved_bits << 4 | opcode
    if not is_masked:
        return bytes([first]) + length_field + payload
    masked = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))
    return bytes([first, length_field[0] | 0x80]) + length_field[1:] + MASK + masked


def close_code_in(data: bytes) -> int | None:
    """The code of the first close frame among a server's frames; None where there is none."""
    at = 0
    while at + 2 <= len(data):
        opcode, size = data[at] & 0x0F, data[at + 1] & 0x7F
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + width]), at + width
        if opcode == CLOSE:
            return int.from_bytes(data[at : at + 2]) if size >= 2 else 1005
        at += size
    return None


def frame_packets() -> list[Packet]:
    """Every hostile run of frames, after an upgrade that was answered."""
    parts = (_broken_frames(), _bad_closes(), _bad_text(), _too_much(), _odd_words())
    return [replace(packet, prelude=UPGRADE_REQUEST) for part in parts for packet in part]


def upgraded_packets() -> list[Packet]:
    """The same frames in one packet with their upgrade."""
    return [
        replace(each, data=UPGRADE_REQUEST + each.data, prelude=b"", statuses=frozenset({101, 400}))
        for each in frame_packets()
    ]


def _packet(name: str, data: bytes, close_codes: CloseCodes = frozenset()) -> Packet:
    return Packet(f"frames: {name}", data, close_codes=close_codes, closes=bool(close_codes))


def _broken_frames() -> list[Packet]:
    deflated = bytes.fromhex("f248cdc9c90700")  # "Hello", RFC 7692 section 7.2.3.1
    return [
        _packet("not masked", frame(TEXT, b"{}", is_masked=False), PROTOCOL),
        _packet("first reserved bit", frame(TEXT, b"{}", reserved_bits=4), PROTOCOL),
        _packet("second reserved bit", frame(TEXT, b"{}", reserved_bits=2), PROTOCOL),
        _packet("third reserved bit", frame(TEXT, b"{}", reserved_bits=1), PROTOCOL),
        _packet("compressed though declined", frame(TEXT, deflated, reserved_bits=4), PROTOCOL),
        *(_packet(f"opcode {opcode}", frame(opcode, b"{}"), PROTOCOL) for opcode in (3, 7, 11, 15)),
        _packet("continuation of nothing", frame(CONTINUATION, b"{}"), PROTOCOL),
        _packet("a message inside a message", frame(TEXT, b"{", is_final=False) + frame(TEXT, b"}"), PROTOCOL),
        _packet("fragmented ping", frame(PING, b"a", is_final=False) + frame(CONTINUATION, b"b"), PROTOCOL),
        _packet("ping of 126 bytes", frame(PING, bytes(126)), PROTOCOL),
        _packet("length with the top bit", frame(TEXT, b"{}", length_field=b"\x7f\xff" + bytes(7)), PROTOCOL),
        _packet("length longer than needed", frame(TEXT, b"{}", length_field=b"\x7e\x00\x02"), PROTOCOL),
        _packet("an HTTP request instead", request(b"/healthz"), PROTOCOL),
        _packet("half a frame", frame(TEXT, b'{"type":"ack"}')[:-3]),
        _packet("half a message", frame(TEXT, b'{"type"', is_final=False)),
        _packet("a length that never comes", frame(TEXT, b"{}", length_field=b"\x7f" + (1 << 62).to_bytes(8))),
        *(_packet(f"random bytes {seed}", random.Random(seed).randbytes(64)) for seed in range(4)),
    ]


def _bad_closes() -> list[Packet]:
    return [
        _packet("close of one byte", frame(CLOSE, b"\x03"), PROTOCOL),
        *(_packet(f"close {code}", frame(CLOSE, code.to_bytes(2)), PROTOCOL) for code in (0, 999, 1005, 1006, 1015)),
        *(_packet(f"close {code}", frame(CLOSE, code.to_bytes(2))) for code in (1000, 1016, 2999, 4999, 5000, 65_535)),
        _packet("close with a reason that is no UTF-8", frame(CLOSE, b"\x03\xe8\xff\xfe"), NOT_UTF8 | PROTOCOL),
        _packet("close of 126 bytes", frame(CLOSE, b"\x03\xe8" + b"a" * 124), PROTOCOL),
        _packet("words after the close", frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"{}") * 5),
        _packet("close twice", frame(CLOSE, b"\x03\xe8") * 2),
        _packet("empty close", frame(CLOSE)),
    ]


def _bad_text() -> list[Packet]:
    texts = {
        "not UTF-8": b"\xff\xfe",
        "a lone surrogate": b"\xed\xa0\x80",
        "an overlong slash": b"\xc0\xaf",
        "past the last code point": b"\xf4\x90\x80\x80",
        "cut inside a character": b"{}\xe2\x82",
    }
    return [
        *(_packet(name, frame(TEXT, text), NOT_UTF8) for name, text in texts.items()),
        _packet("not UTF-8 across frames", frame(TEXT, b"\xe2", is_final=False) + frame(CONTINUATION, b"{}"), NOT_UTF8),
    ]


def _too_much() -> list[Packet]:
    pieces = frame(TEXT, b"[" * 4096, is_final=False) + frame(CONTINUATION, b"[" * 4096, is_final=False) * 256
    return [
        _packet("a message past 1 MiB", frame(TEXT, b"[" * (MAX_MESSAGE_BYTES + 1)), TOO_BIG),
        _packet("a message past 1 MiB in pieces", pieces, TOO_BIG),
        _packet("2000 pings", frame(PING, b"flood") * 2000),
        _packet("2000 pongs nobody asked for", frame(PONG, b"flood") * 2000),
        _packet("2000 empty frames", frame(TEXT, is_final=False) + frame(CONTINUATION, is_final=False) * 2000),
        _packet("2000 tiny messages", frame(TEXT, b"1") * 2000),
    ]


def _odd_words() -> list[Packet]:
    words = {
        "empty": b"",
        "no JSON": b"hello",
        "null": b"null",
        "a list": b"[]",
        "a number past every limit": b'{"type":"ack","batch":' + b"9" * 400 + b"}",
        "no type": b"{}",
        "an unknown type": b'{"type":"explode"}',
        "an ack of nothing": b'{"type":"ack"}',
        "an ack of a number": b'{"type":"ack","batch":5}',
        "an ack of a list": b'{"type":"ack","batch":[[]]}',
        "an ack of an unknown batch": b'{"type":"ack","batch":"00000000-0000-0000-0000-000000000000"}',
        "5000 brackets": b"[" * 5000,
        "NUL": b"\x00",
    }
    return [
        *(_packet(f"{name} as text", frame(TEXT, word)) for name, word in words.items()),
        *(_packet(f"{name} as binary", frame(BINARY, word)) for name, word in words.items()),
    ]
