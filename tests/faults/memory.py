"""How much memory a process holds."""

import re
from pathlib import Path

from tests.processes import Process

FLAT = 64 * 1024 * 1024
"""Bytes by which a controller may grow, whatever its clients do."""


def resident_bytes(process: Process) -> int:
    """Now."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB$", text, re.MULTILINE)
    return int(kilobytes) * 1024
