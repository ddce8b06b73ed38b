"""The end of the demo: what the catalog says, in SQL, of what was scanned.

Rules of the file:
- It asks as anybody would, with the public client.
- It answers for everything that was published: it waits, within a limit, until the catalog has the last of it.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import trio
from rich.table import Table

from edge.client import Client, GatewayError, GatewayRefused
from edge.client_query import QueryResult
from edge.scan_report import say_bytes

CATCH_UP_WITHIN_S: Final = 60.0
POLL_S: Final = 0.25
NEWEST: Final = "select max(seq) as seq from (select seq from files union all select seq from deleted) as all_rows"
DIRECTORIES: Final = """select directory, total_files as files, total_bytes as bytes from directories
where directory = :root or starts_with(directory, :below) order by total_bytes desc, directory limit 10"""
DUPLICATES: Final = """select count(*) as contents, coalesce(sum(copies - 1), 0)::bigint as copies,
coalesce(sum(wasted_bytes), 0)::bigint as bytes from duplicates"""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the catalog said.

    Args:
        directories: the ten largest, each with everything below it.
        duplicates: how many contents are there more than once, how often too many, and what that takes.
        problem: why there is nothing of it, None when there is.
        is_missing: nothing is there although there should be; a gateway without a catalog is none of that.
    """

    directories: list[dict[str, Any]] = field(default_factory=list)
    duplicates: dict[str, Any] | None = None
    problem: str | None = None
    is_missing: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give it as members of the object of `--json`."""
        return {"directories": self.directories, "duplicates": self.duplicates}

    def to_table(self) -> Table:
        """Give it as a table for a person."""
        table = Table(title="the ten largest directories, in SQL", title_justify="left")
        for name in ("directory", "files", "bytes"):
            table.add_column(name, justify="left" if name == "directory" else "right", overflow="fold")
        for row in self.directories:
            table.add_row(_plain(row["directory"]), f"{row['files']:,}", say_bytes(int(row["bytes"])))
        if self.duplicates is not None:
            said = self.duplicates
            table.add_section()
            table.add_row(
                f"duplicates of {said['contents']:,} contents", f"{said['copies']:,}", say_bytes(int(said["bytes"]))
            )
        return table


async def ask_catalog(
    client: Client, root: str, last_sequence: int, *, within_s: float = CATCH_UP_WITHIN_S
) -> Findings:
    """Wait until the catalog has what was published last, and ask.

    Args:
        root: the folder that was scanned.
        last_sequence: of the last message with events about files.
        within_s: how long all of it may take.
    """
    is_caught_up = False
    try:
        with trio.move_on_after(within_s):
            while ((await _ask(client, NEWEST)).rows[0]["seq"] or 0) < last_sequence:  # noqa: ASYNC110  # it tells nobody
                await trio.sleep(POLL_S)
            is_caught_up = True
            below = root.rstrip("/") + "/"
            directories = await _ask(client, DIRECTORIES, {"root": root, "below": below})
            duplicates = await _ask(client, DUPLICATES)
            return Findings(directories.rows, duplicates.rows[0])
        what = "PostgreSQL did not answer" if is_caught_up else "the catalog did not catch up"
        return Findings(problem=f"{what} within {within_s:g} s", is_missing=True)
    except GatewayRefused as refusal:
        return Findings(problem=str(refusal), is_missing=refusal.code != "query.off")
    except GatewayError as error:
        return Findings(problem=str(error), is_missing=True)


async def _ask(client: Client, sql: str, params: dict[str, object] | None = None) -> QueryResult:
    """Ask until there is an answer: on a busy machine a query that takes milliseconds can meet its time limit."""
    while True:
        try:
            return await client.query(sql, params)
        except GatewayRefused as refusal:
            if refusal.code != "query.too-slow":
                raise
        await trio.sleep(POLL_S)


def _plain(text: str) -> str:
    """Show what a directory's name has of control characters and of the table's own markup."""
    shown = text if text.isprintable() else text.encode("unicode_escape").decode()
    return shown.replace("[", "\\[")
