"""What a process that is gone held is found again: all of it, and nothing that somebody else may have."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from engine.lease_journal import MOST_REPLY_BYTES, SLOT_BYTES, SLOTS, LeaseJournal, Machine, find_orphans, this_machine

SERVER = "NSERVER1"
REPLY = "$JS.ACK.SNAPFS_FILES.mysql.1.%d.%d.1700000000000000000.0"
LONG_S = 600.0
FEW_SLOTS = 64
"""A file of 16 KiB, looked through at each step."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the journals are."""
    return tmp_path


@pytest.fixture
def journal(folder: Path) -> Iterator[LeaseJournal]:
    """The journal of a process that knows its server."""
    made = LeaseJournal(folder / "1.leases")
    made.begin(SERVER)
    yield made
    made.close()


def reply_of(number: int) -> str:
    """A delivery's reply subject."""
    return REPLY % (number, number)


def kill(journal: LeaseJournal) -> None:
    """Have the kernel do what it does when the owner is killed: its lock is gone, the file stays."""
    fcntl.flock(journal._file, fcntl.LOCK_UN)


@contextmanager
def killed(journal: LeaseJournal) -> Iterator[None]:
    """For the length of the block the owner is gone."""
    kill(journal)
    try:
        yield
    finally:
        fcntl.flock(journal._file, fcntl.LOCK_EX)


def found_in(
    folder: Path, server: str | None = SERVER, *, stays: bool = False, machine: Machine | None = None
) -> list[str]:
    """What whoever comes next may give back."""
    found: list[str] = []
    for orphan in find_orphans(folder, machine):
        found += orphan.certain(server)
        if stays:
            orphan.leave()
        else:
            orphan.close()
    return found


class JournalMachine(RuleBasedStateMachine):
    """A journal beside a model: what was held, until when; time goes on as the test says."""

    folder: Path
    clock: "Clock"

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(self.clock.monotonic, b"boot")
        self.journal = LeaseJournal(self.folder / f"{os.getpid()}.leases", self.machine, FEW_SLOTS)
        self.server = ""
        self.model: dict[str, tuple[float, float]] = {}

    @rule(server=st.sampled_from(["A", "B"]))
    def begin(self, server: str) -> None:
        """The connection came up, to the same server or another."""
        self.journal.begin(server)
        if server != self.server:
            self.model.clear()
        self.server = server

    @rule(number=st.integers(0, 40), lease_s=st.floats(0.5, 20))
    def hold(self, number: int, lease_s: float) -> None:
        """A delivery came, perhaps one that is held already."""
        reply = reply_of(number)
        self.journal.hold(reply, lease_s)
        before = self.model.get(reply)
        self.model[reply] = (self.clock.now + lease_s, before[1] if before else lease_s)

    @rule(number=st.integers(0, 40))
    def extend(self, number: int) -> None:
        """More time was asked for."""
        reply = reply_of(number)
        self.journal.extend(reply)
        if reply in self.model:
            lease_s = self.model[reply][1]
            self.model[reply] = (self.clock.now + lease_s, lease_s)

    @rule(number=st.integers(0, 40))
    def settle(self, number: int) -> None:
        """A verdict was sent."""
        self.journal.settle(reply_of(number))
        self.model.pop(reply_of(number), None)

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        """Time goes on."""
        self.clock.now += seconds

    @invariant()
    def exactly_what_is_certainly_held_is_found(self) -> None:
        """Whenever it is killed."""
        with killed(self.journal):
            certain = {reply for reply, (until, _) in self.model.items() if until > self.clock.now}
            if self.server:
                assert sorted(self.find(self.server)) == sorted(certain)
                assert sorted(self.find(None)) == sorted(self.model)
            assert self.find("another") == []
        assert self.find(self.server) == [], "its owner lives"

    def find(self, server: str | None) -> list[str]:
        """What whoever comes next may give back, on this machine."""
        return found_in(self.folder, server, stays=True, machine=self.machine)

    def teardown(self) -> None:
        """Remove it."""
        self.journal.close()


class Clock:
    """The kernel's clock, as the test says."""

    now = 1000.0

    def monotonic(self) -> float:
        """Give the time."""
        return self.now


def test_what_was_held_and_neither_settled_nor_in_doubt_is_given_back_and_nothing_else(folder: Path) -> None:
    """Property: at every moment at which the owner could be killed, what is found is what a model says."""
    machine = type("Machine", (JournalMachine,), {"folder": folder, "clock": Clock()})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))


def test_a_journal_whose_owner_lives_is_not_found(folder: Path, journal: LeaseJournal) -> None:
    """The lock is the owner's for life; when it is gone, one finder gets it and no other."""
    journal.hold(reply_of(1), LONG_S)
    assert find_orphans(folder) == []
    kill(journal)
    (first,) = find_orphans(folder)
    assert find_orphans(folder) == []
    assert first.certain(SERVER) == [reply_of(1)]
    first.close()
    assert list(folder.iterdir()) == []


def test_another_boot_has_no_leases_of_this_one(folder: Path, journal: LeaseJournal) -> None:
    """The clock that leases are counted on began anew."""
    journal.hold(reply_of(1), LONG_S)
    kill(journal)
    other = this_machine()._replace(boot_id=b"another")
    assert found_in(folder, stays=True, machine=other) == []
    assert found_in(folder, None, machine=other) == []


