"""What a client says to a gateway and hears from it, as values.

Rules of the file:
- The fields are the wire's, name for name; a field that an older gateway leaves out has a default.
- Unknown fields are ignored, so that a newer gateway does not break an older client.

What must change with it: the wire of `POST /ingest`, `POST /cache/batch`, `GET /readyz` and `/stream`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec


class Probe(msgspec.Struct, frozen=True, omit_defaults=True):
    """One question to the hash cache: what is the hash of this version of this file?

    Args:
        path: as the file's events name it.
        size: bytes.
        mtime: seconds since the epoch; its whole seconds count.
        inode: with `dev`, the identity that survives a rename; None where the file system has none.
        dev: the device the inode is of.
    """

    path: str
    size: int
    mtime: float
    inode: int | None = None
    dev: int | None = None


class ProbeAnswer(msgspec.Struct, frozen=True):
    """What the cache knows; `algo` and `hash` are None on a miss."""

    status: str
    algo: str | None = None
    hash: str | None = None

    @property
    def is_hit(self) -> bool:
        """Whether the cache knew the file."""
        return self.status == "HIT"


class Event(msgspec.Struct, frozen=True):
    """One event as it is published: `Event("file.upsert", {"path": …})`."""

    type: str
    data: dict[str, Any]


class Published(msgspec.Struct, frozen=True):
    """The gateway's word that the log has the events.

    Args:
        received: how many events.
        subject: what they were published on.
        stream: the log stream that holds them.
        seq: their frame's position in it.
        duplicate: the same key had stored them before, and nothing was stored again.
        durability: what the word is worth: `fsync`, `replicated` or `buffered`.
    """

    received: int
    subject: str
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    durability: str = ""


class Dependency(msgspec.Struct, frozen=True):
    """One engine the gateway needs, as `/readyz` tells it."""

    state: str = ""
    age_s: float | None = None
    last_error: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    """What `/readyz` says: `status` is ready, starting, draining or unavailable."""

    status: str
    durability: str = ""
    dependencies: dict[str, Dependency] = {}

    @property
    def is_ready(self) -> bool:
        """Whether the gateway takes work now."""
        return self.status == "ready"


class Message(msgspec.Struct, frozen=True):
    """One message of the log, as an agent gets it. It is parsed when it is asked for.

    Args:
        index: its place in the batch.
        data: the JSON text; `{"raw": "…"}` stands for a message that was not JSON.
        seq: its position in the stream; 0 on the old wire, which does not say it.
        delivered: how often it was sent to somebody by now, this time included.
        time: when it was published; None on the old wire.
        trace: W3C traceparents of the requests whose events it holds, where they brought one.
    """

    index: int
    data: msgspec.Raw
    seq: int = 0
    delivered: int = 1
    time: datetime | None = None
    trace: list[str] = []

    def events(self) -> list[Event]:
        """Give the events of a frame; none when the message is no frame of well-formed events."""
        try:
            return msgspec.json.decode(self.data, type=_Frame).events
        except msgspec.MsgspecError:
            return []

    def value(self) -> Any:
        """Give the whole message, whatever it is."""
        return msgspec.json.decode(self.data)


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What a client has done so far.

    Args:
        answered: requests that came back well.
        retries: tries after the first, of all requests together.
        last_error: the latest failure in words, None while there was none.
        waiting_s: how long nothing has succeeded while requests are being retried, 0 when all is well.
    """

    answered: int
    retries: int
    last_error: str | None
    waiting_s: float


def check_base_url(text: str) -> str:
    """Give back a gateway's address.

    Raises:
        ValueError: it is no http or https address with a host, or has a query or fragment.
    """
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket without its other
        is_address = False
    if not is_address or "?" in text or "#" in text:
        raise ValueError(f"{text!r} is no gateway address; expected one like http://127.0.0.1:8000")
    return text


class _Frame(msgspec.Struct):
    events: list[Event]
