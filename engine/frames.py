"""Frames: the log messages that carry events, and how a large request is cut into several.

A *frame* is one log message, `{"events":[…]}`. It is validated once, when it comes in; its header says so
and how many events it holds, and from then on it travels as bytes.

Rules of the file:
- Bytes in, bytes out; no clock, no I/O.
- An event is never cut: a chunk is a run of whole events.
"""

from typing import Final, NamedTuple

import xxhash

from engine import nats_wire
from engine.log import DIGEST_HEADER, EVENTS_HEADER
from engine.trace import add_traces

FRAME_EVENTS: Final = 1000
FRAME_BYTES: Final = 512 * 1024
"""Half of the 1 MiB that WebSocket clients take by default, so that any frame fits into an agent's batch."""
OVERHEAD_BYTES: Final = 1024
"""More than a frame's header block and brackets ever need under the server's `max_payload`."""
_OPEN: Final = b'{"events":['
_CLOSE: Final = b"]}"


class MessageBytes(NamedTuple):
    """One log message: its header block and its payload."""

    header: bytes
    payload: bytes


def merged_message(parts: list[bytes], count: int) -> MessageBytes:
    """Make one frame of several requests' events; the hot path, so the header is formatted by hand."""
    header = b"NATS/1.0\r\n%s: %d\r\n\r\n" % (EVENTS_HEADER.encode(), count)
    return MessageBytes(header, _OPEN + b",".join(parts) + _CLOSE)


def keyed_message(joined: bytes, count: int, message_id: str, digest: str) -> MessageBytes:
    """Make the frame of a request with an idempotency key.

    Args:
        joined: the events, comma-separated.
        count: how many.
        message_id: becomes `Nats-Msg-Id`.
        digest: of the whole request's events, to tell bodies under one key apart.
    """
    fields = {EVENTS_HEADER: str(count), "Nats-Msg-Id": message_id, DIGEST_HEADER: digest}
    return MessageBytes(nats_wire.write_headers(fields), _OPEN + joined + _CLOSE)


def batch_messages(chunks: list[tuple[int, bytes]], batch_id: str, message_id: str, digest: str) -> list[MessageBytes]:
    """Make the messages of an atomic batch, stored together or not at all.

    Only the first carries the message id: one known id anywhere rejects the whole batch.
    """
    messages: list[MessageBytes] = []
    for number, (count, joined) in enumerate(chunks, 1):
        fields = {EVENTS_HEADER: str(count), "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
        if number == 1 and message_id:
            fields |= {"Nats-Msg-Id": message_id, DIGEST_HEADER: digest}
        if number == len(chunks):
            fields["Nats-Batch-Commit"] = "1"
        messages.append(MessageBytes(nats_wire.write_headers(fields), _OPEN + joined + _CLOSE))
    return messages


def name_traces(messages: list[MessageBytes], traces: list[str]) -> list[MessageBytes]:
    """Give a frame's messages with the traces of its requests in their headers."""
    return [MessageBytes(add_traces(header, traces), payload) for header, payload in messages]


def chunks_of(pieces: list[bytes], most_bytes: int) -> list[tuple[int, bytes]]:
    """Cut events into runs within a frame's limits: `(count, joined)` each, in order."""
    chunks: list[tuple[int, bytes]] = []
    run: list[bytes] = []
    size = 0
    for piece in pieces:
        if run and (len(run) >= FRAME_EVENTS or size + len(piece) + 1 > most_bytes):
            chunks.append((len(run), b",".join(run)))
            run, size = [], 0
        run.append(piece)
        size += len(piece) + 1
    chunks.append((len(run), b",".join(run)))
    return chunks


def digest_of(joined: bytes) -> str:
    """Give the digest by which two bodies under one idempotency key are told apart."""
    return xxhash.xxh3_128_hexdigest(joined)