@pytest.mark.parametrize("server", ["", "NSERVER", "NSERVER11", "NSERVER1\n"])
def test_another_server_granted_nothing(folder: Path, journal: LeaseJournal, server: str) -> None:
    """Its name has to be the very same, not the beginning of one."""
    journal.hold(reply_of(1), LONG_S)
    kill(journal)
    assert found_in(folder, server) == []


def test_another_server_begins_anew(folder: Path, journal: LeaseJournal) -> None:
    """What the one before granted is in doubt; the same one again changes nothing."""
    journal.hold(reply_of(1), LONG_S)
    journal.begin(SERVER)
    assert len(journal) == 1
    journal.begin("NSERVER2")
    assert len(journal) == 0
    journal.hold(reply_of(2), LONG_S)
    kill(journal)
    assert found_in(folder, "NSERVER2") == [reply_of(2)]


def test_before_it_knows_its_server_a_journal_says_nothing(folder: Path) -> None:
    """Nobody could tell whose leases they are."""
    with closing(LeaseJournal(folder / "1.leases")) as journal:
        journal.hold(reply_of(1), LONG_S)
        kill(journal)
        assert found_in(folder, "") == []


def test_a_full_journal_takes_no_more_and_says_so(folder: Path, journal: LeaseJournal) -> None:
    """What it has stays; a place that becomes free is used again; what is long in doubt makes room."""
    for number in range(SLOTS):
        journal.hold(reply_of(number), LONG_S)
    journal.hold(reply_of(SLOTS), LONG_S)
    assert (len(journal), journal.left_out) == (SLOTS, 1)
    journal.settle(reply_of(7))
    journal.hold(reply_of(SLOTS + 1), LONG_S)
    assert (len(journal), journal.left_out) == (SLOTS, 1)
    kill(journal)
    expected = {reply_of(number) for number in range(SLOTS)} - {reply_of(7)} | {reply_of(SLOTS + 1)}
    assert set(found_in(folder)) == expected


def test_what_is_in_doubt_makes_room(folder: Path) -> None:
    """Verdicts that never came do not fill it for ever; it is looked for once in a while, not each time."""
    clock = Clock()
    with closing(LeaseJournal(folder / "2.leases", Machine(clock.monotonic, b"boot"), FEW_SLOTS)) as journal:
        for number in range(FEW_SLOTS + 1):
            journal.hold(reply_of(number), 5.0)
        assert journal.left_out == 1
        clock.now += 6.0
        journal.hold(reply_of(FEW_SLOTS), 5.0)
        assert (len(journal), journal.left_out) == (1, 1)


@pytest.mark.parametrize(("size", "is_kept"), [(MOST_REPLY_BYTES, True), (MOST_REPLY_BYTES + 1, False)])
def test_a_reply_that_is_too_long_is_left_out(folder: Path, journal: LeaseJournal, size: int, is_kept: bool) -> None:
    """A slot has a size; the neighbour is never written into."""
    reply = "$JS.ACK.".ljust(size, "x")
    journal.hold(reply, LONG_S)
    journal.hold(reply_of(1), LONG_S)
    journal.extend(reply)
    journal.settle("$JS.ACK.unknown")
    assert journal.left_out == (not is_kept)
    kill(journal)
    assert found_in(folder) == ([reply] if is_kept else []) + [reply_of(1)]


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_slot_that_was_not_finished_is_empty(folder: Path, journal: LeaseJournal, cut: int) -> None:
    """The length comes last: killed before, whatever part of the rest was written, there is nothing."""
    journal.hold(reply_of(1), LONG_S)
    journal.hold(reply_of(2), LONG_S)
    kill(journal)
    path = folder / "1.leases"
    content = bytearray(path.read_bytes())
    content[SLOT_BYTES : SLOT_BYTES + 2] = b"\0\0"
    content[SLOT_BYTES + 2 + cut : 2 * SLOT_BYTES] = bytes(SLOT_BYTES - 2 - cut)
    path.write_bytes(content)
    assert found_in(folder) == [reply_of(2)]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[: SLOT_BYTES + 20], id="short"),
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: b"x" + content[1:], id="another mark"),
        pytest.param(lambda content: content.replace(b"$JS.ACK.", b"$JS.API."), id="another subject"),
        pytest.param(lambda content: content.replace(b".mysql.", b".my\r\nl."), id="a line of its own"),
        pytest.param(lambda content: content.replace(b".mysql.", b".my\xff\xffl."), id="not text"),
        pytest.param(lambda content: content.replace(b".mysql.", b".my sl."), id="two words"),
    ],
)
def test_what_is_damaged_is_nothing(folder: Path, journal: LeaseJournal, damage: object) -> None:
    """Only reply subjects of the log are ever written to, and nothing else comes onto the wire."""
    assert callable(damage)
    journal.hold(reply_of(1), LONG_S)
    kill(journal)
    path = folder / "1.leases"
    path.write_bytes(damage(path.read_bytes()))
    assert found_in(folder, stays=True) == []
    assert found_in(folder, None) == []


def test_closing_removes_the_file(folder: Path) -> None:
    """Who ends well leaves nothing to find."""
    journal = LeaseJournal(folder / "1.leases")
    journal.begin(SERVER)
    journal.hold(reply_of(1), LONG_S)
    journal.close()
    assert list(folder.iterdir()) == []
