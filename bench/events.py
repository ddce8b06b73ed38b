"""Scanner events, ready as bytes.

An event comes in two sizes: `small` is the least that a scanner sends and that seeds the hash cache (about 250 bytes),
`full` has every field that scanners in the field send (about 550 bytes).

Rules of the file:
- Every event of a run names another file. A request is built once with marks where its number goes, and filled in by
  one `bytes.join` a request, so that load costs little and the gateway's cache still sees new keys.
- Filling in never changes a length: `Content-Length` is built beforehand as well.
"""

from dataclasses import dataclass, field
from itertools import count
from typing import Final, Literal

EventSize = Literal["small", "full"]

NUMBER_MARK: Final = b"@@@@@@@@"
"""Stands where the request's number goes: eight digits, the first not a zero, as it begins the inode."""

FIRST_NUMBER: Final = 10_000_000
"""The smallest number with eight digits."""

SENT_MARK: Final = b"~" * 19
"""Stands where the intended send time goes."""

SENT_BASE_NS: Final = 10**18
"""Added to the monotonic clock, so that a send time has nineteen digits whatever the clock says."""

SUBJECT: Final = "snapfs.files"


def scanner_event(index: int, size: EventSize = "small", *, timed: bool = False) -> bytes:
    """Write one `file.upsert` with marks in it.

    Args:
        index: the event's place in its request, 0 to 999; with the request's number it names the file.
        size: `small` or `full`.
        timed: begin the data with `sent_ns`, for latency from the intended send time.

    Returns:
        JSON without spaces, as a scanner sends it.
    """
    mark = NUMBER_MARK.decode()
    folder = f"/mnt/projects/show_0042/seq_010/{mark}/render"
    path = f"{folder}/beauty_v003.{index:04d}.exr"
    sent = f'"sent_ns":{SENT_MARK.decode()},' if timed else ""
    identity = f'"size":12345678,"mtime":1763640000.123456,"inode":{mark}{index:03d},"dev":64769'
    digest = f'"algo":"xxh3_128","hash":"9f86d081884c7d65{mark}{index:08x}"'
    if size == "small":
        return f'{{"type":"file.upsert","data":{{{sent}"path":"{path}",{identity},{digest}}}}}'.encode()
    return (
        f'{{"type":"file.upsert","data":{{{sent}"root_path":"/mnt/projects","scan_id":"4f0c2b1e-7d3a-4c55-9a31-0d7e5b2f8c11",'
        f'"seen_at":1763640010.654321,"path":"{path}","dir":"{folder}","name":"beauty_v003.{index:04d}.exr","ext":".exr",'
        f'"type":"file","fsize_du":12349440,"atime":1763640001.5,"ctime":1763640000.123456,"nlinks":1,'
        f'"owner":"render","group":"artists","uid":1042,"gid":500,"mode":33188,{identity},{digest}}}}}'
    ).encode()


def frame_of(events: int, size: EventSize = "small", *, timed: bool = False) -> bytes:
    """Write a frame, which is also the body of an ingest request: `{"events":[…]}`."""
    return b'{"events":[' + b",".join(scanner_event(i, size, timed=timed) for i in range(events)) + b"]}"


def probes_of(probes: int) -> bytes:
    """Write the body of a cache probe for the files that `frame_of` names."""
    mark = NUMBER_MARK.decode()
    return (
        "["
        + ",".join(
            f'{{"path":"/mnt/projects/show_0042/seq_010/{mark}/render/beauty_v003.{i:04d}.exr","size":12345678,'
            f'"mtime":1763640000.123456,"inode":{mark}{i:03d},"dev":64769}}'
            for i in range(probes)
        )
        + "]"
    ).encode()


@dataclass(frozen=True, slots=True)
class Template:
    """Bytes to send, with marks, and the numbers they are filled in with.

    Args:
        content: what is sent, head and body.
        units: events or probes in it, for the figures.
        numbers: the request numbers to use, in order, from the first again when they run out.
        timed: whether the intended send time is filled in as well.
    """

    content: bytes
    units: int
    numbers: range
    timed: bool = False
    _pieces: list[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Cut the content where the number goes."""
        object.__setattr__(self, "_pieces", self.content.split(NUMBER_MARK))

    def fill(self, sequence: int, intended_ns: int) -> bytes:
        """Give the bytes of the request with this place in the run."""
        content = (b"%08d" % self.numbers[sequence % len(self.numbers)]).join(self._pieces)
        return content.replace(SENT_MARK, b"%d" % (intended_ns + SENT_BASE_NS)) if self.timed else content


def number_ranges(length: int = 1_000_000) -> "count[int]":
    """Count the beginnings of ranges of request numbers that do not overlap, `length` numbers each."""
    return count(FIRST_NUMBER, length)


def post(target: str, body: bytes) -> bytes:
    """Write a POST of JSON with its head."""
    head = f"POST {target} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get(target: str) -> bytes:
    """Write a GET."""
    return f"GET {target} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()
