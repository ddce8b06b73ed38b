"""The reference scanner, against an in-memory twin of the gateway and against the real one."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import trio
import xxhash

from edge.client import Client, Event, GatewayRefused, Probe, ProbeAnswer, Published
from edge.scan import BATCH_BYTES, BATCH_COUNT, Scan
from edge.scan_report import NAMED_COUNT
from tests.support.gateway import Gateway, running_gateway

LONG_AGO = 1_700_000_000
E17 = [
    *("root_path", "scan_id", "seen_at", "path", "dir", "name", "ext", "type", "size", "fsize_du", "mtime", "atime"),
    *("ctime", "nlinks", "inode", "dev", "owner", "group", "uid", "gid", "mode", "algo", "hash"),
]


class MemoryGateway:
    """The twin: a hash cache and a log in two containers."""

    def __init__(self) -> None:
        self.posts: list[list[Event]] = []
        self.keys: list[str | None] = []
        self.probes: list[Sequence[Probe]] = []
        self.known: dict[str, str] = {}
        self.refuses_after = 10**9

    @property
    def files(self) -> list[Event]:
        """Every file event so far."""
        return [event for post in self.posts for event in post if event.type == "file.upsert"]

    async def probe(self, probes: Sequence[Probe]) -> list[ProbeAnswer]:
        """Answer from what was published."""
        await trio.lowlevel.checkpoint()
        self.probes.append(probes)
        hashes = [self.known.get(probe.path) for probe in probes]
        return [ProbeAnswer("HIT", "xxh3_128", hash_) if hash_ else ProbeAnswer("MISS") for hash_ in hashes]

    async def publish(self, events: Sequence[Event], *, subject: str | None, key: str | None) -> Published:
        """Keep the events."""
        await trio.lowlevel.checkpoint()
        if len(self.posts) >= self.refuses_after:
            raise GatewayRefused("no more of this", status=422)
        self.posts.append(list(events))
        self.keys.append(key)
        for event in events:
            if event.type == "file.upsert":
                self.known[event.data["path"]] = event.data["hash"]
        return Published(len(events), subject or "snapfs.files", durability="fsync")


def paths_below(folder: Path) -> list[str]:
    """List the files that `make_files` made."""
    return sorted(str(path) for path in folder.rglob("file-*"))


def hash_of(path: str) -> str:
    """Hash a file all at once."""
    return xxhash.xxh3_128_hexdigest(Path(path).read_bytes())


def make_bad_names(folder: Path, count: int) -> None:
    """Make files whose names are no text."""
    for number in range(count):
        with open(os.fsencode(folder) + b"/bad\xff%02d" % number, "w"):
            pass


def make_deep_files(folder: Path, count: int) -> Path:
    """Make files with paths of 3.5 kB; give the folder that they are in."""
    deep = folder
    for _ in range(13):
        deep /= "d" * 250
        deep.mkdir()
    for number in range(count):
        (deep / f"{number:03}").touch()
        os.utime(deep / f"{number:03}", (LONG_AGO, LONG_AGO))
    return deep


def make_files(folder: Path, count: int, name: str = "file-{:05}") -> None:
    """Make files of an mtime that is long over, a hundred in a folder."""
    for number in range(count):
        path = folder / f"d{number // 100}" / name.format(number)
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"content {number}")
        os.utime(path, (LONG_AGO, LONG_AGO))


async def test_a_scan_frames_its_events(tmp_path: Path) -> None:
    """S0.6, E17: `scan.started` comes first, `scan.completed` last with the figures, each file with every field."""
    make_files(tmp_path, 3, "image-{}.exr")
    gateway = MemoryGateway()
    report = await Scan(gateway, str(tmp_path)).run_scan()
    types = [event.type for post in gateway.posts for event in post]
    assert types == ["scan.started", "file.upsert", "file.upsert", "file.upsert", "scan.completed"]
    for event in gateway.files:
        assert list(event.data) == E17
        assert event.data["hash"] == hash_of(event.data["path"])
        assert (event.data["ext"], event.data["algo"], event.data["mtime"]) == ("exr", "xxh3_128", LONG_AGO)
        assert event.data["dir"] + "/" + event.data["name"] == event.data["path"]
    completed = gateway.posts[-1][0].data
    assert (completed["files"], completed["hits"], completed["hashed"]) == (3, 0, 3)
    assert {event.data["scan_id"] for post in gateway.posts for event in post} == {report.scan_id}
    assert (report.events, report.files, report.durability) == (5, 3, "fsync")


async def test_a_second_scan_hashes_nothing_and_publishes_everything(tmp_path: Path) -> None:
    """S0.4: hits are published with the hash that the probe gave, and no file is read."""
    make_files(tmp_path, 450)
    gateway = MemoryGateway()
    first = await Scan(gateway, str(tmp_path)).run_scan()
    gateway.known = dict.fromkeys(gateway.known, "the cache says so")
    second = await Scan(gateway, str(tmp_path)).run_scan()
    assert (first.hashed, first.hits, second.hashed, second.hits) == (450, 0, 0, 450)
    assert second.hashed_bytes == 0
    assert [event.data["hash"] for event in gateway.files[450:]] == ["the cache says so"] * 450


async def test_a_forced_scan_asks_nothing_and_hashes_everything(tmp_path: Path) -> None:
    """`force`: what the cache says is neither asked nor believed."""
    make_files(tmp_path, 10)
    gateway = MemoryGateway()
    await Scan(gateway, str(tmp_path)).run_scan()
    gateway.known = dict.fromkeys(gateway.known, "the cache says so")
    gateway.probes.clear()
    report = await Scan(gateway, str(tmp_path), force=True, scan_id="named").run_scan()
    assert (report.hashed, report.hits, gateway.probes) == (10, 0, [])
    assert {event.data["scan_id"] for post in gateway.posts[-3:] for event in post} == {"named"}


async def test_a_long_scan_tells_how_far_it_is(tmp_path: Path) -> None:
    """E17: `scan.telemetry` while it runs, and none after it; an end that came early is `scan.error`."""
    make_files(tmp_path, 3)

    class SlowGateway(MemoryGateway):
        async def probe(self, probes: Sequence[Probe]) -> list[ProbeAnswer]:
            with trio.fail_after(10):
                while not any(event.type == "scan.telemetry" for post in self.posts for event in post):
                    await trio.lowlevel.checkpoint()
            return await super().probe(probes)

    gateway = SlowGateway()
    scan = Scan(gateway, str(tmp_path), telemetry_s=0.01)
    await scan.run_scan()
    types = [event.type for post in gateway.posts for event in post]
    assert (types[0], types[-1]) == ("scan.started", "scan.completed")
    assert "scan.telemetry" in types
    await scan.publish_error("it was stopped")
    last = gateway.posts[-1][0]
    assert (last.type, last.data["error"], last.data["files"]) == ("scan.error", "it was stopped", 3)


async def test_probes_and_posts_go_out_in_batches_under_their_own_keys(tmp_path: Path) -> None:
    """S0.27: 200 at a time; no key is used twice, in one scan or in two."""
    make_files(tmp_path, 1001)
    gateway = MemoryGateway()
    await Scan(gateway, str(tmp_path)).run_scan()
    await Scan(gateway, str(tmp_path)).run_scan()
    assert sorted(len(probes) for probes in gateway.probes) == [1, 1] + [BATCH_COUNT] * 10
    assert max(len(post) for post in gateway.posts) == BATCH_COUNT
    assert None not in gateway.keys
    assert len(set(gateway.keys)) == len(gateway.keys)
    assert len({event.data["path"] for event in gateway.files}) == 1001


async def test_long_paths_make_shorter_posts(tmp_path: Path) -> None:
    """A post stays within what the log takes as one message, however long the paths are."""
    deep = make_deep_files(tmp_path, BATCH_COUNT)
    gateway = MemoryGateway()
    await Scan(gateway, str(deep)).run_scan()
    assert len(gateway.files) == BATCH_COUNT
    assert max(len(msgspec.json.encode(post)) for post in gateway.posts) <= BATCH_BYTES


async def test_a_file_of_this_second_is_hashed_in_the_next(tmp_path: Path) -> None:
    """The cache knows whole seconds: a write after the hash must not be able to hide in the same one."""
    (tmp_path / "hot").write_text("x")
    gateway = MemoryGateway()
    await Scan(gateway, str(tmp_path)).run_scan()
    assert time.time() >= int(gateway.files[0].data["mtime"]) + 1


async def test_a_file_of_the_future_is_not_waited_for(tmp_path: Path) -> None:
    """A clock that was wrong does not stop the scan."""
    (tmp_path / "file").write_text("x")
    os.utime(tmp_path / "file", (4_000_000_000, 4_000_000_000))
    gateway = MemoryGateway()
    with trio.fail_after(10):
        assert (await Scan(gateway, str(tmp_path)).run_scan()).hashed == 1


async def test_names_become_canonical(tmp_path: Path) -> None:
    """What is probed and what is published is the one spelling that the gateway uses."""
    path = tmp_path / "back\\slash"
    path.write_text("x")
    os.utime(path, (LONG_AGO, LONG_AGO))
    gateway = MemoryGateway()
    await Scan(gateway, f"{tmp_path}/.//").run_scan()
    assert gateway.probes[0][0].path == gateway.files[0].data["path"] == f"{tmp_path}/back/slash"
    assert gateway.files[0].data["root_path"] == str(tmp_path)


async def test_troubles_are_counted_and_the_first_named(tmp_path: Path) -> None:
    """Fifteen names that are no text: all counted, ten named, the good file published, the scan a failure."""
    make_files(tmp_path, 1)
    make_bad_names(tmp_path, 15)
    gateway = MemoryGateway()
    report = await Scan(gateway, str(tmp_path)).run_scan()
    assert (report.files, report.unreadable, report.changed) == (1, 15, 0)
    assert len(report.named) == NAMED_COUNT
    assert "the name is not UTF-8" in report.named[0]
    assert not report.is_complete
    assert "and 5 more" in report.to_text()
    assert gateway.posts[-1][0].data["unreadable"] == 15


async def test_a_refusal_ends_the_scan_without_completing_it(tmp_path: Path) -> None:
    """The one error comes out as it is, and the log never says that the scan was complete."""
    make_files(tmp_path, 2000)
    gateway = MemoryGateway()
    gateway.refuses_after = 3
    with pytest.raises(GatewayRefused, match="no more of this"):
        await Scan(gateway, str(tmp_path)).run_scan()
    assert "scan.completed" not in {event.type for post in gateway.posts for event in post}


async def test_an_empty_folder_is_a_scan_too(tmp_path: Path) -> None:
    """Two events, no file."""
    gateway = MemoryGateway()
    report = await Scan(gateway, str(tmp_path)).run_scan()
    assert (report.events, report.files, report.is_complete) == (2, 0, True)


async def test_cancelled_scan_leaves_no_thread_behind(tmp_path: Path) -> None:
    """Cancelled in the middle of hashing: it ends, and says nothing of completion."""
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(64 * 1024**3)
    os.utime(tmp_path / "huge", (LONG_AGO, LONG_AGO))
    gateway = MemoryGateway()
    scan = Scan(gateway, str(tmp_path))
    with trio.fail_after(10), trio.move_on_after(0.3) as scope:
        await scan.run_scan()
    assert scope.cancelled_caught
    assert [event.type for post in gateway.posts for event in post] == ["scan.started"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One real gateway for the module; a test uses a subject of its own."""
    with running_gateway(tmp_path_factory.mktemp("scan") / "data") as running:
        yield running


