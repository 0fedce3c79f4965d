"""Responses in the background on a real RabbitMQ, against a worker played by hand: who runs them, and trouble."""

from typing import Any

import pytest

from broker_controller.responses.keeper import new_id
from broker_controller.responses.request import ResponseBody, check
from broker_controller.responses.shelf import Kept, Reading
from broker_controller.service import ControllerService
from broker_wire.messages import Cancel, End, Generate, Job, Resend, Started, Texts
from broker_wire.topology import KeepBounds, QueueBounds, Topology
from tests.integration.amqp_harness import Proxy, connected
from tests.integration.hand_worker import HandWorker
from tests.integration.test_gateway import running_service, submission
from tests.waiting import Eventually


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix, QueueBounds(max_length=1))


async def begin(service: ControllerService, eventually: Eventually) -> Kept:
    """A response in the background."""
    await eventually(lambda: service.controller.list_models() == ["m"])
    response_id = new_id()
    asked = check(ResponseBody("m", "hi", background=True), response_id)
    return await service.keeper.begin(response_id, asked, asked.items)


async def taken(worker: HandWorker) -> Generate:
    """The request of a response, which this worker has started."""
    request, delivery = await worker.take()
    worker.ack(delivery)
    worker.reply(request.controller, Started(request.stream, request.attempt, worker.name, worker.instance))
    return request


def response_of(kept: Kept) -> dict[str, Any]:
    return Reading(kept).response()


def text_of(kept: Kept) -> str:
    return "".join(item for item in kept.items if isinstance(item, str))


async def test_a_controller_that_only_lost_its_connection_goes_on_and_what_it_wrote_meanwhile_is_kept_once(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with (
        Proxy(broker_url) as proxy,
        running_service(proxy.url, topology) as first,
        HandWorker(broker_url, topology, "w1", "m") as worker,
    ):
        await worker.consume("model", "resume")
        worker.announce(first=True)
        kept = await begin(first, eventually)
        request = await taken(worker)
        worker.reply(first.controller_id, Texts(request.stream, 1, 0, ["a", "b"]))
        await eventually(lambda: text_of(kept) == "ab")
        async with running_service(broker_url, topology) as second:
            other = await second.keeper.find(kept.created.id)
            worker.reply(first.controller_id, Texts(request.stream, 1, 2, ["c"]))
            proxy.cut()
            # It asks for what it lacks when it is back; what came before the cut may have been lost on either side.
            await worker.told(Resend)
            worker.reply(first.controller_id, Texts(request.stream, 1, 0, ["a", "b", "c"]), End(request.stream, 1, 3))
            await eventually(lambda: other.ended is not None)
            assert (text_of(other), response_of(other)["status"]) == ("abc", "completed")
            assert other.epoch == 1
            assert worker.deliveries.empty()
            await eventually(lambda: first.keeper.status()["running"] + second.keeper.status()["running"] == 0)


async def test_a_response_whose_model_is_full_waits_for_a_place(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with (
        running_service(broker_url, topology) as service,
        HandWorker(broker_url, topology, "w1", "m", prefetch=1) as worker,
    ):
        worker.announce(first=True)
        before = await service.gateway.submit(submission())
        await eventually(lambda: before.life.accepted)
        kept = await begin(service, eventually)
        await eventually(lambda: service.gateway.status()["failed"] == 1)
        assert not kept.over
        await worker.consume("model")
        numbers = {(await taken(worker)).stream for _ in range(2)}
        assert before.life.stream in numbers
        assert not kept.over
        before.cancel()
        for number in numbers:
            worker.reply(service.controller_id, End(number, 1, 0))
        await eventually(lambda: kept.ended is not None)
        assert response_of(kept)["status"] == "completed"


async def test_a_response_that_waits_in_a_queue_is_cancelled_and_its_worker_remembers(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as worker:
        worker.announce(first=True)
        kept = await begin(service, eventually)
        await eventually(lambda: kept.owner is not None and kept.owner.stream is not None)
        await service.keeper.cancel(kept)
        assert response_of(kept)["status"] == "cancelled"
        cancel = await worker.told(Cancel)
        assert isinstance(cancel, Cancel)
        assert kept.owner is not None
        assert (cancel.controller, cancel.stream) == (service.controller_id, kept.owner.stream)
        await eventually(lambda: service.keeper.status()["running"] == 0)


async def test_a_log_that_was_deleted_is_made_anew_and_jobs_without_a_response_are_dropped(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with (
        running_service(broker_url, topology) as service,
        HandWorker(broker_url, topology, "w1", "m") as worker,
        connected(broker_url) as admin,
    ):
        worker.announce(first=True)
        await worker.consume("model")
        first = await begin(service, eventually)
        await taken(worker)
        channel = await admin.session.channel()
        await channel.delete_queue(topology.log_queue(KeepBounds()).name)
        second = await begin(service, eventually)
        request = await taken(worker)
        worker.reply(service.controller_id, Texts(request.stream, 1, 0, ["x"]), End(request.stream, 1, 1))
        await eventually(lambda: second.ended is not None)
        assert not first.over
        worker.publish(topology.responses, topology.jobs_key, Job(new_id()))
        await service.keeper.cancel(first)
        await eventually(lambda: service.keeper.status()["running"] == 0)
