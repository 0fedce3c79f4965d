"""How engines run: threads, loops, back-pressure, stopping, and every way an answer can end."""

import asyncio
import gc
import json
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind, Operation
from tests.unit.engine_runs import add, answer, over, yields
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from tests.waiting import eventually
from workers_shim.execution import EngineExecutor
from workers_shim.request import Chunk, Lost, Request, RequestError, Usage
from workers_shim.run import MAX_PAYLOAD, MAX_TEXT
from workers_shim.served_model import SharedLoop

LOOPS: dict[str, SharedLoop] = {"shared": True, "broker": "broker"}


@pytest.fixture
async def executor() -> AsyncIterator[EngineExecutor]:
    executor = EngineExecutor()
    yield executor
    assert await executor.aclose(PATIENCE), "an engine has not come back"


async def test_a_generator_runs_on_a_slots_thread_and_its_chunks_arrive_in_order(executor: EngineExecutor) -> None:
    threads = []

    def generate(request: Request) -> Iterator[str | Chunk]:
        threads.append(threading.current_thread())
        yield request.prompt or ""
        yield " four"
        yield Chunk(finish_reason="length", usage=Usage(3, 2))

    stream = await answer(executor, generate)

    assert stream.items == ["one two three", " four"]
    assert stream.last_words == [("end", "length", Usage(3, 2))]
    assert threads[0].daemon
    assert threads[0].name == "slot-0"


async def test_an_answer_without_a_last_chunk_ends_with_stop(executor: EngineExecutor) -> None:
    stream = await answer(executor, yields(["a", "b"]))

    assert stream.last_words == [("end", "stop", None)]


async def test_async_generators_keep_the_loop_of_their_slot_from_one_request_to_the_next(
    executor: EngineExecutor,
) -> None:
    loops = []

    async def generate(request: Request) -> AsyncIterator[str]:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        yield "a"

    for _ in range(2):
        stream = await answer(executor, generate)
        assert stream.items == ["a"]

    assert loops[0] is loops[1]
    assert loops[0] is not asyncio.get_running_loop()


async def test_a_thread_is_used_again_by_the_next_request(executor: EngineExecutor) -> None:
    names = []

    def generate(request: Request) -> Iterator[str]:
        names.append(threading.current_thread().name)
        yield "a"

    for _ in range(5):
        await answer(executor, generate)

    assert set(names) == {"slot-0"}


@pytest.mark.parametrize("kind", LOOPS)
async def test_streams_of_a_shared_loop_run_at_once_on_one_thread(executor: EngineExecutor, kind: str) -> None:
    here: list[threading.Thread] = []
    all_here = asyncio.Event()

    async def generate(request: Request) -> AsyncIterator[str]:
        here.append(threading.current_thread())
        if len(here) == 20:
            all_here.set()
        await all_here.wait()
        yield "a"

    add(executor, generate, shared_loop=LOOPS[kind])
    streams = [FakeStream() for _ in range(20)]
    for stream in streams:
        executor.start(assignment(), stream)
    for stream in streams:
        await over(stream)

    assert len(set(here)) == 1
    assert (here[0] is threading.current_thread()) is (kind == "broker")
    assert all(stream.items == ["a"] for stream in streams)


@pytest.mark.parametrize("kind", LOOPS)
async def test_a_stream_that_never_waits_leaves_turns_to_the_others_of_its_loop(
    executor: EngineExecutor, kind: str
) -> None:
    async def endless(request: Request) -> AsyncIterator[str]:
        while True:
            yield "a"

    add(executor, endless, shared_loop=LOOPS[kind])
    first, second = FakeStream(), FakeStream()
    executor.start(assignment(), first)
    executor.start(assignment(), second)

    await asyncio.to_thread(first.wait_for_items, 200)
    await asyncio.to_thread(second.wait_for_items, 200)

    first.cancel()
    second.cancel()
    await over(first)
    await over(second)


