"""The file system's side of a scan: what is found, and when a hash is given."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from edge.scan_files import READ_BYTES, FileSeen, OutsideRoot, Trouble, confine, hash_files, walk_files


def nothing() -> None:
    """Stand for "not cancelled"."""


def seen(path: Path) -> FileSeen:
    """See a file as the walk does."""
    return FileSeen(str(path), str(path), os.lstat(path))


def hash_one(file: FileSeen, check: Callable[[], object] = nothing) -> str | Trouble:
    """Hash one file."""
    [result] = hash_files([file], check)
    return result


def test_walk_finds_every_regular_file_and_follows_no_link(tmp_path: Path) -> None:
    """Links to folders, to files, to nothing and to the folder above are left alone; so are pipes and sockets."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep").write_text("x")
    (tmp_path / "top").write_text("y")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "file-link").symlink_to(tmp_path / "top")
    (tmp_path / "a" / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    found = list(walk_files(str(tmp_path)))
    assert {file.path for file in found if isinstance(file, FileSeen)} == {
        str(tmp_path / "a" / "b" / "deep"),
        str(tmp_path / "top"),
    }
    assert not [one for one in found if isinstance(one, Trouble)]


def test_walk_names_what_is_not_utf8_and_goes_on(tmp_path: Path) -> None:
    """A file and a folder with bytes that are no text are told of in printable form; the rest is found."""
    (tmp_path / "good").write_text("x")
    os.mkdir(os.fsencode(tmp_path) + b"/dir\xff")
    with open(os.fsencode(tmp_path) + b"/file\xfe", "w") as file:
        file.write("x")
    found = list(walk_files(str(tmp_path)))
    troubles = sorted(one.path for one in found if isinstance(one, Trouble))
    assert troubles == [f"{tmp_path}/dir\\xff", f"{tmp_path}/file\\xfe"]
    assert [one.path for one in found if isinstance(one, FileSeen)] == [str(tmp_path / "good")]


def test_walk_of_a_folder_that_went_away_is_passing(tmp_path: Path) -> None:
    """It is told, not raised, and is no failure of the scan."""
    [trouble] = walk_files(str(tmp_path / "gone"))
    assert isinstance(trouble, Trouble)
    assert trouble.is_passing


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_walk_names_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    """It is a failure, and the walk goes on."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    try:
        [trouble] = walk_files(str(tmp_path))
    finally:
        closed.chmod(0o700)
    assert trouble == Trouble(str(closed), "Permission denied")


@pytest.mark.parametrize("size", [0, 1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 3 * READ_BYTES])
def test_hash_is_xxh3_128_of_the_content(size: int, tmp_path: Path) -> None:
    """The hash of the whole content, whatever the reads were."""
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert hash_one(seen(tmp_path / "file")) == xxhash.xxh3_128_hexdigest(content)


def test_a_file_that_changed_before_the_hash_is_passing(tmp_path: Path) -> None:
    """The walk saw another version: no hash, and the next scan will see this one."""
    path = tmp_path / "file"
    path.write_text("one")
    file = seen(path)
    path.write_text("three")
    assert hash_one(file) == Trouble(str(path), "it changed between walk and hash", is_passing=True)


def test_a_file_that_changes_during_the_hash_is_passing(tmp_path: Path) -> None:
    """A write between two reads is noticed when the file is looked at again."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * READ_BYTES))

    def write() -> None:
        os.utime(path, ns=(0, 12345))

    assert hash_one(seen(path), write) == Trouble(str(path), "it changed while it was hashed", is_passing=True)


def test_a_file_that_went_away_is_passing(tmp_path: Path) -> None:
    """No hash, no failure."""
    path = tmp_path / "file"
    path.write_text("x")
    file = seen(path)
    path.unlink()
    assert hash_one(file) == Trouble(str(path), "it went away", is_passing=True)


def test_a_link_or_pipe_in_the_files_place_is_not_read(tmp_path: Path) -> None:
    """Neither is a link followed nor does a pipe hang the worker."""
    path = tmp_path / "file"
    path.write_text("x")
    file = seen(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert isinstance(hash_one(file), Trouble)
    path.unlink()
    os.mkfifo(path)
    assert isinstance(hash_one(file), Trouble)


def test_a_read_error_is_told_and_the_others_are_hashed(tmp_path: Path) -> None:
    """One file that cannot be read costs no other its hash."""
    (tmp_path / "file").write_text("x")
    bad = seen(Path("/proc/self/mem"))  # it opens, and reading at 0 is an I/O error
    good = seen(tmp_path / "file")
    first, second, third = hash_files([good, bad, good], nothing)
    assert first == third == xxhash.xxh3_128_hexdigest(b"x")
    assert second == Trouble("/proc/self/mem", "Input/output error")


def test_hashing_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    """What the check raises comes out, and no file stays open."""

    class Cancelled(Exception):
        pass

    def cancel() -> None:
        raise Cancelled

    (tmp_path / "file").write_text("x")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Cancelled):
        hash_one(seen(tmp_path / "file"), cancel)
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_what_is_below_the_root_is_confined_to_it(tmp_path: Path) -> None:
    """Links and `..` are resolved first; what is given back is spelled below the root, which may be a link itself."""
    real = tmp_path / "real"
    (real / "a" / "b").mkdir(parents=True)
    (real / "file").touch()
    (tmp_path / "realistic").mkdir()
    (tmp_path / "root").symlink_to(real)
    (real / "loop").symlink_to(real / "a")
    (real / "out").symlink_to(tmp_path)
    root = str(tmp_path / "root")
    for target, expected in {
        "": root,
        ".": root,
        root: root,
        str(real): root,
        "a/b": f"{root}/a/b",
        f"{root}/a/../a/b/": f"{root}/a/b",
        "loop/b": f"{root}/a/b",
        f"{real}/a": f"{root}/a",
    }.items():
        assert confine(root, target) == expected, target
    for target in (
        "..",
        "/",
        "out",
        "out/realistic",
        "../realistic",
        f"{real}istic",
        "file",
        "nothing",
        "a\0b",
        "a/../../..",
    ):
        with pytest.raises(OutsideRoot):
            confine(root, target)
    assert confine("/", str(real)) == str(real)
