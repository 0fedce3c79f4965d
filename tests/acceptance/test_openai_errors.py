"""What goes wrong, by OpenAI's own library: its exceptions, its timeouts, its retries, and streams that are left."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.acceptance.fleet import Fleet, RunningController
from tests.acceptance.openai_fleet import is_idle
from tests.acceptance.openai_questions import user
from tests.processes import Processes
from tests.waiting import Eventually, EventuallySync


def counting_client(url: str, on_status: Callable[[int], None], **more: Any) -> OpenAI:
    """A client whose every answer is looked at before the client does so."""
    hooks: Any = {"response": [lambda response: on_status(response.status_code)]}
    return OpenAI(base_url=f"{url}/v1", api_key="none", http_client=httpx.Client(event_hooks=hooks), **more)


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nobody", messages=user("count"))
    error = raised.value
    assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
    assert "served now: embedder, mirror, talker" in error.message
    assert error.response.headers["x-request-id"] in error.message


def test_what_the_engine_refuses_is_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="the prompt is too long") as raised:
        client.chat.completions.create(model="talker", messages=user("refuse"))
    assert raised.value.code == "engine_refused"


def test_what_the_engine_refuses_is_an_error_of_a_stream_too(client: OpenAI) -> None:
    # A bad request, or, where the status was out by then, an error event.
    with pytest.raises(openai.APIError, match="the prompt is too long") as raised:
        list(client.chat.completions.create(model="talker", messages=user("refuse"), stream=True))
    assert raised.value.code == "engine_refused"


def test_a_body_without_sense_is_a_bad_request(client: OpenAI) -> None:
    for messages in ([], "hello", [{"content": "hello"}]):
        wrong: Any = messages
        with pytest.raises(openai.BadRequestError, match="messages"):
            client.chat.completions.create(model="talker", messages=wrong)


def test_an_engines_error_is_not_repeated_by_the_client(talking: RunningController) -> None:
    seen: Counter[int] = Counter()
    client = counting_client(talking.url, lambda status: seen.update([status]), max_retries=3)
    with client, pytest.raises(openai.InternalServerError, match="out of memory") as raised:
        client.chat.completions.create(model="talker", messages=user("raise"))
    assert raised.value.code == "engine_error"
    assert seen == {500: 1}


def test_an_error_in_the_middle_of_a_stream_is_raised_after_what_came_before(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="talker", messages=user("break"), stream=True)
    parts: list[str] = []
    with pytest.raises(openai.APIError, match="out of memory") as raised:
        parts.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(parts) == "half an answer"
    assert raised.value.code == "engine_error"
    assert not isinstance(raised.value, openai.APIStatusError)


def test_a_request_whose_time_is_up_is_a_504(fleet: Fleet) -> None:
    controller = fleet.controller("--request-timeout", "1")
    fleet.openai_worker("w1")
    controller.wait_for_workers("w1")
    with OpenAI(base_url=f"{controller.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(model="talker", messages=user("silence"))
        assert (raised.value.status_code, raised.value.code) == (504, "deadline_exceeded")


def test_without_a_broker_it_is_a_503(
    processes: Processes, free_port: Callable[[], int], eventually_sync: EventuallySync
) -> None:
    port = free_port()
    processes.start(
        "broker-controller", "--port", str(port), "--broker-url", f"amqp://guest:guest@localhost:{free_port()}/"
    )
    with OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none", max_retries=0) as client:

        def refusal() -> openai.APIStatusError | None:
            try:
                client.chat.completions.create(model="talker", messages=user("count"))
            except openai.APIStatusError as error:
                return error
            except openai.APIConnectionError:
                return None
            return None

        error = eventually_sync(refusal)
    assert isinstance(error, openai.InternalServerError)
    assert (error.status_code, error.code) == (503, "broker_unavailable")
    assert int(error.response.headers["retry-after"]) >= 1


def test_a_client_that_has_enough_frees_the_slot(
    client: OpenAI, talking: RunningController, eventually_sync: EventuallySync
) -> None:
    stream = client.chat.completions.create(model="talker", messages=user("endless"), stream=True)
    for _, _chunk in zip(range(3), stream, strict=False):
        assert not is_idle(talking)
    stream.close()
    eventually_sync(lambda: is_idle(talking))


async def test_so_does_an_asynchronous_one(talking: RunningController, eventually: Eventually) -> None:
    async with AsyncOpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="talker", messages=user("endless"), stream=True)
        async with stream:
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
        await eventually(lambda: is_idle(talking))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_whose_patience_ends_frees_the_slot(
    client: OpenAI, talking: RunningController, eventually_sync: EventuallySync, stream: bool
) -> None:
    hasty = client.with_options(timeout=0.5)
    with pytest.raises((openai.APITimeoutError, httpx.ReadTimeout)):
        list(hasty.chat.completions.create(model="talker", messages=user("silence"), stream=stream))
    eventually_sync(lambda: is_idle(talking))


def test_a_full_queue_is_a_429_after_which_the_client_tries_again(
    fleet: Fleet, eventually_sync: EventuallySync
) -> None:
    controller = fleet.controller("--queue-limit", "1")
    fleet.openai_worker("w1", "--slots", "1", "--queue-limit", "1")
    controller.wait_for_workers("w1")
    asked: Any = {"model": "talker", "messages": user("count"), "max_tokens": 1}
    seen: list[int] = []
    with (
        OpenAI(base_url=f"{controller.url}/v1", api_key="none", max_retries=0) as other,
        ThreadPoolExecutor() as threads,
    ):
        running = other.chat.completions.create(model="talker", messages=user("endless"), stream=True)
        next(iter(running))
        waiting = threads.submit(lambda: other.chat.completions.create(**asked))
        eventually_sync(lambda: controller.get("/status")["streams"]["waiting"] == 1)

        def on_status(status: int) -> None:
            seen.append(status)
            if status == 429:
                running.close()

        with counting_client(controller.url, on_status) as client:
            answer = client.chat.completions.create(**asked)
        assert answer.choices[0].message.content == waiting.result().choices[0].message.content == "0 "
    assert seen == [429, 200]
