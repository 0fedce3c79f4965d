"""The llama.cpp engine with a projector. Untaught as its eyes are, answers depend on what they see."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker_wire.messages import FailureKind
from tests.integration.llamacpp_images import BLUE, LANGUAGE_WIDTH, RED, chat_about
from tests.integration.llamacpp_runs import answer, load_engine, serving, usage_of
from tests.integration.tiny_projector import IMAGE_TOKENS, write_projector
from tests.unit.engine_runs import had_after
from workers_shim import Chunk, Worker
from workers_shim.engines import llamacpp
from workers_shim.execution import EngineExecutor

PROMPT = "USER: <image>\nWhat do you see? ASSISTANT:"
HOW: dict[str, Any] = {"temperature": 0, "max_tokens": 10}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> llamacpp.LlamaCpp:
    file = tmp_path_factory.mktemp("projector") / "mmproj.gguf"
    return load_engine(projector=write_projector(file, language_width=LANGUAGE_WIDTH))


@pytest.fixture
async def executor(engine: llamacpp.LlamaCpp) -> AsyncIterator[EngineExecutor]:
    async with serving(engine) as executor:
        yield executor


async def test_the_answer_depends_on_what_the_image_shows(executor: EngineExecutor) -> None:
    red, again, blue = [await answer(executor, messages=chat_about(image), **HOW) for image in (RED, RED, BLUE)]

    assert red.text == again.text != blue.text


async def test_the_tokens_of_an_image_are_counted(executor: EngineExecutor) -> None:
    one = await answer(executor, messages=chat_about(RED), **HOW)
    two = await answer(executor, messages=chat_about(RED, BLUE), **HOW)

    assert usage_of(two).prompt_tokens - usage_of(one).prompt_tokens == IMAGE_TOKENS


async def test_an_answer_about_an_image_goes_on_from_a_prefix(executor: EngineExecutor) -> None:
    whole = await answer(executor, messages=chat_about(BLUE), **HOW)
    had = had_after(whole.items[:4])
    rest = await answer(executor, messages=chat_about(BLUE), had=had, **HOW)

    assert had.text + rest.text == whole.text
    assert rest.last_words == whole.last_words


@pytest.mark.parametrize("sent", ["data URL", "base64"])
async def test_a_prompt_of_llavas_protocol_has_its_images_beside_it(executor: EngineExecutor, sent: str) -> None:
    images = [image if sent == "data URL" else image.rpartition(",")[2] for image in (RED, RED, BLUE)]
    red, again, blue = [await answer(executor, prompt=PROMPT, images=[image], **HOW) for image in images]

    assert red.text == again.text != blue.text
    assert red.last_words[0][:2] == ("end", "length")
    assert usage_of(red).completion_tokens == HOW["max_tokens"]


async def test_a_prompt_with_an_image_has_logprobs_too(executor: EngineExecutor) -> None:
    told = await answer(executor, prompt=PROMPT, images=[RED], logprobs=2, **HOW)

    tokens = [json.loads(item.logprobs)["content"] for item in told.items if isinstance(item, Chunk) and item.logprobs]
    assert len(tokens) == HOW["max_tokens"]
    assert all(len(token["top_logprobs"]) == 2 for [token] in tokens)


async def test_the_tokens_of_a_prompts_images_are_counted(executor: EngineExecutor) -> None:
    one = await answer(executor, prompt=PROMPT, images=[RED], **HOW)
    two = await answer(executor, prompt=f"<image>{PROMPT}", images=[RED, BLUE], **HOW)

    assert usage_of(two).prompt_tokens - usage_of(one).prompt_tokens == IMAGE_TOKENS


async def test_an_answer_to_a_prompt_with_an_image_goes_on_from_a_prefix(executor: EngineExecutor) -> None:
    whole = await answer(executor, prompt=PROMPT, images=[BLUE], **HOW)
    had = had_after(whole.items[:4])
    rest = await answer(executor, prompt=PROMPT, images=[BLUE], had=had, **HOW)

    assert had.text + rest.text == whole.text
    assert rest.last_words == whole.last_words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": chat_about("http://127.0.0.1:1/a.png")}, "addresses are not fetched"),
        ({"messages": chat_about("file:///etc/passwd")}, "addresses are not fetched"),
        ({"messages": chat_about("data:image/png;base64,bm90IGFuIGltYWdl")}, "load image"),
        ({"messages": chat_about("data:image/png;base64,")}, ""),
        ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]}, "a text or"),
        ({"messages": [{"role": "user", "content": "a"}], "images": [RED]}, "image_url parts of its messages only"),
        ({"messages": chat_about("iVBORw0KGgo=")}, "has to be a data URL"),
        ({"prompt": "a", "images": [RED]}, "0 times '<image>', and 1 images came"),
        ({"prompt": "<image> <image> a", "images": [RED]}, "2 times '<image>', and 1 images came"),
        ({"prompt": "<image> a", "images": ["http://127.0.0.1:1/a.png"]}, "addresses are not fetched"),
        ({"prompt": "<image> a", "images": ["file:///etc/passwd"]}, "addresses are not fetched"),
        ({"prompt": "<image> a", "images": ["bm90IGFuIGltYWdl"]}, "load image"),
        ({"prompt": "<image> a", "images": [RED], "tools": [{"type": "function"}]}, "goes with the images of a chat"),
    ],
)
async def test_what_is_no_image_for_it_is_refused(executor: EngineExecutor, body: dict[str, Any], words: str) -> None:
    kind, message = (await answer(executor, **HOW | body)).failure

    assert kind is FailureKind.REQUEST
    assert words in message


def test_the_worker_announces_that_it_sees(engine: llamacpp.LlamaCpp) -> None:
    worker = Worker()
    llamacpp.register(worker, "m", engine)

    assert "vision" in [str(ability) for ability in worker.models[0].abilities]


def test_a_projector_that_does_not_fit_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no projector file"):
        load_engine(projector=tmp_path / "none.gguf")
    (tmp_path / "garbage.gguf").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="cannot load"):
        load_engine(projector=tmp_path / "garbage.gguf")
    with pytest.raises(ValueError, match="cannot load"):
        load_engine(projector=write_projector(tmp_path / "narrow.gguf", language_width=64))
