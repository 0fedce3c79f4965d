"""HTTP workers of the old kind behind a real RabbitMQ: real servers that speak LLaVA's and FastChat's protocol."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from broker_controller.amqp_probe import free_port
from broker_controller.decisions import Limits
from broker_controller.errors import AddressRefusedError, EngineError, EngineRefusedError
from broker_wire.messages import Operation, Usage
from tests.integration.bridging import BridgingController, read_all
from tests.processes import Process, Processes
from tests.waiting import Eventually


class Peers:
    """Starts old workers."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def start(self, kind: str, *arguments: str, port: int | None = None) -> tuple[str, Process]:
        port = port or free_port()
        process = self._processes.start("python", "-m", "tests.old_workers", kind, "--port", str(port), *arguments)
        process.wait_for_output("Uvicorn running")
        return f"http://localhost:{port}", process


@pytest.fixture
def peers(processes: Processes) -> Peers:
    return Peers(processes)


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[BridgingController]:
    async with BridgingController(broker_url, prefix).running() as running:
        yield running


@pytest.fixture
async def llava(peers: Peers, controller: BridgingController, eventually: Eventually) -> str:
    url, _ = peers.start("llava")
    return await registered(controller, url, eventually)


@pytest.fixture
async def fastchat(peers: Peers, controller: BridgingController, eventually: Eventually) -> str:
    url, _ = peers.start("fastchat")
    return await registered(controller, url, eventually)


async def registered(controller: BridgingController, url: str, eventually: Eventually) -> str:
    assert await controller.bridges.register(url, True, None)
    await eventually(lambda: controller.bridges_it(url))
    return url


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def seen(url: str) -> dict[str, object]:
    answer: dict[str, object] = httpx.get(f"{url}/seen").json()
    return answer


async def test_an_answer_of_llavas_worker_comes_without_its_prompt_as_deltas(
    controller: BridgingController, llava: str
) -> None:
    asked = body(prompt="SAY one two three|", stop="###", temperature=0.2, max_new_tokens=64)

    received = await read_all(await controller.ask(Operation.LLAVA, asked))

    assert received.text == "one two three"
    assert "".join(received.chunks) == received.text, "deltas, nothing twice"
    assert received.end is not None
    assert received.end.finish_reason == "stop"
    assert seen(llava)["parameters"] == json.loads(asked) | {"echo": False}


async def test_a_stop_string_that_llavas_worker_cuts_off_is_not_shown_in_part(
    controller: BridgingController, llava: str
) -> None:
    received = await read_all(await controller.ask(Operation.LLAVA, body(prompt="SAY a # # # b|", stop=" # # #")))

    assert received.text == "a b"
    assert received.replaced == 0


async def test_of_several_stop_strings_llavas_worker_gets_none_and_each_ends_the_answer(
    controller: BridgingController, llava: str
) -> None:
    received = await read_all(await controller.ask(Operation.LLAVA, body(prompt="SAY a b c d|", stop=["d", " c"])))

    assert received.text == "a b"
    parameters = seen(llava)["parameters"]
    assert isinstance(parameters, dict)
    assert parameters["stop"] == "</s>"


async def test_an_openai_client_has_its_stop_strings_kept_by_a_worker_that_knows_none(
    controller: BridgingController, llava: str, eventually: Eventually
) -> None:
    asked = body(prompt="SAY one two STOP three !hang|", stop=["nowhere", " STOP"], max_tokens=5)

    received = await read_all(await controller.ask(Operation.COMPLETION, asked))

    assert received.text == "one two"
    assert seen(llava)["parameters"] == {
        "model": "m",
        "prompt": "SAY one two STOP three !hang|",
        "echo": False,
        "max_new_tokens": 5,
        "stop": "</s>",
    }
    await eventually(lambda: seen(llava)["left"] == 1)


