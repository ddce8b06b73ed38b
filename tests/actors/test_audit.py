"""The audit log on a real log: one record a change, whatever dies, and every question answered as a list would be."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from actors.audit import CHUNK, MOST_EXAMINED, WITHIN_S, AuditLog
from engine.audit import AuditQuery, Found, Record, stored_at
from engine.bridge import open_bridge
from engine.endpoints import Endpoint
from engine.errors import Unavailable
from engine.identity import Kind, Principal
from engine.jetstream import JetStream
from engine.log import StoredMessage
from engine.log_control import LogControl
from tests.support.nats_client import NatsClient, open_nats_client
from tests.support.nats_server import NatsServer, open_nats_server

ALICE = Principal("alice", Kind.KEY, frozenset({"admin"}), key_id="k1")
BOB = Principal("bob", Kind.JWT, frozenset({"admin"}))


class Bounds(NamedTuple):
    """Of an audit log: as the product has them, where a test says nothing else."""

    within_s: float = WITHIN_S
    chunk: int = CHUNK
    most_examined: int = MOST_EXAMINED


class Interrupted(JetStream):
    """The log's data plane, on which other changes end before each reading."""

    before_reading: Callable[[], Awaitable[None]] | None = None

    async def read_messages(
        self, stream: str, sequences: Iterable[int], timeout_s: float
    ) -> dict[int, StoredMessage] | None:
        """As it is, after what comes before."""
        if self.before_reading is not None:
            await self.before_reading()
        return await super().read_messages(stream, sequences, timeout_s)


class Archive:
    """A log, an audit log on it, and a client that sees what is there."""

    def __init__(
        self, server: NatsServer, control: LogControl, data: Interrupted, client: NatsClient, bounds: Bounds
    ) -> None:
        self._bounds = bounds
        self.server = server
        self.client = client
        self._control = control
        self.data = data
        self._ids = count()
        self.audit = self.another()

    def another(self, max_age_s: float = 3600.0, max_bytes: int = 1 << 24) -> AuditLog:
        """An audit log of the same name, as another gateway or a later one has it."""
        bounds = self._bounds
        return AuditLog(
            self.data,
            self._control,
            "AUDIT",
            max_age_s,
            max_bytes,
            lambda: 1.0,
            lambda: f"{next(self._ids):032x}",
            within_s=bounds.within_s,
            chunk=bounds.chunk,
            most_examined=bounds.most_examined,
        )

    async def change(self, action: str = "consumer.reset", who: Principal = ALICE, status: int = 200) -> None:
        """Make a change that is recorded."""
        record = await self.audit.begin(action, "d1", who)
        await self.audit.end(record, status, None, {})

    async def all(self, query: AuditQuery = AuditQuery()) -> list[Found]:  # noqa: B008  # it is frozen
        """Every record that is asked for, page by page."""
        found: list[Found] = []
        while True:
            page = await self.audit.find(query)
            found += page.found
            if page.following is None:
                return found
            query = query._replace(before=page.following)


@asynccontextmanager
async def open_archive(folder: Path, bounds: Bounds = Bounds()) -> AsyncIterator[Archive]:  # noqa: B008  # it is frozen
    """Open everything."""
    async with (
        open_nats_server(folder) as server,
        open_nats_client(server.url) as client,
        open_bridge() as bridge,
        trio.open_nursery() as nursery,
    ):
        locate = lambda: Endpoint("127.0.0.1", server.port, {})  # noqa: E731  # as short as it is
        control, data = LogControl(bridge, locate), Interrupted(locate, "test")
        nursery.start_soon(data.connection.run)
        with trio.fail_after(10):
            await data.connection.wait_up()
        try:
            yield Archive(server, control, data, client, bounds)
        finally:
            await control.aclose()
            nursery.cancel_scope.cancel()


