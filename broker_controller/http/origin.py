"""Who gave an answer, at which attempt and after how long in the queue: in headers, in a comment, in an object."""

from typing import Any
from urllib.parse import quote

from broker_controller.http.call import Header
from broker_controller.streams import GenerationStream, StartInfo


def start_headers(stream: GenerationStream) -> list[Header]:
    """`X-Worker`, `X-Attempts` and `X-Queue-Time`; nothing before it has started."""
    start = stream.start
    if start is None:
        return []
    return [
        (b"x-worker", printable(start.worker)),
        (b"x-attempts", b"%d" % start.attempts),
        (b"x-queue-time", b"%.3f" % start.queue_seconds),
    ]


def overhead_header(seconds: float) -> Header:
    """`X-Overhead-Ms`: what the controller itself took for the answer's first bytes, less the broker and the worker."""
    return (b"x-overhead-ms", b"%.2f" % (seconds * 1000))


def start_comment(start: StartInfo) -> bytes:
    """The same for a comment line."""
    return b"worker=%b attempts=%d queue_time=%.3f" % (printable(start.worker), start.attempts, start.queue_seconds)


def start_fields(start: StartInfo) -> dict[str, Any]:
    """The same for a JSON object."""
    return {
        "worker": start.worker,
        "attempts": start.attempts,
        "queue_time": round(start.queue_seconds, 3),
    }


def printable(worker: str) -> bytes:
    """A name is printable ASCII; what claims another one must not break a header or a line."""
    return quote(worker, safe=":/?#[]@!$&'()*+,;=._~-").encode("ascii")
