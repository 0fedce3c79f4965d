"""The limit of open files, of a process of its own: a hard limit that was lowered stays so."""

import subprocess
import sys

PROGRAM = """
import logging, resource
from broker_controller import open_files
logging.basicConfig(format="%(levelname)s %(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
open_files.raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def limited(soft: int, hard: int) -> tuple[int, str]:
    """The soft limit afterwards, and what was logged."""
    program = PROGRAM.format(soft=soft, hard=hard)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(ended.stdout), ended.stderr


def test_as_many_files_as_allowed_may_be_open() -> None:
    assert limited(100, 4096) == (4096, "")


def test_a_limit_that_stays_low_is_told_with_what_to_do() -> None:
    soft, logged = limited(100, 1000)
    assert soft == 1000
    assert logged.startswith("WARNING few open files allowed limit=1000: ")
    assert "LimitNOFILE" in logged
