"""What this process holds of the log, written where it survives the process: whoever finds it gives it back at once.

Without it, what a killed gateway held waits at the log until its lease runs out (`HEADGATE_ACK_WAIT_S`).

The file is mapped into memory and never synced: it has to outlive a process, not the machine, and after a restart of
the machine there is no lease to give back. A slot is one delivery: until when nobody else can have it, and where its
verdict goes. The owner holds the file's lock for life, so a journal that can be locked is one that nobody owns.

Rules of the file:
- In doubt nothing is given back: a `-NAK` takes a message from whoever holds it now (`engine/leases.py`). So a lease is
  noted as shorter than it is (`PART`), and it counts only for the very server, run and boot that granted it.
- More time is asked for every third of a lease, and the asking may be lost with the process: by `PART` the lease before
  it reaches as far as what is noted.
- A slot is written from its end to its beginning and emptied by its first bytes: a process that is killed in between
  leaves it as it was, or empty.
- A full journal takes no more, and says so in `left_out`: what it lacks comes again after its lease, as without it.
"""

import fcntl
import mmap
import os
import re
import struct
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Final, NamedTuple

SLOT_BYTES: Final = 256
SLOTS: Final = 16_384
"""4 MiB of address space; of memory only what was ever in use at once."""
PART: Final = 2 / 3
SUFFIX: Final = ".leases"
SWEEP_EVERY_S: Final = 1.0
_LENGTH: Final = struct.Struct("<H")
_UNTIL: Final = struct.Struct("<d")
_REPLY_AT: Final = _LENGTH.size + _UNTIL.size
MOST_REPLY_BYTES: Final = SLOT_BYTES - _REPLY_AT
_MARK: Final = b"headgate leases 1\n"
_HEAD_BYTES: Final = SLOT_BYTES
_REPLY: Final = re.compile(rb"\$JS\.ACK\.[!-~]+")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Machine(NamedTuple):
    """What leases are counted on.

    Args:
        clock: seconds, the same for all processes of this boot.
        boot_id: names the boot.
    """

    clock: Callable[[], float]
    boot_id: bytes


def this_machine() -> Machine:
    """Give the machine that this process runs on."""
    try:
        return Machine(time.monotonic, _BOOT_ID.read_bytes().strip())
    except OSError:
        return Machine(time.monotonic, b"?")


