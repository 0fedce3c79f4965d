"""Which URLs may reach an engine: none by default, for it would fetch them from inside of its network."""

import json
from typing import Any

import msgspec
import pytest

from broker_controller.errors import BadRequestError
from broker_controller.image_urls import check_urls, parse_hosts
from tests.unit.http_double import World

ELSEWHERE = "http://169.254.169.254/latest/meta-data"
ALLOWED = parse_hosts("images.example.com, *.cdn.net, 192.0.2.7, ::1")


def body_with(part: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": [part]}]}).encode()


def image(url: Any, key: str = "image_url") -> bytes:
    return body_with({"type": key, key: {"url": url, "detail": "auto"}})


@pytest.mark.parametrize(
    "body",
    [
        image(ELSEWHERE),
        image(ELSEWHERE, "video_url"),
        image(ELSEWHERE, "audio_url"),
        image([ELSEWHERE]),
        body_with({"image_url": ELSEWHERE}),
        body_with([[{"content": {"image_url": ELSEWHERE}}]]),
        image(ELSEWHERE).replace(b"image_url", rb"image\u005furl"),
        image(ELSEWHERE).replace(b"image_url", rb"\u0069mage_url"),
        json.dumps({"model": "m", "input": [{"image_url": ELSEWHERE}]}).encode(),
        json.dumps({"model": "m", "prompt": "p", "images": [ELSEWHERE]}).encode(),
        json.dumps({"model": "m", "prompt": "p", "images": ELSEWHERE}).encode(),
        json.dumps({"model": "m", "prompt": "p", "images": [{"source": {"url": [ELSEWHERE]}}]}).encode(),
        rb'{"model": "m", "prompt": "p", "\u0069mages": "' + ELSEWHERE.encode() + b'"}',
    ],
)
def test_a_url_is_found_wherever_an_engine_may_find_it(body: bytes) -> None:
    with pytest.raises(BadRequestError, match=r"169\.254\.169\.254 is no host that --allow-image-url"):
        check_urls(body, ALLOWED)
    check_urls(body, parse_hosts("*"))


@pytest.mark.parametrize(
    "body",
    [
        image("data:image/png;base64,AAAA"),
        image("DATA:image/png;base64,AAAA"),
        image(None),
        body_with({"type": "text", "text": f'look at {ELSEWHERE}, "image_url": "{ELSEWHERE}"'}),
        json.dumps({"model": "m", "prompt": "p", "images": ["iVBORw0KGgo="]}).encode(),
        json.dumps({"model": "m", "prompt": "p", "images": [{"type": "base64", "size": 7}]}).encode(),
        json.dumps({"model": "m", "prompt": ELSEWHERE, "images": None}).encode(),
        json.dumps({"model": "m", "messages": "nothing", "tools": [{"image_url": ELSEWHERE}]}).encode(),
    ],
)
def test_data_and_texts_pass(body: bytes) -> None:
    check_urls(body, ())


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.com/a.png?b#c",
        "HTTP://IMAGES.EXAMPLE.COM:8080/a.png",
        "https://images.example.com./a.png",
        "https://a.cdn.net/",
        "https://a.b.cdn.net/",
        "http://192.0.2.7/a.png",
        "http://[::1]:9000/a.png",
    ],
)
def test_an_allowed_host_passes(url: str) -> None:
    check_urls(image(url), ALLOWED)
    with pytest.raises(BadRequestError):
        check_urls(image(url), ())


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.net/",
        "https://evilcdn.net/",
        "https://images.example.com.evil.org/",
        "https://evil.org/images.example.com",
        "https://evil.org#images.example.com",
        "https://evil.org?@images.example.com",
    ],
)
def test_a_host_that_only_looks_allowed_does_not(url: str) -> None:
    with pytest.raises(BadRequestError, match="is no host that"):
        check_urls(image(url), ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://images.example.com/a.png",
        "//images.example.com/a.png",
        " https://images.example.com/a.png",
        "https://images.example.com\\@evil.org/",
        "https://user@images.example.com/",
        "https://images.example.com%2eevil.org/",
        "https://images.example.com:port/",
        "https://im\nages.example.com/",
        "https://\u0131mages.example.com/",
        "https://[images.example.com/",
        "https:/images.example.com/",
    ],
)
def test_what_can_be_read_in_two_ways_is_no_url(url: str) -> None:
    with pytest.raises(BadRequestError, match="neither a data URL nor an address"):
        check_urls(image(url), parse_hosts("*"))


def test_a_body_without_a_word_of_images_is_not_even_read() -> None:
    check_urls(b"no JSON", ())
    with pytest.raises(msgspec.DecodeError):
        check_urls(b'no JSON, "images"', ())


def test_a_long_url_is_not_repeated_to_its_client() -> None:
    with pytest.raises(BadRequestError) as refusal:
        check_urls(image("x" * 1_000_000), ())
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("text", ["https://a.org", "a.org/x", "*.*", "a b", "*a.org", "[::1]", "a..b"])
def test_what_is_no_host_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is no host as"):
        parse_hosts(text)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/worker_generate_stream"])
async def test_every_surface_asks(path: str) -> None:
    body = {"model": "m", "prompt": "p", "messages": [{"role": "user"}], "images": [ELSEWHERE]}
    answer = await World().post(path, body).whole()
    assert answer.status == 400
    assert b"--allow-image-url" in answer.body
    world = World(allow_image_url=("169.254.169.254",))
    allowed = world.post(path, body)
    assert (await world.gateway.submitted()).submission.model == "m"
    await allowed.leave()
