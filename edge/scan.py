"""The reference scanner: tell a gateway about every file below a folder, and hash only what it does not know.

Rules of the file:
- A file is hashed only when the probe missed, and published only with a hash that is right.
- A file is hashed only when the second of its mtime is over: a cache entry knows whole seconds, so a write later in
  that same second would go unnoticed for ever.
- Every POST has an idempotency key, so that trying again is always safe.
- Memory is bounded by `LANE_COUNT` batches, whatever the size of the tree.

What must change with it: the event fields of E17, which the catalog's readers know.
"""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, Protocol

import trio

from edge.client import Event, GatewayError, Probe, ProbeAnswer, Published
from edge.nursery import leaves
from edge.scan_files import FileSeen, Trouble, group_name, hash_files, owner_name, walk_files
from edge.scan_report import ScanReport
from engine.paths import canonical_path

ALGO: Final = "xxh3_128"
BATCH_COUNT: Final = 200
"""Files a probe and events a POST: what scanners in the field send at a time (S0.27)."""
BATCH_BYTES: Final = 512 * 1024
"""The most that the events of one POST are let grow to, roughly: long paths make shorter batches."""
EVENT_BYTES: Final = 700
"""What an event takes beside its paths, roughly."""
LANE_COUNT: Final = 4
"""Batches on the way at once: one waits for the log's fsync while others are probed and hashed."""
HASH_BYTES: Final = 16 * 1024 * 1024
"""Files are handed to a worker thread together up to this size, as a thread's start costs more than a small file."""
MTIME_MARGIN_S: Final = 0.02
"""File times come from a clock that ticks every few milliseconds."""


class Gateway(Protocol):
    """What a scan needs of a gateway; `edge.client.Client` is one."""

    async def probe(self, probes: Sequence[Probe]) -> list[ProbeAnswer]:
        """Ask the hash cache."""

    async def publish(self, events: Sequence[Event], *, subject: str | None, key: str | None) -> Published:
        """Put events on the log."""


class Scan:
    """One scan of one folder. `report` can be read while it runs.

    Args:
        gateway: whom to tell.
        root: the folder.
        subject: what to publish on, None for the gateway's default.
        hash_threads: how many files are read at once.
        scan_id: the name in its events, None for a new one; one that is used again must not find its keys remembered.
        force: hash everything, and ask the gateway nothing.
        telemetry_s: how often to publish `scan.telemetry`, None for never.
    """

    def __init__(
        self,
        gateway: Gateway,
        root: str,
        *,
        subject: str | None = None,
        hash_threads: int | None = None,
        scan_id: str | None = None,
        force: bool = False,
        telemetry_s: float | None = None,
    ) -> None:
        self.report = ScanReport(root=canonical_path(os.path.abspath(root)), scan_id=scan_id or uuid.uuid4().hex)
        self._force = force
        self._telemetry_s = telemetry_s
        self._gateway = gateway
        self._folder = os.path.abspath(root)
        self._subject = subject
        self._hashing = trio.CapacityLimiter(hash_threads or os.cpu_count() or 1)
        self._posts = 0

    async def run_scan(self) -> ScanReport:
        """Walk, probe, hash, publish.

        Raises:
            GatewayError: the gateway refused, or nothing succeeded for the client's `give_up_s`.

        Cancellation: what was published stays; the log has no `scan.completed`.
        """
        began = time.perf_counter()
        await self._post([Event("scan.started", self._frame_data())])
        failure: GatewayError
        try:
            async with trio.open_nursery() as beside:
                beside.start_soon(self._tell)
                async with trio.open_nursery() as nursery:
                    # One batch may wait beside those in the lanes; policy wait: the walk pauses.
                    give, take = trio.open_memory_channel[list[FileSeen]](1)
                    nursery.start_soon(self._walk, give)
                    for _ in range(LANE_COUNT):
                        nursery.start_soon(self._run_lane, take)
                beside.cancel_scope.cancel()
        except* GatewayError as group:
            failure = leaves(group)[0]  # lanes that fail together say the same
        else:
            self.report.seconds = time.perf_counter() - began
            await self._post([Event("scan.completed", self._frame_data() | self.report.totals())])
            self.report.seconds = time.perf_counter() - began
            return self.report
        raise failure

    async def _walk(self, give: trio.MemorySendChannel[list[FileSeen]]) -> None:
        with give:
            found = walk_files(self._folder)
            while seen := await trio.to_thread.run_sync(_take, found):
                files: list[FileSeen] = []
                for one in seen:
                    if isinstance(one, Trouble):
                        self.report.count_trouble(one)
                    else:
                        files.append(one)
                self.report.found += len(files)
                if files:
                    await give.send(files)

    async def _run_lane(self, take: trio.MemoryReceiveChannel[list[FileSeen]]) -> None:
        async for files in take:
            known = await self._probe(files)
            ready: list[tuple[FileSeen, str, str]] = []
            misses: list[FileSeen] = []
            for file, answer in zip(files, known, strict=True):
                if answer.is_hit and answer.algo and answer.hash:
                    ready.append((file, answer.algo, answer.hash))
                else:
                    misses.append(file)
            self.report.hits += len(ready)
            ready += [(file, ALGO, text) for file, text in await self._hash(misses)]
            for slice_ in _split(ready):
                frame = self._frame_data()
                await self._post([_event_of(frame, *one) for one in slice_])
                self.report.files += len(slice_)
                self.report.bytes += sum(file.status.st_size for file, _, _ in slice_)

    async def _probe(self, files: list[FileSeen]) -> list[ProbeAnswer]:
        if self._force:
            return [ProbeAnswer("MISS")] * len(files)
        return await self._gateway.probe([_probe_of(file) for file in files])

    async def _hash(self, files: list[FileSeen]) -> list[tuple[FileSeen, str]]:
        hashed: list[tuple[FileSeen, str]] = []

        async def hash_some(some: list[FileSeen]) -> None:
            results = await trio.to_thread.run_sync(
                hash_files, some, trio.from_thread.check_cancelled, limiter=self._hashing
            )
            for file, result in zip(some, results, strict=True):
                if isinstance(result, Trouble):
                    self.report.count_trouble(result)
                else:
                    hashed.append((file, result))
                    self.report.hashed += 1
                    self.report.hashed_bytes += file.status.st_size

        await _wait_second_is_over(files)
        async with trio.open_nursery() as nursery:
            for some in _heap_up(files):
                nursery.start_soon(hash_some, some)
        return hashed

    async def _tell(self) -> None:
        """Say how far it is, now and then."""
        while self._telemetry_s is not None:
            await trio.sleep(self._telemetry_s)
            await self._post([Event("scan.telemetry", self._frame_data() | self.report.totals())])

    async def publish_error(self, error: str) -> None:
        """Put on the log that this scan ended early, and why.

        Raises:
            GatewayError: the gateway refused, or nothing succeeded for the client's `give_up_s`.
        """
        await self._post([Event("scan.error", self._frame_data() | self.report.totals() | {"error": error})])

    async def _post(self, events: list[Event]) -> None:
        self._posts += 1
        key = f"{self.report.scan_id}-{self._posts}"
        published = await self._gateway.publish(events, subject=self._subject, key=key)
        self.report.durability = published.durability
        self.report.events += len(events)

    def _frame_data(self) -> dict[str, Any]:
        return {"root_path": self.report.root, "scan_id": self.report.scan_id, "seen_at": time.time()}


