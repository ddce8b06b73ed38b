"""What a scan has done: counted while it runs, told when it is over.

Rules of the file:
- Every troubled file is counted, and the first `NAMED_COUNT` are named.
- The JSON form is a promise: a name in it is never changed.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from edge.scan_files import Trouble

NAMED_COUNT: Final = 10


@dataclass
class ScanReport:
    """What a scan has done so far.

    Attributes:
        found: files that the walk has found; `files` of them are dealt with.
        files: files published.
        bytes: their sizes, added up.
        events: events on the log, with those that frame the scan.
        hits: files whose hash the gateway knew.
        hashed: files that were read.
        hashed_bytes: what was read of them.
        changed: files that changed or went away under the scan; the next one will see them.
        unreadable: files and folders that cannot be scanned.
        named: the first of both kinds, `path: reason`.
        durability: what the gateway's word is worth.
        seconds: from begin to end.
    """

    root: str
    scan_id: str
    found: int = 0
    files: int = 0
    bytes: int = 0
    events: int = 0
    hits: int = 0
    hashed: int = 0
    hashed_bytes: int = 0
    changed: int = 0
    unreadable: int = 0
    named: list[str] = field(default_factory=list)
    durability: str = ""
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether every file that is there was published or will be by the next scan."""
        return self.unreadable == 0

    def count_trouble(self, trouble: Trouble) -> None:
        """Count a file that was left out, and name it while it is one of the first."""
        if trouble.is_passing:
            self.changed += 1
        else:
            self.unreadable += 1
        if len(self.named) < NAMED_COUNT:
            self.named.append(f"{trouble.path}: {trouble.reason}")

    def totals(self) -> dict[str, Any]:
        """Give the figures that `scan.completed` carries."""
        names = ("files", "bytes", "hits", "hashed", "hashed_bytes", "changed", "unreadable", "seconds")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        return asdict(self)

    def to_text(self) -> str:
        """Give it as a few lines for a person."""
        rate = self.bytes / self.seconds / 1e6 if self.seconds else 0.0
        lines = [
            f"{self.files:,} files, {say_bytes(self.bytes)} in {self.seconds:.1f} s ({rate:,.0f} MB/s)",
            f"{self.hits:,} known, {self.hashed:,} hashed, {self.events:,} events on the log ({self.durability})",
        ]
        if self.unreadable:
            lines.append(f"{self.unreadable:,} could not be read")
        if self.changed:
            lines.append(f"{self.changed:,} changed meanwhile and were left to the next scan")
        lines += [f"  {name}" for name in self.named]
        if len(self.named) < self.unreadable + self.changed:
            lines.append(f"  and {self.unreadable + self.changed - len(self.named):,} more")
        return "\n".join(lines)


def say_bytes(size_bytes: int) -> str:
    """Say a size for a person, in decimal units as MB/s is."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
