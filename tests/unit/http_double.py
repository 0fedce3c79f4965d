"""What the tests of the HTTP side stand on: a gateway that a test plays, and a client on raw ASGI.

Only the edge of HTTP is played. The streams are the real ones, fed by the test instead of by the reply queue.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self, cast

from fastapi import FastAPI

from broker_controller.controller import Controller
from broker_controller.decisions import Limits, Place
from broker_controller.errors import ResponseNotFoundError, ServiceError
from broker_controller.http.app import create_app
from broker_controller.http.client import Client
from broker_controller.http.services import Services
from broker_controller.lifecycle import RequestLife
from broker_controller.request_sender import Submission
from broker_controller.responses.records import last_of
from broker_controller.responses.request import Asked, encode_fields
from broker_controller.responses.shelf import Kept, Shelf
from broker_controller.settings import Settings
from broker_controller.streams import GenerationStream
from broker_controller.tally import Tally
from broker_wire.messages import Announce, Ask, Begun, Created, End, ModelCard, Payloads, Piece, Said, Started, Usage

WITHIN = 10.0
"""Seconds that a test waits for what has to come."""
TICK = 0.005
"""Seconds between two looks at the clock, where a gateway takes half a second."""


class PlayedStream:
    """One request that was submitted; the test plays the workers."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.cancelled = asyncio.Event()
        self.life = RequestLife(
            controller="c",
            stream=1,
            request_id=submission.request_id,
            model=submission.model,
            place=Place.MODEL,
            target="",
            deadline=time.monotonic() + submission.timeout,
            now=time.monotonic(),
            limits=Limits(),
        )
        self.real = GenerationStream(self.life, on_cancel=lambda _: self.cancelled.set(), on_flow=lambda *_: None)
        self._clock = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while not (self.real.finished or self.cancelled.is_set()):
            await asyncio.sleep(TICK)
            self.real.look(time.monotonic())

    def start(self, worker: str = "w1") -> Self:
        now = time.monotonic()
        self.life.on_started(Started(1, 1, worker, f"instance-of-{worker}"), now, now)
        self.real.wake()
        return self

    def feed(self, *items: str | Payloads | Piece) -> Self:
        self.real.feed(items, 1)
        return self

    def move(self, worker: str) -> Self:
        """The worker is dead, and its copy goes on at this one."""
        now = time.monotonic()
        self.life.on_ask(Ask(1, self.life.copy, worker, f"instance-of-{worker}"), now, now)
        self.real.notice()
        return self

    def end(self, finish_reason: str = "stop", usage: Usage | None = None, result: bytes | None = None) -> Self:
        self.life.finish()
        self.real.end(End(1, 1, 99, finish_reason, usage, result))
        return self

    def fail(self, error: ServiceError) -> Self:
        self.real.fail(error)
        return self


class InflightDouble:
    """Takes any body."""

    total = 0

    @contextmanager
    def receiving(self) -> Iterator[Callable[[int], None]]:
        yield lambda _: None


class DoorDouble:
    """Open, or not."""

    ready = True


class GatewayDouble:
    """Keeps what is submitted, or refuses it."""

    controller_id = "c0ffee"

    def __init__(self) -> None:
        self.refusal: ServiceError | None = None
        self.door = DoorDouble()
        self.inflight = InflightDouble()
        self.tally = Tally(lambda: ())
        self.streams: dict[int, GenerationStream] = {}
        self.forecasts: dict[str, float] = {}
        self._submitted: asyncio.Queue[PlayedStream] = asyncio.Queue()

    async def submit(self, submission: Submission) -> GenerationStream:
        if self.refusal is not None:
            raise self.refusal
        played = PlayedStream(submission)
        self._submitted.put_nowait(played)
        return played.real

    async def submitted(self) -> PlayedStream:
        return await asyncio.wait_for(self._submitted.get(), WITHIN)

    def watched(self) -> float:
        return time.monotonic()

    def forecast(self, model: str) -> float | None:
        return self.forecasts.get(model)

    def status(self) -> dict[str, Any]:
        return {"running": 0, "waiting": 0}


class FleetDouble:
    """Counts the roll-calls."""

    def __init__(self) -> None:
        self.ready = True
        self.roll_calls = 0

    async def roll_call(self) -> None:
        self.roll_calls += 1


class BridgesDouble:
    """Keeps what registers, or refuses it."""

    def __init__(self) -> None:
        self.registered: list[tuple[Any, ...]] = []
        self.refusal: Exception | None = None

    async def register(self, *registration: Any, called_as: str) -> bool:
        if self.refusal is not None:
            raise self.refusal
        self.registered.append(registration)
        return True

    def heartbeat(self, url: str, queue_length: float) -> bool:
        return any(registration[0] == url for registration in self.registered) and queue_length >= 0

    def status(self) -> list[dict[str, Any]]:
        return [{"worker": registration[0], "state": "bridging"} for registration in self.registered]


class LiveDouble:
    """Keeps a response when it is over."""

    def __init__(self, shelf: Shelf, created: Created) -> None:
        self._shelf = shelf
        self._created = created
        self._items: list[str | Piece] = []

    def say(self, items: list[str | Piece]) -> None:
        self._items += items

    async def end(self, end: End | ServiceError) -> None:
        self._keep(end)

    def left(self) -> None:
        if self._items and self._shelf.get(self._created.id) is None:
            self._keep(None)

    def _keep(self, end: End | ServiceError | None) -> None:
        now = time.time()
        name = self._created.id
        said = Said(name, 1, 0, self._items)
        self._shelf.apply([self._created, Begun(name, 1), said, last_of(name, end, now)], "c0ffee", now)