async def read_paths(client: Client, subject: str, until: str) -> list[str]:
    """Read a subject as an agent, up to an event of a type; the files' paths in order."""
    paths: list[str] = []
    with trio.fail_after(30):
        async with client.agent(durable=subject.replace(".", "-"), subject=subject) as batches:
            async for batch in batches:
                events = batch.events()
                await batch.ack()
                paths += [event.data["path"] for event in events if event.type == "file.upsert"]
                if until in {event.type for event in events}:
                    return paths
    raise AssertionError


async def test_the_gateway_knows_what_was_scanned(gateway: Gateway, tmp_path: Path) -> None:
    """S0.4, S0.7: everything is on the log, and the second scan of the same tree hashes nothing."""
    make_files(tmp_path, 500)
    async with Client(gateway.url) as client:
        first = await Scan(client, str(tmp_path), subject="snapfs.twice").run_scan()
        second = await Scan(client, str(tmp_path), subject="snapfs.twice").run_scan()
        paths = await read_paths(client, "snapfs.twice", "scan.completed")
    assert (first.hits, first.hashed, second.hits, second.hashed) == (0, 500, 500, 0)
    assert len(set(paths)) == 500


async def test_a_changed_file_is_hashed_again(gateway: Gateway, tmp_path: Path) -> None:
    """Another mtime or size is another version, and only that one is read."""
    make_files(tmp_path, 10)
    async with Client(gateway.url) as client:
        await Scan(client, str(tmp_path), subject="snapfs.changed").run_scan()
        os.utime(tmp_path / "d0" / "file-00003", (LONG_AGO + 1, LONG_AGO + 1))
        again = await Scan(client, str(tmp_path), subject="snapfs.changed").run_scan()
    assert (again.hits, again.hashed) == (9, 1)


