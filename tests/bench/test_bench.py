"""The bench measures what it says it measures; how fast that is, is no test's business."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.figures import Report, Row
from bench.plot import NoPlotError, check, draw
from bench.scenarios import SCENARIOS, STATEMENTS

ROOT = Path(__file__).resolve().parents[2]
SMOKE_TIMEOUT_S = 300.0
"""Six times what it takes on two idle cores."""

INGEST = {
    "events_per_s",
    "requests_per_s",
    "gateway_cpu_us_per_event",
    "log_cpu_us_per_event",
    "latency_p50_ms",
    "latency_p99_ms",
    "refused",
    "fixed_loop_us",
}
STREAM = {
    "sent_events_per_s",
    "delivered_events_per_s",
    "latency_p50_ms",
    "latency_p99_ms",
    "latency_p999_ms",
    "gateway_cpu_us_per_event",
    "log_cpu_us_per_event",
    "refused",
}
DRAIN = {"drained_events_per_s", "events_per_batch", "gateway_cpu_us_per_event", "log_cpu_us_per_event"}
REQUESTS = {"requests_per_s", "gateway_cpu_us_per_request", "latency_p50_ms", "latency_p99_ms", "fixed_loop_us"}
PROBES = REQUESTS | {"probes_per_s", "gateway_cpu_us_per_probe"}
EXPRESS = {"requests_per_s", "latency_p50_ms", "latency_p99_ms", "cpu_us_per_request"}
STALLED = {"grown_mib", "resident_mib", "peak_mib", "waiting_events"}
FURTHER = {"grown_mib_a_further_agent"}
CACHE = {"grown_mib", "bytes_per_entry", "resident_mib", "peak_mib", "known_share"}
STORED = {"stored_events_per_s", "gateway_cpu_us_per_event", "log_cpu_us_per_event"}
CATALOG = STORED | {"events_per_s", "behind_s", "postgres_cpu_us_per_event"}
BESIDE = {"requests_per_s", "latency_p50_ms", "latency_p99_ms", "refused", "gateway_cpu_us_per_event", "postgres_cpu_s"}
WORKERS = {
    *("requests_per_s", "units_per_s", "latency_p50_ms", "latency_p99_ms"),
    *("gateway_cpu_us_per_request", "gateway_cores", "log_cores"),
}
SHED = {"queries_shed", "queries_ended"}
AT_PEAK = {"requests_per_s", "latency_p99_ms", "gateway_cpu_us_per_event"}
OVERLOADED = AT_PEAK | {
    "shed_per_s",
    "reconnected_per_s",
    "latency_p50_ms",
    "shed_p50_ms",
    "shed_p99_ms",
    "health_p99_ms",
    "health_max_ms",
    "resident_mib",
    "grown_mib",
    "lost",
    "odd",
}

FIGURES = [
    ("ingest", "1 events a request", "headgate", INGEST),
    ("ingest", "100 events a request", "headgate", INGEST),
    ("ingest", "100 events a request", "raw JetStream publisher", INGEST - {"gateway_cpu_us_per_event"}),
    ("hashes", "100 probes a request", "headgate, all hit", PROBES),
    ("hashes", "100 probes a request", "headgate, all miss", PROBES),
    ("hashes", "100 probes a request", "headgate, GET /healthz", REQUESTS),
    ("stream", "1,000 events/s", "headgate", STREAM),
    ("stream", "1,000 events/s", "raw JetStream publisher and puller", STREAM - {"gateway_cpu_us_per_event"}),
    ("stream", "as many as it takes", "headgate", STREAM),
    ("stream", "backlog", "headgate", DRAIN),
    ("stream", "backlog", "raw JetStream publisher and puller", DRAIN - {"gateway_cpu_us_per_event"}),
    ("express", "a minimal answer", "headgate", EXPRESS),
    ("express", "a minimal answer", "headgate, Quart lane", EXPRESS),
    ("express", "a minimal answer", "bare Hypercorn", EXPRESS),
    ("guard", "an empty probe", "headgate, guarded", EXPRESS),
    ("guard", "an empty probe", "headgate, guarded by a token", EXPRESS),
    ("guard", "an empty probe", "headgate, open", EXPRESS),
    ("http2", "a minimal answer", "headgate, HTTP/2", EXPRESS),
    ("http2", "a minimal answer", "headgate, HTTP/1.1", EXPRESS),
    ("memory", "stalled agent that reads nothing, 100 small events a request", "headgate", STALLED | FURTHER),
    ("memory", "stalled agent that never acknowledges, 100 small events a request", "headgate", STALLED | FURTHER),
    ("memory", "hash cache, taught by small events", "headgate", CACHE),
    ("memory", "hash cache, taught by small events", "plain dict", {"grown_mib", "bytes_per_entry"}),
    ("catalog", "new files", "headgate", CATALOG),
    ("catalog", "new files", "headgate, no catalog", STORED),
    ("catalog", "the same files again", "headgate", CATALOG),
    ("workers", "100 events a request", "2 workers", WORKERS),
    ("workers", "100 events a request", "one process", WORKERS),
    ("overload", "200 events a request", "headgate, at its peak", AT_PEAK),
    ("overload", "200 events a request", "headgate, at its peak, as much sent elsewhere", AT_PEAK),
    ("overload", "200 events a request", "headgate, twice that", OVERLOADED),
    ("query", "10 events a request", "headgate, no queries", BESIDE),
    ("query", "10 events a request", "headgate, 50 clients with slow queries", BESIDE | SHED),
]

COUNTS = {
    "events_per_s",
    "requests_per_s",
    "probes_per_s",
    "sent_events_per_s",
    "delivered_events_per_s",
    "drained_events_per_s",
    "events_per_batch",
    "resident_mib",
    "known_share",
    "latency_p50_ms",
    "fixed_loop_us",
}
"""Figures that are above zero whenever anything was measured; CPU time of a tiny run may be under one clock tick."""


def bench(*arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run `python -m bench`."""
    command = [sys.executable, "-m", "bench", *arguments]
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `python -m bench smoke` wrote: every scenario, once."""
    written = tmp_path_factory.mktemp("bench") / "smoke.json"
    ended = bench("smoke", "--json", str(written), timeout_s=SMOKE_TIMEOUT_S)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    value: dict[str, Any] = json.loads(written.read_text())
    return value


def test_smoke_runs_every_scenario_and_says_on_what(found: dict[str, Any]) -> None:
    """One JSON object holds the machine, the options and every scenario's report."""
    assert found.keys() == {"machine", "options", "scenarios"}
    assert [report["scenario"] for report in found["scenarios"]] == list(SCENARIOS)
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["machine"]["fsync_ms"] > 0


