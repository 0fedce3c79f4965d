"""The processor time and the memory of processes and all that they have started, from /proc. Linux only."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of these processes and their descendants, those that have ended and were waited for, too."""
    children: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(folder)) is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
            times[int(folder.name)] = sum(map(int, fields[11:15])) / _TICKS
    waiting, total = list(roots), 0.0
    while waiting:
        pid = waiting.pop()
        total += times.get(pid, 0.0)
        waiting += children.get(pid, [])
    return total


def resident_bytes(pids: Mapping[str, Iterable[int]]) -> dict[str, int]:
    """Resident memory of these processes, without what they have started."""
    return {what: sum(map(_resident, those)) for what, those in pids.items()}


def _resident(pid: int) -> int:
    return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE


def _stat(process: Path) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on, which is the state: the second may have blanks in it."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
