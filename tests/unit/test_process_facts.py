"""The controller's own figures, which show a leak."""

import asyncio
import threading
from pathlib import Path

import pytest

from broker_controller.process_facts import PROC, process_facts
from tests.waiting import eventually

needs_proc = pytest.mark.skipif(not PROC.exists(), reason="only Linux tells of a process under /proc")


@needs_proc
async def test_an_open_file_is_counted_until_it_is_closed(tmp_path: Path) -> None:
    before = process_facts().open_files
    assert before is not None
    with (tmp_path / "file").open("w"):
        assert process_facts().open_files == before + 1
    assert process_facts().open_files == before


@needs_proc
async def test_a_thread_is_counted() -> None:
    # Threads that other tests left may end at any time.
    await eventually(_one_more_thread_is_counted)


def _one_more_thread_is_counted() -> bool:
    before = process_facts().threads
    assert before is not None
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        return process_facts().threads == before + 1
    finally:
        end.set()
        thread.join()


@needs_proc
async def test_memory_in_use_is_counted_in_bytes() -> None:
    before = process_facts().resident_bytes
    block = bytearray(b"x") * (64 * 1024 * 1024)
    after = process_facts().resident_bytes
    assert before is not None
    assert after is not None
    assert after - before > len(block) // 2


async def test_a_task_is_counted_until_it_has_ended() -> None:
    before = process_facts().tasks
    task = asyncio.create_task(asyncio.Event().wait())
    assert process_facts().tasks == before + 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert process_facts().tasks == before


async def test_a_system_that_does_not_tell_gives_no_figures(tmp_path: Path) -> None:
    facts = process_facts(tmp_path / "none")
    assert facts.tasks >= 1
    assert (facts.open_files, facts.threads, facts.resident_bytes) == (None, None, None)
