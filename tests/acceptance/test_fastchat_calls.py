"""What FastChat's clients ask before and beside a generation, at the addresses that they are handed out."""

from typing import Any

import pytest
import requests

from tests.acceptance.fleet import Fleet, RunningController

WITHIN = 30.0
MODEL = {"model": "m"}


def post(address: str, path: str, body: Any) -> Any:
    response = requests.post(f"{address}{path}", json=body, timeout=WITHIN)
    assert response.status_code == 200, response.text
    return response.json()


def address_of(controller: RunningController, model: str = "m") -> str:
    return str(controller.post("/get_worker_address", {"model": model})["address"])


@pytest.mark.parametrize("method", ["queue", "shortest_queue"])
def test_a_chat_is_written_counted_and_generated_as_fastchats_api_server_does_it(fleet: Fleet, method: str) -> None:
    controller = fleet.controller("--dispatch-method", method)
    fleet.worker("w1")
    controller.wait_for_workers("w1")
    address = address_of(controller)
    assert address == controller.url + ("" if method == "queue" else "/worker/w1")

    conversation = post(address, "/worker_get_conv_template", MODEL)["conv"]
    prompt = conversation["system_message"]
    for role, text in ((0, "one two"), (1, "three"), (0, "four")):
        prompt += conversation["roles"][role] + text + conversation["sep"]
    prompt += conversation["roles"][1]
    context_length = post(address, "/model_details", MODEL)["context_length"]
    count = post(address, "/count_token", MODEL | {"prompt": prompt})
    body = MODEL | {"prompt": prompt, "max_new_tokens": 5, "echo": False, "stop": [], "stop_token_ids": None}
    answer = post(address, "/worker_generate", body)

    assert conversation["name"] == "echo"
    assert count == {"count": 4, "error_code": 0}
    assert context_length > 4
    assert (answer["text"], answer["error_code"]) == ("one two three four one", 0)
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    assert controller.get("/status")["workers"][0]["models"][0]["answers"] == ["count_tokens"]


def test_a_count_does_not_wait_behind_generations_that_fill_every_slot(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--tokens-per-second", "1")
    controller.wait_for_workers("w1")
    body = MODEL | {"prompt": "a b c", "max_new_tokens": 600}
    streams = [
        requests.post(f"{controller.url}/worker_generate_stream", json=body, stream=True, timeout=WITHIN) for _ in "ab"
    ]
    next(streams[0].iter_content(1))

    for _ in range(3):
        assert post(controller.url, "/count_token", MODEL | {"prompt": "a b"}) == {"count": 2, "error_code": 0}
    for stream in streams:
        stream.close()


def test_embeddings_are_those_of_v1_in_fastchats_form(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1")
    controller.wait_for_workers("w1")
    body = MODEL | {"input": ["one", "two words"], "encoding_format": None}

    theirs = post(controller.url, "/worker_get_embeddings", body)
    ours = post(controller.url, "/v1/embeddings", body)

    assert theirs["embedding"] == [entry["embedding"] for entry in ours["data"]]
    assert theirs["token_num"] == ours["usage"]["prompt_tokens"] == 3
    unknown = post(controller.url, "/worker_get_conv_template", {"model": "another"})
    assert unknown["error_code"] == 2
    assert "'another'" in unknown["text"]
