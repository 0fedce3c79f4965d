"""Requests to an engine through the worker's own executor, and pictures."""

import asyncio
import base64
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image

from broker_wire.messages import Operation, Usage
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from workers_shim.engines.transformers import Transformers
from workers_shim.execution import EngineExecutor
from workers_shim.served_model import serve


@contextlib.asynccontextmanager
async def serving(engine: Transformers) -> AsyncIterator[EngineExecutor]:
    """As the model `m`."""
    executor = EngineExecutor()
    how: dict[str, Any] = {"abilities": engine.abilities, "context_length": engine.context_length}
    executor.add(serve("m", engine.generate, resume=("prefix", "replay"), shared_loop=False, **how))
    yield executor
    assert await executor.aclose(PATIENCE), "the engine has not come back"


def start(executor: EngineExecutor, *, had: str = "", llava: bool = False, **body: Any) -> FakeStream:
    """`had`: the text that the client has of the answer. `llava`: by LLaVA's protocol."""
    operation = Operation.LLAVA if llava else Operation.COMPLETION
    if "messages" in body:
        operation = Operation.CHAT
    elif "input" in body:
        operation = Operation.EMBEDDING
    stream = FakeStream()
    executor.start(assignment(body=json.dumps(body).encode(), operation=operation, text=had), stream)
    return stream


async def answer(executor: EngineExecutor, **how: Any) -> FakeStream:
    """The whole of it."""
    stream = start(executor, **how)
    await asyncio.to_thread(stream.wait_over)
    assert stream.releases == 1
    return stream


def end_of(stream: FakeStream) -> tuple[str, Usage]:
    """The finish reason, and the tokens."""
    word, reason, usage = stream.last_words[0]
    assert word == "end", stream.last_words
    assert isinstance(reason, str)
    assert isinstance(usage, Usage)
    return reason, usage


def picture(color: str, size: tuple[int, int] = (50, 40), form: str = "PNG") -> str:
    """As base64."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def chat_about(*urls: str, text: str = "w1 w2") -> list[dict[str, Any]]:
    """A user's message with images."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
