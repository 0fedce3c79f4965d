"""Requests to the llama.cpp engine with the small real model, for the tests of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker_controller.assembler import Assembler
from broker_wire.messages import Operation, Usage
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from workers_shim.execution import EngineExecutor
from workers_shim.served_model import ResumeChoice, serve

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (the extra llamacpp)")
from workers_shim.engines import llamacpp
from workers_shim.engines.llamacpp_embeddings import LlamaCppEmbeddings
from workers_shim.engines.llamacpp_server import find_default_model

CONTEXT = 1024
COUNT = "1, 2, 3, 4, 5, 6,"
QUESTION = [{"role": "user", "content": "Tell me about gravity in two sentences."}]


def model_file() -> Path:
    """Skips the test where no model is installed."""
    try:
        return find_default_model()
    except ValueError as error:
        pytest.skip(str(error))


def load_engine(**how: Any) -> llamacpp.LlamaCpp:
    """With two slots."""
    return llamacpp.LlamaCpp.load(model_file(), slots=2, context_length=CONTEXT, **how)


@contextlib.asynccontextmanager
async def serving(
    engine: llamacpp.LlamaCpp | LlamaCppEmbeddings, resume: ResumeChoice = llamacpp.resume_of
) -> AsyncIterator[EngineExecutor]:
    """As the model `m`."""
    executor = EngineExecutor()
    how: dict[str, Any] = {"abilities": ["chat", "completion"], "context_length": CONTEXT, "resume": resume}
    executor.add(serve("m", engine.generate, shared_loop=False, **how))
    yield executor
    assert await executor.aclose(PATIENCE), "the engine has not come back"


def start(executor: EngineExecutor, *, had: Assembler | None = None, **body: Any) -> FakeStream:
    """`had`: what the client has of the answer."""
    operation = Operation.COMPLETION
    if "messages" in body:
        operation = Operation.CHAT
    elif "input" in body:
        operation = Operation.EMBEDDING
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