async def test_a_change_is_one_record_whether_it_ended_or_not(tmp_path: Path) -> None:
    """Before its end it says that nobody knows; its end takes that place. Cancelled here, the first stays."""
    async with open_archive(tmp_path) as archive:
        assert await archive.all() == []
        begun = await archive.audit.begin("consumer.reset", "d1", ALICE, address="10.0.0.1", trace_id="t" * 32)
        [one] = await archive.all()
        assert (one.record.outcome, one.record.status) == ("unknown", None)
        await archive.audit.end(begun, 404, "request.not-found", {"to": "all"})
        [one] = await archive.all()
        assert (one.record.outcome, one.record.status, one.record.code) == ("refused", 404, "request.not-found")
        assert (one.record.principal, one.record.key_id, one.record.address) == ("alice", "k1", "10.0.0.1")
        assert one.record.facts == {"to": "all"}
        begun = await archive.audit.begin("consumer.delete", "d2", BOB)
        with trio.CancelScope() as scope:
            scope.cancel()
            await archive.audit.end(begun, 200, None, {})
        [found, _] = await archive.all()  # its bytes may have left all the same; a second record there is not
        assert (found.record.action, found.record.outcome in {"unknown", "done"}) == ("consumer.delete", True)
        await archive.audit.begin("consumer.pause", "d3", BOB)
        await archive.server.aclose()
        await archive.server.start()
        with trio.fail_after(10):
            await archive.data.connection.wait_up()
        actions = [(found.record.action, found.record.outcome) for found in await archive.all()]
        assert (len(actions), actions[0]) == (3, ("consumer.pause", "unknown"))


async def test_what_cannot_be_recorded_is_not_begun(tmp_path: Path) -> None:
    """The log killed: refused at once. The log hangs: refused within the bound. What was begun stays what it was."""
    async with open_archive(tmp_path, Bounds(within_s=0.5)) as archive:
        await archive.change()
        begun = await archive.audit.begin("consumer.delete", "d1", ALICE)
        await archive.server.freeze()
        with pytest.raises(Unavailable) as caught:
            await archive.change()
        assert caught.value.kind.code == "audit.away"
        await archive.audit.end(begun, 200, None, {})
        archive.server.thaw()
        archive.server.kill()
        with trio.fail_after(10):
            while archive.data.connection.is_up:
                await archive.data.connection.wait_changed()
        for _ in range(100):
            with pytest.raises(Unavailable):
                await archive.change()
        assert (archive.audit.counts.shed, archive.audit.counts.open) == (101, 1)


async def test_a_log_in_another_shape_is_refused_and_a_lost_one_made_again(tmp_path: Path) -> None:
    """A stream that would keep no records, or every beginning beside its end, is not written to."""
    async with open_archive(tmp_path) as archive:
        await archive.client.api("STREAM.CREATE.AUDIT", {"name": "AUDIT", "subjects": ["AUDIT.records.>"]})
        with pytest.raises(Unavailable) as caught:
            await archive.change()
        assert "is no audit log" in caught.value.detail
        await archive.client.api("STREAM.DELETE.AUDIT", {})
        await archive.change()
        await archive.client.api("STREAM.DELETE.AUDIT", {})
        await archive.change()
        assert len(await archive.all()) == 1


async def test_nobody_takes_a_record_out_again(tmp_path: Path) -> None:
    """Not over the log's own protocol; age and size do, and follow the settings of whoever starts last."""
    async with open_archive(tmp_path) as archive:
        await archive.change()
        for verb, body in (("STREAM.PURGE.AUDIT", {}), ("STREAM.MSG.DELETE.AUDIT", {"seq": 2})):
            with pytest.raises(Exception, match=r"not permitted|delete message|purge"):
                await archive.client.api(verb, body)
        assert len(await archive.all()) == 1
        archive.audit = archive.another(max_age_s=7200.0, max_bytes=4096)
        for _ in range(40):
            await archive.change()
        config = (await archive.client.api("STREAM.INFO.AUDIT", {}))["config"]
        assert (config["max_age"], config["max_bytes"]) == (7200 * 10**9, 4096)
        assert 1 < len(await archive.all()) < 20