class KeeperDouble:
    """Keeps what is answered on a shelf of its own; nothing runs in the background."""

    def __init__(self) -> None:
        self.shelf = Shelf(ttl=600.0, max_bytes=1_000_000)

    async def find(self, response_id: str) -> Kept:
        kept = self.shelf.get(response_id)
        if kept is None:
            raise ResponseNotFoundError("it is not kept")
        return kept

    async def conversation(self, previous: str | None) -> list[dict[str, Any]]:
        return [] if previous is None else (await self.find(previous)).conversation()

    def created(self, response_id: str, asked: Asked, items: list[dict[str, Any]]) -> Created:
        return Created(response_id, time.time(), False, encode_fields(asked), json.dumps(items).encode(), 600.0)

    def live(self, created: Created) -> "LiveDouble":
        return LiveDouble(self.shelf, created)

    def status(self) -> dict[str, int]:
        return {"kept": len(self.shelf), "bytes": self.shelf.size, "running": 0}


class QuestionsDouble:
    """Keeps what is asked, and answers it with `answer`, or refuses."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answer = b"{}"
        self.refusal: ServiceError | None = None

    async def ask(self, *question: Any) -> bytes:
        self.asked.append(question)
        if self.refusal is not None:
            raise self.refusal
        return self.answer


class World:
    """One application with everything around it. `settings` are fields of `Settings`."""

    def __init__(self, dispatch_method: str = "queue", **settings: Any) -> None:
        self.gateway = GatewayDouble()
        self.fleet = FleetDouble()
        self.bridges = BridgesDouble()
        self.keeper = KeeperDouble()
        self.questions = QuestionsDouble()
        self.links = SimpleNamespace(
            up=True, blocked=False, problem="", server_version=(4, 0, 5), reconnects=0, unconfirmed_bytes=0
        )
        self.queues = SimpleNamespace(lengths={}, waiting=0)
        self.controller = Controller(dispatch_method)
        self.services = Services(
            controller=self.controller,
            gateway=cast("Any", self.gateway),
            fleet=cast("Any", self.fleet),
            links=cast("Any", self.links),
            queues=cast("Any", self.queues),
            garbage=cast("Any", SimpleNamespace(counts=Counter(fleet=2))),
            settings=Settings(**settings),
            bridges=cast("Any", self.bridges),
            keeper=cast("Any", self.keeper),
            questions=cast("Any", self.questions),
        )
        self.app: FastAPI = create_app(self.services)

    def announce(self, worker: str, *models: str, **fields: Any) -> None:
        cards = tuple(ModelCard(model) for model in models)
        announce = Announce(worker, f"instance-of-{worker}", models=cards, **fields)
        self.controller.registry.apply_announce(announce, time.monotonic())

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> "Answer":
        return Answer(self.app, "POST", path, body, headers or {})

    def get(self, path: str) -> "Answer":
        return Answer(self.app, "GET", path, None, {})


class Answer:
    """One request on its way, and what has come back. `body` is bytes as they are, anything else becomes JSON."""

    def __init__(self, app: FastAPI, method: str, path: str, body: Any, headers: dict[str, str]) -> None:
        self.parts: list[bytes] = []
        self.complete = False
        self.reads = True
        """Whether the client takes what is sent to it."""
        self._start: dict[str, Any] | None = None
        self._news = asyncio.Event()
        self.client = Client(asyncio.get_running_loop())
        self._left = asyncio.Event()
        self._to_send = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self._sent = False
        sent_headers = {"host": "controller:21001", "content-length": str(len(self._to_send))}
        sent_headers |= {name.lower(): value for name, value in headers.items()}
        self._task = asyncio.create_task(
            app(
                {
                    "type": "http",
                    "asgi": {"version": "3.0"},
                    "http_version": "1.1",
                    "method": method,
                    "scheme": "http",
                    "path": path.partition("?")[0],
                    "raw_path": path.partition("?")[0].encode(),
                    "query_string": path.partition("?")[2].encode(),
                    "root_path": "",
                    "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent_headers.items()],
                    "client": ("192.0.2.1", 4711),
                    "server": ("127.0.0.1", 21001),
                    "state": {"client": self.client},
                },
                self._receive,
                self._send,
            )
        )

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._to_send, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if not self.reads:
            await asyncio.Event().wait()
        if message["type"] == "http.response.start":
            assert self._start is None
            self._start = message
        else:
            self.parts.append(message["body"])
            self.complete = not message.get("more_body", False)
        self._news.set()

    @property
    def started(self) -> bool:
        return self._start is not None

    @property
    def status(self) -> int:
        assert self._start is not None
        return int(self._start["status"])

    @property
    def headers(self) -> dict[str, str]:
        assert self._start is not None
        return {name.decode(): value.decode() for name, value in self._start["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    def json(self) -> Any:
        return json.loads(self.body)

    async def until(self, condition: Any) -> Self:
        """Until `condition()` holds; looked at whenever something came."""
        async with asyncio.timeout(WITHIN):
            while not condition():
                self._news.clear()
                await self._news.wait()
        return self

    async def whole(self) -> Self:
        """Until it is complete, and the application is done with it."""
        await asyncio.wait_for(self._task, WITHIN)
        assert self.complete
        return self

    async def given_up(self) -> None:
        """Until the application is done with it, complete or not."""
        await asyncio.wait_for(self._task, WITHIN)

    async def leave(self) -> None:
        """The client goes away; the application has to come to an end without an error."""
        self._left.set()
        self.client.leave()
        await asyncio.wait_for(self._task, WITHIN)
