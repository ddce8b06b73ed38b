"""The shape of file events: decode, check, make paths canonical, keep the bytes.

A request's events are decoded once, to check them and to learn what the hash cache needs; what is
published are the request's own bytes, so nothing that a scanner wrote is lost or rounded on the way.
Only an event whose path changes is written anew, and only its path members are.

Rules of the file:
- Bytes in, `EventBatch` or `Refused` out; no clock, no I/O.
- Unknown event types and unknown members pass through untouched.
- A wrong shape names the first ten events that have it; nothing of such a request is published.

What must change with it: the limits stand in the README's wire reference.
Source: S0.6, S0.27, REQUIREMENTS E17; `bench/scenarios/ingest.py` pays for the two-pass decoding.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec
import orjson

from engine.bad_json import check_utf8, json_refusal
from engine.errors import Refused
from engine.json_depth import check_depth, depth_refusal
from engine.paths import canonical_path, is_canonical

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
MAX_EVENTS: Final = 10_000
NAMED_ERRORS: Final = 10

_PATH_MEMBERS: Final = ("path", "dir", "root_path")
_PLAIN_START: Final = b'{"events":['
_PLAIN_END: Final = b"]}"
_NAME: Final = b'"events"'


class FileFacts(msgspec.Struct, gc=False):
    """The members of an event's data that the gateway looks at; any type, checked by use."""

    path: Any = None
    dir: Any = None
    root_path: Any = None
    algo: Any = None
    hash: Any = None
    size: Any = None
    mtime: Any = None
    inode: Any = None
    dev: Any = None


class FileEvent(msgspec.Struct, gc=False):
    """One event as the gateway sees it."""

    type: str
    data: FileFacts


class EventBytes(msgspec.Struct, frozen=True):
    """The events of one request as they are published.

    Args:
        count: how many.
        joined: their JSON, comma-separated, without the brackets around them.
        pieces: the same, one bytes an event, when it was cheap to have; else None.
    """

    count: int
    joined: bytes
    pieces: list[bytes] | None

    def split(self) -> list[bytes]:
        """Give each event's JSON by itself."""
        if self.pieces is not None:
            return self.pieces
        return [bytes(raw) for raw in _RAW_LIST.decode(b"[" + self.joined + b"]")]


class EventBatch(NamedTuple):
    """The checked events of one request.

    Args:
        events: what the cache needs of each, paths canonical; as large as the request, so let it go when it was read.
        content: what is published.
    """

    events: list[FileEvent]
    content: EventBytes


class _Body(msgspec.Struct):
    events: list[FileEvent]


class _PlainBody(msgspec.Struct, forbid_unknown_fields=True):
    events: list[FileEvent]


class _RawBody(msgspec.Struct):
    events: msgspec.Raw


class _RawListBody(msgspec.Struct):
    events: list[msgspec.Raw]


_BODY: Final = msgspec.json.Decoder(_Body)
_PLAIN_BODY: Final = msgspec.json.Decoder(_PlainBody)
_RAW_BODY: Final = msgspec.json.Decoder(_RawBody)
_RAW_LIST_BODY: Final = msgspec.json.Decoder(_RawListBody)
_RAW_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_EVENT: Final = msgspec.json.Decoder(FileEvent)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_events(body: bytes) -> EventBatch:
    """Decode `{"events":[{"type":…,"data":{…}},…]}`.

    Raises:
        Refused: not JSON (with the byte's offset), a wrong shape (naming events by index), too many.
    """
    check_utf8(body)
    events, joined = _decode_plain(body) or _decode_carefully(body)
    _check_count(len(events))
    if _are_canonical(events):
        return _batch(events, joined)
    changed = _fix_all(events)
    if not changed:
        return _batch(events, joined)
    pieces = [bytes(one) for one in _RAW_LIST.decode(b"[" + joined + b"]")]
    for index in changed:
        pieces[index] = _rewrite(pieces[index])
    return _batch(events, b",".join(pieces), pieces)


def decode_event_lines(body: bytes) -> EventBatch:
    """Decode NDJSON, one event a line; empty lines are skipped.

    Raises:
        Refused: as `decode_events`; offsets and indexes count over the whole body.
    """
    check_utf8(body)
    pieces = [line.strip() for line in body.split(b"\n")]
    pieces = [line for line in pieces if line]
    _check_count(len(pieces))
    events: list[FileEvent] = []
    wrong: list[dict[str, object]] = []
    for index, piece in enumerate(pieces):
        try:
            event = _EVENT.decode(piece)
        except msgspec.ValidationError:
            wrong.append({"index": index, "problem": _problem_of(piece)})
            continue
        except RecursionError:
            raise depth_refusal() from None
        except msgspec.DecodeError as problem:
            raise json_refusal(piece, problem, f"line {index + 1}: ", _offset_of_line(body, index)) from None
        events.append(event)
    if wrong:
        raise _named_refusal(wrong)
    check_depth(body, 2 * len(events))
    for index in _fix_all(events):
        pieces[index] = _rewrite(pieces[index])
    return _batch(events, b",".join(pieces), pieces)


def _batch(events: list[FileEvent], joined: bytes, pieces: list[bytes] | None = None) -> EventBatch:
    return EventBatch(events, EventBytes(len(events), joined, pieces))


