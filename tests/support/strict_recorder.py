"""Records the requests that reach what stands behind the gateway, and takes none that could be read in two ways.

Rules of the file:
- Stricter than any server: what a lenient parser would read otherwise is a complaint, not a request.
- It knows nothing of the product's own parsers.
"""

import re
from dataclasses import dataclass, field

__all__ = ["Recorded", "StrictRecorder"]

REQUEST_LINE = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.1")
HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^`|~0-9A-Za-z]+): ?([\t -~\x80-\xff]*)")
MOST_ONCE = {b"host", b"content-length", b"transfer-encoding", b"connection"}


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[bytes, bytes]
    body: bytes


@dataclass
class StrictRecorder:
    """Reads one connection's requests.

    Attributes:
        requests: those that were read whole.
        rest: bytes of one that is not whole.
    """

    requests: list[Recorded] = field(default_factory=list)
    rest: bytes = b""

    def feed(self, data: bytes) -> int:
        """Take bytes; gives how many requests they completed.

        Raises:
            AssertionError: they can be read in two ways, or are no HTTP/1.1.
        """
        self.rest += data
        count = 0
        while (end := self.rest.find(b"\r\n\r\n")) >= 0:
            head, behind = self.rest[:end], self.rest[end + 4 :]
            request_line, *lines = head.split(b"\r\n")
            first = REQUEST_LINE.fullmatch(request_line)
            assert first is not None, f"not a request line: {request_line!r}"
            headers: dict[bytes, bytes] = {}
            for line in lines:
                matched = HEADER_LINE.fullmatch(line)
                assert matched is not None, f"not a header line: {line!r}"
                name = matched[1].lower()
                assert name not in headers or name not in MOST_ONCE, f"{name!r} is there twice"
                assert b"_" not in name, f"{name!r} is read as another name by some"
                headers[name] = matched[2]
            assert b"host" in headers, "no Host"
            assert b"transfer-encoding" not in headers, "the length of a body is said in one way alone"
            length = headers.get(b"content-length", b"0")
            assert re.fullmatch(rb"[0-9]{1,9}", length), f"length {length!r}"
            size = int(length)
            if len(behind) < size:
                break
            self.requests.append(Recorded(first[1].decode(), first[2].decode(), headers, behind[:size]))
            self.rest = behind[size:]
            count += 1
        return count
