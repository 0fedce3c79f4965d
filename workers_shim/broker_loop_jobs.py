"""Jobs on the loop of the worker's own connection, for functions that are never long at anything.

Used by `execution` for models with `shared_loop="broker"`. Between two threads each piece of an answer is a wake-up and
a fight for the interpreter: without them a request of 100 tokens costs a worker a sixth less.
"""

import asyncio

from workers_shim.engine_threads import SharedJob


class BrokerLoopJobs:
    """One a worker. Belongs to the broker's loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: SharedJob) -> None:
        """Run it as a task of this loop."""
        task = asyncio.get_running_loop().create_task(job.run_shared())
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._over(task, job))

    async def aclose(self, timeout: float) -> bool:
        """Cancel what runs, waiting `timeout` seconds at most. False: some did not end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=timeout)
        return not late

    def _over(self, task: asyncio.Task[None], job: SharedJob) -> None:
        self._tasks.discard(task)
        job.released()
