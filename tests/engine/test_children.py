"""Child processes that cannot outlive the gateway, and the lock on a data folder (3.7, T34)."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
import trio
import trio.testing

from engine.children import Child, locked_folder, start_child, stop_stale
from engine.errors import Refused
from tests.support.processes import ProcessName, count_fds, is_alive, kill_process
from tests.support.waiting import wait_until

SLEEP = ["sleep", "600"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)",
]


@contextmanager
def running(folder: Path, argv: list[str] = SLEEP) -> Iterator[tuple[Child, Path]]:
    """A child, and the record that names it; ended with the block."""
    record = folder / "child.json"
    with (folder / "log").open("ab") as log:
        child = start_child(argv, record, log)
    try:
        yield child, record
    finally:
        child.close()


def name_of(pid: int) -> ProcessName:
    """Name a process that runs."""
    name = ProcessName.of(pid)
    assert name is not None
    return name


async def test_a_child_is_written_down_and_has_a_session_of_its_own(tmp_path: Path) -> None:
    """The record names pid, start time, program and arguments; a Ctrl-C in our terminal does not reach it."""
    with running(tmp_path) as (child, record):
        written = orjson.loads(record.read_bytes())
        assert written["pid"] == child.pid
        assert written["start_time"] == name_of(child.pid).start_time
        assert written["exe"] == os.readlink(f"/proc/{child.pid}/exe")
        assert written["argv"] == SLEEP
        assert os.getsid(child.pid) == child.pid
        assert child.exit_code is None


async def test_a_record_is_replaced_whole(tmp_path: Path) -> None:
    """Whoever reads it while the next child starts has the one or the other, never a piece."""
    with running(tmp_path) as (first, record), record.open("rb") as before, running(tmp_path) as (second, _record):
        assert orjson.loads(before.read())["pid"] == first.pid
        assert orjson.loads(record.read_bytes())["pid"] == second.pid
    assert sorted(os.listdir(tmp_path)) == ["child.json", "log"]


async def test_waiting_gives_how_it_ended(tmp_path: Path) -> None:
    """An exit code, or the signal's number, negative; asked again, the same."""
    with running(tmp_path, ["sh", "-c", "read line; exit 7"]) as (child, _):
        with trio.fail_after(5):
            assert await child.wait() == 7
        assert (child.exit_code, await child.wait()) == (7, 7)
    with running(tmp_path) as (child, _):
        os.kill(child.pid, signal.SIGKILL)
        with trio.fail_after(5):
            assert await child.wait() == -signal.SIGKILL


async def test_a_child_that_ends_at_once_says_how(tmp_path: Path) -> None:
    """A program that finds its configuration wrong is waited for like any other, however quickly it is gone."""
    before = count_fds(os.getpid())
    for _ in range(100):
        with running(tmp_path, ["sh", "-c", "exit 7"]) as (child, _record):
            with trio.fail_after(5):
                assert await child.wait() == 7
    assert count_fds(os.getpid()) == before


async def test_a_cancelled_wait_leaves_the_child_running(tmp_path: Path) -> None:
    """Cancelled here, the child goes on, and can be waited for again."""
    with running(tmp_path) as (child, _):
        with trio.move_on_after(0.01) as scope:
            await child.wait()
        assert scope.cancelled_caught
        assert is_alive(name_of(child.pid))
        assert await child.stop() == -signal.SIGTERM


async def test_stopping_asks_first_and_then_kills(tmp_path: Path) -> None:
    """A child that heeds the signal ends by it; one that does not is killed at the deadline; both are gone then."""
    with running(tmp_path) as (child, _):
        assert await child.stop() == -signal.SIGTERM
        assert await child.stop() == -signal.SIGTERM  # stopping what has ended is harmless
    with running(tmp_path, STUBBORN) as (child, _):
        await wait_until(lambda: "ready" in (tmp_path / "log").read_text(), "the child ignores SIGTERM")
        began = trio.current_time()
        assert await child.stop(within_s=0.1) == -signal.SIGKILL
        assert 0.1 <= trio.current_time() - began < 2


async def test_closing_kills_what_still_runs(tmp_path: Path) -> None:
    """Nothing is left of a child that is let go: no process, no descriptor."""
    before = count_fds(os.getpid())
    with running(tmp_path) as (child, _):
        process = name_of(child.pid)
        assert count_fds(os.getpid()) == before + 1
    assert not is_alive(process)
    assert count_fds(os.getpid()) == before
    child.close()  # twice is harmless


async def test_a_child_is_started_from_the_main_thread_alone(tmp_path: Path) -> None:
    """Started elsewhere it would be killed when that thread goes idle: refused, and nothing is started."""
    with (tmp_path / "log").open("ab") as log, pytest.raises(RuntimeError, match="main thread"):
        await trio.to_thread.run_sync(start_child, SLEEP, tmp_path / "child.json", log)
    assert not (tmp_path / "child.json").exists()


def test_a_program_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    """The error is the system's own, and nothing is written down."""
    before = count_fds(os.getpid())
    with (tmp_path / "log").open("ab") as log, pytest.raises(OSError, match="no-such-program"):
        start_child(["/no-such-program"], tmp_path / "child.json", log)
    assert not (tmp_path / "child.json").exists()
    assert count_fds(os.getpid()) == before


def test_a_child_that_cannot_be_written_down_does_not_run_on(tmp_path: Path) -> None:
    """Without its record nobody could find it later: it is ended, and nothing is left open."""
    before = count_fds(os.getpid())
    with (tmp_path / "log").open("ab") as log, pytest.raises(OSError, match="missing"):
        start_child(SLEEP, tmp_path / "missing" / "child.json", log)
    assert count_fds(os.getpid()) == before