def _event_of(frame: dict[str, Any], file: FileSeen, algo: str, hash_: str) -> Event:
    """Make a file's event, with the fields of E17."""
    path, status = file.canonical, file.status
    folder, _, name = path.rpartition("/")
    return Event(
        "file.upsert",
        {
            **frame,
            "path": path,
            "dir": folder or "/",
            "name": name,
            "ext": os.path.splitext(name)[1].removeprefix("."),
            "type": "file",
            "size": status.st_size,
            "fsize_du": status.st_blocks * 512,
            "mtime": status.st_mtime,
            "atime": status.st_atime,
            "ctime": status.st_ctime,
            "nlinks": status.st_nlink,
            "inode": status.st_ino,
            "dev": status.st_dev,
            "owner": owner_name(status.st_uid),
            "group": group_name(status.st_gid),
            "uid": status.st_uid,
            "gid": status.st_gid,
            "mode": status.st_mode,
            "algo": algo,
            "hash": hash_,
        },
    )


def _take(found: Iterator[FileSeen | Trouble]) -> list[FileSeen | Trouble]:
    return list(islice(found, BATCH_COUNT))


def _probe_of(file: FileSeen) -> Probe:
    status = file.status
    return Probe(file.canonical, status.st_size, status.st_mtime, status.st_ino, status.st_dev)


def _split(ready: list[tuple[FileSeen, str, str]]) -> Iterator[list[tuple[FileSeen, str, str]]]:
    """Cut a batch where its events would take more than `BATCH_BYTES`: a path stands in an event three times."""
    slice_: list[tuple[FileSeen, str, str]] = []
    size = 0
    for one in ready:
        size += EVENT_BYTES + 3 * len(os.fsencode(one[0].path))
        if slice_ and size > BATCH_BYTES:
            yield slice_
            slice_, size = [], EVENT_BYTES + 3 * len(os.fsencode(one[0].path))
        slice_.append(one)
    if slice_:
        yield slice_


def _heap_up(files: list[FileSeen]) -> Iterator[list[FileSeen]]:
    """Put small files together, so that each heap is worth a worker thread."""
    heap: list[FileSeen] = []
    size = 0
    for file in files:
        heap.append(file)
        size += file.status.st_size + 64 * 1024  # opening costs as much as reading this
        if size >= HASH_BYTES:
            yield heap
            heap, size = [], 0
    if heap:
        yield heap


async def _wait_second_is_over(files: list[FileSeen]) -> None:
    """Wait until no file's mtime is in the running second; a second at most, and not for times in the future."""
    now = time.time()
    latest = max((file.status.st_mtime_ns // 1_000_000_000 for file in files if file.status.st_mtime <= now), default=0)
    await trio.sleep(max(0.0, latest + 1 + MTIME_MARGIN_S - now))
