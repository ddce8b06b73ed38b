"""What the processes of one gateway say to each other, over sequenced packets of a Unix socket.

A message goes as one packet or several: a packet has a bound, a tree of ten thousand actors has not.

Rules of the file:
- Bytes in, values out; no I/O. Both ends are this very release, so there is no version.
- What does not fit the format is our bug, not somebody's input: nobody else can reach these sockets.
- A sender's packets come in order, and those of one message one after the other. But either end may have been killed in
  the middle of a message, and another process goes on in its place: a message without its beginning or its end is none.
"""

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

PACKET_BYTES: Final = 60_000
"""The kernel takes no packet larger than a socket's buffer, and lets few wait when they are large."""
MOST_BYTES: Final = 64 * 1024 * 1024
"""Of one message, so that nobody keeps more than this of each sender."""
HEAD_BYTES_MOST: Final = 9 + 255
_HEAD: Final = struct.Struct("<BBHIB")  # kind, place in the message, sender, number, length of the topic
_FIRST: Final = 1
_LAST: Final = 2


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
    """Give a message's packets.

    Raises:
        ValueError: it is larger than `MOST_BYTES`.
    """
    if len(body) > MOST_BYTES:
        raise ValueError(f"a message of {len(body)} bytes; the limit is {MOST_BYTES}")
    name = topic.encode()
    for start in range(0, max(1, len(body)), PACKET_BYTES):
        place = (_FIRST if start == 0 else 0) | (_LAST if start + PACKET_BYTES >= len(body) else 0)
        yield _HEAD.pack(kind, place, sender, number, len(name)) + name + body[start : start + PACKET_BYTES]


class Assembler:
    """Makes messages of packets; those of several senders may be mixed.

    Args:
        discard: gets the descriptors of a message that will never be whole.
    """

    def __init__(self, discard: Callable[[tuple[int, ...]], None] = lambda _: None) -> None:
        self._parts: dict[int, tuple[tuple[int, int], list[bytes], tuple[int, ...]]] = {}
        self._discard = discard

    def feed(self, packet: bytes, descriptors: tuple[int, ...] = ()) -> Message | None:
        """Take a packet; gives the message that it completes."""
        kind, place, sender, number, size = _HEAD.unpack_from(packet)
        at = _HEAD.size + size
        known = self._parts.pop(sender, None)
        if place & _FIRST:
            if known is not None:
                self._discard(known[2])  # its sender was killed in the middle
            known = ((kind, number), [], ())
        if known is None or known[0] != (kind, number):
            self._discard(descriptors if known is None else known[2] + descriptors)
            return None  # its beginning went to the process that was here before
        known[1].append(packet[at:])
        held = known[2] + descriptors
        if not place & _LAST:
            self._parts[sender] = (known[0], known[1], held)
            return None
        topic = packet[_HEAD.size : at].decode()
        return Message(Kind(kind), sender, number, topic, b"".join(known[1]), held)
