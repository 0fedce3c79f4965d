"""What a model worker imports: `Worker`, and what its functions take and yield.

It installs and runs without an HTTP server. `examples/ten_lines.py` shows all that most workers need.
"""

from workers_shim.conversation import Conversation
from workers_shim.embeddings import Embeddings
from workers_shim.request import Cancelled, Chunk, Lost, Request, RequestError, Unavailable, Usage
from workers_shim.worker import Worker

__all__ = [
    "Cancelled",
    "Chunk",
    "Conversation",
    "Embeddings",
    "Lost",
    "Request",
    "RequestError",
    "Unavailable",
    "Usage",
    "Worker",
]
