"""Dead letters: what a message becomes that its agents gave up on, and how often is too often.

A letter is the message's own bytes and header fields in a stream of its own, with one more field that says where it
came from, how often it was delivered, and why it is there.

Rules of the file:
- Values in, values out; no clock, no I/O.
- The same message of the same durable is the same letter: its id says so, and the log keeps it once.
- Replayed, a message is again what it was: what the letter added is taken away.

What must change with it: `actors/dead.py` carries them, the wire reference of `GET /stream/dead` in the README.
"""

import json
from typing import Any, Final, NamedTuple

import orjson

from engine import nats_wire
from engine.log import StoredMessage

LETTERS_SUBJECT: Final = "snapfs.dlq"
"""Where letters are found; `snapfs.dlq.<durable>` each."""
ORIGIN_FIELD: Final = "Headgate-Dead"
ID_FIELD: Final = "Nats-Msg-Id"
REMEMBERED_S: Final = 86_400.0
"""How long a repeated letter is known as one."""
MOST_REASON_CHARS: Final = 500
RETRIES_AT_ONCE: Final = 3
"""Refused deliveries that come again at once; after them the pauses grow."""
FIRST_PAUSE_MS: Final = 100
MOST_PAUSE_MS: Final = 30_000


class Origin(NamedTuple):
    """Where a letter came from.

    Args:
        durable: whose agents gave up.
        stream: the message's stream.
        epoch: when that stream was made: another epoch is another stream of the same name.
        subject: what it was published on.
        seq: its position.
        time: when it was stored, RFC 3339.
        delivered: how often it was delivered.
        reason: for a person.
        size: of its payload, bytes.
    """

    durable: str
    stream: str
    epoch: str
    subject: str
    seq: int
    time: str
    delivered: int
    reason: str
    size: int


class Letter(NamedTuple):
    """One dead letter as it lies in its stream.

    Args:
        id: its position there.
        time: when it died, RFC 3339.
        origin: where it came from.
        fields: the message's own header fields, names in lower case.
        payload: its bytes.
    """

    id: int
    time: str
    origin: Origin
    fields: dict[str, str]
    payload: bytes

    @property
    def is_reference(self) -> bool:
        """The message was too large for a letter: it has to be read where it came from, while it is there."""
        return not self.payload and self.origin.size > 0


def nak_delay_ms(delivered: int) -> int:
    """Say after what pause a message comes again that an agent refused without naming one, in milliseconds.

    An agent whose database is down refuses everything at once; without pauses it would have its whole backlog among
    the dead letters within a second.
    """
    if delivered <= RETRIES_AT_ONCE:
        return 0
    return min(MOST_PAUSE_MS, FIRST_PAUSE_MS << min(16, delivered - RETRIES_AT_ONCE - 1))


def letters_config(name: str) -> dict[str, object]:
    """Give the configuration of the stream of letters.

    The main stream takes `snapfs.>`, and two streams cannot take one subject; so letters are published elsewhere and
    moved to their own subjects on the way in.
    """
    return {
        "name": name,
        "subjects": [f"{name}.letters.>"],
        "subject_transform": {"src": f"{name}.letters.>", "dest": f"{LETTERS_SUBJECT}.>"},
        "retention": "limits",
        "storage": "file",
        "duplicate_window": int(REMEMBERED_S * 1e9),
        "allow_direct": True,
    }


def write_letter(name: str, origin: Origin, message: StoredMessage) -> tuple[str, bytes]:
    """Give the subject and the header of a letter; its payload is the message's.

    Args:
        name: the stream of letters.
        origin: where it came from; the reason is cut to what a header may hold.
        message: the message as it lies in its stream.
    """
    origin = origin._replace(reason=origin.reason[:MOST_REASON_CHARS])
    fields = {one: text for one, text in message.fields.items() if _is_writable(one, text)}
    fields[ORIGIN_FIELD] = json.dumps(origin._asdict()).replace(
        "\x7f", "\\u007f"
    )  # ASCII, and nothing that breaks a line
    fields[ID_FIELD] = f"{origin.stream}:{origin.epoch}:{origin.durable}:{origin.seq}"
    return f"{name}.letters.{origin.durable}", nats_wire.write_headers(fields)


def read_letter(message: StoredMessage) -> Letter:
    """Read a letter; one that somebody else put there has an origin of its own making."""
    fields = dict(message.fields)
    try:
        read: dict[str, Any] = orjson.loads(fields.pop(ORIGIN_FIELD.lower()))
        origin = Origin(**{name: kind(read[name]) for name, kind in Origin.__annotations__.items()})
    except (KeyError, TypeError, ValueError):
        durable = message.subject.removeprefix(LETTERS_SUBJECT + ".")
        origin = Origin(durable, "", "", message.subject, 0, message.time, 0, "not a letter of this gateway", 0)
    return Letter(message.sequence, message.time, origin, fields, message.payload)


def describe_letter(letter: Letter) -> dict[str, object]:
    """Give a letter as the wire has it."""
    origin = letter.origin
    data: object = None
    if not letter.is_reference:
        try:
            data = orjson.loads(letter.payload)
        except orjson.JSONDecodeError:
            data = {"raw": letter.payload.decode(errors="replace")}
    return {
        "id": letter.id,
        "time": letter.time,
        "durable": origin.durable,
        "subject": origin.subject,
        "stream": origin.stream,
        "seq": origin.seq,
        "published": origin.time,
        "delivered": origin.delivered,
        "reason": origin.reason,
        "data": data,
    }


def write_replay(name: str, letter: Letter) -> bytes:
    """Give the header with which a letter's message is published again.

    Args:
        name: the stream of letters; with the letter's place in it, it says which replay this is.
        letter: what is replayed.
    """
    fields = {one: text for one, text in letter.fields.items() if _is_writable(one, text)}
    fields[ID_FIELD] = f"replay:{name}:{letter.time}:{letter.id}"
    return nats_wire.write_headers(fields)


def _is_writable(name: str, text: str) -> bool:
    """Leave out what the log would take for its own, and what cannot stand in a header."""
    return not name.startswith("nats-") and (name + text).isprintable() and ":" not in name