async def test_a_chat_is_written_as_vicunas_for_llavas_worker_with_its_images(
    controller: BridgingController, llava: str
) -> None:
    parts = [
        {"type": "text", "text": "SAY cat|"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAA="}},
    ]

    received = await read_all(await controller.ask(Operation.CHAT, body(messages=[{"role": "user", "content": parts}])))

    assert received.text == "cat"
    parameters = seen(llava)["parameters"]
    assert isinstance(parameters, dict)
    assert parameters["prompt"].endswith(" USER: <image>\nSAY cat| ASSISTANT:")
    assert parameters["images"] == ["AAA="]


async def test_an_answer_of_fastchats_worker_has_its_usage_reason_and_logprobs(
    controller: BridgingController, fastchat: str
) -> None:
    asked = body(prompt="SAY one two three four|", max_tokens=3, logprobs=1)

    received = await read_all(await controller.ask(Operation.COMPLETION, asked))

    assert received.text == "one two three"
    assert received.end is not None
    assert received.end.usage == Usage(7, 3)
    assert received.end.finish_reason == "length"
    tokens = [token for piece in received.logprobs for token in json.loads(piece)["tokens"]]
    assert tokens == ["one", " two", " three"], "each once"


async def test_a_chat_is_written_by_the_template_that_fastchats_worker_tells(
    controller: BridgingController, fastchat: str
) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "SAY yes <end> no|"}]

    received = await read_all(await controller.ask(Operation.CHAT, body(messages=chat, stop="xyz")))

    assert received.text == "yes "
    parameters = seen(fastchat)["parameters"]
    assert isinstance(parameters, dict)
    assert parameters["prompt"] == "Be brief.\nuser\nSAY yes <end> no|\nbot\n"
    assert parameters["stop"] == ["xyz", "<end>"]
    assert parameters["stop_token_ids"] == [2]


async def test_an_answer_that_begins_like_its_prompt_is_whole_once_the_worker_has_shown_that_it_leaves_prompts_out(
    controller: BridgingController, fastchat: str
) -> None:
    await read_all(await controller.ask(Operation.LLAVA, body(prompt="SAY x|", stop=[], max_new_tokens=9)))

    received = await read_all(await controller.ask(Operation.LLAVA, body(prompt="a", stop=[], max_new_tokens=9)))

    assert received.text == "a"


async def test_an_error_of_llavas_worker_reaches_the_client_in_words(
    controller: BridgingController, llava: str
) -> None:
    with pytest.raises(EngineError) as caught:
        await read_all(await controller.ask(Operation.LLAVA, body(prompt="SAY one !error|", stop="###")))

    assert "error_code 1" in str(caught.value)
    assert llava in str(caught.value)
    assert "NETWORK ERROR" not in str(caught.value)


async def test_a_context_overflow_is_the_requests_own_fault(controller: BridgingController, fastchat: str) -> None:
    with pytest.raises(EngineRefusedError, match="too long"):
        await read_all(await controller.ask(Operation.COMPLETION, body(prompt="SAY !overflow|")))


async def test_a_request_for_a_worker_that_is_gone_is_answered_by_another(
    controller: BridgingController, peers: Peers, eventually: Eventually
) -> None:
    first, process = peers.start("llava")
    await registered(controller, first, eventually)
    process.kill()

    asked = asyncio.create_task(controller.ask(Operation.LLAVA, body(prompt="SAY here I am|", stop="###")))
    await eventually(lambda: controller.state_of(first) == "away")
    second, _ = peers.start("llava")
    await registered(controller, second, eventually)

    assert (await read_all(await asked)).text == "here I am"


async def test_a_worker_that_is_back_is_bridged_again(
    controller: BridgingController, peers: Peers, eventually: Eventually
) -> None:
    port = free_port()
    url, process = peers.start("llava", port=port)
    await registered(controller, url, eventually)
    process.kill()
    stream = await controller.ask(Operation.LLAVA, body(prompt="SAY hello again|", stop="###"))
    await eventually(lambda: controller.state_of(url) == "away")

    peers.start("llava", port=port)

    assert (await read_all(stream)).text == "hello again"