class LeaseJournal:
    """One process's journal.

    Args:
        path: its file; made anew.
        machine: what its leases are counted on, None for this one.
        slots: how many deliveries it can hold.

    Closes: with `close`, which removes the file.
    """

    def __init__(self, path: Path, machine: Machine | None = None, slots: int = SLOTS) -> None:
        self._path = path
        self._machine = machine or this_machine()
        size = _HEAD_BYTES + slots * SLOT_BYTES
        fresh = path.with_suffix(".new")  # under its own name only once it is locked: nobody takes it for an orphan
        self._file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.ftruncate(self._file, size)
        fresh.rename(path)
        self._map = mmap.mmap(self._file, size)
        self._free = list(range(slots - 1, -1, -1))
        self._slots: dict[str, tuple[int, float]] = {}
        self._server = b""
        self._sweep_at = 0.0
        self.left_out = 0

    def __len__(self) -> int:
        return len(self._slots)

    def begin(self, server: str) -> None:
        """Begin anew, because the log is another server now: what the one before had granted is in doubt."""
        head = _MARK + self._machine.boot_id + b"\n" + server.encode()[:100] + b"\n"
        if head == self._server:
            return
        self._map[: len(_MARK)] = bytes(len(_MARK))  # not to be read while it is emptied
        for slot, _ in self._slots.values():
            self._empty(slot)
        self._slots.clear()
        self._map[len(_MARK) : _HEAD_BYTES] = head[len(_MARK) :].ljust(_HEAD_BYTES - len(_MARK), b"\0")
        self._map[: len(_MARK)] = _MARK
        self._server = head

    def hold(self, reply: str, lease_s: float) -> None:
        """Note a delivery.

        Args:
            reply: where its verdict goes.
            lease_s: nobody else can have it for so long from now, and for so long after each extension.
        """
        known = self._slots.get(reply)
        text = reply.encode()
        if known is None:
            if not self._free:
                self._sweep()
            if not self._free or len(text) > MOST_REPLY_BYTES:
                self.left_out += 1
                return
            known = (self._free.pop(), lease_s)
            self._slots[reply] = known
        at = _HEAD_BYTES + known[0] * SLOT_BYTES
        self._map[at + _LENGTH.size : at + _REPLY_AT + len(text)] = _UNTIL.pack(self._machine.clock() + lease_s) + text
        _LENGTH.pack_into(self._map, at, len(text))

    def extend(self, reply: str) -> None:
        """Note that more time was asked for."""
        known = self._slots.get(reply)
        if known is not None:
            at = _HEAD_BYTES + known[0] * SLOT_BYTES + _LENGTH.size
            _UNTIL.pack_into(self._map, at, self._machine.clock() + known[1])

    def settle(self, reply: str) -> None:
        """Forget a delivery that got its verdict."""
        known = self._slots.pop(reply, None)
        if known is not None:
            self._empty(known[0])

    def close(self) -> None:
        """Remove the file; what it holds was given back before, or is not worth it."""
        self._path.unlink(missing_ok=True)
        self._map.close()
        os.close(self._file)

    def _sweep(self) -> None:
        """Forget what is in doubt by now and never got a verdict; looked for once in a while."""
        now = self._machine.clock()
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_EVERY_S
        for reply, (slot, _) in list(self._slots.items()):
            if _UNTIL.unpack_from(self._map, _HEAD_BYTES + slot * SLOT_BYTES + _LENGTH.size)[0] < now:
                self.settle(reply)

    def _empty(self, slot: int) -> None:
        _LENGTH.pack_into(self._map, _HEAD_BYTES + slot * SLOT_BYTES, 0)
        self._free.append(slot)


class Orphan:
    """The journal of a process that is gone.

    Closes: with `close`, which removes the file, or `leave`, which does not.
    """

    def __init__(self, path: Path, file: int, machine: Machine) -> None:
        self._path = path
        self._file = file
        self._machine = machine

    def certain(self, server: str | None) -> list[str]:
        """Give where to send the verdicts of what nobody else can have yet.

        Args:
            server: the id of the log's server as it is now; None when it is this gateway's own, was just started with
                it, and nobody has taken anything from it yet: then nobody else can have any of it.
        """
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        head = _MARK + self._machine.boot_id + b"\n"
        if server is not None:
            head += server.encode()[:100] + b"\n"
        if not content.startswith(head if server is None else head.ljust(_HEAD_BYTES, b"\0")):
            return []
        now, found = -inf if server is None else self._machine.clock(), list[str]()
        for at in range(_HEAD_BYTES, len(content) - SLOT_BYTES + 1, SLOT_BYTES):
            (length,) = _LENGTH.unpack_from(content, at)
            if 0 < length <= MOST_REPLY_BYTES and _UNTIL.unpack_from(content, at + _LENGTH.size)[0] > now:
                reply = content[at + _REPLY_AT : at + _REPLY_AT + length]
                if _REPLY.fullmatch(reply):
                    found.append(reply.decode())
        return found

    def close(self) -> None:
        """Remove it."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)

    def leave(self) -> None:
        """Leave it to whoever looks next."""
        os.close(self._file)


def find_orphans(folder: Path, machine: Machine | None = None) -> list[Orphan]:
    """Take over every journal of a folder that nobody owns; whoever else looks finds none of them.

    Args:
        folder: where journals are.
        machine: what their leases are counted on, None for this one.
    """
    machine = machine or this_machine()
    found: list[Orphan] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # somebody else was quicker
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)  # its owner lives
            continue
        found.append(Orphan(path, file, machine))
    return found
