"""`headgate top`: what a running gateway does, once a second: rates, lags, the actor tree and its mailboxes.

Rules of the file:
- It only looks: `/readyz`, `/metrics`, `/actors` and `/consumers`, and what may not be seen is left out.
- A rate is a difference of two looks; a counter that went back means another process, and has no rate.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import trio
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.client import Client, GatewayRefused

RATES: Final = {
    "events_in": "headgate_ingest_events_total",
    "frames": "headgate_ingest_frames_total",
    "cache_hits": "headgate_hashes_hits_total",
    "cache_misses": "headgate_hashes_misses_total",
    "catalog_events": "headgate_catalog_events_total",
}
GAUGES: Final = {
    "waiting_events": "headgate_ingest_waiting_events",
    "agents_connected": "headgate_agents_connected",
    "stream_in_flight": "headgate_stream_in_flight_messages",
    "catalog_lag": "headgate_catalog_lag_messages",
}
REQUESTS: Final = "headgate_http_requests_total"
BUCKETS: Final = "headgate_http_request_duration_seconds_bucket"
ACKS: Final = "headgate_log_ack_seconds_bucket"
CPU: Final = "process_cpu_seconds_total"
MEMORY: Final = "process_resident_memory_bytes"
ROUTES_SHOWN: Final = 8
CONSUMERS_SHOWN: Final = 12
OURS: Final = "catalog-"
"""A durable that the gateway itself follows the log with."""
FULL: Final = 0.8
"""Of a mailbox: red, before it sheds."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment.

    Args:
        at: Trio's clock.
        status: of `/readyz`.
        durability: of the log.
        figures: every sample of `/metrics`, by name and labels.
        actors: the tree, empty when it may not be seen.
        consumers: likewise.
    """

    at: float
    status: str
    durability: str
    figures: dict[tuple[str, Labels], float]
    actors: dict[str, Any]
    consumers: list[dict[str, Any]]


async def take_look(client: Client) -> Look:
    """Ask the gateway how it is.

    Raises:
        GatewayError: it does not answer, or its metrics may not be seen.
    """
    readiness = await client.ready()
    figures = read_figures(await client.read_text("/metrics"))
    actors = await _ask_if_allowed(client, "/actors")
    consumers = await _ask_if_allowed(client, "/consumers")
    return Look(
        trio.current_time(),
        readiness.status,
        readiness.durability,
        figures,
        actors.get("actors", {}),
        consumers.get("consumers", []),
    )


async def _ask_if_allowed(client: Client, path: str) -> dict[str, Any]:
    try:
        found = await client.call("GET", path)
    except GatewayRefused:
        return {}
    return found if isinstance(found, dict) else {}


def read_figures(text: str) -> dict[tuple[str, Labels], float]:
    """Read Prometheus text."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def summarise(before: Look, now: Look) -> dict[str, Any]:
    """Give what happened between two looks, JSON values; what has no rate is None."""
    span_s = now.at - before.at
    summary: dict[str, Any] = {"status": now.status, "durability": now.durability, "over_s": round(span_s, 3)}
    summary["per_s"] = {name: _rate(before, now, (metric, ())) for name, metric in RATES.items()}
    summary["now"] = {name: now.figures.get((metric, ())) for name, metric in GAUGES.items()}
    cpu = _rate(before, now, (CPU, ()))
    summary["process"] = {
        "cpu_percent": None if cpu is None else round(cpu * 100, 1),
        "memory_mib": _mib(now.figures.get((MEMORY, ()))),
        "log_p50_ms": quantile_ms(_grown(before, now, ACKS, {}), 0.5),
        "log_p99_ms": quantile_ms(_grown(before, now, ACKS, {}), 0.99),
    }
    routes = [_route_of(name, before, now) for name in sorted({_label(one, "route") for one in now.figures} - {""})]
    summary["routes"] = sorted((one for one in routes if one["per_s"]), key=lambda one: -float(one["per_s"]))
    summary["consumers"] = now.consumers
    summary["actors"] = now.actors
    return summary


def _rate(before: Look, now: Look, key: tuple[str, Labels]) -> float | None:
    grown = now.figures.get(key, 0.0) - before.figures.get(key, 0.0)
    span_s = now.at - before.at
    return round(grown / span_s, 3) if key in now.figures and grown >= 0 and span_s > 0 else None


def _label(key: tuple[str, Labels], name: str) -> str:
    return dict(key[1]).get(name, "") if key[0] == REQUESTS else ""


def _route_of(route: str, before: Look, now: Look) -> dict[str, Any]:
    asked = failed = 0.0
    for key in now.figures:
        if _label(key, "route") == route:
            rate = _rate(before, now, key) or 0.0
            asked += rate
            failed += rate if dict(key[1]).get("code", "").startswith("5") else 0.0
    grown = _grown(before, now, BUCKETS, {"route": route})
    return {
        "route": route,
        "per_s": round(asked, 3),
        "failed_per_s": round(failed, 3),
        "p50_ms": quantile_ms(grown, 0.5),
        "p99_ms": quantile_ms(grown, 0.99),
    }


