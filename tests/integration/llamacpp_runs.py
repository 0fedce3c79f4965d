"""Requests to the llama.cpp engine with the small real model, for the tests of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker_controller.assembler import Assembler
from broker_wire.messages import Operation, Usage
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from workers_shim.execution import EngineExecutor
from workers_shim.served_model import serve

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (the extra llamacpp)")
from workers_shim.engines import llamacpp

CONTEXT = 1024
COUNT = "1, 2, 3, 4, 5, 6,"
QUESTION = [{"role": "user", "content": "Tell me about gravity in two sentences."}]


def load_engine() -> llamacpp.LlamaCpp:
    """With two slots. Skips the test where no model is installed."""
    try:
        path = llamacpp.find_default_model()
    except ValueError as error:
        pytest.skip(str(error))
    return llamacpp.LlamaCpp.load(path, slots=2, context_length=CONTEXT)


@contextlib.asynccontextmanager
async def serving(engine: llamacpp.LlamaCpp) -> AsyncIterator[EngineExecutor]:
    """As the model `m`."""
    executor = EngineExecutor()
    executor.add(
        serve(
            "m",
            engine.generate,
            abilities=["chat", "completion"],
            context_length=CONTEXT,
            resume=llamacpp.resume_of,
            shared_loop=False,
        )
    )
    yield executor
    assert await executor.aclose(PATIENCE), "the engine has not come back"


def start(executor: EngineExecutor, *, had: Assembler | None = None, **body: Any) -> FakeStream:
    """`had`: what the client has of the answer."""
    operation = Operation.CHAT if "messages" in body else Operation.COMPLETION
    stream = FakeStream()
    had = had or Assembler()
    given = assignment(
        body=json.dumps(body).encode(),
        operation=operation,
        text=had.text,
        choices=had.choices,
        next_seq=had.next_seq,
    )
    executor.start(given, stream)
    return stream


async def answer(executor: EngineExecutor, *, had: Assembler | None = None, **body: Any) -> FakeStream:
    """The whole of it."""
    stream = start(executor, had=had, **body)
    await asyncio.to_thread(stream.wait_over)
    assert stream.releases == 1
    return stream


def usage_of(stream: FakeStream) -> Usage:
    word, _, usage = stream.last_words[0]
    assert word == "end", stream.last_words
    assert isinstance(usage, Usage)
    return usage
