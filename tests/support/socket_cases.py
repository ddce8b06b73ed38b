"""What a WebSocket server has to do with frames, as a table: the sections 1 to 7 and 10 of Autobahn's test suite.

The suite itself runs on Python 2 alone and asks for a server that echoes; these are its cases for a server that does
not. Sent whole and byte by byte, on every socket route.

Rules of the file:
- A case is frames and how the connection is afterwards: it lives (a ping behind the frames is answered with its own
  payload, so the server has read each of them to its end), or it is closed with the one code that RFC 6455 says.
- What any of the messages means to the route is nothing here: words that cannot be followed change nothing.

Source: RFC 6455 sections 5 and 7; where it leaves a choice, the case is not here but in `hostile_frames.py`.
"""

from dataclasses import dataclass

from tests.support.hostile_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

__all__ = ["MAX_MESSAGE_BYTES", "Case", "all_cases", "close", "frames_in"]

MAX_MESSAGE_BYTES = 1 << 20  # RELIABILITY.md 4.1
PROTOCOL, NOT_UTF8, TOO_BIG = 1002, 1007, 1009


@dataclass(frozen=True)
class Case:
    """Frames, and what becomes of the connection.

    Args:
        name: Autobahn's section and what is said.
        data: the frames.
        closes: the code that the server's close frame has; None when the connection lives.
        pongs: payloads of the pings among the frames, in order.
    """

    name: str
    data: bytes
    closes: int | None = None
    pongs: tuple[bytes, ...] = ()


def all_cases() -> list[Case]:
    """Every case, in the suite's order."""
    parts = (_framing(), _pings(), _reserved_bits(), _opcodes(), _fragments(), _texts(), _closes(), _sizes())
    cases = [case for part in parts for case in part]
    assert len({case.name for case in cases}) == len(cases), "two cases of one name"
    return cases


def close(code: int, reason: bytes = b"") -> bytes:
    """A close frame."""
    return frame(CLOSE, code.to_bytes(2) + reason)


def frames_in(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """A server's whole frames as opcode and payload, and the bytes of one that is not whole yet.

    Raises:
        AssertionError: a frame is masked, fragmented though it is a control frame, or has a reserved bit or opcode.
    """
    frames: list[tuple[int, bytes]] = []
    at = 0
    while len(data) - at >= 2:
        first, size, start = data[at], data[at + 1], at + 2
        assert not first & 0x70, f"a reserved bit is set: {data[at : at + 20]!r}"
        assert not size & 0x80, "a server masks nothing"
        assert first & 0x0F in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}, f"opcode {first & 0x0F}"
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(data) < start + width:
                break
            size, start = int.from_bytes(data[start : start + width]), start + width
        if len(data) < start + size:
            break
        frames.append((first & 0x0F, data[start : start + size]))
        at = start + size
    return frames, data[at:]


def _framing() -> list[Case]:
    sizes = (0, 1, 125, 126, 127, 128, 65_535, 65_536)
    return [
        *(Case(f"1.1 text of {size} bytes", frame(TEXT, b"*" * size)) for size in sizes),
        *(Case(f"1.2 binary of {size} bytes", frame(BINARY, b"\xfe" * size)) for size in sizes),
    ]


def _pings() -> list[Case]:
    ten = tuple(b"payload-%d" % number for number in range(10))
    odd = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
    return [
        Case("2.1 ping without payload", frame(PING), pongs=(b"",)),
        Case("2.2 ping with text", frame(PING, b"Hello, world!"), pongs=(b"Hello, world!",)),
        Case("2.3 ping with bytes that are no text", frame(PING, odd), pongs=(odd,)),
        Case("2.4 ping of 125 bytes", frame(PING, b"\xfe" * 125), pongs=(b"\xfe" * 125,)),
        Case("2.5 ping of 126 bytes", frame(PING, b"\xfe" * 126), PROTOCOL),
        Case("2.7 pong nobody asked for, empty", frame(PONG)),
        Case("2.8 pong nobody asked for", frame(PONG, b"unsolicited")),
        Case("2.9 pong, then ping", frame(PONG, b"unsolicited") + frame(PING, b"asked"), pongs=(b"asked",)),
        Case("2.10 ten pings", b"".join(frame(PING, each) for each in ten), pongs=ten),
        Case("2.12 pong of 126 bytes", frame(PONG, bytes(126)), PROTOCOL),
    ]


