"""Both ends of a worker for the tests: an engine side that a test moves by hand, and a controller likewise.

The controller is the peer and the executor the edge; RabbitMQ between them is real.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from msgspec import Struct, structs

from broker_wire import codec
from broker_wire.amqp import (
    Channel,
    Connection,
    Delivery,
    Outcome,
    Session,
    declare_topology,
    parse_broker_url,
)
from broker_wire.errors import BrokerError
from broker_wire.messages import (
    Announce,
    Answered,
    Ask,
    Batch,
    ControlMessage,
    FleetMessage,
    Frame,
    Generate,
    ModelCard,
    Operation,
    Question,
    Started,
    Texts,
)
from broker_wire.topology import Queue, Topology
from tests.waiting import eventually
from workers_shim.session import LeaveReason, Patience, SessionConfig, WorkerSession
from workers_shim.stream import Assignment, OutgoingStream

WITHIN = 20.0
"""Seconds: a bound for what takes milliseconds on an idle machine."""
QUICK = Patience(ask=1.0, suspect=0.25, farewell=0.3, sweep=0.1, roll_call=0.05)

F = TypeVar("F", bound=Struct)


async def comes_true(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what has to be asked of the broker."""
    asked: Any = condition
    await eventually(asked, WITHIN)


class HandExecutor:
    """Starts nothing by itself: a test takes each assignment and plays its engine."""

    def __init__(self) -> None:
        self.started: list[tuple[Assignment, OutgoingStream]] = []
        self._next = 0

    def start(self, assignment: Assignment, stream: OutgoingStream) -> None:
        self.started.append((assignment, stream))

    def ask(self, question: Question, reply: Callable[[Answered], None]) -> None:
        reply(Answered(question.stream, question.body))

    async def next(self) -> tuple[Assignment, OutgoingStream]:
        """The next one that was started."""
        await eventually(lambda: len(self.started) > self._next, WITHIN)
        self._next += 1
        return self.started[self._next - 1]

    @property
    def idle(self) -> bool:
        """Nothing was started that the test has not taken."""
        return len(self.started) == self._next


class EchoExecutor:
    """Answers each request with its body at once, and is free again."""

    def __init__(self) -> None:
        self.started: list[Assignment] = []

    def start(self, assignment: Assignment, stream: OutgoingStream) -> None:
        self.started.append(assignment)
        stream.offer(assignment.generate.body.decode())
        stream.end()
        stream.released()

    def ask(self, question: Question, reply: Callable[[Answered], None]) -> None:
        reply(Answered(question.stream, question.body))


