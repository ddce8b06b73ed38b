"""What the log's messages say about files and scans: rows for the catalog, the newest of each.

Rules of the file:
- Bytes in, rows out; no clock, no I/O, and no exception: what cannot be stored is a refusal with its reason, and what
  stands beside it is stored.
- A row is what one event says and nothing else, so the newest event about a path is all there is to know of it. That
  makes rows independent of the order and the number of times in which messages arrive.

Source: issue 3 section 2, S0.6, E17.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import orjson
import xxhash

from engine.catalog_rows import (
    STUMBLES,
    FileData,
    RowRefused,
    pack_carefully,
    pack_deletion,
    pack_upsert,
    timestamp_of,
)

MOST_REASONS: Final = 10
"""Refusals of one batch that are told apart; all are counted."""
MAX_SCAN_BYTES: Final = 256 * 1024
"""A scan event's data is kept as it is, so it may not be larger than this."""
SCAN_KINDS: Final = {
    "scan.started": "started",
    "scan.start": "started",
    "scan.telemetry": "telemetry",
    "scan.error": "error",
    "scan.completed": "completed",
    "scan.complete": "completed",
}
_NUL: Final = b"\\u0000"


class _Event(msgspec.Struct, gc=False):
    type: str
    data: FileData


class _Frame(msgspec.Struct):
    events: list[_Event]


class _RawFrame(msgspec.Struct):
    events: list[msgspec.Raw]


class _RawEvent(msgspec.Struct):
    data: msgspec.Raw


_FRAME: Final = msgspec.json.Decoder(_Frame)
_RAW_FRAME: Final = msgspec.json.Decoder(_RawFrame)
_ONE: Final = msgspec.json.Decoder(_Event)
_RAW_ONE: Final = msgspec.json.Decoder(_RawEvent)

Position = tuple[int, int]
"""Where an event stands in its stream: its message, its place in there."""


class Source(NamedTuple):
    """One message of the log.

    Args:
        payload: its bytes.
        is_frame: a gateway validated it.
        seq: its position in the stream.
        stored_us: when the log stored it, microseconds since the epoch.
    """

    payload: bytes
    is_frame: bool
    seq: int
    stored_us: int


class ScanRow(NamedTuple):
    """An event of a scan: the columns of `catalog.scan_events` but for the epoch."""

    key: bytes
    kind: str
    seq: int
    event: int
    stored_us: int
    scan_id: str | None
    root_path: str | None
    data: str


class Rows:
    """What a batch of messages comes to.

    Attributes:
        files: rows in the binary form of COPY with their positions, by the digests of their paths.
        scans: rows of scans, by scan and kind.
        events: events seen.
        ignored: events of types that the catalog does not know.
        refused: events, or whole messages, that cannot be stored.
        reasons: the first refusals, with their positions.
    """

    def __init__(self) -> None:
        self.files: dict[bytes, tuple[Position, bytes]] = {}
        self.scans: dict[tuple[bytes, str], ScanRow] = {}
        self.events = 0
        self.ignored = 0
        self.refused = 0
        self.reasons: list[str] = []

    def refuse(self, position: Position, reason: str) -> None:
        """Count what cannot be stored."""
        self.refused += 1
        if len(self.reasons) < MOST_REASONS:
            self.reasons.append(f"{position[0]}:{position[1]}: {reason}")

    def sorted_files(self) -> list[bytes]:
        """Give the file rows in the order of their keys: neighbours in the index are written together."""
        files = self.files
        return [files[key][1] for key in sorted(files)]

    def sorted_scans(self) -> list[ScanRow]:
        """Give the scans' rows in the order of their keys."""
        return [self.scans[key] for key in sorted(self.scans)]


def rows_of(sources: Sequence[Source], epoch: int) -> Rows:
    """Say what messages come to.

    Args:
        sources: the messages, in any order.
        epoch: the number of the stream that they come from.
    """
    rows = Rows()
    for source in sources:
        take_message(rows, source, epoch)
    return rows


def take_message(rows: Rows, source: Source, epoch: int) -> None:
    """Add what one message says; at most a few milliseconds' work for a frame of a gateway."""
    files, payload, seq, stored = rows.files, source.payload, source.seq, timestamp_of(source.stored_us)
    pack = pack_upsert if source.is_frame and _NUL not in payload else pack_carefully
    try:
        events = list(enumerate(_FRAME.decode(payload).events))
    except (msgspec.DecodeError, RecursionError):
        events = _salvage(rows, source)
    rows.events += len(events)
    for index, event in events:
        position = seq, index
        try:
            if event.type == "file.upsert":
                try:
                    key, row = pack(event.data, stored, seq, epoch, index)
                except STUMBLES:
                    key, row = pack_carefully(event.data, stored, seq, epoch, index)
            elif event.type == "file.delete":
                key, row = pack_deletion(event.data, stored, seq, epoch, index)
            elif event.type in SCAN_KINDS:
                _take_scan(rows, _scan_row(source, SCAN_KINDS[event.type], index))
                continue
            else:
                rows.ignored += 1
                continue
        except RowRefused as problem:
            rows.refuse(position, str(problem))
            continue
        known = files.get(key)
        if known is None or known[0] < position:
            files[key] = position, row


def _salvage(rows: Rows, source: Source) -> list[tuple[int, _Event]]:
    """Take what can be taken of a message that does not decode as a whole."""
    try:
        pieces = _RAW_FRAME.decode(source.payload).events
    except (msgspec.DecodeError, RecursionError) as problem:
        rows.events += 1
        rows.refuse((source.seq, 0), f"the message is no frame of events: {problem}")
        return []
    found: list[tuple[int, _Event]] = []
    for index, piece in enumerate(pieces):
        try:
            found.append((index, _ONE.decode(piece)))
        except (msgspec.DecodeError, RecursionError) as problem:
            rows.events += 1
            rows.refuse((source.seq, index), str(problem))
    return found


def _scan_row(source: Source, kind: str, index: int) -> ScanRow:
    """Make the row of one scan event; scans are few, so the message is decoded once more for it."""
    try:
        raw = bytes(_RAW_ONE.decode(_RAW_FRAME.decode(source.payload).events[index]).data)
        data = orjson.loads(raw)
        text = orjson.dumps(data)
    except (msgspec.DecodeError, RecursionError, orjson.JSONDecodeError, TypeError) as problem:
        raise RowRefused(f"the scan's data cannot be read: {problem}") from None
    if len(text) > MAX_SCAN_BYTES:
        raise RowRefused(f"the scan's data takes {len(text)} bytes; the limit is {MAX_SCAN_BYTES}")
    if _NUL in text:
        raise RowRefused("the scan's data holds a NUL character")
    scan_id, root_path = data.get("scan_id"), data.get("root_path")
    scan_id = scan_id if isinstance(scan_id, str) and scan_id else None
    root_path = root_path if isinstance(root_path, str) and root_path else None
    if scan_id is None and root_path is None:
        raise RowRefused("the scan has neither scan_id nor root_path")
    name = f"id {scan_id}" if scan_id is not None else f"root {root_path}"
    key = xxhash.xxh3_128_digest(name.encode())
    return ScanRow(key, kind, source.seq, index, source.stored_us, scan_id, root_path, text.decode())


def _take_scan(rows: Rows, row: ScanRow) -> None:
    known = rows.scans.get((row.key, row.kind))
    if known is None or (known.seq, known.event) < (row.seq, row.event):
        rows.scans[row.key, row.kind] = row
