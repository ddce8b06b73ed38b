"""What the processes of one gateway say to each other, over sequenced packets of a Unix socket.

A message goes as one packet or several: a packet has a bound, a tree of ten thousand actors has not.

Rules of the file:
- Bytes in, values out; no I/O. Both ends are this very release, so there is no version.
- What does not fit the format is our bug, not somebody's input: nobody else can reach these sockets.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

PACKET_BYTES: Final = 60_000
"""The kernel takes no packet larger than a socket's buffer, and lets few wait when they are large."""
MOST_BYTES: Final = 64 * 1024 * 1024
_HEAD: Final = struct.Struct("<BBHIB")  # kind, whether more follows, sender, number, length of the topic


class Kind(IntEnum):
    """What a message is."""

    TELL = 0
    ASK = 1
    ANSWER = 2
    FAILURE = 3
    CONNECTION = 4
    """A client's connection, whose descriptor comes with the first packet."""


class Message(NamedTuple):
    """One message.

    Args:
        kind: what it is.
        sender: index of the process that sent it.
        number: an answer has that of its question.
        topic: what it is about.
        body: bytes that the topic gives a meaning.
        descriptors: what came with it.
    """

    kind: Kind
    sender: int
    number: int
    topic: str
    body: bytes
    descriptors: tuple[int, ...] = ()


def encode(kind: Kind, sender: int, number: int, topic: str, body: bytes) -> Iterator[bytes]:
    """Give a message's packets."""
    name = topic.encode()
    for start in range(0, max(1, len(body)), PACKET_BYTES):
        has_more = start + PACKET_BYTES < len(body)
        yield _HEAD.pack(kind, has_more, sender, number, len(name)) + name + body[start : start + PACKET_BYTES]


class Assembler:
    """Makes messages of packets; those of several senders may be mixed."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int, int], tuple[list[bytes], tuple[int, ...]]] = {}

    def feed(self, packet: bytes, descriptors: tuple[int, ...] = ()) -> Message | None:
        """Take a packet; gives the message that it completes."""
        kind, has_more, sender, number, size = _HEAD.unpack_from(packet)
        at = _HEAD.size + size
        key = (kind, sender, number)
        parts, held = self._parts.pop(key, ([], ()))
        parts.append(packet[at:])
        held += descriptors
        if has_more:
            self._parts[key] = (parts, held)
            return None
        topic = packet[_HEAD.size : at].decode()
        return Message(Kind(kind), sender, number, topic, b"".join(parts), held)
