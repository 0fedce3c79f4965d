"""OpenAI's Responses API, asked by OpenAI's own client, of controllers that share what they keep."""

import secrets
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest

from broker_controller.amqp_probe import free_port
from broker_controller.private_node import PrivateNode, find_server
from broker_wire.amqp.declare import queue_ready_counts
from tests.acceptance.any_answer import TOKENS
from tests.acceptance.fleet import Fleet, RunningController, echo_text
from tests.integration.amqp_harness import connected
from tests.processes import Processes
from tests.waiting import eventually_sync

SLOW = ("--tokens-per-second", "20")
TEXT = "".join(f"t{number} " for number in range(TOKENS))


class Pair:
    """Two controllers with one worker, and a client of each."""

    def __init__(self, fleet: Fleet, *options: str, worker: Callable[[Fleet], object] | None = None) -> None:
        self.fleet = fleet
        self.controllers = [fleet.controller(*options) for _ in range(2)]
        if worker is None:
            fleet.worker("w1", "--slots", "16", *SLOW)
        else:
            worker(fleet)
        for controller in self.controllers:
            eventually_sync(controller.workers)
        self.clients = [client_of(controller) for controller in self.controllers]

    def runner(self) -> int:
        """Which of them runs something in the background."""
        return eventually_sync(lambda: [index + 1 for index in range(2) if self.counts(index)["running"]])[0] - 1

    def counts(self, index: int) -> dict[str, int]:
        counts: dict[str, int] = self.controllers[index].get("/status")["responses"]
        return counts


