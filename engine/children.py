"""Child processes that cannot outlive the gateway, and the lock on a data folder.

Rules of the file:
- A child is started from the main thread. The kernel's parent-death signal belongs to the *thread* that started
  the child: started from a worker thread, the child would be killed when that thread goes idle.
- A child has a session of its own, so that a Ctrl-C in the terminal reaches the gateway alone.
- A process is stopped only when its pid, its start time and its program all match what was written down.

Source: `RELIABILITY.md` 3.7.
"""

import ctypes
import fcntl
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

import orjson
import trio

from engine.errors import Refused

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
STOP_WITHIN_S: Final = 5.0


class RunAs(NamedTuple):
    """An account that a child runs as, where the gateway is root and the child refuses to be."""

    uid: int
    gid: int


class Child:
    """A running child process.

    Args:
        process: as `start_child` made it.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self.pid = process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        """Wait until it has ended and give its exit code.

        Cancellation: the child goes on.
        """
        while (code := self._process.poll()) is None:
            await trio.lowlevel.wait_readable(self._pidfd)
        return code

    async def stop(self, first: signal.Signals = signal.SIGTERM, within_s: float = STOP_WITHIN_S) -> int:
        """End it: `first`, and SIGKILL when that has not helped in time."""
        if self._process.poll() is None:
            self._process.send_signal(first)
            with trio.move_on_after(within_s):
                return await self.wait()
            self._process.kill()
        return await self.wait()

    def close(self) -> None:
        """Release what watches it; kills it when it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def start_child(
    argv: Sequence[str],
    record: Path,
    log: IO[bytes],
    *,
    run_as: RunAs | None = None,
    inherited: Sequence[int] = (),
    kept: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a child that the kernel kills when this process ends, however it ends.

    Args:
        argv: program and arguments.
        record: file that names the child, for a later gateway's `stop_stale`.
        log: takes its standard output and error.
        run_as: the account to run it as; None for this process's own.
        inherited: file descriptors that it keeps under the same numbers; the first is its working folder.
        kept: more file descriptors that it keeps under the same numbers.
        environment: what it gets instead of this process's environment.

    Raises:
        OSError: the program cannot be started.
        RuntimeError: called outside the main thread.
    """
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=death_with_parent(),  # noqa: PLW1509  # the one call it makes is async-signal-safe and loaded before
        user=run_as.uid if run_as is not None else None,
        group=run_as.gid if run_as is not None else None,
        extra_groups=[] if run_as is not None else None,
        pass_fds=[*inherited, *kept],
        cwd=f"/proc/self/fd/{inherited[0]}" if inherited else None,
        env=environment,
    )
    child = Child(process)
    try:
        identity = {"pid": child.pid, "start_time": _start_time(child.pid), "exe": _exe(child.pid), "argv": list(argv)}
    except OSError:
        return child  # it ended at once: its exit code says how
    young = record.with_name(f".{record.name}.new")
    try:
        young.write_bytes(orjson.dumps(identity))
        young.replace(record)  # whoever reads it, or is there after our death, finds a whole record
    except OSError:
        child.close()  # nobody could find it later
        raise
    return child


def death_with_parent() -> Callable[[], None]:
    """Give what a child does between fork and exec, so that the kernel kills it when this process ends.

    Raises:
        RuntimeError: called outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a child must be started from the main thread, or it dies with the thread that started it")
    parent = os.getpid()

    def die_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # the parent ended between fork and prctl

    return die_with_parent


def stop_stale(record: Path) -> bool:
    """Stop the child of a gateway that is gone, when one still runs; True when there was one.

    Call it only under the folder's lock: then the recorded child has no living gateway.
    """
    try:
        identity = orjson.loads(record.read_bytes())
        pid = int(identity["pid"])
        matches = _start_time(pid) == identity["start_time"] and _exe(pid) == identity["exe"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not matches:
        return False
    try:
        watch = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    try:
        select.select([watch], [], [], STOP_WITHIN_S)
    finally:
        os.close(watch)
    return True


def stop_leftovers(program: Path, folder: Path) -> int:
    """Kill what is left of a child's own children: every process of this program that works in this folder.

    Call it only under the folder's lock, after `stop_stale`, and while no child of this program is running.

    Returns:
        How many there were; all of them are gone.
    """
    watches: list[int] = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if _exe(int(entry)) != str(program) or not os.path.samefile(f"/proc/{entry}/cwd", folder):
                continue
            watches.append(os.pidfd_open(int(entry)))
            os.kill(int(entry), signal.SIGKILL)
        except OSError:
            continue  # it ended by itself, or is none of ours
    for watch in watches:
        select.select([watch], [], [], STOP_WITHIN_S)
        os.close(watch)
    _reap_orphans(program.name)
    return len(watches)


def _reap_orphans(name: str) -> None:
    """Take the exit codes of this program's processes that were left to this one.

    The first process of a container is given every orphan in it, and those that ended would stay for ever.
    """
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with suppress(OSError):  # it is gone, or its code was taken
            begin, _, fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")
            state, parent = fields.split()[:2]
            if state == "Z" and int(parent) == os.getpid() and begin.partition("(")[2] == name[:15]:
                os.waitpid(int(entry), os.WNOHANG)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Own a data folder: make it, private, and hold its lock.

    Raises:
        Refused: another gateway owns it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise Refused("request.conflict", f"cannot use the data folder {folder}: {problem}") from problem
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "?"
            raise Refused(
                "request.conflict", f"the data folder {folder} is in use by another gateway (process {owner})"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _start_time(pid: int) -> int:
    """Give when a process started, in clock ticks since boot: with the pid it names a process for good."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(f"process {pid} is a zombie")
    return int(fields[19])


def _exe(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
