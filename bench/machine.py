"""What the figures were measured on, and what a process has used, read from /proc.

Rules of the file:
- CPU time is that of the named process with all its threads and without its children: the embedded log is reported
  beside the gateway, never in it. PostgreSQL works in its children alone, so its figure is that of the whole tree.
"""

import os
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_FSYNC_ROUNDS: Final = 50
_LOOP_ROUNDS: Final = 20_000


def cpu_s(pid: int) -> float:
    """Give the seconds of CPU that a process has used, user and system."""
    # The name, in parentheses, may hold spaces; the fields after it are counted from its end.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def loop_us() -> float:
    """Give the microseconds of CPU that a fixed piece of Python takes: what a processor is worth at the moment.

    Shared machines give now more, now less of one, so a figure in CPU time is read beside this one.
    """
    began_ns = time.thread_time_ns()
    for _ in range(_LOOP_ROUNDS):
        pass
    return (time.thread_time_ns() - began_ns) / 1000


def tree_cpu_s(pid: int) -> float:
    """Give the seconds of CPU that a process and all its children have used, those that have ended among them."""
    ticks, parents = 0, {pid}
    found = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    for each in found:
        try:
            fields = (Path("/proc") / str(each) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended; its parent's count of ended children has it
        if each in parents or int(fields[1]) in parents:
            parents.add(each)
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process: now, and the most it ever was."""

    resident_mib: float
    peak_mib: float


def memory(pid: int) -> Memory:
    """Read how much memory a process holds."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return Memory(int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024)


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads the CPU time of several processes at once.

    Args:
        pids: name of each process and its id.
    """

    pids: Mapping[str, int]

    def read(self) -> dict[str, float]:
        """Give the seconds of CPU used so far, by name."""
        return {name: cpu_s(pid) for name, pid in self.pids.items()}


def fsync_ms(folder: Path) -> float:
    """Measure what one fsync of 4 KiB costs where the log will be (median)."""
    probe = folder / "fsync-probe"
    descriptor = os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        took = []
        for _ in range(_FSYNC_ROUNDS):
            os.write(descriptor, bytes(4096))
            begun = time.perf_counter()
            os.fsync(descriptor)
            took.append(time.perf_counter() - begun)
    finally:
        os.close(descriptor)
        probe.unlink()
    return statistics.median(took) * 1000


def describe(folder: Path) -> dict[str, Any]:
    """Describe the machine and the disk under `folder`."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": _file_system(folder),
        "fsync_ms": round(fsync_ms(folder), 3),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _file_system(folder: Path) -> str:
    """Name the kind of file system, as the longest mount point above the folder has it."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [fields for fields in mounts if folder.resolve().is_relative_to(fields[1])]
    return max(above, key=lambda fields: len(fields[1]))[2] if above else "unknown"