def client_of(controller: RunningController) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{controller.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[Pair]:
    """For the tests that kill nobody."""
    processes = Processes(tmp_path_factory.mktemp("responses"))
    try:
        with httpx.Client(timeout=60) as client:
            yield Pair(Fleet(processes, broker_url, f"t{secrets.token_hex(4)}", free_port, client))
    finally:
        processes.end()


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def numbers(events: list[Any]) -> list[int]:
    return [event.sequence_number for event in events]


def test_a_response_is_answered_kept_and_gone_on_with_at_another_controller(pair: Pair) -> None:
    here, there = pair.clients
    first = here.responses.create(model="m", input="one two", instructions="be kind", max_output_tokens=3)
    assert (first.status, first.output_text) == ("incomplete", echo_text("one two", 3))
    assert first.incomplete_details is not None
    assert first.incomplete_details.reason == "max_output_tokens"
    assert first.usage is not None
    assert first.usage.output_tokens == 3

    kept = there.responses.retrieve(first.id)
    assert kept == first
    second = there.responses.create(model="m", input="three", previous_response_id=first.id, max_output_tokens=1)
    assert second.output_text == "three"
    items = here.responses.input_items.list(second.id, order="asc").data
    assert [item.type for item in items] == ["message", "message", "message"]
    assert [getattr(item, "role", "") for item in items] == ["user", "assistant", "user"]

    there.responses.delete(first.id)
    for client in pair.clients:
        with pytest.raises(openai.NotFoundError, match="is not kept"):
            client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as refused:
        here.responses.create(model="m", input="four", previous_response_id=first.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_stream_is_events_without_holes_that_end_with_the_response(pair: Pair) -> None:
    here, there = pair.clients
    events = list(here.responses.create(model="m", input="one two", max_output_tokens=4, stream=True))
    assert numbers(events) == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert text_of(events) == echo_text("one two", 4)
    last = events[-1]
    assert last.type == "response.incomplete"
    assert there.responses.retrieve(last.response.id) == last.response
    again = list(there.responses.retrieve(last.response.id, stream=True))
    assert again == events


def test_a_response_in_the_background_is_read_from_any_position_at_any_controller(pair: Pair) -> None:
    here, there = pair.clients
    begun = here.responses.create(model="m", input="one two three", max_output_tokens=12, background=True)
    assert begun.status == "queued"
    events = list(there.responses.retrieve(begun.id, stream=True))
    assert numbers(events) == list(range(len(events)))
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert text_of(events) == echo_text("one two three", 12)
    for client in pair.clients:
        for after in (0, 5, len(events) - 2):
            rest = list(client.responses.retrieve(begun.id, stream=True, starting_after=after))
            assert rest == events[after + 1 :]
    url = f"{pair.controllers[0].url}/v1/responses/{begun.id}?stream=true"
    told = httpx.get(url, headers={"Last-Event-ID": "7"}).text
    assert [int(line[4:]) for line in told.splitlines() if line.startswith("id: ")] == numbers(events)[8:]
    assert here.responses.retrieve(begun.id).output_text == text_of(events)


def test_a_response_in_the_background_is_cancelled_at_any_controller(pair: Pair) -> None:
    here, there = pair.clients
    stream = here.responses.create(model="m", input="a", max_output_tokens=2_000, background=True, stream=True)
    events = [next(stream) for _ in range(8)]
    begun = events[0]
    assert begun.type == "response.created"
    cancelled = there.responses.cancel(begun.response.id)
    assert cancelled.status == "cancelled"
    events += list(stream)
    assert numbers(events) == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.status == "cancelled"
    assert last.response.output_text == text_of(events)
    assert here.responses.cancel(begun.response.id).status == "cancelled"
    eventually_sync(lambda: not any(pair.counts(index)["running"] for index in range(2)))
    eventually_sync(lambda: not any(worker["running"] for worker in pair.controllers[0].get("/status")["workers"]))


def test_a_stream_whose_client_leaves_is_cancelled_and_what_it_had_is_kept(pair: Pair) -> None:
    here, there = pair.clients
    stream = here.responses.create(model="m", input="a", max_output_tokens=2_000, stream=True)
    first = next(stream)
    assert first.type == "response.created"
    for _ in range(6):
        next(stream)
    stream.close()

    def cancelled() -> Any:
        response = there.responses.retrieve(first.response.id)
        return response if response.status == "cancelled" else None

    response = eventually_sync(cancelled)
    assert response.output_text.startswith("a a")
    eventually_sync(lambda: not any(worker["running"] for worker in pair.controllers[0].get("/status")["workers"]))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, "file_search"),
        ({"background": True, "store": False}, "needs `store`"),
        ({"input": [{"type": "message", "role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "file"),
        ({"conversation": "conv_1"}, "conversation"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(pair: Pair, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(openai.BadRequestError, match=text) as refused:
        pair.clients[0].responses.create(**({"model": "m", "input": "a"} | fields))
    assert refused.value.code == "invalid_request"


def test_an_unknown_model_and_an_unknown_response_are_404(pair: Pair) -> None:
    client = pair.clients[0]
    for background in (False, True):
        with pytest.raises(openai.NotFoundError) as missing:
            client.responses.create(model="nobody", input="a", background=background)
        assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.retrieve("resp_00")
    assert missing.value.code == "response_not_found"
    done = client.responses.create(model="m", input="a", max_output_tokens=1)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(done.id)


async def test_a_fleet_that_keeps_nothing_has_nothing_of_it_at_the_broker(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    controller = fleet.controller()
    fleet.worker("w1")
    controller.wait_for_workers("w1")
    answer = client_of(controller).responses.create(model="m", input="a", max_output_tokens=1, store=False)
    assert answer.output_text == "a"
    async with connected(broker_url) as client:
        log = f"{prefix}.responses.log"
        assert await queue_ready_counts(client.session.channel, [log]) == {log: None}


def test_calls_of_functions_and_pieces_become_items(fleet: Fleet) -> None:
    pair = Pair(fleet, worker=lambda fleet: fleet.any_answer_worker("w1"))
    tools: Any = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}]
    begun = pair.clients[0].responses.create(model="m", input="tools", tools=tools, background=True)
    events = list(pair.clients[1].responses.retrieve(begun.id, stream=True))
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == TEXT
    last = events[-1]
    assert last.type == "response.completed"
    [call] = last.response.output
    assert call.type == "function_call"
    assert call.arguments == TEXT
    again = pair.clients[0].responses.create(model="m", input="payload")
    assert again.output_text == TEXT


def test_when_the_controller_that_runs_it_is_killed_it_goes_on_and_is_read_at_another(fleet: Fleet) -> None:
    pair = Pair(fleet, worker=lambda fleet: [fleet.any_answer_worker(name) for name in ("w1", "w2")])
    first = pair.clients[0].responses.create(model="m", input="text", background=True)
    killed = pair.runner()
    stream = pair.clients[killed].responses.retrieve(first.id, stream=True)
    events = [next(stream) for _ in range(15)]
    pair.controllers[killed].process.kill()
    rest = pair.clients[1 - killed].responses.retrieve(first.id, stream=True, starting_after=events[-1].sequence_number)
    events += list(rest)
    assert numbers(events) == list(range(len(events)))
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete"), last
    deltas = [getattr(event, "delta", "") for event in events]
    assert "".join(deltas) == TEXT


def test_a_response_that_no_worker_can_go_on_with_ends_with_a_cause(fleet: Fleet) -> None:
    pair = Pair(fleet, worker=lambda fleet: fleet.any_answer_worker("w1", "--resume", "never"))
    first = pair.clients[0].responses.create(model="m", input="text", background=True)
    killed = pair.runner()
    stream = pair.clients[killed].responses.retrieve(first.id, stream=True)
    events = [next(stream) for _ in range(15)]
    pair.controllers[killed].process.kill()
    rest = pair.clients[1 - killed].responses.retrieve(first.id, stream=True, starting_after=events[-1].sequence_number)
    events += list(rest)
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert str(last.response.error.code) == "worker_lost"
    assert last.response.output_text == text_of(events)
    assert TEXT.startswith(last.response.output_text)
    assert all(later.sequence_number == earlier.sequence_number + 1 for earlier, later in pairwise(events))


def test_a_stream_whose_controller_is_killed_keeps_what_was_said_and_ends_with_a_cause(fleet: Fleet) -> None:
    pair = Pair(fleet)
    stream = pair.clients[0].responses.create(model="m", input="a b c", max_output_tokens=2_000, stream=True)
    events: list[Any] = [next(stream) for _ in range(12)]
    other = pair.clients[1]
    eventually_sync(lambda: pair.counts(1)["kept"])
    rest = other.responses.retrieve(events[0].response.id, stream=True, starting_after=events[-1].sequence_number)
    events.append(next(rest))
    pair.controllers[0].process.kill()
    events += list(rest)
    assert numbers(events) == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "the controller that answered it was lost" in last.response.error.message
    assert last.response.output_text == text_of(events)
    assert other.responses.retrieve(last.response.id) == last.response


def test_a_controller_that_leaves_hands_its_responses_over(fleet: Fleet) -> None:
    pair = Pair(
        fleet, "--drain-timeout", "1", worker=lambda fleet: [fleet.any_answer_worker(name) for name in ("w1", "w2")]
    )
    begun = pair.clients[0].responses.create(model="m", input="tools", background=True)
    leaves = pair.runner()
    stays = 1 - leaves
    stream = pair.clients[stays].responses.retrieve(begun.id, stream=True)
    events = [next(stream) for _ in range(10)]
    pair.controllers[leaves].process.signal(signal.SIGTERM)
    events += list(stream)
    assert "".join(getattr(event, "delta", "") for event in events) == TEXT
    assert numbers(events) == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert pair.controllers[leaves].process.wait() == 0


def test_what_is_kept_goes_after_its_time_and_is_bounded(fleet: Fleet) -> None:
    controller = fleet.controller("--response-ttl", "1", "--response-bytes", "3000")
    fleet.worker("w1", "--slots", "8")
    controller.wait_for_workers("w1")
    client = client_of(controller)
    short = client.responses.create(model="m", input="a", max_output_tokens=1)
    assert client.responses.retrieve(short.id).id == short.id
    eventually_sync(lambda: controller.get("/status")["responses"] == {"kept": 0, "bytes": 0, "running": 0})
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(short.id)
    long = client.responses.create(model="m", input="a", max_output_tokens=4_000)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(long.id)
    begun = client.responses.create(model="m", input="a", max_output_tokens=100_000, background=True)
    *_, last = client.responses.retrieve(begun.id, stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert str(last.response.error.code) == "answer_too_large"
    with pytest.raises(openai.APIStatusError) as refused:
        client.responses.create(model="m", input="a" * 3000, background=True)
    assert refused.value.status_code == 413


@pytest.mark.skipif(find_server() is None, reason="no rabbitmq-server is installed")
def test_a_response_goes_on_when_the_broker_was_restarted(
    processes: Processes, prefix: str, free_port: Callable[[], int]
) -> None:
    with PrivateNode() as node, httpx.Client(timeout=60) as http:
        fleet = Fleet(processes, node.url, prefix, free_port, http)
        controller = fleet.controller()
        fleet.any_answer_worker("w1")
        controller.wait_for_workers("w1")
        client = client_of(controller)
        stream = client.responses.create(model="m", input="text", background=True, stream=True)
        events: list[Any] = [next(stream) for _ in range(10)]
        node.stop()
        node.start()
        events += list(stream)
        assert text_of(events) == TEXT
        assert numbers(events) == list(range(len(events)))
        assert list(client.responses.retrieve(events[0].response.id, stream=True)) == events
        eventually_sync(lambda: controller.get("/status")["responses"]["running"] == 0)
