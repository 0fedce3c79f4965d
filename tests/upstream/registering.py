"""A worker of the old kind, at a controller that is killed and started anew."""

from collections.abc import Callable

from tests.acceptance.fleet import Fleet
from tests.waiting import eventually_sync


def assert_registers_again(fleet: Fleet, start_worker: Callable[[str], str]) -> None:
    """`start_worker` starts one of the model `other` at a controller's URL, and returns its own."""
    first = fleet.controller()
    url = start_worker(first.url)
    eventually_sync(lambda: first.workers().get(url) == "ready")
    first.process.kill()
    again = fleet.controller(port=int(first.url.rpartition(":")[2]))

    eventually_sync(lambda: again.workers().get(url) == "ready")
    assert again.generate("one two", 3, model="other")["text"] == "one two one"