class Saboteur:
    """A client whose gateway is killed before one of its posts, and started again beside it."""

    def __init__(self, client: Client, gateway: Gateway, nursery: trio.Nursery, kill_at: int) -> None:
        self._client = client
        self._gateway = gateway
        self._nursery = nursery
        self._left = kill_at

    async def probe(self, probes: Sequence[Probe]) -> list[ProbeAnswer]:
        """Ask the real gateway."""
        return await self._client.probe(probes)

    async def publish(self, events: Sequence[Event], *, subject: str | None, key: str | None) -> Published:
        """Publish through the real gateway, dead or alive."""
        self._left -= 1
        if self._left == 0:
            self._gateway.kill()
            self._nursery.start_soon(self._gateway.start)
        return await self._client.publish(events, subject=subject, key=key)


async def test_a_scan_survives_a_gateway_that_is_killed(gateway: Gateway, tmp_path: Path) -> None:
    """T1: SIGKILL in the middle of the scan: it goes on when the gateway is back, and every file is on the log once."""
    make_files(tmp_path, 2000)
    async with Client(gateway.url) as client:
        async with trio.open_nursery() as nursery:
            saboteur = Saboteur(client, gateway, nursery, kill_at=4)
            report = await Scan(saboteur, str(tmp_path), subject="snapfs.killed").run_scan()
        assert client.statistics().retries > 0
        paths = await read_paths(client, "snapfs.killed", "scan.completed")
    assert (report.files, report.unreadable, report.changed) == (2000, 0, 0)
    assert sorted(paths) == paths_below(tmp_path)
