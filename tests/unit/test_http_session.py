"""Whose KV cache a request can use is read where the dispatch method asks for it, and nowhere else."""

from typing import Any

import pytest

from broker_controller.session_key import read_session
from tests.unit.http_double import World

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "user": "u"}
GENERATE = {"model": "tiny", "prompt": "hi"}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", CHAT), ("/v1/completions", GENERATE), ("/worker_generate_stream", GENERATE)],
)
async def test_with_affinity_every_protocols_requests_have_a_session(path: str, body: dict[str, Any]) -> None:
    world = World("affinity")
    world.post(path, body, {"X-Session-Id": "s"})
    named = (await world.gateway.submitted()).submission
    assert named.session == read_session("tiny", b"", b"s")
    world.post(path, body)
    unnamed = (await world.gateway.submitted()).submission
    assert unnamed.session == read_session("tiny", unnamed.body, None)
    assert unnamed.session is not None


@pytest.mark.parametrize("method", ["queue", "lottery", "shortest_queue"])
async def test_other_methods_read_none(method: str) -> None:
    world = World(method)
    world.post("/v1/chat/completions", CHAT, {"X-Session-Id": "s"})
    assert (await world.gateway.submitted()).submission.session is None
