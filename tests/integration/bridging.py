"""A controller's broker side, for the tests of bridges: in this process, or in one that can be killed.

python -m tests.integration.bridging BROKER_URL PREFIX HTTP_WORKER_URL
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from broker_controller.request_sender import Submission
from broker_controller.service import ControllerService, ServiceConfig
from broker_controller.streams import GenerationStream, one_by_one
from broker_wire.messages import End, Operation, Piece
from tests.waiting import eventually


class BridgingController:
    """A controller process, less its HTTP side."""

    def __init__(self, broker_url: str, prefix: str, **config: object) -> None:
        self.service = ControllerService(ServiceConfig(broker_url=broker_url, prefix=prefix, **config))  # type: ignore[arg-type]
        self.bridges = self.service.bridges

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["BridgingController"]:
        service = asyncio.create_task(self.service.run())
        try:
            await self.service.links.wait_up(15)
            yield self
        finally:
            service.cancel()
            await asyncio.gather(service, return_exceptions=True)

    def state_of(self, url: str) -> str | None:
        return next((entry["state"] for entry in self.bridges.status() if entry["worker"] == url), None)

    def bridges_it(self, url: str) -> bool:
        """Its bridge is a worker that this controller has heard of."""
        record = self.service.controller.registry.get(url)
        return self.state_of(url) == "bridging" and record is not None and record.bridged

    async def ask(self, operation: Operation, body: bytes, model: str = "m") -> GenerationStream:
        submission = Submission(model=model, operation=operation, body=body, request_id="r-1", timeout=60.0)
        return await self.service.gateway.submit(submission)


class Received:
    """What a client has of an answer."""

    def __init__(self) -> None:
        self.text = ""
        self.chunks: list[str] = []
        self.replaced = 0
        self.logprobs: list[bytes] = []
        self.end: End | None = None

    def take(self, items: list[str | Piece | End]) -> None:
        for item in items:
            if isinstance(item, End):
                self.end = item
                continue
            text = item if isinstance(item, str) else item.text
            if isinstance(item, Piece):
                if item.replace_from is not None:
                    self.text = self.text[: item.replace_from]
                    self.replaced += 1
                if item.logprobs is not None:
                    self.logprobs.append(item.logprobs)
            self.text += text
            self.chunks.append(text)


async def read_all(stream: GenerationStream) -> Received:
    """Raises: ServiceError, as the stream does."""
    received = Received()
    async with asyncio.timeout(60):
        while received.end is None:
            await stream.wait()
            received.take(one_by_one(stream.take()))
    return received


async def main(broker_url: str, prefix: str, worker_url: str) -> None:
    async with BridgingController(broker_url, prefix).running() as controller:
        await controller.bridges.register(worker_url, True, None)
        await eventually(lambda: controller.bridges_it(worker_url))
        print("bridging", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