def _reserved_bits() -> list[Case]:
    def each(bits: int) -> list[tuple[str, bytes]]:
        return [
            (f"text, reserved bits {bits}", frame(TEXT, b"*", reserved_bits=bits)),
            (f"binary, reserved bits {bits}", frame(BINARY, b"*", reserved_bits=bits)),
            (f"ping, reserved bits {bits}", frame(PING, b"*", reserved_bits=bits)),
            (f"close, reserved bits {bits}", frame(CLOSE, reserved_bits=bits)),
            (f"after a good text, reserved bits {bits}", frame(TEXT, b"*") + frame(TEXT, b"*", reserved_bits=bits)),
        ]

    return [Case(f"3 {name}", data, PROTOCOL) for bits in range(1, 8) for name, data in each(bits)]


def _opcodes() -> list[Case]:
    reserved = (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    empty = [Case(f"4 opcode {opcode}, empty", frame(opcode), PROTOCOL) for opcode in reserved]
    full = [Case(f"4 opcode {opcode} with payload", frame(opcode, b"reserved"), PROTOCOL) for opcode in reserved]
    later = [
        Case(f"4 opcode {opcode} after a ping", frame(PING) + frame(opcode), PROTOCOL, (b"",)) for opcode in (3, 11)
    ]
    return [*empty, *full, *later]


def _fragments() -> list[Case]:
    begun, more, end = (
        frame(TEXT, b"frag", is_final=False),
        frame(CONTINUATION, b"ment", is_final=False),
        frame(CONTINUATION, b"ed"),
    )
    ping = frame(PING, b"between")
    asked = (b"between",)
    return [
        Case("5.1 ping in two fragments", frame(PING, b"a", is_final=False) + frame(CONTINUATION, b"b"), PROTOCOL),
        Case("5.2 pong in two fragments", frame(PONG, b"a", is_final=False) + frame(CONTINUATION, b"b"), PROTOCOL),
        Case("5 close in two fragments", frame(CLOSE, b"\x03\xe8", is_final=False) + frame(CONTINUATION), PROTOCOL),
        Case("5.3 text in two fragments", begun + end),
        Case("5.6 a ping between two fragments", begun + ping + end, pongs=asked),
        Case("5.8 pings between all fragments", begun + ping + more + ping + end, pongs=asked * 2),
        Case("5.9 a continuation of nothing", frame(CONTINUATION, b"x"), PROTOCOL),
        Case("5.10 a continuation of nothing, not final", frame(CONTINUATION, b"x", is_final=False), PROTOCOL),
        Case("5.11 a continuation after a whole message", begun + end + end, PROTOCOL),
        Case("5.15 a third fragment after the end", begun + end + more + frame(TEXT, b"x"), PROTOCOL),
        Case("5.18 a text inside a text", begun + frame(TEXT, b"x"), PROTOCOL),
        Case("5.18 a binary inside a text", begun + frame(BINARY, b"x"), PROTOCOL),
        Case("5.19 five fragments, pings between", begun + more + ping + more + ping + more + end, pongs=asked * 2),
        Case("5 fragments that are all empty", frame(TEXT, is_final=False) + frame(CONTINUATION)),
        Case("5 empty fragments around one", frame(TEXT, is_final=False) + more + frame(CONTINUATION)),
        Case("5 binary in fragments, the first empty", frame(BINARY, is_final=False) + end),
        Case("5 not masked", frame(TEXT, b"x", is_masked=False), PROTOCOL),
        Case("5 a ping that is not masked", frame(PING, b"x", is_masked=False), PROTOCOL),
        Case("5 a close that is not masked", frame(CLOSE, b"\x03\xe8", is_masked=False), PROTOCOL),
        Case("5 a length with its highest bit", frame(TEXT, b"x", length_field=b"\x7f\x80" + bytes(7)), PROTOCOL),
        Case("5 a length of two bytes that fits one", frame(TEXT, b"x", length_field=b"\x7e\x00\x01"), PROTOCOL),
        Case(
            "5 a length of eight bytes that fits two",
            frame(TEXT, b"x", length_field=b"\x7f" + bytes(7) + b"\x01"),
            1002,
        ),
    ]


def _texts() -> list[Case]:
    kosme = "κόσμε".encode()
    good = {
        "6.2 Greek": kosme,
        "6.5 the first of two bytes": b"\xc2\x80",
        "6.7 the first and the last of three bytes": b"\xe0\xa0\x80\xef\xbf\xbf",
        "6.9 the first and the last of four bytes": b"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
        "6.22 a noncharacter": b"\xef\xbf\xbe",
        "6.23 the replacement character": b"\xef\xbf\xbd",
        "6 NUL": b"\x00",
        "6 a byte order mark": b"\xef\xbb\xbf",
    }
    bad = {
        "6.3 a surrogate among Greek": kosme + b"\xed\xa0\x80edited",
        "6.6 one byte of two": b"\xce",
        "6.6 two bytes of three": b"\xe1\xbd",
        "6.8 five bytes": b"\xf8\x88\x80\x80\x80",
        "6.8 six bytes": b"\xfc\x84\x80\x80\x80\x80",
        "6.10 past the last code point": b"\xf4\x90\x80\x80",
        "6.12 a continuation byte alone": b"\x80",
        "6.14 a first byte and a space": b"\xc0 ",
        "6.18 overlong slash, two bytes": b"\xc0\xaf",
        "6.18 overlong slash, three bytes": b"\xe0\x80\xaf",
        "6.19 overlong, the largest": b"\xc1\xbf",
        "6.20 overlong NUL": b"\xc0\x80",
        "6.21 the first surrogate": b"\xed\xa0\x80",
        "6.21 a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
        "6 impossible bytes": b"\xfe\xfe\xff\xff",
    }
    split = [
        Case(
            "6.2 Greek, a fragment a byte",
            b"".join(
                frame(CONTINUATION if at else TEXT, kosme[at : at + 1], is_final=at == len(kosme) - 1)
                for at in range(len(kosme))
            ),
        ),
        Case("6.4 wrong before its end", frame(TEXT, kosme + b"\xf4\x90", is_final=False), NOT_UTF8),
        Case(
            "6.4 wrong in a second fragment",
            frame(TEXT, kosme, is_final=False) + frame(CONTINUATION, b"\xed\xa0\x80", is_final=False),
            NOT_UTF8,
        ),
        Case("6.4 half a character at the end", frame(TEXT, b"\xce", is_final=False) + frame(CONTINUATION), NOT_UTF8),
        Case("6 bytes that are no text, as binary", frame(BINARY, b"\xfe\xfe\xff\xff")),
    ]
    return [
        *(Case(name, frame(TEXT, text)) for name, text in good.items()),
        *(Case(name, frame(TEXT, text), NOT_UTF8) for name, text in bad.items()),
        *split,
    ]


def _closes() -> list[Case]:
    said = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999)
    never = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    return [
        Case("7.1 close, then a text", close(1000) + frame(TEXT, b"after"), 1000),
        Case("7.1 close, then a ping", close(1000) + frame(PING, b"after"), 1000),
        Case("7.1 close twice", close(1000) + close(1001), 1000),
        Case("7.1 a text, then close", frame(TEXT, b"before") + close(1000), 1000),
        Case("7.1 half a message, then close", frame(TEXT, b"be", is_final=False) + close(1000), 1000),
        Case("7.3 close without a code", frame(CLOSE), 1005),
        Case("7.3 close of one byte", frame(CLOSE, b"\x03"), PROTOCOL),
        Case("7.3 close with a reason", close(1000, b"Hello World!"), 1000),
        Case("7.3 close with a reason of 123 bytes", close(1000, b"*" * 123), 1000),
        Case("7.3 close with a reason of 124 bytes", close(1000, b"*" * 124), PROTOCOL),
        Case("7.5 close with a reason that is not UTF-8", close(1000, b"\xed\xa0\x80"), NOT_UTF8),
        *(Case(f"7.7 close {code}", close(code), code) for code in said),
        *(Case(f"7.9 close {code}", close(code), PROTOCOL) for code in never),
    ]


