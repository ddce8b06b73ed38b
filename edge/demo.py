"""The whole product in a minute: a gateway, two agents, a scan, the same scan again, the figures, and SQL over it all.

Rules of the file:
- It measures what a user would: everything goes through the gateway's public wire, with the public client.
- It claims success only when every agent has acknowledged every event that was sent.

What must change with it: the keys of `--json` are a promise.
"""

import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from rich.console import Console
from rich.table import Table

from edge.client import DEFAULT_SUBJECT, Client, Event, Probe, ProbeAnswer, Published
from edge.demo_gateway import open_demo_gateway
from edge.demo_ledger import Ledger
from edge.demo_query import Findings, ask_catalog
from edge.nursery import open_plain_nursery
from edge.progress import shown_progress
from edge.scan import Scan
from edge.scan_report import ScanReport, say_bytes

DURABLES: Final = ("demo-a", "demo-b")
STALL_S: Final = 30.0
"""Agents that acknowledge nothing for so long will not acknowledge the rest either."""
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to show.

    Args:
        directory: what to scan.
        data: data folder to keep, None for one that is removed at the end.
        port: 0 for a free one.
        once: end after the figures.
        as_json: print one object instead of the table.
    """

    directory: str
    data: Path | None = None
    port: int = 0
    once: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The figures of both passes."""

    first: ScanReport
    second: ScanReport
    seconds: tuple[float, float]
    ledger: Ledger
    durability: str
    findings: Findings

    @property
    def events(self) -> int:
        """How many events were sent, in both passes."""
        return self.first.events + self.second.events

    @property
    def is_complete(self) -> bool:
        """Whether every agent has acknowledged every event, and the catalog has them."""
        return not self.findings.is_missing and all(self.ledger.acked(durable) == self.events for durable in DURABLES)

    def to_json(self) -> dict[str, Any]:
        """Give it as the object of `--json`."""
        return {
            "files": self.first.files,
            "bytes": self.first.bytes,
            "events": self.events,
            "hits_first": self.first.hits,
            "hits_second": self.second.hits,
            "events_per_s": round(self.events / sum(self.seconds), 1),
            "latency_ms": {
                name: round(self.ledger.latency_ms(share), 3) for name, share in (("p50", 0.5), ("p99", 0.99))
            },
            "agents": [{"durable": durable, "acked": self.ledger.acked(durable)} for durable in DURABLES],
            "durability": self.durability,
            **self.findings.to_json(),
        }

    def to_table(self) -> Table:
        """Give it as a table for a person."""
        table = Table(title="headgate demo", title_justify="left")
        for name in ("", "first scan", "second scan", "both"):
            table.add_column(name, justify="left" if not name else "right")
        passes = (self.first, self.second)

        def add(label: str, values: Sequence[str], both: str = "") -> None:
            table.add_row(label, *values, both)

        add("files", [f"{one.files:,}" for one in passes])
        add("bytes", [say_bytes(one.bytes) for one in passes])
        add("hits in the hash cache", [f"{one.hits:,}" for one in passes])
        add("hashed", [f"{one.hashed:,}" for one in passes])
        add("events", [f"{one.events:,}" for one in passes], f"{self.events:,}")
        add("seconds, to the last ack", [f"{s:.2f}" for s in self.seconds], f"{sum(self.seconds):.2f}")
        rates = [f"{one.events / s:,.0f}" for one, s in zip(passes, self.seconds, strict=True)]
        add("events/s", rates, f"{self.events / sum(self.seconds):,.0f}")
        latency = " / ".join(f"{self.ledger.latency_ms(share):.1f} ms" for share in (0.5, 0.99))
        add("ingest to agent, p50 / p99", ["", ""], latency)
        for durable in DURABLES:
            acked = self.ledger.acked(durable)
            mark = "all" if acked == self.events else f"{self.events - acked:,} missing"
            add(f"acknowledged by {durable}", ["", mark], f"{acked:,}")
        add("durability", ["", ""], self.durability)
        return table


