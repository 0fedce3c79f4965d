"""One request through an `EngineExecutor`, from its assignment to its last word."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from broker_controller.assembler import Assembler
from broker_wire.messages import Piece
from tests.unit.fake_stream import FakeStream, assignment
from workers_shim.execution import EngineExecutor
from workers_shim.request import Chunk, Request
from workers_shim.served_model import serve


def add(executor: EngineExecutor, generate: Any, name: str = "m", **how: Any) -> None:
    given = {"abilities": ("completion",), "context_length": None, "resume": "never", "shared_loop": False} | how
    executor.add(serve(name, generate, **given))


async def over(stream: FakeStream) -> None:
    await asyncio.to_thread(stream.wait_over)
    assert stream.releases == 1
    assert len(stream.last_words) == 1


async def answer(executor: EngineExecutor, generate: Any, *, given: Any = None, **how: Any) -> FakeStream:
    """Run one request to its end."""
    add(executor, generate, **how)
    stream = FakeStream()
    executor.start(given or assignment(), stream)
    await over(stream)
    return stream


def yields(items: Any) -> Callable[[Request], Iterator[Any]]:
    def generate(request: Request) -> Iterator[Any]:
        yield from items

    return generate


def had_after(items: Iterable[str | Chunk]) -> Assembler:
    """What the controller knows of a client that has got these."""
    had = Assembler()
    for seq, item in enumerate(items):
        chunk = Chunk(item) if isinstance(item, str) else item
        had.accept(
            Piece(
                1,
                1,
                seq,
                text=chunk.text,
                payload=chunk.payload,
                index=chunk.index,
                logprobs=chunk.logprobs,
                finish_reason=chunk.finish_reason,
            )
        )
    return had
