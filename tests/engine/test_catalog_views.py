"""The views that people query: directories with everything below them, copies without hard links, scans in the end."""

import json
from pathlib import Path
from typing import Any

from engine.catalog import Source, rows_of
from engine.catalog_store import CatalogStore
from tests.support.postgres import open_real_postgres


def upsert(path: str, size: int, inode: int | None, value: str | None) -> dict[str, Any]:
    """An event about a file."""
    data = {"path": path, "size": size, "inode": inode, "dev": 1 if inode else None, "algo": "a", "hash": value}
    return {"type": "file.upsert", "data": data}


EVENTS = [
    upsert("/top.TXT", 1, 1, "x"),
    upsert("/a/b/one", 10, 2, "y"),
    upsert("/a/b/two.tar.gz", 10, 3, "y"),
    upsert("/a/b/link-to-two", 10, 3, "y"),
    upsert("/a/.hidden", 100, None, None),
    upsert("//srv/share/far", 1000, 5, "z"),
    upsert("C:/win", 10000, 6, "z"),
    upsert("bare", 100000, 7, "w"),
    {"type": "file.delete", "data": {"path": "/a/b/gone"}},
    {"type": "scan.started", "data": {"scan_id": "s", "root_path": "/a"}},
    {"type": "scan.error", "data": {"scan_id": "t", "root_path": "/b", "error": "no such disk"}},
    {"type": "scan.completed", "data": {"scan_id": "s", "root_path": "/a", "files": 3, "bytes": 1e30}},
]


async def test_the_views_say_what_they_are_documented_to(tmp_path: Path) -> None:
    """Names, totals and copies of a few files of every kind of path."""
    async with open_real_postgres(tmp_path) as real:
        store = CatalogStore(real.databases.owner)
        epoch = await store.open_epoch("S", "x")
        source = Source(json.dumps({"events": EVENTS}).encode(), True, 1, 1_763_640_000_000_000)
        await store.write(rows_of([source], epoch), epoch)
        files = await real.fetch("SELECT path, directory, name, ext FROM headgate.files")
        assert {tuple(row.values()) for row in files} == {
            ("/top.TXT", "/", "top.TXT", "txt"),
            ("/a/b/one", "/a/b", "one", None),
            ("/a/b/two.tar.gz", "/a/b", "two.tar.gz", "gz"),
            ("/a/b/link-to-two", "/a/b", "link-to-two", None),
            ("/a/.hidden", "/a", ".hidden", None),
            ("//srv/share/far", "//srv/share", "far", None),
            ("C:/win", "C:", "win", None),
            ("bare", "", "bare", None),
        }
        directories = await real.fetch("SELECT * FROM headgate.directories")
        assert {row["directory"]: tuple(map(int, list(row.values())[1:])) for row in directories} == {
            "/": (1, 1, 6, 1131),
            "/a": (1, 100, 4, 130),
            "/a/b": (3, 30, 3, 30),
            "//srv": (0, 0, 1, 1000),
            "//srv/share": (1, 1000, 1, 1000),
            "C:": (1, 10000, 1, 10000),
            "": (1, 100000, 1, 100000),
        }
        duplicates = await real.fetch("SELECT hash, copies, files, wasted_bytes, paths FROM headgate.duplicates")
        assert [(*row.values(),) for row in duplicates] == [("y", 2, 3, 10, ["/a/b/link-to-two", "/a/b/one"])]
        scans = await real.fetch("SELECT scan_id, state, files, bytes, error FROM headgate.scans ORDER BY scan_id")
        assert [(*row.values(),) for row in scans] == [
            ("s", "completed", 3, None, None),
            ("t", "failed", None, None, "no such disk"),
        ]
        assert [row["path"] for row in await real.fetch("SELECT path FROM headgate.deleted")] == ["/a/b/gone"]