async def test_what_runs_beside_the_broker_is_cancelled_at_the_end() -> None:
    executor, stream = EngineExecutor(), FakeStream()
    cleaned_up = False

    async def waits(request: Request) -> AsyncIterator[str]:
        nonlocal cleaned_up
        yield "a"
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up = True

    add(executor, waits, shared_loop="broker")
    executor.start(assignment(), stream)
    await asyncio.to_thread(stream.wait_for_items, 1)
    assert await executor.aclose(PATIENCE)
    assert cleaned_up
    assert stream.releases == 1


async def test_an_engine_that_blocks_does_not_delay_the_others(executor: EngineExecutor) -> None:
    go_on = threading.Event()

    def blocks(request: Request) -> Iterator[str]:
        go_on.wait(PATIENCE)
        yield "late"

    async def blocks_too(request: Request) -> AsyncIterator[str]:
        go_on.wait(PATIENCE)
        yield "late"

    add(executor, blocks, "blocks")
    add(executor, blocks_too, "blocks_too")
    blocked = [FakeStream(), FakeStream()]
    executor.start(assignment("blocks"), blocked[0])
    executor.start(assignment("blocks_too"), blocked[1])

    other = await answer(executor, yields("abc"))

    assert other.items == ["a", "b", "c"]
    assert not any(stream.over.is_set() for stream in blocked)
    go_on.set()
    for stream in blocked:
        await over(stream)


# --- back-pressure


@pytest.mark.parametrize("how", ["removed", "served otherwise"])
async def test_a_model_that_goes_lets_its_shared_loop_finish_and_leaves_neither_thread_nor_function(
    executor: EngineExecutor, how: str
) -> None:
    go_on, threads = threading.Event(), list[threading.Thread]()

    def make() -> Callable[[Request], AsyncIterator[str]]:
        async def generate(request: Request) -> AsyncIterator[str]:
            threads.append(threading.current_thread())
            yield "a"
            await asyncio.to_thread(go_on.wait, PATIENCE)
            yield "b"

        return generate

    generate = make()
    function = weakref.ref(generate)
    add(executor, generate, shared_loop=True)
    add(executor, generate, "the same behind another name", shared_loop=True)
    del generate
    executor.remove("the same behind another name")
    stream = FakeStream()
    executor.start(assignment(), stream)
    await asyncio.to_thread(stream.wait_for_items, 1)
    if how == "removed":
        executor.remove("m")
    else:
        add(executor, yields("c"))
    go_on.set()
    await over(stream)
    assert stream.items == ["a", "b"]
    await eventually(lambda: not threads[0].is_alive(), PATIENCE)
    await eventually(lambda: gc.collect() >= 0 and function() is None, PATIENCE)


@pytest.mark.parametrize("kind", ["sync", "async", "shared", "broker"])
async def test_a_full_stream_holds_the_engine_until_there_is_room(executor: EngineExecutor, kind: str) -> None:
    yielded = []

    def generate(request: Request) -> Iterator[str]:
        for number in range(10):
            yielded.append(number)
            yield f"{number} "

    async def generate_async(request: Request) -> AsyncIterator[str]:
        for item in generate(request):
            yield item

    add(executor, generate if kind == "sync" else generate_async, shared_loop=LOOPS.get(kind, False))
    stream = FakeStream(room=3)
    executor.start(assignment(), stream)
    await asyncio.to_thread(stream.wait_for_items, 3)
    # Another request on the same kind of place is not held by it.
    free = FakeStream()
    executor.start(assignment(), free)
    await over(free)

    assert len(stream.items) == 3
    stream.make_room(100)
    await over(stream)
    assert stream.text == "0 1 2 3 4 5 6 7 8 9 "
    assert stream.offered_after_false == 0


@pytest.mark.parametrize("kind", ["sync", "async", "shared", "broker"])
async def test_a_cancel_reaches_an_engine_that_is_held(executor: EngineExecutor, kind: str) -> None:
    closed = threading.Event()

    def generate(request: Request) -> Iterator[str]:
        try:
            while True:
                yield "a"
        finally:
            closed.set()

    async def generate_async(request: Request) -> AsyncIterator[str]:
        try:
            while True:
                yield "a"
        finally:
            closed.set()

    add(executor, generate if kind == "sync" else generate_async, shared_loop=LOOPS.get(kind, False))
    stream = FakeStream(room=2)
    executor.start(assignment(), stream)
    await asyncio.to_thread(stream.wait_for_items, 2)

    stream.cancel()
    await over(stream)

    assert stream.items == ["a", "a"]
    assert closed.is_set()


