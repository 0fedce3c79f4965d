"""Several controllers and one HTTP worker: one bridges it, all know it, another follows."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from broker_controller import bridge
from broker_controller.bridged_worker import Profile
from broker_wire.messages import Operation, UpstreamHeartbeat, UpstreamRegistration
from tests.integration.bridging import BridgingController, read_all
from tests.processes import Processes
from tests.waiting import Eventually

STATUS = {"model_names": ["m"], "speed": 1, "queue_length": 0}


class Fleet:
    """Starts controllers of one fleet in this process, and ends them."""

    def __init__(self, broker_url: str, prefix: str) -> None:
        self._broker_url = broker_url
        self._prefix = prefix
        self._stacks: dict[BridgingController, AsyncExitStack] = {}

    async def start(self, **config: object) -> BridgingController:
        controller = BridgingController(self._broker_url, self._prefix, **config)
        stack = self._stacks[controller] = AsyncExitStack()
        await stack.enter_async_context(controller.running())
        return controller

    async def end(self, controller: BridgingController) -> None:
        await self._stacks.pop(controller).aclose()

    async def end_all(self) -> None:
        for controller in list(self._stacks):
            await self.end(controller)


@pytest.fixture
async def fleet(broker_url: str, prefix: str) -> AsyncIterator[Fleet]:
    controllers = Fleet(broker_url, prefix)
    try:
        yield controllers
    finally:
        await controllers.end_all()


@pytest.fixture
def url(processes: Processes, free_port: Callable[[], int]) -> str:
    """An HTTP worker of the old kind, not registered."""
    port = free_port()
    process = processes.start("python", "-m", "tests.old_workers", "llava", "--port", str(port))
    process.wait_for_output("Uvicorn running")
    return f"http://localhost:{port}"


async def owner_and_watcher(
    fleet: Fleet, url: str, eventually: Eventually, **config: object
) -> tuple[BridgingController, BridgingController]:
    """Two controllers, and the worker registered at one of them: either may have claimed it."""
    pair = [await fleet.start(**config) for _ in range(2)]
    await pair[0].bridges.register(url, True, STATUS)
    await eventually(lambda: sorted(str(controller.state_of(url)) for controller in pair) == ["bridging", "watching"])
    await eventually(lambda: any(controller.bridges_it(url) for controller in pair))
    owner, watcher = sorted(pair, key=lambda controller: str(controller.state_of(url)))
    return owner, watcher


async def answer_of(controller: BridgingController, words: str) -> str:
    asked = json.dumps({"model": "m", "prompt": f"SAY {words}|", "stop": "###"}).encode()
    return (await read_all(await controller.ask(Operation.LLAVA, asked))).text


async def test_of_two_controllers_one_bridges_the_worker_and_both_use_it(
    fleet: Fleet, url: str, eventually: Eventually
) -> None:
    first, second = await fleet.start(), await fleet.start()

    await first.bridges.register(url, True, STATUS)
    await second.bridges.register(url, True, STATUS)

    await eventually(lambda: {first.state_of(url), second.state_of(url)} == {"bridging", "watching"})
    assert await answer_of(first, "one two") == "one two"
    assert await answer_of(second, "three four") == "three four"
    assert {first.state_of(url), second.state_of(url)} == {"bridging", "watching"}


async def test_when_the_bridging_controller_is_killed_another_takes_over(
    fleet: Fleet, broker_url: str, prefix: str, url: str, processes: Processes, eventually: Eventually
) -> None:
    owner = processes.start("python", "-m", "tests.integration.bridging", broker_url, prefix, url)
    owner.wait_for_output("^bridging$")
    survivor = await fleet.start()
    await survivor.bridges.register(url, True, STATUS)
    await eventually(lambda: survivor.state_of(url) == "watching")

    owner.kill()

    await eventually(lambda: survivor.bridges_it(url))
    assert await answer_of(survivor, "still here") == "still here"


async def test_when_the_bridging_controller_leaves_another_takes_over(
    fleet: Fleet, url: str, eventually: Eventually
) -> None:
    owner, watcher = await owner_and_watcher(fleet, url, eventually)

    await fleet.end(owner)

    await eventually(lambda: watcher.bridges_it(url))
    assert await answer_of(watcher, "one") == "one"


async def test_a_claim_is_made_anew_after_a_lost_connection(fleet: Fleet, url: str, eventually: Eventually) -> None:
    owner, watcher = await owner_and_watcher(fleet, url, eventually)
    session = owner.bridges._claims._session
    assert session is not None

    session.drop("for the test")

    await eventually(lambda: owner.bridges._claims._session is not session and owner.service.links.up)
    await eventually(lambda: {owner.state_of(url), watcher.state_of(url)} == {"bridging", "watching"})
    assert await answer_of(watcher, "one two") == "one two"


async def test_heartbeats_that_another_controller_receives_keep_the_worker(
    fleet: Fleet, url: str, eventually: Eventually
) -> None:
    owner, watcher = await owner_and_watcher(fleet, url, eventually, expiration=2.0, check_interval=0.2)
    began = time.monotonic()

    def heartbeat_for_thrice_the_expiration() -> bool:
        assert watcher.bridges.heartbeat(url, 1) or pytest.fail("the worker is not known any more")
        return time.monotonic() - began > 6.0

    await eventually(heartbeat_for_thrice_the_expiration)

    assert owner.state_of(url) == "bridging"
    assert owner.service.controller.list_models() == ["m"]


async def test_a_silent_worker_is_dropped_by_all_controllers_and_asked_to_register_again(
    fleet: Fleet, url: str, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "REPEAT_INTERVAL", 0.2)
    pair = await owner_and_watcher(fleet, url, eventually, expiration=2.0, check_interval=0.2)

    await eventually(lambda: all(controller.bridges.status() == [] for controller in pair))

    await eventually(lambda: all(controller.service.controller.list_models() == [] for controller in pair))
    assert not any(controller.bridges.heartbeat(url, 0) for controller in pair)


async def test_a_worker_that_sends_no_heartbeats_by_agreement_is_kept(
    fleet: Fleet, url: str, eventually: Eventually
) -> None:
    controller = await fleet.start(expiration=0.5, check_interval=0.1)
    await controller.bridges.register(url, False, STATUS)
    await eventually(lambda: controller.bridges_it(url))
    began = time.monotonic()

    await eventually(lambda: time.monotonic() - began > 3.0)

    assert controller.state_of(url) == "bridging"
    assert controller.service.controller.list_models() == ["m"]


async def test_a_controller_that_comes_later_knows_the_worker_at_once_and_takes_over(
    fleet: Fleet, url: str, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its roll-call is what tells it, not the next repetition.
    monkeypatch.setattr(bridge, "REPEAT_INTERVAL", 3_600.0)
    first = await fleet.start()
    await first.bridges.register(url, True, STATUS)
    await eventually(lambda: first.bridges_it(url))

    late = await fleet.start()

    await eventually(lambda: late.bridges.heartbeat(url, 0))
    await eventually(lambda: late.state_of(url) == "watching")
    await fleet.end(first)
    await eventually(lambda: late.bridges_it(url))


async def test_a_controller_whose_allow_list_refuses_the_worker_leaves_it_to_others(
    fleet: Fleet, url: str, eventually: Eventually
) -> None:
    strict = await fleet.start(http_workers=())
    open_minded = await fleet.start()

    await open_minded.bridges.register(url, True, STATUS)

    await eventually(lambda: open_minded.bridges_it(url) and strict.state_of(url) == "refused")
    assert await answer_of(strict, "through the other") == "through the other"


async def test_a_worker_that_registers_again_with_other_models_serves_those(
    fleet: Fleet, url: str, eventually: Eventually
) -> None:
    owner, watcher = await owner_and_watcher(fleet, url, eventually)

    await watcher.bridges.register(url, True, {**STATUS, "model_names": ["other"]}, True)

    registries = [controller.service.controller.registry for controller in (owner, watcher)]
    await eventually(lambda: all(registry.multimodal_models() == {"other"} for registry in registries))
    await eventually(lambda: owner.bridges_it(url) or watcher.bridges_it(url))
    asked = json.dumps({"model": "other", "prompt": "SAY new|", "stop": "###"}).encode()
    assert (await read_all(await owner.ask(Operation.LLAVA, asked, model="other"))).text == "new"


async def test_what_was_said_of_a_worker_before_it_registered_anew_comes_too_late(
    fleet: Fleet, url: str, eventually: Eventually
) -> None:
    owner, watcher = await owner_and_watcher(fleet, url, eventually)
    before = time.time_ns()
    await watcher.bridges.register(url, True, {**STATUS, "model_names": ["other"]}, True)
    registries = [controller.service.controller.registry for controller in (owner, watcher)]
    await eventually(lambda: all(registry.multimodal_models() == {"other"} for registry in registries))
    links = owner.service.links

    links.send_fleet("upstream_registration.late", UpstreamRegistration(url, True, ("m",), version=before))
    links.send_fleet("upstream_heartbeat.after_it", UpstreamHeartbeat(url, 7))

    await eventually(lambda: [registry.get(url).registration.queue_length for registry in registries] == [7, 7])  # type: ignore[union-attr]
    assert [registry.multimodal_models() for registry in registries] == [{"other"}, {"other"}]


async def test_a_controller_that_missed_a_registration_hears_of_it_when_it_says_the_one_before(
    fleet: Fleet, url: str, eventually: Eventually
) -> None:
    owner, watcher = await owner_and_watcher(fleet, url, eventually)
    tended = watcher.bridges._workers[url]
    # As if it had registered here while the other was cut off.
    tended.version = time.time_ns()
    tended.update(Profile(("other",), 1.0, True, True), None)

    owner.bridges._tell_of(owner.bridges._workers[url])

    await eventually(lambda: owner.service.controller.registry.multimodal_models() == {"other"})
