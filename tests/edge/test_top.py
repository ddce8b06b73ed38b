"""`headgate top`: rates from two looks, and the screen on a real terminal."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from edge.top import Look, quantile_ms, read_figures, summarise, to_view
from tests.support.command import run_command
from tests.support.gateway import PROJECT_ROOT, Gateway
from tests.support.http import post_json
from tests.support.waiting import wait_until

BEFORE = """
headgate_ingest_events_total 100.0
headgate_http_requests_total{code="200",method="POST",route="/ingest"} 10.0
headgate_http_requests_total{code="503",method="POST",route="/ingest"} 1.0
headgate_http_request_duration_seconds_bucket{le="0.01",route="/ingest"} 10.0
headgate_http_request_duration_seconds_bucket{le="0.1",route="/ingest"} 11.0
headgate_http_request_duration_seconds_bucket{le="+Inf",route="/ingest"} 11.0
"""
NOW = """
headgate_ingest_events_total 300.0
headgate_agents_connected 2.0
headgate_http_requests_total{code="200",method="POST",route="/ingest"} 28.0
headgate_http_requests_total{code="503",method="POST",route="/ingest"} 3.0
headgate_http_request_duration_seconds_bucket{le="0.01",route="/ingest"} 20.0
headgate_http_request_duration_seconds_bucket{le="0.1",route="/ingest"} 31.0
headgate_http_request_duration_seconds_bucket{le="+Inf",route="/ingest"} 31.0
"""


def look(at: float, text: str) -> Look:
    """See these figures at this time."""
    return Look(at, "ready", "fsync", read_figures(text), {}, [])


def test_rates_are_differences_over_time() -> None:
    """Two seconds lie between the looks; quantiles are of what happened in them."""
    summary = summarise(look(1.0, BEFORE), look(3.0, NOW))
    assert summary["per_s"]["events_in"] == 100.0
    assert summary["per_s"]["frames"] is None
    assert summary["now"]["agents_connected"] == 2.0
    assert summary["routes"] == [
        {"route": "/ingest", "per_s": 10.0, "failed_per_s": 1.0, "p50_ms": 10.0, "p99_ms": 100.0}
    ]


def screen_of(tree: dict[str, Any], height: int) -> list[str]:
    """The lines of a screen that shows this tree."""
    summary = summarise(look(1.0, BEFORE), look(3.0, NOW)) | {"actors": tree}
    console = Console(width=120, height=height, record=True, file=StringIO())
    console.print(to_view(summary, height, "headgate"))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize(("height", "is_all"), [(100, True), (30, False)])
def test_every_worker_is_on_the_screen(height: int, *, is_all: bool) -> None:
    """Root, workers, and under each its actors; where there is no room for all, those that have nothing to say go."""
    quiet = [actor(f"quiet-{number}") for number in range(15)]
    places = [actor(f"worker-{index}", [*quiet, actor("ingest", depth=7)]) for index in (1, 2, 3)]
    lines = screen_of(actor("headgate", [actor("children", [actor("nats")]), actor("workers", places)]), height)
    for index in (1, 2, 3):
        assert any(line.startswith(f"    worker-{index} ") for line in lines)
    assert sum(line.startswith("      ingest ") and "7 of 10" in line for line in lines) == 3
    assert sum("quiet-" in line for line in lines) in ({45} if is_all else range(1, 20))
    assert any("more" in line for line in lines) == (not is_all)
    assert len(lines) <= height


def test_a_counter_that_went_back_has_no_rate() -> None:
    """The gateway was started anew between the looks."""
    summary = summarise(look(1.0, NOW), look(2.0, BEFORE))
    assert summary["per_s"]["events_in"] is None
    assert summary["routes"] == []
    assert summarise(look(1.0, NOW), look(1.0, NOW))["per_s"]["events_in"] is None


@pytest.mark.parametrize(
    ("cumulated", "share", "expected"),
    [
        ([], 0.5, None),
        ([(0.1, 0.0), (float("inf"), 0.0)], 0.5, None),
        ([(0.1, 1.0), (float("inf"), 2.0)], 0.5, 100.0),
        ([(0.1, 1.0), (float("inf"), 2.0)], 0.99, None),
        ([(0.1, 3.0), (0.2, 4.0), (float("inf"), 4.0)], 0.9, 200.0),
    ],
)
def test_a_quantile_is_the_bound_it_stays_within(
    cumulated: list[tuple[float, float]], share: float, expected: float | None
) -> None:
    """Nothing counted, or beyond the last bound: nothing is said."""
    assert quantile_ms(cumulated, share) == expected


def actor(name: str, children: Sequence[dict[str, Any]] = (), depth: int = 0, restarts: int = 0) -> dict[str, Any]:
    """An actor as /actors shows it."""
    mailbox = {"depth": depth, "bound": 10}
    rest = {"state": "running", "age_s": 1.0, "mailbox": mailbox, "restarts": restarts}
    return {"name": name, "children": list(children), **rest}


def test_a_small_screen_shows_what_fits_and_how_much_does_not() -> None:
    """Never more lines than there are; what is nearly full, or has fallen, stands out."""
    tree = actor("headgate", [actor(f"a{number}") for number in range(50)])
    tree["children"][0]["mailbox"]["depth"] = 8
    tree["children"][1]["restarts"] = 2
    consumers = [{"durable": f"d{number}", "pending": number, "ack_pending": 0} for number in range(2)]
    seen = replace(look(3.0, NOW), actors=tree, consumers=consumers)
    summary = summarise(look(1.0, BEFORE), seen)
    for height in (24, 40, 200):
        console = Console(width=100, height=height, record=True, file=StringIO(), force_terminal=True)
        console.print(to_view(summary, height, "http://gateway"))
        text = console.export_text(styles=True)
        lines = text.splitlines()
        assert len(lines) <= height
        shown = sum("of 10" in line for line in lines)
        assert ("… 0 more" in text, f"… {51 - shown} more" in text) == (False, shown < 51)
        for name, colour in (("a0", "31"), ("a1", "33")):
            [line] = [line for line in lines if f"  {name} " in line]
            assert f"\x1b[{colour}m" in line
        assert next(line for line in lines if "d1 " in line).startswith("\x1b[33m")


async def test_one_look_for_programs(gateway: Gateway, tmp_path: Path) -> None:
    """JSON and a table, where there is no terminal; the tree is the gateway's own."""
    await post_json(gateway.url, "/ingest", {"events": [{"type": "note", "data": {}}]})
    seen = orjson.loads((await run_command(tmp_path, "top", "--gateway", gateway.url, "--json")).out)
    assert (seen["status"], seen["durability"]) == ("ready", "fsync")
    assert {"ingest", "listener"} <= {child["name"] for child in seen["actors"]["children"]}
    assert "/metrics" in {one["route"] for one in seen["routes"]}
    table = await run_command(tmp_path, "top", "--gateway", gateway.url, "--interval", "0.1")
    assert table.code == 0
    assert "listener" in table.out
    assert (await run_command(tmp_path, "top", "--gateway", "http://127.0.0.1:1")).code == 3