def _decode_plain(body: bytes) -> tuple[list[FileEvent], bytes] | None:
    """Decode a body as scanners write it, in one pass; None when it takes the careful way.

    With no member but `events`, and that named once, what stands between the outer brackets is the array. Where there
    are just the brackets that the events need, nothing can be named twice and nothing nests too deep.
    """
    if not body.startswith(_PLAIN_START) or not body.endswith(_PLAIN_END) or b"\\" in body:
        return None
    try:
        events = _PLAIN_BODY.decode(body).events
    except (msgspec.DecodeError, RecursionError):
        return None
    if body.find(b"[", len(_PLAIN_START)) >= 0 or body.count(b"{") != 2 * len(events) + 1:
        if body.count(_NAME) != 1:
            return None
        check_depth(body, 2 * len(events))
    return events, body[len(_PLAIN_START) : -len(_PLAIN_END)]


def _decode_carefully(body: bytes) -> tuple[list[FileEvent], bytes]:
    try:
        events = _BODY.decode(body).events
        joined = bytes(_RAW_BODY.decode(body).events)[1:-1].strip()
    except msgspec.ValidationError:
        raise _shape_refusal(body) from None
    except RecursionError:
        raise depth_refusal() from None
    except msgspec.DecodeError as problem:
        raise json_refusal(body, problem) from None
    _check_count(len(events))
    check_depth(body, 2 * len(events))
    return events, joined


def _are_canonical(events: list[FileEvent]) -> bool:
    """Say that no path needs a change, for all events at once: one look at all paths costs less than one at each."""
    try:
        facts = [event.data for event in events]
        paths = [one.path for one in facts if one.path is not None]
        others = {one.dir for one in facts}
        others.update([one.root_path for one in facts])
        others.discard(None)
        paths += others
        if paths and min(paths) < "/":
            return False  # it is empty or begins with a dot, or with what few paths begin with
        text = "/\n".join(paths) + "/\n"
    except TypeError:
        return False  # something that is not text: the careful way names it
    # A slash was put behind every path, so that "//" finds a trailing one too.
    return not ("//" in text or "/." in text or "\\" in text)


def _check_count(count: int) -> None:
    if count > MAX_EVENTS:
        raise Refused(
            "request.too-large", f"{count} events in one request; the limit is {MAX_EVENTS}", limit=MAX_EVENTS
        )


def _fix_all(events: list[FileEvent]) -> list[int]:
    """Make the paths of file events canonical; gives the indexes of those whose bytes must be written anew.

    Raises:
        Refused: a path is not text; names the first ten.
    """
    changed: list[int] = []
    wrong: list[dict[str, object]] = []
    for index, event in enumerate(events):
        if not event.type.startswith("file."):
            continue
        path = event.data.path
        if isinstance(path, str):
            event.data.path = canonical_path(path)
        elif path is not None:
            wrong.append({"index": index, "problem": "data.path is not a string"})
        if any(isinstance(one, str) and not is_canonical(one) for one in (path, event.data.dir, event.data.root_path)):
            changed.append(index)
    if wrong:
        raise _named_refusal(wrong)
    return changed


def _rewrite(piece: bytes) -> bytes:
    """Write an event with canonical paths; every other member keeps its bytes."""
    members = _MEMBERS.decode(piece)
    data = _MEMBERS.decode(bytes(members["data"]))
    for name in _PATH_MEMBERS:
        value = orjson.loads(bytes(data[name])) if name in data else None
        if isinstance(value, str):
            data[name] = msgspec.Raw(orjson.dumps(canonical_path(value)))
    members["data"] = msgspec.Raw(msgspec.json.encode(data))
    return msgspec.json.encode(members)


def _offset_of_line(body: bytes, wanted: int) -> int:
    offset = index = 0
    for line in body.split(b"\n"):
        if line.strip():
            if index == wanted:
                return offset + len(line) - len(line.lstrip())
            index += 1
        offset += len(line) + 1
    return offset


def _shape_refusal(body: bytes) -> Refused:
    """Find out, slowly, what is wrong with a body that is JSON of another shape."""
    try:
        pieces = _RAW_LIST_BODY.decode(body).events
    except msgspec.ValidationError as problem:
        text = str(problem)
        if "$.events" in text:
            return Refused("request.wrong-shape", "the member `events` is not an array of events")
        if "missing required field" in text:
            return Refused("request.wrong-shape", "the member `events` is missing; expected an array of events")
        return Refused("request.wrong-shape", 'the body is not an object; expected {"events":[…]}')
    except RecursionError:
        return depth_refusal()
    except msgspec.DecodeError as problem:
        return json_refusal(body, problem)  # the wrong shape came first, but it is no JSON either
    _check_count(len(pieces))
    wrong: list[dict[str, object]] = []
    for index, piece in enumerate(pieces):
        problem_text = _problem_of(bytes(piece))
        if problem_text:
            wrong.append({"index": index, "problem": problem_text})
    return _named_refusal(wrong)


def _problem_of(piece: bytes) -> str:
    try:
        value = cast("object", orjson.loads(piece))
    except orjson.JSONDecodeError as problem:
        return f"it holds a number or a text that cannot be read: {problem.msg}"
    if not isinstance(value, dict):
        return "not an object"
    if "type" not in value:
        return "type is missing"
    if not isinstance(value["type"], str):
        return "type is not a string"
    if "data" not in value:
        return "data is missing"
    if not isinstance(value["data"], dict):
        return "data is not an object"
    try:
        _EVENT.decode(piece)
    except msgspec.MsgspecError as problem:  # a member that stands in it twice: only the last one was looked at
        return f"a member stands in it twice, the first time with a wrong value: {problem}"
    return ""


def _named_refusal(wrong: Sequence[dict[str, object]]) -> Refused:
    named = list(wrong[:NAMED_ERRORS])
    listed = "; ".join(f"{one['index']}: {one['problem']}" for one in named)
    return Refused(
        "request.wrong-shape",
        f'events with a wrong shape, by index: {listed}; expected {{"type":"…","data":{{…}}}}; nothing was published',
        errors=named,
        wrong_count=len(wrong),
    )