@pytest.mark.parametrize(("scenario", "case", "side", "names"), FIGURES)
def test_scenario_produces_its_figures(
    found: dict[str, Any], scenario: str, case: str, side: str, names: set[str]
) -> None:
    """Each side of each case has the stated figures, and what counts work is above zero."""
    report = next(report for report in found["scenarios"] if report["scenario"] == scenario)
    rows = [row for row in report["rows"] if row["case"] == case and row["side"] == side]
    assert rows, f"no such row among {[(row['case'], row['side']) for row in report['rows']]}"
    for row in rows:
        assert row["figures"].keys() == names
        for name in names & COUNTS:
            assert row["figures"][name]["median"] > 0, name
        for figure in row["figures"].values():
            assert figure["min"] <= figure["median"] <= figure["max"]


def test_every_line_states_its_durability_class(found: dict[str, Any]) -> None:
    """A speed number without its class is not allowed (RELIABILITY 3.1)."""
    for report in found["scenarios"]:
        for line in [*report["rows"], *report["ratios"], *report["targets"]]:
            assert line["durability"] in {"fsync", "buffered", "none"}, line
    ingest = found["scenarios"][0]
    assert {row["durability"] for row in ingest["rows"]} == {"fsync", "buffered"}


def test_every_comparison_runs_in_the_same_invocation(found: dict[str, Any]) -> None:
    """Every scenario reports a ratio of headgate to what it is compared with, or the pass without an agent."""
    for report in found["scenarios"]:
        assert report["ratios"], report["scenario"]
        assert all(ratio["ratio"] is None or math.isfinite(ratio["ratio"]) for ratio in report["ratios"])


def test_probes_of_known_files_all_hit(found: dict[str, Any]) -> None:
    """What memory taught the cache is there when it is asked for."""
    report = next(report for report in found["scenarios"] if report["scenario"] == "memory")
    shares = [row["figures"]["known_share"]["median"] for row in report["rows"] if "known_share" in row["figures"]]
    assert shares == [1.0]


@pytest.mark.parametrize("name", SCENARIOS)
def test_statement_says_question_arrivals_and_comparison(name: str) -> None:
    """Each scenario states its question, its arrival schedule and what it is compared with."""
    for label in ("\nQuestion:", "\nArrivals:", "\nCompared with:"):
        assert label in STATEMENTS[name]


def test_list_names_every_scenario() -> None:
    """`list` shows what can be measured."""
    ended = bench("list")
    assert ended.returncode == 0
    assert all(f"{name}  " in ended.stdout for name in SCENARIOS)


def test_help_fits_one_screen() -> None:
    """`--help` is at most 48 lines of 80 columns and shows examples."""
    lines = bench("--help").stdout.splitlines()
    assert len(lines) <= 48
    assert max(map(len, lines)) <= 80
    assert any("python -m bench stream --case backlog" in line for line in lines)


def test_unknown_scenario_is_refused_with_the_known_ones() -> None:
    """Wrong usage exits with 2 and says what was expected."""
    ended = bench("nonsense")
    assert ended.returncode == 2
    assert "express" in ended.stdout + ended.stderr


def test_plot_of_another_kind_is_refused_before_measuring() -> None:
    """What cannot be written in the end is refused in the beginning."""
    with pytest.raises(NoPlotError, match=r"\.png or \.svg"):
        check(Path("figures.gif"))
    ended = bench("ingest", "--plot", "figures.gif")
    assert ended.returncode == 1
    assert ".png or .svg" in ended.stderr


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib, the extra bench, is missing")
@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_plot_draws_rows_with_and_without_spread(tmp_path: Path, ending: str, magic: bytes) -> None:
    """A plot is a picture in the format that its name asks for."""
    rows = [Row("100 events a request", side, "fsync", "closed loop") for side in ("headgate", "raw")]
    for index in range(3):
        rows[0].add(events_per_s=100.0 + index, gateway_cpu_us_per_event=3.0)
        rows[1].add(events_per_s=200.0)
    path = tmp_path / f"figures{ending}"
    check(path)
    draw(path, [Report("ingest", "", "small events", rows)])
    assert path.read_bytes().startswith(magic)