def _grown(before: Look, now: Look, buckets: str, wanted: dict[str, str]) -> list[tuple[float, float]]:
    """Give what a histogram counted between two looks, cumulated, by its bounds."""
    found: list[tuple[float, float]] = []
    for (name, labels), count in now.figures.items():
        fields = dict(labels)
        if name == buckets and wanted.items() <= fields.items():
            found.append((float(fields["le"]), count - before.figures.get((name, labels), 0.0)))
    return sorted(found)


def _mib(size_bytes: float | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / 1024 / 1024, 1)


def quantile_ms(cumulated: list[tuple[float, float]], share: float) -> float | None:
    """Give the bound that this share of what was counted stays within, ms; None when nothing was, or it has none.

    Args:
        cumulated: upper bounds in seconds with how many took no longer, ascending.
    """
    total = cumulated[-1][1] if cumulated else 0.0
    if total <= 0:
        return None
    bound = next(bound for bound, count in cumulated if count >= share * total)
    return None if bound == float("inf") else bound * 1000


def to_view(summary: dict[str, Any], height: int, title: str) -> RenderableType:
    """Give a screen of it.

    Args:
        summary: of `summarise`.
        height: lines that there are.
        title: stands above.
    """
    per_s, now = summary["per_s"], summary["now"]
    head = Text(f"{title}  ", style="bold")
    head.append(summary["status"], style="bold green" if summary["status"] == "ready" else "bold red")
    head.append(f"  durability={summary['durability']}")
    process = summary["process"]
    figures = Text(
        f"cpu {_say(process['cpu_percent'])} %  memory {_say(process['memory_mib'])} MiB  "
        f"log answers p50 ≤ {_say(process['log_p50_ms'])} ms, p99 ≤ {_say(process['log_p99_ms'])} ms"
    )
    rates = Text("  ".join(f"{name.replace('_', ' ')} {_say(value)}/s" for name, value in per_s.items()))
    gauges = Text("  ".join(f"{name.replace('_', ' ')} {_say(value)}" for name, value in now.items()))
    routes = _table("route", "requests/s", "failed/s", "p50 ≤ ms", "p99 ≤ ms")
    for one in summary["routes"][:ROUTES_SHOWN]:
        style = "red" if one["failed_per_s"] else ""
        routes.add_row(
            *(_say(one[name]) for name in ("route", "per_s", "failed_per_s", "p50_ms", "p99_ms")), style=style
        )
    consumers = _table("consumer", "pending", "in flight", "lag s", "attached")
    for one in sorted(summary["consumers"], key=lambda one: -(one.get("pending") or 0))[:CONSUMERS_SHOWN]:
        names = ("durable", "pending", "ack_pending", "lag_s", "attached")
        is_ours = str(one.get("durable", "")).startswith(OURS)
        style = "yellow" if one.get("pending") and not one.get("attached") and not is_ours else ""
        consumers.add_row(*(_say(one.get(name)) for name in names), style=style)
    actors = _table("actor", "state", "age s", "mailbox", "restarts")
    left = max(5, height - 13 - routes.row_count - consumers.row_count)
    shown = _fitting(_rows_of(summary["actors"], 0), left)
    for row in shown:
        actors.add_row(*row.cells, style=row.style)
    return Group(head, figures, rates, gauges, Text(), routes, Text(), consumers, Text(), actors)


class Row(NamedTuple):
    """A line of the tree, how it stands out, and whether it is quiet: nothing below it, nothing waits, nothing fell."""

    cells: tuple[str, ...]
    style: str
    is_quiet: bool = False


def _rows_of(actor: dict[str, Any], depth: int) -> list[Row]:
    if not actor:
        return []
    mailbox = actor.get("mailbox")
    held = f"{mailbox['depth']:,} of {mailbox['bound']:,}" if mailbox else ""
    name = "  " * depth + str(actor["name"])
    is_full = mailbox is not None and mailbox["depth"] >= FULL * mailbox["bound"]
    style = "red" if actor["state"] == "waiting to restart" or is_full else "yellow" if actor["restarts"] else ""
    cells = (name, str(actor["state"]), _say(actor["age_s"]), held, _say(actor["restarts"] or None))
    is_busy = actor["children"] or actor["restarts"] or actor["state"] != "running" or (mailbox and mailbox["depth"])
    rows = [Row(cells, style, not is_busy)]
    for child in actor["children"]:
        rows += _rows_of(child, depth + 1)
    return rows


def _fitting(rows: list[Row], most: int) -> list[Row]:
    """Give as many lines as there is room for: of several workers each has its own, so quiet actors go first."""
    surplus = len(rows) - most
    if surplus <= 0:
        return rows
    quiet = [at for at, row in enumerate(rows) if row.is_quiet]
    left_out = set(quiet[-(surplus + 1) :])
    shown = [row for at, row in enumerate(rows) if at not in left_out][: most - 1]
    return [*shown, Row((f"… {len(rows) - len(shown)} more", *[""] * 4), "dim")]


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _say(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