# --- stopping


async def test_a_cancel_stops_a_generator_within_one_chunk_and_closes_it(executor: EngineExecutor) -> None:
    gate = threading.Semaphore(0)
    yielded: list[int] = []
    closed = []

    def generate(request: Request) -> Iterator[str]:
        try:
            for number in range(100):
                gate.acquire(timeout=PATIENCE)
                yielded.append(number)
                yield "a"
        finally:
            closed.append(request.cancelled)

    add(executor, generate)
    stream = FakeStream()
    executor.start(assignment(), stream)
    gate.release()
    await asyncio.to_thread(stream.wait_for_items, 1)

    stream.cancel()
    for _ in range(10):
        gate.release()
    await over(stream)

    assert len(yielded) == 2
    assert closed == [True]
    assert stream.items == ["a"]


@pytest.mark.parametrize("shared", [False, True, "broker"])
async def test_a_cancel_interrupts_what_an_async_generator_awaits(executor: EngineExecutor, shared: bool) -> None:
    cleaned = threading.Event()

    async def generate(request: Request) -> AsyncIterator[str]:
        yield "a"
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    add(executor, generate, shared_loop=shared)
    stream = FakeStream()
    executor.start(assignment(), stream)
    await asyncio.to_thread(stream.wait_for_items, 1)

    stream.cancel()
    await over(stream)

    assert cleaned.is_set()


async def test_a_request_that_was_cancelled_before_its_start_never_reaches_the_engine(executor: EngineExecutor) -> None:
    called = []

    def refuses(request: Request) -> Iterator[str]:
        called.append(request)
        yield "a"

    add(executor, refuses)
    stream = FakeStream()
    stream.cancel()

    executor.start(assignment(), stream)
    await over(stream)

    assert not called
    assert not stream.items


async def test_a_generator_that_ignores_a_cancel_keeps_its_slot_until_it_comes_back(executor: EngineExecutor) -> None:
    come_back = threading.Event()

    def generate(request: Request) -> Iterator[str]:
        yield "a"
        come_back.wait(PATIENCE)

    add(executor, generate)
    stream = FakeStream()
    executor.start(assignment(), stream)
    await asyncio.to_thread(stream.wait_for_items, 1)
    stream.cancel()
    # Long enough for another request to be served from its beginning to its end.
    await answer(executor, yields("b"), name="other", given=assignment("other"))

    assert not stream.over.is_set()
    come_back.set()
    await over(stream)


async def test_an_engine_may_ask_whether_it_is_cancelled_and_leave_by_itself(executor: EngineExecutor) -> None:
    def generate(request: Request) -> Iterator[str]:
        yield "a"
        while True:
            request.raise_if_cancelled()
            request.progress()

    add(executor, generate)
    stream = FakeStream()
    executor.start(assignment(), stream)
    await asyncio.to_thread(stream.wait_for_items, 1)

    stream.cancel()
    await over(stream)

    assert stream.progress_calls > 0


@pytest.mark.parametrize("kind", ["sync", "async", "shared", "broker", "polling"])
async def test_the_deadline_stops_an_engine_even_if_the_controller_is_silent(
    executor: EngineExecutor, kind: str
) -> None:
    def generate(request: Request) -> Iterator[str]:
        while True:
            yield "a"

    def polls(request: Request) -> Iterator[str]:
        while True:
            request.raise_if_cancelled()
        yield "never"

    async def waits(request: Request) -> AsyncIterator[str]:
        yield "a"
        await asyncio.Event().wait()

    function = {"sync": generate, "polling": polls}.get(kind, waits)
    stream = await answer(executor, function, shared_loop=LOOPS.get(kind, False), given=assignment(seconds=0.05))

    kind_of_failure, message = stream.failure
    assert kind_of_failure is FailureKind.DEADLINE
    assert "deadline" in message


# --- failures


