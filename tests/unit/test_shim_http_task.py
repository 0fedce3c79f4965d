"""Requests in the words of an old worker, also from the middle. What becomes of them is tested with real ones."""

import msgspec
import pytest

from broker_wire.messages import Generate, Operation
from workers_shim import Request, RequestError
from workers_shim.engines.http.prompt import VICUNA, Conversation, Template
from workers_shim.engines.http.styles import LATER
from workers_shim.engines.http.task import DEFAULT_MAX_TOKENS, UNSEEN_STOP, Begun, estimate_tokens, go_on, make_task
from workers_shim.request_body import parse_request

FASTCHAT = Conversation(Template(sep_style=6, sep="\n", stop_str=["<end>"], stop_token_ids=[2]), LATER[6])


class NoLink:
    cancelled = False

    def progress(self) -> None: ...


def request(operation: Operation, **body: object) -> Request:
    generate = Generate("c", 1, 1, "r", "m", operation, 60.0, msgspec.json.encode({"model": "m", **body}))
    return parse_request(generate, deadline=60.0, suspect=False, link=NoLink())


def test_a_request_of_llavas_is_passed_on_as_the_client_wrote_it() -> None:
    body = {"prompt": "p", "temperature": "0.2", "stop": "###", "images": ["AA"], "no_one_knows": {"this": [1]}}

    task = make_task(request(Operation.LLAVA, **body, echo=True), None)

    assert task.parameters == {"model": "m", **body, "echo": False}
    assert (task.prompt, list(task.their_stops), list(task.our_stops)) == ("p", ["###"], [])


@pytest.mark.parametrize("stop", [None, "", [], ["a", "b"]])
def test_llavas_worker_gets_exactly_one_stop_string_whatever_the_client_sent(stop: object) -> None:
    task = make_task(request(Operation.LLAVA, prompt="p", stop=stop), None)

    assert task.parameters["stop"] == UNSEEN_STOP
    assert list(task.our_stops) == (stop or [])


def test_one_stop_string_in_a_list_is_the_workers_own() -> None:
    task = make_task(request(Operation.LLAVA, prompt="p", stop=["###"]), None)

    assert task.parameters["stop"] == "###"
    assert list(task.our_stops) == []


def test_fastchats_worker_keeps_all_stop_strings_itself() -> None:
    task = make_task(request(Operation.LLAVA, prompt="p", stop=["a", "b"]), FASTCHAT)

    assert task.parameters["stop"] == ["a", "b"]
    assert list(task.our_stops) == []


@pytest.mark.parametrize("conversation", [None, FASTCHAT])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("logit_bias", {"5": 1}),
    ],
)
def test_what_no_old_worker_does_is_refused_by_name(
    name: str, value: object, conversation: Conversation | None
) -> None:
    asked = request(Operation.CHAT, messages=[{"role": "user", "content": "hi"}], **{name: value})
    with pytest.raises(RequestError, match=f"model 'm' does not offer '{name}'"):
        make_task(asked, conversation)


def test_what_asks_for_nothing_is_not_refused() -> None:
    wishes = {"n": 1, "tools": [], "response_format": {"type": "text"}, "logprobs": False, "presence_penalty": 0.5}
    task = make_task(request(Operation.CHAT, messages=[{"role": "user", "content": "hi"}], **wishes), FASTCHAT)
    assert task.parameters["presence_penalty"] == 0.5
    assert "tools" not in task.parameters


def test_logprobs_are_fastchats_for_a_completion() -> None:
    asked = request(Operation.COMPLETION, prompt="p", logprobs=2)
    assert make_task(asked, FASTCHAT).parameters["logprobs"] == 2
    with pytest.raises(RequestError, match="'logprobs'"):
        make_task(asked, None)


def test_a_chat_in_which_a_tool_was_called_is_no_text() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    with pytest.raises(RequestError, match="no calls of tools"):
        make_task(request(Operation.CHAT, messages=[{"role": "user", "content": "hi"}, called]), None)


