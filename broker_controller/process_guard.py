"""Stands between us and a process that we started, and ends that one when we are gone, however we went.

Run as a script by guarded_process.py, with the standard library alone: `process_guard.py FOLDER GRACE COMMAND…`.
Standard input is the lifeline: only the owner holds its other end, so it closes even after a `kill -9` of the owner.
(PR_SET_PDEATHSIG alone would not do: it fires when the *thread* that started the process ends, and it cannot remove the
folder.) Should the guard itself be killed, PR_SET_PDEATHSIG then ends what it guards: the guard has one thread.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys

ORDERLY_STOP = b"s"  # end the process, keep the folder; a lifeline that just closes means: remove that too
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def guard(folder: str, grace: float, command: list[str]) -> int:
    """Run `command` until it ends or the lifeline says so; `grace` is the seconds between SIGTERM and SIGKILL."""
    wakeup, waker = os.pipe()
    os.set_blocking(waker, False)
    for signum in (signal.SIGCHLD, *_ENDING):
        signal.signal(signum, _only_wake)
    signal.set_wakeup_fd(waker)

    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=_die_with_guard)  # noqa: S603
    os.write(sys.stdout.fileno(), b"%d\n" % process.pid)
    message = _wait_for_the_end(process, wakeup)
    _end(process, grace)
    if message != ORDERLY_STOP:
        shutil.rmtree(folder, ignore_errors=True)
    return process.returncode


def _wait_for_the_end(process: "subprocess.Popen[bytes]", wakeup: int) -> bytes:
    lifeline = sys.stdin.fileno()
    lives = True
    while True:
        ready, _, _ = select.select([lifeline, wakeup], [], [])
        if lifeline in ready:
            return os.read(lifeline, 1)
        if not _ENDING.isdisjoint(os.read(wakeup, 64)):
            return b""
        if lives and process.poll() is not None:
            # The owner reads the end of our standard output as the end of the process, and then its log.
            lives = False
            os.close(sys.stdout.fileno())


def _end(process: "subprocess.Popen[bytes]", grace: float) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_guard() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _only_wake(_signum: int, _frame: object) -> None:
    """A Python-level handler must exist for the signal to reach the wake-up pipe."""


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
