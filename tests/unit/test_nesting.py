"""Controllers as each other's workers: who is refused, and how often a request may go round."""

import pytest

from broker_controller.errors import AddressRefusedError, LoopError
from broker_controller.nesting import MAX_HOPS, LoopGuard, read_hops
from tests.unit.http_double import World

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
GENERATE = {"model": "tiny", "prompt": "hi"}
TOO_MANY = str(MAX_HOPS + 1)


@pytest.mark.parametrize(
    ("url", "status", "called_as"),
    [
        ("https://us.example", {}, ""),
        ("https://us.example/", {}, ""),
        ("http://10.0.0.1:21001", {}, "http://10.0.0.1:21001"),
        ("http://by-another-name:21001", {"controller": "c1"}, ""),
        ("https://parent.example", {}, ""),
    ],
)
def test_itself_and_its_parents_are_no_workers_of_a_controller(
    url: str, status: dict[str, str], called_as: str
) -> None:
    guard = LoopGuard("c1", "https://us.example", ["https://parent.example"])
    with pytest.raises(AddressRefusedError):
        guard.check(url, status, called_as)


def test_other_controllers_and_workers_are() -> None:
    guard = LoopGuard("c1", "https://us.example", ["https://parent.example"])
    guard.check("https://child.example", {"controller": "c2"}, "http://localhost:21001")
    guard.check("http://localhost:21002", {"model_names": ["m"]}, "http://localhost:21001")


@pytest.mark.parametrize(
    ("header", "hops"), [(None, 0), (b"0", 0), (b"8", 8), (b"-3", 0), (b"", 0), (b"x", 0), (b"9" * 5000, 0)]
)
def test_the_hops_of_a_request_are_counted(header: bytes | None, hops: int) -> None:
    assert read_hops(header) == hops


def test_a_request_that_goes_round_ends() -> None:
    with pytest.raises(LoopError, match="9 controllers"):
        read_hops(TOO_MANY.encode())


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", CHAT), ("/worker_generate_stream", GENERATE), ("/worker_generate", GENERATE)],
)
async def test_every_protocol_says_so_with_a_status_that_nobody_tries_again(path: str, body: dict[str, object]) -> None:
    answer = await World().post(path, body, {"X-Controller-Hops": TOO_MANY}).whole()
    assert answer.status == 508
    assert "come through 9 controllers" in answer.body.decode()


async def test_the_hops_go_on_with_the_request() -> None:
    world = World()
    world.post("/worker_generate_stream", GENERATE, {"X-Controller-Hops": "3"})
    assert (await world.gateway.submitted()).submission.hops == 3
