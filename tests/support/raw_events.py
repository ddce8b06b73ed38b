"""Events as JSON text of every legal spelling, for tests that hold the gateway to the bytes.

Rules of the file:
- Texts are put together here, not by an encoder: numbers without end, odd escapes, white space and brackets in strings
  are legal JSON that encoders never write.
- Names of members are unique inside an object; repeated ones are a test's own affair.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

__all__ = ["RawEvent", "bodies_of", "raw_events"]

ODD_NUMBERS = ["0", "-0", "-0.0", "1E+2", "1e999", "-1.5e-320", "123456789012345678901234567890123", "0.10"]
ODD_TEXTS = [
    '"\\u002f"',
    '"\\/"',
    '"\\""',
    '"\\\\"',
    '"\\\\\\""',
    '"\\u0000"',
    '"\\ud83d\\ude00"',
    '"é"',
    '"\U0001f600"',
    '"]}"',
    '"[{"',
    '"{\\"events\\":["',
    '"\\"events\\""',
    '"//"',
]
PATHS = st.text("ab./\\:é", max_size=12)
KNOWN = st.sampled_from(["size", "mtime", "inode", "dev", "algo", "hash"])
ODD_NAMES = st.sampled_from(["x", "events", "é", "x\\u002fy", "\\\\", "Path", "type", "data", "hash2"])


class RawEvent(NamedTuple):
    """One event's JSON text, and what stands in its path members."""

    type: str
    text: str
    paths: dict[str, str]


def dumps(text: str) -> str:
    """A string's JSON without needless escapes."""
    return json.dumps(text, ensure_ascii=False)


def members(found: dict[str, str], space: str = "") -> str:
    """An object's JSON; the names are written as they are."""
    parts = [f'{space}"{name}"{space}:{space}{value}{space}' for name, value in found.items()]
    return "{" + ",".join(parts) + "}"


SPACES = st.sampled_from(["", "", "", " ", "\t", "  "])  # no line feed, so that an event also fits on a line
LEAVES = (
    st.sampled_from([*ODD_NUMBERS, *ODD_TEXTS, "true", "false", "null", "[]", "{}"])
    | st.integers().map(str)
    | st.text('aé\U0001f600"\\/[]{}:,\x01', max_size=6).map(json.dumps)
    | st.text('aé\U0001f600"\\/[]{}:,\x01', max_size=6).map(dumps)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
        | st.dictionaries(ODD_NAMES, inner, max_size=3).map(members)
    ),
    max_leaves=4,
)
KINDS = st.sampled_from(["file.upsert", "file.delete", "file.", "job.done", "é"])
PATH_MEMBERS = st.dictionaries(st.sampled_from(["path", "dir", "root_path"]), PATHS, max_size=3)
KNOWN_MEMBERS = st.dictionaries(
    KNOWN, st.sampled_from(["1", "0", "1700000000.5", '"x"', "null", "true", "[]"]), max_size=3
)
ODD_MEMBERS = st.dictionaries(ODD_NAMES, VALUES, max_size=2)
WRITERS: st.SearchStrategy[Callable[[object], str]] = st.sampled_from([dumps, json.dumps])


@st.composite
def raw_events(draw: st.DrawFn) -> RawEvent:
    """One legal event."""
    space = draw(SPACES)
    write = draw(WRITERS)
    kind, paths = draw(KINDS), draw(PATH_MEMBERS)
    data = {**draw(ODD_MEMBERS), **draw(KNOWN_MEMBERS), **{name: write(path) for name, path in paths.items()}}
    event = {"type": write(kind), "data": members(data, space)}
    if draw(st.booleans()):
        event = {"more": draw(VALUES), "data": event["data"], "type": event["type"]}
    return RawEvent(kind, members(event, space), paths)


def bodies_of(events: list[RawEvent]) -> bytes:
    """The body of a request with these events, as scanners write it."""
    return ('{"events":[' + ",".join(event.text for event in events) + "]}").encode()
