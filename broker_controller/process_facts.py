"""What this process holds of the machine: tasks, open files, threads, memory. For `/status`, where a leak shows.

Linux tells it under /proc; elsewhere these figures are None. Called on the event loop: /proc is no disk.
"""

import asyncio
import os
from pathlib import Path

from msgspec import Struct

PROC = Path("/proc/self")


class ProcessFacts(Struct, frozen=True):
    """Counts at one moment. `tasks` are those of the running event loop, with the one that asks."""

    tasks: int
    open_files: int | None
    threads: int | None
    resident_bytes: int | None


def process_facts(proc: Path = PROC) -> ProcessFacts:
    """Of this process, while its event loop runs. `proc` is where Linux tells of it."""
    return ProcessFacts(
        tasks=len(asyncio.all_tasks()),
        open_files=_entries(proc / "fd", own=1),
        threads=_entries(proc / "task"),
        resident_bytes=_resident_bytes(proc / "statm"),
    )


def _entries(folder: Path, own: int = 0) -> int | None:
    """`own`: of them, those that only the reading itself makes."""
    try:
        return len(os.listdir(folder)) - own
    except OSError:
        return None


def _resident_bytes(statm: Path) -> int | None:
    try:
        # proc(5): the second number of statm is the resident set, in pages.
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
