"""The NATS client protocol, without I/O: bytes in, events out; values in, bytes out.

Rules of the file:
- No I/O, no clock. `Parser.feed` may be given any cut of the byte stream, down to single bytes.
- A broken stream raises `WireError`, and the parser is of no more use; the driver reconnects.
- Memory is bounded by the server's `max_payload`: a longer message is a broken stream.

The hot path is `MSG` and `HMSG`: one slice a payload, no copies between (`bench/scenarios/stream.py`).
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

MAX_LINE_BYTES: Final = 64 * 1024
"""Longest control line; INFO of a large cluster is the longest one known, a few KiB."""

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""The most that a NATS server can be configured to let through (`max_payload`)."""

_HEADER_START: Final = b"NATS/1.0"


class WireError(Exception):
    """The peer broke the protocol; the connection is of no more use."""


class Message(NamedTuple):
    """One delivered message.

    Args:
        sid: the subscription it came on.
        subject: what it was published on.
        reply: where an answer or an acknowledgement goes, empty when nowhere.
        header: the raw header block, empty when none.
        payload: the body.
    """

    sid: int
    subject: str
    reply: str
    header: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Info:
    """What the server said of itself."""

    fields: dict[str, object]

    @property
    def max_payload_bytes(self) -> int:
        """The longest message the server takes."""
        value = self.fields.get("max_payload")
        return value if isinstance(value, int) else 1024 * 1024

    @property
    def version(self) -> tuple[int, int]:
        """The server's version, major and minor; (0, 0) when it does not say."""
        parts = str(self.fields.get("version", "")).split(".")
        if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
            return 0, 0
        return int(parts[0]), int(parts[1])


class Ping(NamedTuple):
    """The server wants a PONG."""


class Pong(NamedTuple):
    """The server answered our PING."""


class ServerError(NamedTuple):
    """The server's `-ERR`; it may close the connection after it."""

    text: str


Event = Message | Info | Ping | Pong | ServerError


class Parser:
    """Turns the server's bytes into events."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._have_bytes = 0
        self._need_bytes = 1

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes of the stream and give every event that is now complete.

        Raises:
            WireError: the bytes are not the NATS protocol.
        """
        self._chunks.append(data)
        self._have_bytes += len(data)
        if self._have_bytes < self._need_bytes:
            return []  # a long payload is coming: joining only once it is whole keeps this linear
        buffer = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        events: list[Event] = []
        position = self._parse(buffer, events)
        rest = buffer[position:] if position else buffer
        self._chunks = [rest] if rest else []
        self._have_bytes = len(rest)
        return events

    def _parse(self, buffer: bytes, events: list[Event]) -> int:
        position = 0
        end = len(buffer)
        while True:
            line_end = buffer.find(b"\r\n", position)
            if line_end < 0:
                if end - position > MAX_LINE_BYTES:
                    raise WireError(f"a control line is longer than {MAX_LINE_BYTES} bytes")
                self._need_bytes = 1
                return position
            line = buffer[position:line_end]
            after = line_end + 2
            if line.startswith((b"MSG ", b"HMSG ")):
                try:
                    header_bytes, total_bytes, sid, subject, reply = _message_line(line)
                except ValueError as problem:
                    raise WireError(f"not a message line: {line[:80]!r}") from problem
                stop = after + total_bytes
                if end < stop + 2:
                    self._need_bytes = stop + 2 - position
                    return position
                if buffer[stop : stop + 2] != b"\r\n":
                    raise WireError("a message is not as long as its line says")
                split = after + header_bytes
                events.append(Message(sid, subject, reply, buffer[after:split], buffer[split:stop]))
                position = stop + 2
            else:
                event = _control_line(line)
                if event is not None:
                    events.append(event)
                position = after


