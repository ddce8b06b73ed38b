"""The keys file and the tokens' secret, in the data folder.

Rules of the file:
- Nobody but the owner may read them: 0600, in a folder of 0700; a file that others may read is refused.
- A write is whole or not at all: a temporary file, synced, renamed.
- One writer at a time, by a lock file; readers need none.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from engine.audit import Record
from engine.errors import Refused
from engine.keys import KeyRing, decode_keys, encode_keys

MOST_BYTES: Final = 16 * 1024 * 1024
SECRET_BYTES: Final = 32

Stamp = tuple[int, int, int]
"""What changes when a file does: inode, size, modification time."""


class KeysFile:
    """`identity/keys.json` below a data folder.

    Args:
        data: the data folder; it need not exist.
    """

    def __init__(self, data: Path) -> None:
        self.folder = data / "identity"
        self.path = self.folder / "keys.json"

    def stamp(self) -> Stamp | None:
        """Give what changes when the file does, None when there is none."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def read(self) -> KeyRing:
        """Read the keys; none when there is no file.

        Raises:
            Refused: the file is not one of ours, or others may read it.
        """
        return self._read()[0]

    def waiting(self) -> list[Record]:
        """Give the changes of keys that wait for the audit log, oldest first.

        Raises:
            Refused: as `read`.
        """
        return self._read()[1]

    def change(self, change: Callable[[KeyRing], KeyRing], record: Callable[[], Record] | None = None) -> KeyRing:
        """Read, change and write the keys while nobody else does.

        Args:
            change: gives the keys as they shall be.
            record: gives what the audit log shall have of it, asked after the change. It is in the same write, so that
                there is no change without it.

        Raises:
            Refused: the file is not one of ours, or others may read it.
            OSError: it cannot be written.
        """
        with self._locked():
            ring, changes = self._read()
            ring = change(ring)
            write_private(self.path, encode_keys(ring, [*changes, record()] if record is not None else changes))
            return ring

    def recorded(self, ids: Collection[str]) -> None:
        """Forget changes that the audit log has.

        Raises:
            Refused: as `read`.
            OSError: the file cannot be written.
        """
        with self._locked():
            ring, changes = self._read()
            write_private(self.path, encode_keys(ring, [one for one in changes if one.id not in ids]))

    def _read(self) -> tuple[KeyRing, list[Record]]:
        text = _read_private(self.path)
        if text is None:
            return KeyRing(), []
        try:
            return decode_keys(text)
        except ValueError as problem:
            raise Refused("request.bad-parameter", f"{self.path}: {problem}") from None

    def token_secret(self) -> bytes:
        """Give the secret that signs tokens; made at the first call.

        Raises:
            Refused: others may read it.
            OSError: it cannot be written.
        """
        path = self.folder / "token.secret"
        with self._locked():
            found = _read_private(path)
            if found is None or len(found) < SECRET_BYTES:
                found = secrets.token_bytes(SECRET_BYTES)
                write_private(path, found)
            return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def write_private(path: Path, content: bytes) -> None:
    """Put a file there that only its owner may read, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_private(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise Refused("request.bad-parameter", f"{path}: expected a file of at most {MOST_BYTES} bytes")
        if found.st_mode & 0o077:
            raise Refused("request.bad-parameter", f"{path}: others may read it; expected 0600 (chmod 600 {path})")
        return file.read()
