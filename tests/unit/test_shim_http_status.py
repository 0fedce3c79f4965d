"""What an HTTP worker says of itself, and which of its models are served here."""

import json

import pytest

from workers_shim.engines.http.address import HttpAddress, parse_address
from workers_shim.engines.http.status import MAX_QUEUE_LENGTH, Status, abilities_of, choose_models, read_status


def test_a_status_is_read_as_llavas_and_fastchats_workers_write_it() -> None:
    answer = {"model_names": ["a", "b"], "speed": 1, "queue_length": 3}

    assert read_status(answer) == Status(("a", "b"), 1.0, 3.0)


@pytest.mark.parametrize("answer", [None, [], {}, {"model_names": "a"}, {"model_names": ["a"], "speed": "fast"}])
def test_what_is_no_status_is_none(answer: object) -> None:
    assert read_status(answer) is None


def test_names_that_cannot_be_and_numbers_that_are_none_are_left_out() -> None:
    answer = json.loads('{"model_names": ["a", "", "b\\u0000", "c"], "speed": NaN, "queue_length": NaN}')

    assert read_status(answer) == Status(("a", "c"), 1.0, 0.0)
    assert read_status({"model_names": [], "queue_length": 1e300}) == Status((), 1.0, MAX_QUEUE_LENGTH)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, {"a": "a", "b=c": "b=c"}),
        (["a"], {"a": "a"}),
        (["mine=a", "b=c"], {"mine": "a", "b=c": "b=c"}),
        (["x=b=c"], {"x": "b=c"}),
        (["nobody", "x=nobody", "=a"], {}),
    ],
)
def test_models_are_restricted_and_renamed(wanted: list[str] | None, names: dict[str, str]) -> None:
    assert choose_models(wanted, ("a", "b=c")) == names


def test_a_model_takes_images_by_llavas_rule() -> None:
    assert "vision" in abilities_of("LLaVA-v1.5-7b")
    assert "vision" not in abilities_of("vicuna-7b")


def test_whether_a_worker_makes_embeddings_is_found_by_asking() -> None:
    assert "embedding" in abilities_of("vicuna-7b")


def test_an_address_is_called_by_its_name() -> None:
    assert parse_address("http://gpu:21002/") == HttpAddress("http://gpu:21002", ("http://gpu:21002",), "gpu:21002", "")
    assert parse_address("https://gpu/v").server_name == "gpu"


@pytest.mark.parametrize(
    "url", ["", "gpu:21002", "ftp://gpu", "http://", "http://gpu:x", "http://a:b@gpu", "http://g/?q"]
)
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(ValueError, match="is not the address of an HTTP worker"):
        parse_address(url)