def _message_line(line: bytes) -> tuple[int, int, int, str, str]:
    """Read `MSG subject sid [reply] total` or `HMSG subject sid [reply] header total`."""
    parts = line.decode().split()
    has_header = parts[0] == "HMSG"
    numbers = 2 if has_header else 1
    if len(parts) not in {3 + numbers, 4 + numbers}:
        raise ValueError("wrong number of fields")
    total_bytes = int(parts[-1])
    header_bytes = int(parts[-2]) if has_header else 0
    if not 0 <= header_bytes <= total_bytes <= MAX_MESSAGE_BYTES:
        raise ValueError("lengths out of range")
    reply = parts[3] if len(parts) == 4 + numbers else ""
    return header_bytes, total_bytes, int(parts[2]), parts[1], reply


def _control_line(line: bytes) -> Event | None:
    if line == b"PING":
        return Ping()
    if line == b"PONG":
        return Pong()
    if line.startswith(b"INFO "):
        try:
            fields = orjson.loads(line[5:])
        except orjson.JSONDecodeError as problem:
            raise WireError("INFO is not JSON") from problem
        if not isinstance(fields, dict):
            raise WireError("INFO is not a JSON object")
        return Info(fields)
    if line.startswith(b"-ERR"):
        return ServerError(line[4:].strip().strip(b"'").decode(errors="replace"))
    if line == b"+OK":
        return None
    raise WireError(f"unknown control line: {line[:80]!r}")


class Headers(NamedTuple):
    """A decoded header block.

    Args:
        status: the inline status, such as 404, or None.
        description: the text after the status.
        fields: names, in lower case, to values; the last of a repeated name wins.
    """

    status: int | None
    description: str
    fields: dict[str, str]


def read_headers(block: bytes) -> Headers:
    """Decode a header block such as `NATS/1.0 404 No Messages\\r\\n\\r\\n`.

    Raises:
        WireError: it is not a header block.
    """
    lines = block.decode(errors="replace").split("\r\n")
    if not lines[0].startswith(_HEADER_START.decode()):
        raise WireError(f"not a header block: {block[:40]!r}")
    status_text, _, description = lines[0][len(_HEADER_START) :].strip().partition(" ")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    is_status = len(status_text) == 3 and status_text.isdecimal()
    return Headers(int(status_text) if is_status else None, description, fields)


def write_headers(fields: dict[str, str]) -> bytes:
    """Encode a header block; names and values must hold no control characters.

    Raises:
        ValueError: a name or value would break the block.
    """
    parts = [_HEADER_START]
    for name, value in fields.items():
        if not (name + value).isprintable() or ":" in name:
            raise ValueError(f"not a header: {name!r}: {value!r}")
        parts.append(f"{name}: {value}".encode())
    return b"\r\n".join(parts) + b"\r\n\r\n"


def write_publish(subject: str, payload: bytes, reply: str = "", header: bytes = b"") -> bytes:
    """Encode one PUB, or HPUB when there is a header block."""
    target = f"{subject} {reply}" if reply else subject
    if header:
        return b"HPUB %s %d %d\r\n%s%s\r\n" % (
            target.encode(),
            len(header),
            len(header) + len(payload),
            header,
            payload,
        )
    return b"PUB %s %d\r\n%s\r\n" % (target.encode(), len(payload), payload)


def write_connect(name: str, credentials: dict[str, str]) -> bytes:
    """Encode CONNECT: headers on, echo off, no-responders answers on.

    Args:
        name: shown in the server's monitoring.
        credentials: `user` and `pass`, or `auth_token`, or nothing.
    """
    fields = {
        "verbose": False,
        "pedantic": False,
        "headers": True,
        "no_responders": True,
        "echo": False,
        "protocol": 1,
        "lang": "python-trio",
        "version": "1",
        "name": name,
        **credentials,
    }
    return b"CONNECT " + orjson.dumps(fields) + b"\r\n"


def write_subscribe(subject: str, sid: int) -> bytes:
    """Encode SUB."""
    return f"SUB {subject} {sid}\r\n".encode()


def write_unsubscribe(sid: int) -> bytes:
    """Encode UNSUB."""
    return f"UNSUB {sid}\r\n".encode()


PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"
