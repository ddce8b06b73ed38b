"""What a process that is gone held comes again at once, on a real log; what is in doubt waits for its lease."""

import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from actors.orphans import AT_ONCE, give_back_orphans
from engine.endpoints import Endpoint
from engine.jetstream import JetStream
from engine.lease_journal import LeaseJournal, find_orphans
from engine.log import Delivery, PullRequest, Verdict
from tests.support.nats_client import open_nats_client
from tests.support.nats_server import NatsServer, open_nats_server
from tests.support.real_log import Inbox, RealLog, deliveries_of, open_real_log

WITHIN_S = 10.0
LEASE_S = 600.0


def pull_of(count: int) -> PullRequest:
    """Ask for this many."""
    return PullRequest(count, expires_s=WITHIN_S)


@asynccontextmanager
async def open_held(tmp_path: Path, count: int = 4) -> AsyncIterator[tuple[RealLog, LeaseJournal, list[Delivery]]]:
    """A log, and the journal of a process that holds this much of it under leases of ten minutes."""
    folder = tmp_path / "leases"
    folder.mkdir()
    async with open_real_log(tmp_path / "nats") as log:
        journal = LeaseJournal(folder / "1.leases")
        log.data.keep_journal(journal)
        await log.make_durable(ack_wait_s=LEASE_S)
        await log.publish(*((b"NATS/1.0\r\n\r\n", b"%d" % number) for number in range(count)))
        found = deliveries_of(await Inbox(log).pull(pull_of(count), count))
        for one in found:
            log.data.hold(one.reply, LEASE_S)
        yield log, journal, found
        journal.close()


def kill(log: RealLog, journal: LeaseJournal) -> Path:
    """The process is gone, as far as its journal is concerned; gives the folder."""
    log.data.keep_journal(None)
    fcntl.flock(journal._file, fcntl.LOCK_UN)
    return journal._path.parent


async def again(log: RealLog, count: int) -> list[bytes]:
    """What comes when this many are asked for."""
    return [one.payload for one in deliveries_of(await Inbox(log).pull(pull_of(count), count))]


async def test_what_was_held_comes_again_at_once(tmp_path: Path) -> None:
    """Under a lease of ten minutes; and what got its verdict before does not, nor what others hold."""
    async with open_held(tmp_path) as (log, journal, held):
        log.data.settle_nowait([held[1]], Verdict.ACK)
        folder = kill(log, journal)
        assert await give_back_orphans(folder, log.data) == 3
        assert await again(log, 3) == [b"0", b"2", b"3"]
        assert list(folder.iterdir()) == []
        assert await give_back_orphans(folder, log.data) == 0


async def test_what_is_in_doubt_waits_for_its_lease(tmp_path: Path) -> None:
    """A lease that may be over: somebody else may have the message, and keeps it."""
    async with open_held(tmp_path) as (log, journal, held):
        journal.hold(held[0].reply, 0.0)
        folder = kill(log, journal)
        assert await give_back_orphans(folder, log.data) == 3
        assert await again(log, 3) == [b"1", b"2", b"3"]
        assert await log.info("num_ack_pending") == 4


async def test_another_server_gets_nothing_back(tmp_path: Path) -> None:
    """Its messages are others; but one of our own that was started again goes on with the leases that it granted."""
    async with open_held(tmp_path) as (log, journal, _):
        journal.begin("another")
        folder = kill(log, journal)
        assert await give_back_orphans(folder, log.data) == 0
        assert list(folder.iterdir()) == []


async def test_a_server_that_was_started_again_gets_back_what_it_had_granted(tmp_path: Path) -> None:
    """SIGKILL of the log too: another id, the same leases; it is told before anybody can ask it for anything."""
    folder = tmp_path / "leases"
    folder.mkdir()
    async with open_nats_server(tmp_path / "nats", is_syncing_always=True) as server:
        locate = partial(locate_server, server)
        async with open_data(locate) as data, open_nats_client(server.url) as client:
            log = RealLog(data, client)
            await client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["snapfs.>"]})
            await log.make_durable(ack_wait_s=LEASE_S)
            journal = LeaseJournal(folder / "1.leases")
            data.keep_journal(journal)
            await log.publish((b"NATS/1.0\r\n\r\n", b"0"))
            (held,) = deliveries_of(await Inbox(log).pull(pull_of(1), 1))
            data.hold(held.reply, LEASE_S)
            journal.hold("$JS.ACK.S.d.1.9.9.0.0", 0.0)  # long over, and nobody can have it
        server.kill()
        fcntl.flock(journal._file, fcntl.LOCK_UN)
        await server.start()
        data = JetStream(locate, "next")
        async with trio.open_nursery() as nursery, open_nats_client(server.url) as client:
            give_back = partial(give_back_orphans, folder, data, is_fresh=True)
            await nursery.start(give_back)
            nursery.start_soon(data.connection.run)
            with trio.fail_after(WITHIN_S):
                await data.connection.wait_up()
            assert await again(RealLog(data, client), 1) == [b"0"]
            nursery.cancel_scope.cancel()
        assert list(folder.iterdir()) == []
        journal.close()


async def test_cancelled_here_the_journals_are_left_to_whoever_comes_next(tmp_path: Path) -> None:
    """The log is not there yet, and whoever waits for it is told to end; too late it is nothing for anybody."""
    folder = tmp_path / "leases"
    folder.mkdir()
    journal = LeaseJournal(folder / "1.leases")
    fcntl.flock(journal._file, fcntl.LOCK_UN)
    data = JetStream(lambda: Endpoint("127.0.0.1", 1, {}), "test")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(give_back_orphans, folder, data, LEASE_S))
        assert find_orphans(folder) == [], "somebody sees to it"
        nursery.cancel_scope.cancel()
    (left,) = find_orphans(folder)
    left.leave()
    assert await give_back_orphans(folder, data, 0.0) == 0
    assert list(folder.iterdir()) == []
    journal.close()


async def test_overloaded_a_full_journal_is_given_back_whole(tmp_path: Path) -> None:
    """More deliveries than are said at once; all of them come again."""
    count = AT_ONCE + 300  # the log lets a thousand be out
    async with open_held(tmp_path, count) as (log, journal, _):
        folder = kill(log, journal)
        assert await give_back_orphans(folder, log.data) == count
        assert len(await again(log, count)) == count


def locate_server(server: NatsServer) -> Endpoint:
    """Where it is now."""
    return Endpoint("127.0.0.1", server.port, {})


@asynccontextmanager
async def open_data(locate: Callable[[], Endpoint]) -> AsyncIterator[JetStream]:
    """A data plane that runs."""
    data = JetStream(locate, "test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(data.connection.run)
        with trio.fail_after(WITHIN_S):
            await data.connection.wait_up()
        yield data
        nursery.cancel_scope.cancel()