async def run_demo(options: DemoOptions) -> int:
    """Run the demo.

    Returns:
        The exit code: 0 when every agent acknowledged every event, 1 when not, 130 when interrupted before that.

    Raises:
        GatewayError: the gateway did not start, ended, or refused.
    """
    console = Console()
    notes = Console(stderr=True, highlight=False)
    code = INTERRUPTED
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, _data_folder(options.data) as folder:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_cancel_at_signal, signals, nursery.cancel_scope)
            async with open_demo_gateway(folder, options.port) as gateway:
                notes.print(f"gateway ready at {gateway.url}, scanning {options.directory}", soft_wrap=True)
                result = await _measure(options, gateway.url, notes)
                code = 0 if result.is_complete else 1
                if options.as_json:
                    console.print_json(data=result.to_json())
                else:
                    console.print(result.to_table())
                    if result.findings.directories:
                        console.print(result.findings.to_table())
                if result.findings.problem is not None:
                    notes.print(f"no SQL: {result.findings.problem}", soft_wrap=True, markup=False)
                if not result.is_complete:
                    notes.print(f"headgate: not every event is seen to have arrived everywhere; its log: {gateway.log}")
                if code == 0 and not options.once:
                    (notes if options.as_json else console).print(_say_what_to_try(gateway.url), soft_wrap=True)
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()
    return code


async def _measure(options: DemoOptions, url: str, notes: Console) -> DemoResult:
    """Scan twice while the agents listen."""
    ledger = Ledger(DURABLES)
    findings = Findings()
    reports: list[ScanReport] = []
    seconds: list[float] = []
    async with Client(url) as client, open_plain_nursery() as nursery:
        for durable in DURABLES:
            await nursery.start(partial(_run_agent, client, durable, ledger))
        recorded = _Recorded(client, ledger)
        for label in ("first scan", "second scan"):
            began = time.perf_counter()
            scan = Scan(recorded, options.directory, subject=DEFAULT_SUBJECT)
            async with shown_progress(label, scan.report, client.statistics):
                reports.append(await scan.run_scan())
            await ledger.wait_all_acked(STALL_S)
            seconds.append(time.perf_counter() - began)
        findings = await ask_catalog(client, reports[0].root, recorded.last_sequence)
        nursery.cancel_scope.cancel()
    first, second = reports
    for name in first.named:
        notes.print(f"left out: {name}", soft_wrap=True, markup=False)
    return DemoResult(first, second, (seconds[0], seconds[1]), ledger, second.durability, findings)


async def _run_agent(
    client: Client, durable: str, ledger: Ledger, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Acknowledge everything, and keep the books. Ready = the gateway has let it in."""
    async with client.agent(durable=durable, subject=DEFAULT_SUBJECT) as batches:
        await batches.wait_connected()
        task_status.started()
        async for batch in batches:
            events = batch.events()
            if await batch.ack():
                ledger.note_acked(durable, events, batch.received_at)


class _Recorded:
    """A client that writes down when each POST begins."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self.last_sequence = 0
        """Of the last message with events about files."""

    async def probe(self, probes: Sequence[Probe]) -> list[ProbeAnswer]:
        return await self._client.probe(probes)

    async def publish(self, events: Sequence[Event], *, subject: str | None, key: str | None) -> Published:
        self._ledger.note_sent(events, trio.current_time())
        published = await self._client.publish(events, subject=subject, key=key)
        if any(event.type.startswith("file.") for event in events):
            self.last_sequence = max(self.last_sequence, published.seq)
        return published


@contextmanager
def _data_folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        yield wanted
        return
    with tempfile.TemporaryDirectory(prefix="headgate-demo-", ignore_cleanup_errors=True) as made:
        yield Path(made) / "data"


async def _cancel_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


def _say_what_to_try(url: str) -> str:
    # Where it is not on the PATH, as under `make run`, the other terminal needs to know where it is.
    command = "headgate" if shutil.which("headgate") else shlex.quote(str(Path(sys.argv[0]).absolute()))
    return (
        f"\nserving at {url} until Ctrl-C; a browser tries every route at {url}/docs\n"
        "In another terminal:\n"
        f"  curl -s {url}/readyz\n"
        f"  {command} tail --gateway {url} --count 5\n"
        f"  {command} query --gateway {url}\n"
        f"  {command} scan . --gateway {url}\n"
    )