def _sizes() -> list[Case]:
    most = MAX_MESSAGE_BYTES
    pieces = frame(BINARY, is_final=False) + frame(CONTINUATION, b"*" * 16_384, is_final=False) * (most // 16_384)
    four = "\N{FILE FOLDER}".encode()
    return [
        Case("9 text of 1 MiB", frame(TEXT, b"*" * most)),
        Case("9 text of one byte more", frame(TEXT, b"*" * (most + 1)), TOO_BIG),
        Case("9 binary of 1 MiB in fragments", pieces + frame(CONTINUATION)),
        Case("9 binary of one byte more in fragments", pieces + frame(CONTINUATION, b"*"), TOO_BIG),
        Case("9 text of 1 MiB in characters of four bytes", frame(TEXT, four * (most // 4))),
        Case("9 text of one such character more", frame(TEXT, four * (most // 4 + 1)), TOO_BIG),
        Case(
            "9 a length that says 1 TiB",
            frame(TEXT, b"*" * (2 * most), length_field=b"\x7f" + (1 << 40).to_bytes(8)),
            TOO_BIG,
        ),
        Case("9 four times too much", frame(TEXT, b"*" * (4 * most)), TOO_BIG),
        Case("10.1 64 KiB in fragments of 1,300 bytes", _in_fragments(b"*" * 65_536, 1_300)),
    ]


def _in_fragments(text: bytes, size: int) -> bytes:
    starts = range(0, len(text), size)
    return b"".join(
        frame(CONTINUATION if at else TEXT, text[at : at + size], is_final=at + size >= len(text)) for at in starts
    )