async def test_a_hundred_changes_at_once_are_a_hundred_records(tmp_path: Path) -> None:
    """Overloaded here: each waits for its own; two gateways that make the stream at the same time are one."""
    async with open_archive(tmp_path) as archive:
        other = archive.another()

        async def change(audit: AuditLog) -> None:
            await audit.end(await audit.begin("scan.order", "a", BOB), 202, None, {})

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(change, other if number % 2 else archive.audit)
        assert [one.record.outcome for one in await archive.all()] == ["done"] * 100


async def test_a_record_that_comes_twice_is_kept_once(tmp_path: Path) -> None:
    """A gateway that was killed after it stored a key's change, and before it forgot it, stores it again."""
    async with open_archive(tmp_path) as archive:
        record = Record("a" * 32, "", "key.create", "k", "root", "local", outcome="done")
        for audit in (archive.audit, archive.another(), archive.another()):
            assert await audit.keep(record)
        assert [one.record for one in await archive.all()] == [record]


@pytest.mark.parametrize("limit", [3, 5, 12, 100])
async def test_a_record_that_ends_while_it_is_looked_for_is_found_once(tmp_path: Path, limit: int) -> None:
    """Its end takes another place, above what is read; whoever asked before still finds it, as it was or as it is."""
    async with open_archive(tmp_path, Bounds(chunk=4)) as archive:
        begun = [await archive.audit.begin("consumer.reset", f"d{number}", ALICE) for number in range(12)]
        waiting = list(begun)

        async def end_one() -> None:
            for _ in range(2):
                if waiting:
                    await archive.audit.end(waiting.pop(0), 200, None, {})

        archive.data.before_reading = end_one
        page = await archive.audit.find(AuditQuery(limit=limit))
        archive.data.before_reading = None
        found = [one.record.target for one in page.found]
        assert len(set(found)) == len(found) == min(limit, 12)
        if limit < 12:
            assert page.following == page.found[-1].seq
        else:
            assert set(found) == {record.target for record in begun}
        newest = await archive.all()
        assert [one.seq for one in page.found] == sorted((one.seq for one in page.found), reverse=True)
        assert len(newest) == 12


@pytest.mark.parametrize("seed", range(3), ids=str)
async def test_a_page_is_what_a_list_would_give(tmp_path: Path, seed: int) -> None:
    """Any filter, in both directions, page by page, among records that ended and records that did not."""
    chance = random.Random(seed)
    async with open_archive(tmp_path, Bounds(chunk=4, most_examined=chance.choice([5, 16]))) as archive:
        for _ in range(40):
            who, action = chance.choice([ALICE, BOB]), chance.choice(["consumer.reset", "consumer.pause", "scan.order"])
            record = await archive.audit.begin(action, "d", who)
            if chance.random() < 0.7:
                await archive.audit.end(record, 200, None, {})
        everything = await archive.all()
        assert [one.seq for one in everything] == sorted((one.seq for one in everything), reverse=True)
        assert len(everything) == 40
        times = sorted(stored_at(_message_of(one)) for one in everything)
        for _ in range(25):
            query = AuditQuery(
                principal=chance.choice(["", "alice", "nobody"]),
                action=chance.choice(["", "consumer.*", "scan.order"]),
                since=chance.choice([None, chance.choice(times), times[0] - 1]),
                until=chance.choice([None, chance.choice(times), times[-1] + 1]),
                limit=chance.choice([1, 3, 1000]),
            )
            expected = [one for one in everything if query.wants(one.record) and _is_within(one, query)]
            assert await archive.all(query) == expected
            assert await _oldest_first(archive.audit, query) == expected[::-1]


def _message_of(one: Found) -> StoredMessage:
    return StoredMessage("", one.seq, one.time, {}, b"")


def _is_within(one: Found, query: AuditQuery) -> bool:
    at = stored_at(_message_of(one))
    return (query.since is None or at >= query.since) and (query.until is None or at < query.until)


async def _oldest_first(audit: AuditLog, query: AuditQuery) -> list[Found]:
    """Follow until nothing more comes."""
    found: list[Found] = []
    after = 0
    while True:
        page = await audit.find(query._replace(after=after))
        found += page.found
        if page.following == after or page.following is None:
            return found
        after = page.following
