"""A model that sees images: LLaVA's architecture, by LLaVA's protocol and in chats; and what is no image."""

import base64
import itertools
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker_wire.messages import FailureKind
from tests.transformers.checkpoints import IMAGE_TOKENS, save_gemma
from tests.transformers.runs import answer, chat_about, end_of, picture, serving
from workers_shim import RequestError
from workers_shim.engines.transformers import Transformers
from workers_shim.engines.transformers_images import MAX_BYTES, MAX_IMAGES, MAX_PIXELS, read_images
from workers_shim.execution import EngineExecutor

RED, BLUE = picture("red"), picture("blue")
HOW: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
LLAVA: dict[str, Any] = {"llava": True, "temperature": 0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def engine(llava: Path) -> Transformers:
    return Transformers.load(str(llava), device="cpu")


@pytest.fixture
async def executor(engine: Transformers) -> AsyncIterator[EngineExecutor]:
    async with serving(engine) as executor:
        yield executor


def data_url(image: str) -> str:
    return f"data:image/png;base64,{image}"


async def test_the_answer_depends_on_what_the_image_shows(executor: EngineExecutor) -> None:
    red, again, blue = [
        await answer(executor, messages=chat_about(data_url(image)), **HOW) for image in (RED, RED, BLUE)
    ]

    assert red.text == again.text != blue.text


async def test_llavas_protocol_puts_images_where_the_prompt_says(executor: EngineExecutor) -> None:
    by_chat = await answer(executor, messages=chat_about(data_url(RED)), **HOW)
    prompt = "<|user|><image>\nw1 w2<|assistant|>"
    by_llava = await answer(executor, prompt=prompt, images=[RED], **LLAVA)
    other = await answer(executor, prompt=prompt, images=[BLUE], **LLAVA)

    assert by_llava.text == by_chat.text != other.text
    assert end_of(by_llava) == end_of(by_chat)


async def test_each_image_has_its_place(executor: EngineExecutor) -> None:
    first, second = [
        await answer(executor, messages=chat_about(*map(data_url, images)), **HOW)
        for images in ((RED, BLUE), (BLUE, RED))
    ]

    assert first.text != second.text


async def test_the_tokens_of_an_image_are_counted(executor: EngineExecutor) -> None:
    without = await answer(executor, messages=chat_about(), **HOW)
    one = await answer(executor, messages=chat_about(data_url(RED)), **HOW)
    two = await answer(executor, messages=chat_about(data_url(RED), data_url(BLUE)), **HOW)
    tokens = [end_of(stream)[1].prompt_tokens for stream in (without, one, two)]

    # And the end of its line.
    assert [more - fewer for fewer, more in itertools.pairwise(tokens)] == [IMAGE_TOKENS + 1] * 2


async def test_an_answer_about_an_image_goes_on_from_a_prefix(executor: EngineExecutor) -> None:
    question = {"messages": chat_about(data_url(RED)), "temperature": 0}
    whole = await answer(executor, **question, max_tokens=12)
    had = whole.text[:3]
    rest = await answer(executor, had=had, **question, max_tokens=12)

    assert had + rest.text == whole.text
    assert end_of(rest) == end_of(whole)


async def test_models_whose_prompts_have_another_mark_for_an_image_see_too(tmp_path: Path) -> None:
    gemma = Transformers.load(str(save_gemma(tmp_path / "tiny-gemma")), device="cpu")
    async with serving(gemma) as executor:
        red, blue = [await answer(executor, messages=chat_about(data_url(image)), **HOW) for image in (RED, BLUE)]
        by_llava = await answer(executor, prompt="<|user|><image>\nw1 w2<|assistant|>", images=[RED], **LLAVA)

    assert by_llava.text == red.text != blue.text


async def test_pixels_are_of_the_weights_type(llava: Path) -> None:
    async with serving(Transformers.load(str(llava), device="cpu", dtype="bfloat16")) as executor:
        red, blue = [await answer(executor, messages=chat_about(data_url(image)), **HOW) for image in (RED, BLUE)]

    assert red.text != blue.text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "<image> w1", "images": []}, "1 places for images"),
        ({"prompt": "w1", "images": [RED]}, "0 places for images"),
        ({"prompt": "<image> w1", "images": ["http://127.0.0.1/a.png"]}, "addresses are not fetched"),
        ({"prompt": "<image> w1", "images": ["file:///etc/passwd"]}, "addresses are not fetched"),
        ({"prompt": "<image> w1", "images": ["!?"]}, "not base64"),
        ({"prompt": "<image> w1", "images": [RED, RED, "aaaa"]}, "image 3 of 3 cannot be read"),
    ],
)
async def test_a_request_that_cannot_be_served_hears_why(
    executor: EngineExecutor, body: dict[str, Any], words: str
) -> None:
    kind, message = (await answer(executor, **body)).failure

    assert kind is FailureKind.REQUEST
    assert words in message


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_usual_files_are_read(form: str) -> None:
    [image] = read_images([picture("red", form=form)])

    assert (image.mode, image.size) == ("RGB", (50, 40))


def png_that_claims(width: int, height: int) -> str:
    """A file of a hundred bytes."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")
    return base64.b64encode(data).decode()


SIDE = int((MAX_PIXELS * 0.75) ** 0.5)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (["A" * (MAX_BYTES // 3 * 4 + 4)], f"more than {MAX_BYTES} bytes"),
        ([picture("red")] * (MAX_IMAGES + 1), f"{MAX_IMAGES} can be read"),
        ([png_that_claims(2**16, 2**16)], f"more than {MAX_PIXELS} pixels"),
        ([png_that_claims(SIDE * 2, SIDE)], f"more than {MAX_PIXELS} pixels"),
        ([picture("red", (SIDE, SIDE)), picture("red", (SIDE, SIDE))], "image 2 of 2 cannot be read: more than"),
        ([png_that_claims(10, 10)], "its data is broken"),
        ([picture("red", form="TIFF")], "it is none of BMP"),
        (["data:image/png,red"], "a data URL has to look like"),
        ([""], "it is none of"),
    ],
)
def test_what_is_too_large_or_no_image_is_refused(images: list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read_images(images)