class ControllerDouble:
    """A controller played by hand. `frames` and `fleet` are all that came, in order."""

    def __init__(self, url: str, topology: Topology, controller: str = "c1") -> None:
        self.controller = controller
        self.topology = topology
        self.frames: list[Frame] = []
        self.batches: list[Batch] = []
        self.fleet: list[FleetMessage] = []
        self.outcomes: list[Outcome] = []
        self._streams = 0
        self._session: Session
        self.channel: Channel
        self.reply_queue = ""
        self._connection = Connection(parse_broker_url(url), name="controller", on_connected=self._connected)
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._connection.run())
        await self._connection.wait_connected(WITHIN)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _connected(self, session: Session) -> None:
        self._session = session
        await declare_topology(session, self.topology.exchanges())
        self.channel = await session.channel(confirms=True)
        queue = self.topology.controller_fleet_queue()
        name = (await self.channel.declare_queue(queue)).name
        await self.channel.bind(name, queue.exchange, queue.routing_key)
        await self.channel.consume(name, self._on_fleet, no_ack=True)
        await self.make_reply_queue()

    async def make_reply_queue(self) -> None:
        queue = self.topology.reply_queue(self.controller)
        self.reply_queue = (await self.channel.declare_queue(queue)).name
        await self.channel.bind(self.reply_queue, queue.exchange, queue.routing_key)
        await self.channel.consume(self.reply_queue, self._on_reply, no_ack=True)

    async def lose_reply_queue(self) -> None:
        await self.channel.delete_queue(self.reply_queue)

    def _on_fleet(self, delivery: Delivery) -> None:
        self.fleet.append(codec.decode_fleet(delivery.body, delivery.content_type))

    def _on_reply(self, delivery: Delivery) -> None:
        batch = codec.decode_reply(delivery.body, delivery.content_type)
        self.batches.append(batch)
        self.frames += batch.frames

    # --- to the worker

    async def submit(self, model: str = "m", *, key: str | None = None, **fields: Any) -> Generate:
        """Publish a request; `key` is the routing key, the model's by default."""
        self._streams += 1
        defaults: dict[str, Any] = {
            "controller": self.controller,
            "stream": self._streams,
            "attempt": 1,
            "request_id": f"r{self._streams}",
            "model": model,
            "operation": Operation.COMPLETION,
            "remaining": 60.0,
            "body": f"body {self._streams}".encode(),
        }
        generate = Generate(**(defaults | fields))
        await self.send_request(generate, key)
        return generate

    async def send_request(self, generate: Generate, key: str | None = None) -> None:
        await self.channel.publish_confirmed(
            self.topology.requests,
            key or self.topology.model_key(generate.model),
            codec.encode(generate),
            type="generate",
            mandatory=True,
            timeout=WITHIN,
        )

    async def tell(self, instance: str, message: ControlMessage) -> None:
        await self.control(self.topology.instance_key(instance), message)

    async def control(self, key: str, message: ControlMessage) -> None:
        await self.channel.publish_confirmed(
            self.topology.control,
            key,
            codec.encode(message),
            type=codec.type_of(message),
            mandatory=True,
            timeout=WITHIN,
        )

    async def say(self, exchange: str, key: str, body: bytes) -> None:
        """Any bytes, anywhere."""
        await self.channel.publish_confirmed(exchange, key, body, type="x", timeout=WITHIN)

    async def tell_when_there(self, instance: str, message: ControlMessage) -> None:
        """The same for a worker that is just reconnecting: again until it has a queue."""

        async def told() -> bool:
            try:
                await self.tell(instance, message)
            except BrokerError:
                return False
            return True

        await comes_true(told)

    async def submit_when_there(self, key: str) -> None:
        """The same for a queue that is just being made."""

        async def submitted() -> bool:
            try:
                await self.submit(key=key)
            except BrokerError:
                return False
            return True

        await comes_true(submitted)

    # --- from the worker

    def seen(self, kind: type[F], stream: int | None = None) -> list[F]:
        """All frames of a kind so far."""
        return [f for f in self.frames if isinstance(f, kind) and stream in (None, f.stream)]

    async def frame(self, kind: type[F], stream: int | None = None, count: int = 1) -> F:
        """The `count`th frame of a kind."""
        await eventually(lambda: len(self.seen(kind, stream)) >= count, WITHIN)
        return self.seen(kind, stream)[count - 1]

    def text(self, stream: int) -> str:
        """What came of an answer, duplicates included."""
        return "".join("".join(frame.texts) for frame in self.seen(Texts, stream))

    def said(self, kind: type[F]) -> list[F]:
        """All fleet messages of a kind so far."""
        return [message for message in self.fleet if isinstance(message, kind)]

    async def hears(self, kind: type[F], count: int = 1) -> F:
        """The `count`th fleet message of a kind."""
        await eventually(lambda: len(self.said(kind)) >= count, WITHIN)
        return self.said(kind)[count - 1]

    async def ready(self, queue: str) -> int:
        """Messages that wait in a queue."""
        return (await self.channel.declare_queue(Queue(queue, "", "", {}), passive=True)).ready

    async def waiting_requests(self, model: str = "m") -> int:
        """Requests in a model's queue that nobody holds."""
        return await self.ready(self.topology.model_queue(model).name)


class RunningWorker:
    """A session that runs, and its engine side."""

    def __init__(self, session: WorkerSession, executor: Any, task: asyncio.Task[LeaveReason]) -> None:
        self.session = session
        self.executor = executor
        self.task = task

    @property
    def instance(self) -> str:
        return self.session.instance

    def kill(self) -> asyncio.Task[LeaveReason]:
        """As when the process dies: the connections close, and nobody says goodbye."""
        self.task.cancel()
        return self.task


@asynccontextmanager
async def running_worker(
    url: str,
    topology: Topology,
    executor: Any,
    *,
    models: tuple[str, ...] = ("m",),
    patience: Patience = QUICK,
    **config: Any,
) -> AsyncIterator[RunningWorker]:
    """A worker, until the end of the block; killed there if it has not left."""
    defaults: dict[str, Any] = {"name": "w1", "slots": 2, "speed": 1.0, "prefix": topology.prefix, "grace": 1.0}
    settings = SessionConfig(broker_url=url, **(defaults | config))
    settings = structs.replace(settings, bounds=topology.bounds)
    session = WorkerSession(settings, executor, [ModelCard(model) for model in models], patience)
    task = asyncio.create_task(session.run())
    try:
        yield RunningWorker(session, executor, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def announced_worker(
    controller: ControllerDouble, url: str, executor: Any, **options: Any
) -> AsyncIterator[RunningWorker]:
    """The same, when the controller has heard of it."""
    async with running_worker(url, controller.topology, executor, **options) as worker:
        await eventually(lambda: [a for a in controller.said(Announce) if a.instance == worker.instance], WITHIN)
        yield worker


__all__ = [
    "QUICK",
    "WITHIN",
    "Ask",
    "ControllerDouble",
    "EchoExecutor",
    "HandExecutor",
    "RunningWorker",
    "Started",
    "announced_worker",
    "comes_true",
    "running_worker",
]