def test_parameters_of_a_completion_have_their_old_names() -> None:
    asked = request(
        Operation.COMPLETION,
        prompt="p",
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=3,
        top_k=40,
        logprobs=2,
        user="u",
    )

    task = make_task(asked, FASTCHAT)

    assert task.parameters == {
        "model": "m",
        "prompt": "p",
        "echo": False,
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "top_k": 40,
        "logprobs": 2,
        "stop": [],
    }


def test_what_the_client_did_not_say_is_left_to_the_worker() -> None:
    task = make_task(request(Operation.COMPLETION, prompt="p"), None)

    assert task.parameters == {
        "model": "m",
        "prompt": "p",
        "echo": False,
        "max_new_tokens": DEFAULT_MAX_TOKENS,
        "stop": UNSEEN_STOP,
    }


def test_a_chat_has_its_templates_stops() -> None:
    task = make_task(request(Operation.CHAT, messages=[{"role": "user", "content": "Hi"}], stop=["x"]), FASTCHAT)

    assert task.parameters["prompt"] == "USER\nHi\nASSISTANT\n"
    assert task.parameters["stop"] == ["x", "<end>"]
    assert task.parameters["stop_token_ids"] == [2]


def test_fastchats_worker_gets_images_as_they_are_and_llavas_their_data() -> None:
    images = ["data:image/png;base64,AAA=", "BBB="]
    parts = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    asked = request(Operation.CHAT, messages=[{"role": "user", "content": parts}])

    assert make_task(asked, FASTCHAT).parameters["images"] == images
    assert make_task(asked, None).parameters["images"] == ["AAA=", "BBB="]


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (Operation.COMPLETION, {"prompt": ["one", "two"]}),
        (Operation.COMPLETION, {"prompt": "p", "n": 2}),
        (Operation.CHAT, {"messages": [{"role": "tool", "content": "42"}]}),
        (Operation.COMPLETION, {"prompt": "p", "images": ["https://example.com/cat.png"]}),
    ],
)
def test_what_an_old_worker_cannot_do_is_said_at_once(operation: Operation, body: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        make_task(request(operation, **body), None)


def test_vicunas_template_is_not_taken_for_a_workers_own() -> None:
    chat = [{"role": "user", "content": "Hi"}]

    assert make_task(request(Operation.CHAT, messages=chat), VICUNA).parameters["stop"] == []


def test_an_answer_goes_on_from_its_text_behind_the_prompt_for_the_rest_of_its_tokens_by_another_seed() -> None:
    task = make_task(request(Operation.COMPLETION, prompt="p ", max_tokens=7, seed=3), FASTCHAT)

    went_on = go_on(task, Begun("one two", 2, prompt_tokens=1))

    assert went_on.prompt == "p one two"
    assert went_on.parameters == task.parameters | {"prompt": "p one two", "max_new_tokens": 5, "seed": 5}
    assert not went_on.is_complete


def test_a_request_of_llavas_goes_on_with_the_default_of_its_protocol() -> None:
    task = go_on(make_task(request(Operation.LLAVA, prompt="p", stop="###"), None), Begun("one", 6))

    assert task.parameters == {"model": "m", "prompt": "pone", "echo": False, "stop": "###", "max_new_tokens": 250}


def test_an_answer_is_complete_where_its_tokens_were_counted_and_not_where_they_were_guessed() -> None:
    task = make_task(request(Operation.COMPLETION, prompt="p", max_tokens=2), None)

    assert go_on(task, Begun("one two", 2, prompt_tokens=1)).is_complete
    guessed = go_on(task, Begun("one two", 2))
    assert not guessed.is_complete
    assert guessed.parameters["max_new_tokens"] == 1


@pytest.mark.parametrize(("text", "tokens"), [("a", 1), ("word", 1), ("a word", 2), ("\u4f60\u597d", 2)])
def test_tokens_that_nobody_counts_are_guessed_from_the_bytes(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens
