"""The embedded PostgreSQL's files: whose they are, what a killed gateway left, where its binaries can be run from."""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from actors.postgres_server import run_embedded_postgres
from actors.tree import Actor
from engine import postgres_server
from engine.children import RunAs
from engine.errors import Unavailable
from engine.postgres_server import (
    OWNER_CONNECTIONS,
    QUERY_CONNECTIONS,
    EmbeddedPostgres,
    find_binaries,
    max_connections,
    query_connections,
)
from tests.support.postgres import open_real_postgres

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the folder to another account")


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 64])
def test_the_server_lets_in_what_its_workers_may_open(workers: int) -> None:
    """And somebody with psql; the queries of all workers together are the gateway's few, as long as each has one."""
    each = query_connections(workers)
    assert each >= 1
    assert workers * each <= max(QUERY_CONNECTIONS, workers)
    assert max_connections(workers) >= workers * (OWNER_CONNECTIONS + each) + 10


def test_the_folder_and_the_secret_are_private(tmp_path: Path) -> None:
    """Nobody else may look inside, the secret is never the same twice, and a second start keeps it."""
    secrets = set()
    for name in ("a", "b"):
        embedded = EmbeddedPostgres(tmp_path / name / "postgres")
        embedded.prepare()
        assert stat.S_IMODE(embedded.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((embedded.folder / "secret").stat().st_mode) == 0o600
        before = embedded.address()
        embedded.prepare()
        assert embedded.address() == before
        assert before.password not in repr(before)
        secrets.add(before.password)
        embedded.close()
        with pytest.raises(OSError, match="not ready"):
            embedded.address()
    assert len(secrets) == 2


def test_what_a_killed_gateway_left_is_removed(tmp_path: Path) -> None:
    """A half made cluster and the lock file of a server that is gone: a zombie's pid would stop the next start."""
    folder = tmp_path / "postgres"
    (folder / "data.new" / "base").mkdir(parents=True)
    embedded = EmbeddedPostgres(folder)
    embedded.cluster.mkdir()
    (embedded.cluster / "postmaster.pid").write_text(f"{os.getpid()}\n")
    embedded.prepare()
    embedded.close()
    assert not (folder / "data.new").exists()
    assert not (embedded.cluster / "postmaster.pid").exists()
    assert not embedded.is_made


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """The text says which folder, and what is wrong with it."""
    (tmp_path / "postgres").write_text("a file")
    with pytest.raises(Unavailable, match="postgres cannot be used"):
        EmbeddedPostgres(tmp_path / "postgres").prepare()


@needs_root
def test_binaries_below_a_private_folder_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation in root's own folder: the other account runs a copy, which the next start finds again."""
    site = tmp_path / "private"
    installed = find_binaries()
    private = site / installed.parent.name / installed.name
    shutil.copytree(installed, private, ignore=shutil.ignore_patterns("*.a", "include"))
    libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
    shutil.copytree(libraries, site / libraries.name)
    site.chmod(0o700)
    monkeypatch.setattr(postgres_server, "find_binaries", lambda: private)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # noqa: S108  # pytest's own are private
    first = Path(EmbeddedPostgres(tmp_path / "postgres").initialise_command()[0])
    try:
        assert first == Path(EmbeddedPostgres(tmp_path / "other").initialise_command()[0])
        assert not first.is_relative_to(tmp_path)
        assert b"PostgreSQL" in as_nobody(first, "--version")
        assert b"PostgreSQL" in as_nobody(first.with_name("postgres"), "--version")
    finally:
        shutil.rmtree(first.parents[3])


def as_nobody(program: Path, *arguments: str) -> bytes:
    """Run a program as the account that PostgreSQL has, and give what it says."""
    ended = subprocess.run(
        [program, *arguments], user=65534, group=65534, extra_groups=[], capture_output=True, check=True
    )
    return ended.stdout


class Nameless(EmbeddedPostgres):
    """A server of an account that has no entry in /etc/passwd, as under `docker run --user 54321`."""

    @property
    def run_as(self) -> RunAs:
        """An account that nobody knows."""
        return RunAs(54321, 54321)


@needs_root
@pytest.mark.skipif(
    not list(Path("/usr/lib").glob("*/libnss_wrapper.so")),
    reason="no libnss_wrapper.so (Debian: apt-get install libnss-wrapper)",
)
async def test_an_account_without_a_name_has_a_cluster_too(tmp_path: Path) -> None:
    """Initdb is given a name to find; the server needs none, and starts again where a group was let in."""
    for _ in range(2):
        async with open_real_postgres(tmp_path, make=Nameless) as real:
            assert await real.fetch("select count(*) as n from files") == [{"n": 0}]
            cluster = Nameless(tmp_path / "postgres").cluster
            assert cluster.stat().st_uid == 54321
        cluster.chmod(0o770)


@needs_root
async def test_without_the_wrapper_the_text_says_what_a_nameless_account_needs(tmp_path: Path) -> None:
    """Initdb's own words, and how to mend it."""

    class Bare(Nameless):
        @property
        def environment(self) -> dict[str, str]:
            return super().environment | {"LD_PRELOAD": ""}

    embedded = Bare(tmp_path / "postgres")
    with pytest.raises(Unavailable, match=r"user ID 54321.*libnss-wrapper"):
        await run_embedded_postgres(embedded, Actor("test", 0), lambda: None)
    embedded.close()