def start_on(terminal: int, url: str) -> subprocess.Popen[bytes]:
    """Run the command on a terminal."""
    command = [sys.executable, "-m", "edge", "top", "--gateway", url, "--interval", "0.1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "50"}
    return subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    )


async def test_a_screen_on_a_terminal_until_ctrl_c(gateway: Gateway) -> None:
    """It changes while it is watched, and Ctrl-C ends it with 130 and gives the terminal back."""
    ours, theirs = os.openpty()
    process = start_on(theirs, gateway.url)
    os.close(theirs)
    os.set_blocking(ours, False)
    screen = bytearray()

    def take() -> bytes:
        try:
            while piece := os.read(ours, 65536):
                screen.extend(piece)
        except OSError:
            pass  # nothing more for now, or the terminal's other end is closed
        return bytes(screen)

    try:
        await wait_until(lambda: take().count(b"listener") >= 3, "three screens", timeout_s=20)
        process.send_signal(signal.SIGINT)
        await wait_until(lambda: take() and process.poll() is not None, "it has ended", timeout_s=10)
        assert process.returncode == 130
        assert b"\x1b[?1049h" in screen
        assert b"\x1b[?1049l" in take()
        assert b"Traceback" not in screen
    finally:
        process.kill()
        process.wait()
        os.close(ours)