async def test_a_client_that_leaves_is_noticed_by_the_http_worker(
    controller: BridgingController, llava: str, eventually: Eventually
) -> None:
    stream = await controller.ask(Operation.LLAVA, body(prompt="SAY one !hang|", stop="###"))
    await stream.wait()

    stream.cancel()

    await eventually(lambda: seen(llava)["left"] == 1)


async def test_a_worker_gets_no_more_requests_at_once_than_it_has_slots(
    controller: BridgingController, llava: str, eventually: Eventually
) -> None:
    streams = [await controller.ask(Operation.LLAVA, body(prompt="SAY one !hang|", stop="###")) for _ in range(7)]
    await eventually(lambda: sum(stream.start is not None for stream in streams) == 5)
    await eventually(lambda: seen(llava)["requests"] == 5)

    next(stream for stream in streams if stream.start is not None).cancel()

    await eventually(lambda: sum(stream.start is not None for stream in streams) == 6)
    await eventually(lambda: seen(llava)["requests"] == 6)
    # The one that waits first: a slot that another one leaves would be its.
    for stream in sorted(streams, key=lambda stream: stream.start is not None):
        stream.cancel()
    await eventually(lambda: seen(llava)["left"] == 6)


async def test_the_words_of_a_slow_worker_are_shown_as_they_come(
    controller: BridgingController, peers: Peers, eventually: Eventually
) -> None:
    url, _ = peers.start("llava", "--pause", "0.2")
    await registered(controller, url, eventually)

    received = await read_all(await controller.ask(Operation.LLAVA, body(prompt="SAY one two three|", stop="###")))

    assert [chunk for chunk in received.chunks if chunk] == ["one", " two", " three"]


async def test_what_a_worker_takes_back_is_taken_back_from_its_client(
    controller: BridgingController, peers: Peers, eventually: Eventually
) -> None:
    url, _ = peers.start("llava", "--pause", "0.3")
    await registered(controller, url, eventually)
    said = body(prompt="SAY one two !unsay three|", stop="###")

    received = await read_all(await controller.ask(Operation.LLAVA, said))

    assert received.chunks[:2] == ["one", " two"]
    assert received.replaced == 1
    assert received.text == "one three"


async def test_signs_of_life_are_no_text(controller: BridgingController, llava: str) -> None:
    received = await read_all(
        await controller.ask(Operation.LLAVA, body(prompt="SAY !ping one !ping two|", stop="###"))
    )

    assert received.text == " one two"


async def test_signs_of_life_keep_a_stream_where_it_is_for_longer_than_a_first_token_may_take(
    broker_url: str, prefix: str, peers: Peers, eventually: Eventually
) -> None:
    async with BridgingController(broker_url, prefix, limits=Limits(first_token=2.0)).running() as controller:
        url, _ = peers.start("llava", "--pause", "0.5")
        await registered(controller, url, eventually)
        said = f"SAY {'!ping ' * 10}one|"

        stream = await controller.ask(Operation.LLAVA, body(prompt=said, stop="###"))

        assert (await read_all(stream)).text.strip() == "one"
        assert stream.life.attempt == 1


async def test_an_address_outside_the_allowed_networks_is_refused_and_not_called(
    controller: BridgingController,
) -> None:
    with pytest.raises(AddressRefusedError):
        await controller.bridges.register("http://192.0.2.1:21002", True, None)

    assert controller.bridges.status() == []


@pytest.mark.parametrize("status", [None, {"model_names": "m"}, {"model_names": ["m"], "speed": 1}])
async def test_a_worker_without_a_proper_status_is_not_registered(
    controller: BridgingController, status: dict[str, object] | None
) -> None:
    assert not await controller.bridges.register(f"http://127.0.0.1:{free_port()}", True, status)
    assert controller.service.controller.list_models() == []