async def test_the_kernel_ends_a_child_with_its_gateway(tmp_path: Path) -> None:
    """T34: a gateway that is killed outright takes its children with it, a stubborn one too."""
    source = f"""
import time
from pathlib import Path
from engine.children import start_child
folder = Path({str(tmp_path)!r})
with (folder / "log").open("ab") as log:
    print(start_child({STUBBORN!r}, folder / "child.json", log).pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as gateway:  # noqa: ASYNC220  # at once
        assert gateway.stdout is not None
        child = name_of(int(gateway.stdout.readline()))
        try:
            await wait_until(lambda: "ready" in (tmp_path / "log").read_text(), "the child ignores SIGTERM")
            assert is_alive(child)
            gateway.kill()
            gateway.wait()
            await wait_until(lambda: not is_alive(child), "the child is gone", timeout_s=2)
        finally:
            gateway.kill()
            kill_process(child)


async def test_the_child_of_a_gateway_that_is_gone_is_stopped(tmp_path: Path) -> None:
    """Pid, start time and program match what was written down: it is ours, and it is ended at once."""
    with running(tmp_path, STUBBORN) as (child, record):
        assert stop_stale(record)
        assert child.exit_code == -signal.SIGKILL
        assert not stop_stale(record)  # it is a matter of once


@pytest.mark.parametrize(
    "other", [{"start_time": 1}, {"exe": "/bin/other"}, {"exe": None}, {"start_time": None}], ids=repr
)
async def test_a_process_that_is_not_the_recorded_one_is_left_alone(tmp_path: Path, other: dict[str, object]) -> None:
    """T34: a pid that was used again names somebody else, who is not harmed."""
    with running(tmp_path) as (child, record):
        record.write_bytes(orjson.dumps({**orjson.loads(record.read_bytes()), **other}))
        assert not stop_stale(record)
        assert is_alive(name_of(child.pid))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"null",
        b'{"pid":"x"}',
        b'{"pid":-1}',
        b'{"pid":0}',
        b'{"pid":999999999}',
        b'{"pid":[]}',
    ],
    ids=repr,
)
def test_a_record_that_names_nobody_is_passed_over(tmp_path: Path, text: bytes) -> None:
    """Cut short, of another form, or of a process that is gone: there is nothing to stop, and nothing fails."""
    record = tmp_path / "child.json"
    assert not stop_stale(record)
    record.write_bytes(text)
    assert not stop_stale(record)


def test_a_zombie_is_not_stopped(tmp_path: Path) -> None:
    """A process that has ended and waits to be reaped is nobody's running child (F9)."""
    with subprocess.Popen(["sleep", "600"]) as process:
        record = tmp_path / "child.json"
        identity = {
            "pid": process.pid,
            "start_time": name_of(process.pid).start_time,
            "exe": os.readlink(f"/proc/{process.pid}/exe"),
        }
        record.write_bytes(orjson.dumps(identity))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not stop_stale(record)


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    """The second is refused and told who the first is; when the first leaves, the folder is free."""
    folder = tmp_path / "deep" / "data"
    with locked_folder(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(Refused) as caught, locked_folder(folder):
            pytest.fail("two owners")
        assert caught.value.kind.code == "request.conflict"
        assert str(folder) in caught.value.detail
        assert f"process {os.getpid()}" in caught.value.detail
    with locked_folder(folder):
        pass


def test_a_lock_is_released_by_whatever_ends_the_block(tmp_path: Path) -> None:
    """A failure inside frees the folder, and leaves no descriptor open."""
    before = count_fds(os.getpid())
    for _ in range(3):
        with pytest.raises(LookupError), locked_folder(tmp_path):
            raise LookupError
    with locked_folder(tmp_path), pytest.raises(Refused), locked_folder(tmp_path):
        pytest.fail("two owners")
    assert count_fds(os.getpid()) == before


def test_a_lock_is_free_when_its_owner_was_killed(tmp_path: Path) -> None:
    """The lock is the kernel's: no file that is left behind holds up the next gateway, and no child inherits it."""
    source = f"""
import os, subprocess
from pathlib import Path
from engine.children import locked_folder
with locked_folder(Path({str(tmp_path)!r})):
    print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, close_fds=False).pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    child = name_of(int(done.stdout))
    try:
        with locked_folder(tmp_path):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    finally:
        kill_process(child)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A file in its place, or below one: the text has the reason."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(Refused, match="cannot use the data folder"), locked_folder(folder):
            pytest.fail("owned")


ORPHANS = """
import os, subprocess, sys
from pathlib import Path
from engine.children import stop_leftovers

program, folder = Path(sys.argv[1]), Path(sys.argv[2])
assert os.getpid() == 1
mine = subprocess.Popen(["true"])
# A parent that ends at once, and leaves one child that has ended and one that works.
subprocess.run(["sh", "-c", f"{program} 0 & {program} 600 &"], cwd=folder, check=True)
zombies = lambda: [e for e in os.listdir("/proc") if e.isdigit() and ") Z" in Path(f"/proc/{e}/stat").read_text()]
while len(zombies()) < 2:
    pass
print(stop_leftovers(program, folder), zombies() == [str(mine.pid)], mine.wait())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a namespace of processes")
def test_the_first_process_of_a_container_buries_what_it_was_left(tmp_path: Path) -> None:
    """Those that were killed and those that ended by themselves; its own child's exit code stays its own."""
    program = tmp_path / "postgres"
    shutil.copy(os.path.realpath(shutil.which("sleep") or "sleep"), program)
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    command += [sys.executable, "-c", ORPHANS, str(program), str(tmp_path)]
    root = Path(__file__).parents[2]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert said.stdout.split() == ["1", "True", "0"], said.stderr
