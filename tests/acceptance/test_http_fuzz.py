"""Requests made from the API's own description, right ones and wrong ones: no 500, no hang, answers as described.

A short run by default, the same each time. FUZZ_CASES in the environment is the number of requests, FUZZ_SEED what they
are drawn by (`make fuzz`: 10,000, others each day).
"""

import itertools
import os
from collections import Counter
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from requests import RequestException
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckContext
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from broker_controller.http.answer_types import GeneratedText
from tests.acceptance.fleet import Fleet

CASES = int(os.environ.get("FUZZ_CASES", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
MOST_ROUNDS = 10
"""Of all operations. What takes nothing is soon asked in every way, so one round may be too few."""
ANSWERED_WITHIN = 20.0
"""Seconds. Nothing that is asked here takes one."""
MOST_TOKENS = 20
"""The description has no largest number of tokens, and the engine would obey."""
MOST_EVENTS = 100_000
"""Of a stream, far more than any has, be it of 128 choices; by itself schemathesis reads ten and takes no more."""
EMBEDDINGS = "/v1/embeddings"
LAST_EVENTS = tuple(f"event: response.{name}\n" for name in ("completed", "incomplete", "failed"))
"""Of a response."""
RIGHT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "the quick brown fox"}]},
    "/v1/responses": {"model": "m", "input": "the quick brown fox"},
    EMBEDDINGS: {"model": "embedder", "input": "the quick brown fox"},
    "/worker_generate_stream": {"model": "m", "prompt": "the quick brown fox"},
}
"""One request by path that comes to the engine, whatever the odd ones do."""
SERVED = st.sampled_from(["m", None])


def no_fault(_context: CheckContext, response: Response, _case: Case[Any]) -> None:
    """That a server says it is at fault, and of what, is in order where it is described; a 500 never is."""
    assert response.status_code != 500, response.text


def streams_are_whole(_context: CheckContext, response: Response, _case: Case[Any]) -> None:
    """They come to their end, and each object in one is as described: schemathesis knows events, and not these."""
    if response.status_code != 200:
        return
    content_type = response.headers.get("content-type", [""])[0]
    if content_type == "application/octet-stream":
        *objects, after_last = response.content.split(b"\0")
        assert after_last == b"", after_last
        texts = [msgspec.json.decode(each, type=GeneratedText) for each in objects if each]
        assert texts, "not one object"
    elif content_type.startswith("text/event-stream"):
        lines = [line for line in response.content.decode().split("\n") if not line.startswith(":")]
        last = "\n".join(lines).rstrip("\n").rpartition("\n\n")[2]
        assert last == "data: [DONE]" or last.startswith(LAST_EVENTS, last.find("event: ")), response.content[-200:]
        assert response.content.endswith(b"\n\n")


CHECKS = [
    no_fault,
    streams_are_whole,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.mark.timeout(300 + CASES / 5)
def test_every_operation_answers_as_it_is_described(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--slots", "8")
    fleet.openai_worker("w2")
    controller.wait_for_workers("w1", "w2")
    schema = schemathesis.openapi.from_url(f"{controller.url}/openapi.json")
    schema.config.max_stream_events = MOST_EVENTS
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    statuses: Counter[str] = Counter()
    faults: list[str] = []
    for path, body in RIGHT.items():
        case = schema[path]["POST"].Case(body=body, media_type="application/json")
        assert case.call_and_validate(timeout=ANSWERED_WITHIN, checks=CHECKS).status_code == 200
    rounds = 0
    while not faults and statuses.total() < CASES and rounds < MOST_ROUNDS:
        for operation, mode in itertools.product(operations, GenerationMode):
            cases = operation.as_strategy(generation_mode=mode)
            # What takes nothing cannot be asked wrongly.
            with suppress(Unsatisfiable):
                _fuzz(cases, SEED + rounds, CASES // (2 * len(operations)) + 1, statuses, faults)
        rounds += 1
    print(f"requests={statuses.total()} rounds={rounds}", *sorted(statuses.items()), sep="\n")
    assert faults == [], f"FUZZ_SEED={SEED}\n\n" + "\n\n".join(faults[:10])
    assert statuses.total() >= CASES
    assert controller.chat("still here", 2).status_code == 200
    assert controller.get("/status")["streams"]["running"] == 0


def _fuzz(
    cases: st.SearchStrategy[Case[Any]], seed_: int, count: int, statuses: Counter[str], faults: list[str]
) -> None:
    """Faults are collected, not raised: one that depends on the moment would be gone when it is looked for again."""

    @seed(seed_)
    @given(case=cases, model=SERVED)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Case[Any], model: str | None) -> None:
        _make_servable(case.body, "embedder" if model and case.operation.path == EMBEDDINGS else model)
        try:
            response = case.call(timeout=ANSWERED_WITHIN)
            statuses[f"{case.method} {case.operation.path} {response.status_code}"] += 1
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failures:
            faults.extend(f"{failure}\n{case.as_curl_command()}" for failure in failures.exceptions)
        except RequestException as failure:
            faults.append(f"{failure!r}\n{case.as_curl_command()}")

    ask()


def _make_servable(body: Any, model: str | None) -> None:
    """Half are for a model that is served; none is for more tokens, or dimensions, than can be waited for."""
    if not isinstance(body, dict):
        return
    if model is not None and "model" in body:
        body["model"] = model
        if isinstance(messages := body.get("messages"), list):
            # By itself few would have what the engine answers to.
            messages.append({"role": "user", "content": "the quick brown fox"})
    for name in ("max_tokens", "max_new_tokens", "max_output_tokens", "dimensions"):
        value = body.get(name, MOST_TOKENS)
        if isinstance(value, int | float) and value > MOST_TOKENS:
            body[name] = MOST_TOKENS
