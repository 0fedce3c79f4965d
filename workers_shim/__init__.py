"""What a model worker imports: `Worker`, and what its functions take and yield.

It installs and runs without an HTTP server. `examples/ten_lines.py` shows all that most workers need.
"""

from typing import Any

from workers_shim.request import Cancelled, Chunk, Request, RequestError, Unavailable, Usage


def __getattr__(name: str) -> Any:
    # TEMPORARY until session.py is in the tree: then a plain import.
    if name == "Worker":
        from workers_shim.worker import Worker

        return Worker
    raise AttributeError(name)


__all__ = ["Cancelled", "Chunk", "Request", "RequestError", "Unavailable", "Usage", "Worker"]
