"""What a scanner sees of a file system: files found, and their hashes. Plain blocking code for worker threads.

Rules of the file:
- No symbolic link is followed below the root, neither to a folder nor to a file; only regular files count.
- Nothing here raises for one bad file: it comes back as a `Trouble`, and the walk goes on.
- A hash is given only when the file was the same before, during and after the reading.

What must change with it: the event fields of a scanner (E17), in `edge/scan.py`.
"""

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import xxhash

from engine.paths import canonical_path

READ_BYTES: Final = 1024 * 1024
"""xxhash releases the GIL; a MiB at a time makes what is left of Python too little to measure."""
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: a FIFO that has taken the file's place must not hang the scan."""


@dataclass(frozen=True, slots=True)
class FileSeen:
    """One regular file, as the walk found it.

    Args:
        path: as the file system has it.
        canonical: as events and probes name it.
        status: without following links.
    """

    path: str
    canonical: str
    status: os.stat_result

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """What changes when the file does."""
        return self.status.st_dev, self.status.st_ino, self.status.st_size, self.status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Trouble:
    """One file or folder that cannot be scanned.

    Args:
        path: printable, whatever the name is made of.
        reason: for a person.
        is_passing: it changed or went away under the scan, and the next scan will see it as it is then.
    """

    path: str
    reason: str
    is_passing: bool = False


class OutsideRoot(Exception):
    """A folder is not below the one that may be scanned, or is no folder."""


def confine(root_path: str, target: str) -> str:
    """Give the folder to scan, spelled below `root_path` and free of symbolic links and `..` from there on.

    Args:
        root_path: the one folder that may be scanned, with all that is below it.
        target: what was asked for; a relative one counts from `root_path`.

    Raises:
        OutsideRoot: it leads outside, or there is no such folder.
    """
    if "\0" in target:
        raise OutsideRoot("the path holds a NUL")
    allowed = os.path.realpath(root_path)
    wanted = os.path.realpath(os.path.join(root_path, target))
    if wanted != allowed and not wanted.startswith(allowed.rstrip("/") + "/"):
        raise OutsideRoot(f"{_printable(target)} is not below {root_path}, which is all that this agent scans")
    if not os.path.isdir(wanted):
        raise OutsideRoot(f"{_printable(target)} is no folder here")
    return os.path.normpath(os.path.join(root_path, os.path.relpath(wanted, allowed)))


def walk_files(root: str) -> Iterator[FileSeen | Trouble]:
    """Find every regular file below `root`, folder by folder, in no particular order.

    Blocking; each step is bounded by one folder.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield from _look_at(entry, folders)
        except OSError as error:
            yield Trouble(folder, error.strerror or str(error), is_passing=isinstance(error, FileNotFoundError))


def _look_at(entry: os.DirEntry[str], folders: list[str]) -> Iterator[FileSeen | Trouble]:
    try:
        if not _is_utf8(entry.name):
            yield Trouble(_printable(entry.path), "the name is not UTF-8")
        elif entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield FileSeen(entry.path, canonical_path(entry.path), entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        yield Trouble(_printable(entry.path), "it went away", is_passing=True)
    except OSError as error:
        yield Trouble(_printable(entry.path), error.strerror or str(error))


def hash_files(files: list[FileSeen], check_cancelled: Callable[[], object]) -> list[str | Trouble]:
    """Hash files one after the other with xxh3_128.

    Args:
        check_cancelled: called between reads; whatever it raises ends the work.

    Returns:
        For each file its hash in hexadecimal, or why there is none.
    """
    buffer = memoryview(bytearray(READ_BYTES))
    return [_hash_one(file, buffer, check_cancelled) for file in files]


def _hash_one(file: FileSeen, buffer: memoryview, check_cancelled: Callable[[], object]) -> str | Trouble:
    digest = xxhash.xxh3_128()
    try:
        handle = os.open(file.path, _OPEN_FLAGS)
        try:
            if not _is_same(file, os.fstat(handle)):
                return Trouble(file.path, "it changed between walk and hash", is_passing=True)
            while size := os.readv(handle, [buffer]):
                digest.update(buffer[:size])
                check_cancelled()
            if not _is_same(file, os.fstat(handle)):
                return Trouble(file.path, "it changed while it was hashed", is_passing=True)
        finally:
            os.close(handle)
    except FileNotFoundError:
        return Trouble(file.path, "it went away", is_passing=True)
    except OSError as error:
        return Trouble(file.path, error.strerror or str(error))
    return digest.hexdigest()


def _is_same(file: FileSeen, now: os.stat_result) -> bool:
    return stat.S_ISREG(now.st_mode) and file.identity == (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


@lru_cache(maxsize=4096)
def owner_name(uid: int) -> str | None:
    """Give the user's name, None where the system knows none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


@lru_cache(maxsize=4096)
def group_name(gid: int) -> str | None:
    """Give the group's name, None where the system knows none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # os.scandir puts lone surrogates where the bytes are not UTF-8
        return False
    return True


def _printable(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")