async def test_an_exception_ends_its_request_with_its_text_and_leaves_a_traceback_in_the_log(
    executor: EngineExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    def generate(request: Request) -> Iterator[str]:
        yield "a"
        raise TypeError("no such tensor")

    stream = await answer(executor, generate)

    assert stream.items == ["a"]
    assert stream.failure == (FailureKind.ENGINE, "TypeError: no such tensor")
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "request=request-1" in record.message
    assert record.exc_info is not None
    # And the next request is served.
    assert (await answer(executor, yields("b"))).items == ["b"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("kind", ["sync", "async", "shared", "broker"])
async def test_whatever_an_engine_raises_ends_that_request_alone(
    executor: EngineExecutor, error: BaseException, kind: str
) -> None:
    def generate(request: Request) -> Iterator[str]:
        yield "a"
        raise error

    async def generate_async(request: Request) -> AsyncIterator[str]:
        yield "a"
        raise error

    function = generate if kind == "sync" else generate_async
    stream = await answer(executor, function, shared_loop=LOOPS.get(kind, False))

    assert stream.failure[0] is FailureKind.ENGINE
    assert type(error).__name__ in stream.failure[1]
    assert (await answer(executor, yields("b"))).items == ["b"]


async def test_a_request_error_is_the_requests_own_fault(executor: EngineExecutor) -> None:
    def generate(request: Request) -> Iterator[str]:
        raise RequestError("the prompt has 9000 tokens, the model takes 2048", code="too_long", param="prompt")
        yield "never"

    stream = await answer(executor, generate)

    assert stream.failure == (FailureKind.REQUEST, "the prompt has 9000 tokens, the model takes 2048")
    assert stream.named == ("too_long", "prompt")


async def test_a_body_that_cannot_be_read_is_the_requests_own_fault(executor: EngineExecutor) -> None:
    stream = await answer(executor, yields("a"), given=assignment(body=b"{"))

    assert stream.failure[0] is FailureKind.REQUEST
    assert "not valid JSON" in stream.failure[1]


async def test_what_died_behind_an_engine_is_said_to_be_lost(executor: EngineExecutor) -> None:
    def engine(_: Request) -> Iterator[str]:
        yield "a"
        raise Lost("it broke off")

    add(executor, engine)
    stream = FakeStream()
    executor.start(assignment(), stream)
    await over(stream)
    assert stream.failure == (FailureKind.LOST, "it broke off")


async def test_a_model_that_was_taken_away_meanwhile_is_not_served(executor: EngineExecutor) -> None:
    add(executor, yields("a"))
    executor.remove("m")
    stream = FakeStream()

    executor.start(assignment(), stream)

    assert stream.failure[0] is FailureKind.NOT_SERVED
    assert stream.releases == 1


async def test_only_text_and_chunks_may_be_yielded(executor: EngineExecutor) -> None:
    stream = await answer(executor, yields([b"bytes"]))

    assert stream.failure == (FailureKind.ENGINE, "TypeError: model 'm' yielded a bytes: yield str or Chunk")


@pytest.mark.parametrize("returned", ["text", None, 7])
async def test_a_function_that_returns_instead_of_yielding_says_so(executor: EngineExecutor, returned: object) -> None:
    def generate(request: Request) -> object:
        return returned

    stream = await answer(executor, generate)

    assert "has to yield its chunks" in stream.failure[1]


async def test_an_async_function_that_returns_says_so(executor: EngineExecutor) -> None:
    async def generate(request: Request) -> str:
        return "text"

    assert "has to yield its chunks" in (await answer(executor, generate)).failure[1]


def returns(request: Request) -> str:
    return "all of it"


async def returns_later(request: Request) -> Chunk:
    await asyncio.sleep(0)
    return Chunk("all of it", finish_reason="length")


def yields_once(request: Request) -> Iterator[str]:
    yield "all of it"


@pytest.mark.parametrize("generate", [returns, returns_later, yields_once])
async def test_a_model_that_does_not_stream_may_return_its_answer(executor: EngineExecutor, generate: Any) -> None:
    stream = await answer(executor, generate, streams=False)

    assert stream.text == "all of it"
    assert stream.last_words == [("end", "length" if generate is returns_later else "stop", None)]


async def test_an_answer_that_is_returned_may_be_awaited_on_the_shared_loop(executor: EngineExecutor) -> None:
    assert (await answer(executor, returns_later, streams=False, shared_loop=True)).text == "all of it"


async def test_an_error_while_closing_does_not_hide_how_the_request_ended(
    executor: EngineExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    def generate(request: Request) -> Iterator[str]:
        try:
            while True:
                yield "a"
        finally:
            raise OSError("the device is gone")

    add(executor, generate)
    stream = FakeStream()
    executor.start(assignment(), stream)
    await asyncio.to_thread(stream.wait_for_items, 1)
    stream.cancel()
    await over(stream)

    assert "engine failed while it was stopped" in caplog.text
    assert stream.last_words[0][0] == "end"


# --- chunks


async def test_a_chunk_that_is_only_text_goes_the_lean_way(executor: EngineExecutor) -> None:
    stream = await answer(executor, yields([Chunk("a"), Chunk("b", finish_reason="length"), Chunk()]))

    assert stream.items == ["a", "b"]
    assert stream.last_words == [("end", "length", None)]


async def test_payloads_logprobs_choices_and_retractions_are_carried(executor: EngineExecutor) -> None:
    chunks = [
        Chunk(payload=b'{"choices": []}'),
        Chunk("a", logprobs={"content": [1]}),
        Chunk("b", index=1, finish_reason="length"),
        Chunk("c", replace_from=0),
    ]
    stream = await answer(executor, yields(chunks))

    first, second, third, fourth = stream.items
    assert first == chunks[0]
    assert isinstance(second, Chunk)
    assert json.loads(second.logprobs) == {"content": [1]}
    assert third == chunks[2]
    assert fourth == chunks[3]
    assert stream.last_words == [("end", "stop", None)], "the end of another choice is not the end of the answer"


async def test_empty_text_is_a_sign_of_life_and_no_frame(executor: EngineExecutor) -> None:
    stream = await answer(executor, yields(["", "a", ""]))

    assert stream.items == ["a"]
    assert stream.progress_calls == 2


async def test_half_a_surrogate_pair_does_not_reach_the_wire(executor: EngineExecutor) -> None:
    stream = await answer(executor, yields(["é", "\ud83d", Chunk("\ude00", index=1)]))

    assert stream.text == "é??"


async def test_a_very_long_chunk_is_cut(executor: EngineExecutor) -> None:
    text = "ab" * MAX_TEXT + "c"
    stream = await answer(executor, yields([text]))

    assert stream.text == text
    assert all(isinstance(item, str) and len(item) <= MAX_TEXT for item in stream.items)


async def test_a_payload_that_no_message_can_carry_is_an_engines_error(executor: EngineExecutor) -> None:
    stream = await answer(executor, yields([Chunk(payload=b"x" * (MAX_PAYLOAD + 1))]))

    assert stream.failure[0] is FailureKind.ENGINE
    assert str(MAX_PAYLOAD) in stream.failure[1]


# --- the way out


async def test_an_engine_that_hangs_does_not_hold_up_the_end() -> None:
    executor = EngineExecutor()
    come_back = threading.Event()

    def generate(request: Request) -> Iterator[str]:
        come_back.wait(PATIENCE)
        yield "late"

    add(executor, generate)
    stream = FakeStream()
    executor.start(assignment(), stream)
    began = time.monotonic()

    assert not await executor.aclose(0.1)

    assert time.monotonic() - began < PATIENCE / 2
    come_back.set()
    await over(stream)
    assert await executor.aclose(PATIENCE)


async def test_a_machine_without_another_thread_fails_the_request_alone(
    executor: EngineExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    add(executor, yields("a"))
    stream = FakeStream()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        executor.start(assignment(), stream)
    await over(stream)
    assert stream.failure[0] is FailureKind.NOT_SERVED
    again = FakeStream()
    executor.start(assignment(), again)
    await over(again)
    assert again.items == ["a"]


async def test_the_operation_says_how_the_body_is_read(executor: EngineExecutor) -> None:
    given = assignment(body=b'{"messages": [{"role": "user", "content": "hi"}]}', operation=Operation.CHAT)
    stream = await answer(executor, lambda request: iter([request.messages[0]["content"]]), given=given)

    assert stream.items == ["hi"]
