"""At which worker each request counts, from its dispatch until a report of that worker's counts it.

The registry asks by worker, the life of a request by its key; here the two meet. Nothing stays for ever, even if the
end of a request is never told: what was sent is forgotten by time, what has started by the worker's next report.
"""

from collections.abc import Hashable

from broker_controller.worker_record import WorkerRecord


class RecentRequests:
    """The requests that the workers' own reports do not show yet.

    A key counts at one worker: before it moves to another it has to be `finished`.
    """

    def __init__(self) -> None:
        self._sent: dict[Hashable, WorkerRecord] = {}
        self._started: dict[Hashable, WorkerRecord] = {}

    def sent(self, record: WorkerRecord, key: Hashable, now: float) -> None:
        """On its way to this worker."""
        self._forget_old(now)
        record.note_sent(key, now)
        self._sent[key] = record

    def started(self, record: WorkerRecord, key: Hashable) -> None:
        """This worker runs it, wherever it was sent."""
        record.note_started(key)
        self._started[key] = record

    def finished(self, key: Hashable) -> None:
        """Over, in any way."""
        for counted in (self._sent, self._started):
            record = counted.pop(key, None)
            if record is not None:
                record.note_finished(key)

    def reported(self, record: WorkerRecord) -> None:
        """A report of this worker has come, which counts what it has started."""
        for key in record.take_started():
            self._started.pop(key, None)

    def left(self, record: WorkerRecord) -> None:
        """This worker is gone, and what it had."""
        for key in record.counted():
            self._sent.pop(key, None)
            self._started.pop(key, None)

    def _forget_old(self, now: float) -> None:
        # In order of time, so only what is due is looked at.
        while self._sent:
            key, record = next(iter(self._sent.items()))
            if record.still_counts(key, now):
                return
            del self._sent[key]
