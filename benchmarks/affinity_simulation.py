"""`python -m benchmarks.affinity_simulation`: what dispatch by affinity does to 100 workers under a skewed load.

The controller's own classes decide; workers, caches, clocks and clients are simulated, so that the same seed gives the
same table on every machine. Two controllers share the fleet, and hear of each other's load by heartbeats alone.
"""

import argparse
import heapq
import itertools
import json
import statistics
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import StrEnum
from random import Random

from msgspec import Struct, structs

from benchmarks.figures import percentile, table
from broker_controller.affinity import LOAD_FACTOR, Affinity
from broker_controller.controller import Controller
from broker_controller.dispatch import DispatchMethod
from broker_controller.session_key import SessionKey, read_session
from broker_wire.messages import PROTOCOL_VERSION, Announce, Heartbeat, Load, ModelCard, WorkerState

MODEL = "m"
HEARTBEAT = 1.0
"""Seconds: a worker whose load changes says so once a second."""
PREFILL = 5_000.0
"""Tokens of a prompt that a worker reads in a second."""
ANSWER = 4.0
"""Seconds that an answer takes on the average, after its prompt was read."""


class Keys(StrEnum):
    """What a session is known by."""

    TEXT = "the longest known beginning of its text"
    NAME = "a name in X-Session-Id"
    OPENING = "its text to the end of the user's first message"
    FIRST_MESSAGE = "the first message: a preamble that many share"


class Scene(Struct, frozen=True):
    """What the fleet looks like, and its clients. Tokens and sessions are numbers, not texts."""

    workers: int = 100
    slots: int = 4
    cache: int = 60_000
    """Tokens of a worker's KV cache."""
    sessions: int = 3_000
    skew: float = 1.0
    """Zipf's exponent: the most active session has 1/k times the requests of the k-th."""
    preambles: int = 5
    """System prompts that the sessions share."""
    preamble_tokens: int = 1_000
    turn_tokens: int = 250
    turns: int = 20
    """Of a session, before it starts anew."""
    utilisation: float = 0.6
    """Of all slots, if no prompt were in any cache."""
    requests: int = 20_000
    greetings: float = 0.2
    """Part of the sessions whose first message has no words of their own."""
    keys: Keys = Keys.TEXT
    seed: int = 1


class Outcome(Struct):
    """What came of one run."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    first_tokens: list[float] = []
    served: list[int] = []
    peaks: list[float] = []
    """At each heartbeat, the load of the busiest worker by the mean load."""
    spilled: int = 0

    @property
    def hit_rate(self) -> float:
        """Part of all prompt tokens that were in a cache."""
        return self.cached_tokens / self.prompt_tokens

    @property
    def hotspot(self) -> float:
        """Requests that the busiest worker had, by the mean."""
        return max(self.served) / statistics.mean(self.served)


class _Worker:
    """Slots, and a cache that forgets what was used longest ago."""

    def __init__(self, number: int, scene: Scene) -> None:
        self.name = f"w{number}"
        self.free = scene.slots
        self.served = 0
        self._capacity = scene.cache
        self._cached: OrderedDict[str, int] = OrderedDict()
        self._size = 0

    def read(self, parts: list[tuple[str, int]]) -> int:
        """Read a prompt of named parts; returns how many of its tokens were there."""
        hit = 0
        for name, tokens in parts:
            had = self._cached.pop(name, 0)
            hit += min(had, tokens)
            self._cached[name] = max(had, tokens)
            self._size += max(had, tokens) - had
        while self._size > self._capacity:
            _, tokens = self._cached.popitem(last=False)
            self._size -= tokens
        return hit


class _Request(Struct, eq=False):
    number: int
    controller: int
    came: float
    parts: list[tuple[str, int]]
    session: SessionKey | None


class Simulation:
    """One run of one policy."""

    def __init__(self, scene: Scene, method: DispatchMethod, load_factor: float = LOAD_FACTOR) -> None:
        self._scene = scene
        self._random = Random(scene.seed)
        self._now = 0.0
        self._workers = [_Worker(number, scene) for number in range(scene.workers)]
        self._by_name = {worker.name: worker for worker in self._workers}
        self._controllers = [
            Controller(method, clock=lambda: self._now, random=Random(f"{scene.seed} {number}")) for number in range(2)
        ]
        if method is DispatchMethod.AFFINITY:
            for controller in self._controllers:
                controller._dispatcher = Affinity(controller._caches, load_factor)  # noqa: SLF001
        self._is_affinity = method is DispatchMethod.AFFINITY
        self._waiting: deque[_Request] = deque()
        self._turn = itertools.cycle(self._workers)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._turns = [0] * scene.sessions
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Until every request is answered."""
        scene = self._scene
        for worker in self._workers:
            announce = Announce(
                worker.name, f"i-{worker.name}", PROTOCOL_VERSION, models=(ModelCard(MODEL, ()),), slots=scene.slots
            )
            for controller in self._controllers:
                controller.registry.apply_announce(announce, 0.0)
        weights = [1 / (rank + 1) ** scene.skew for rank in range(scene.sessions)]
        drawn = self._random.choices(range(scene.sessions), weights, k=scene.requests)
        cold = (scene.preamble_tokens + scene.turn_tokens * scene.turns / 2) / PREFILL
        rate = scene.utilisation * scene.workers * scene.slots / (ANSWER + cold)
        came = 0.0
        for number, session in enumerate(drawn):
            came += self._random.expovariate(rate)
            self._at(came, lambda number=number, session=session: self._arrive(number, session))  # type: ignore[misc]
        for beat in range(1, int(came)):
            self._at(beat * HEARTBEAT, self._heartbeat)
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            event()
        self.outcome.served = [worker.served for worker in self._workers]
        return self.outcome

    def _at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    def _arrive(self, number: int, session: int) -> None:
        scene = self._scene
        turn = self._turns[session]
        self._turns[session] += 1
        conversation, turn = divmod(turn, scene.turns)
        preamble = f"preamble {session % scene.preambles}"
        name = f"session {session}, conversation {conversation}"
        parts = [(preamble, scene.preamble_tokens), (name, scene.turn_tokens * (turn + 1))]
        key = _session_key(scene, session, preamble, name, turn) if self._is_affinity else None
        request = _Request(number, self._random.randrange(2), self._now, parts, key)
        controller = self._controllers[request.controller]
        chosen = controller.choose(MODEL, key)
        if chosen is None:
            self.outcome.spilled += 1
            self._enqueue(request)
            return
        controller.registry.note_sent(chosen, number, self._now)
        worker = self._by_name[chosen]
        if worker.free:
            self._start(worker, request)
        else:
            self._enqueue(request)

    def _enqueue(self, request: _Request) -> None:
        """The model's queue: its consumers take turns, as RabbitMQ has them do."""
        free = next((worker for worker in itertools.islice(self._turn, len(self._workers)) if worker.free), None)
        if free is None:
            self._waiting.append(request)
        else:
            self._start(free, request)

    def _start(self, worker: _Worker, request: _Request) -> None:
        worker.free -= 1
        worker.served += 1
        controller = self._controllers[request.controller]
        controller.registry.note_started(worker.name, request.number)
        if request.session is not None:
            controller.note_served(request.session, worker.name)
        hit, size = worker.read(request.parts), sum(tokens for _, tokens in request.parts)
        self.outcome.prompt_tokens += size
        self.outcome.cached_tokens += hit
        prefill = (size - hit) / PREFILL
        self.outcome.first_tokens.append(self._now - request.came + prefill)
        self._at(self._now + prefill + self._random.expovariate(1 / ANSWER), lambda: self._finish(worker, request))

    def _finish(self, worker: _Worker, request: _Request) -> None:
        worker.free += 1
        self._controllers[request.controller].registry.note_finished(request.number)
        if self._waiting:
            self._start(worker, self._waiting.popleft())

    def _heartbeat(self) -> None:
        loads = [self._scene.slots - worker.free for worker in self._workers]
        if any(loads):
            self.outcome.peaks.append(max(loads) / statistics.mean(loads))
        for worker, load in zip(self._workers, loads, strict=True):
            heartbeat = Heartbeat(
                worker.name, f"i-{worker.name}", load=Load(load, 0, worker.free), state=WorkerState.READY
            )
            for controller in self._controllers:
                controller.registry.apply_heartbeat(heartbeat, self._now)


def _session_key(scene: Scene, session: int, preamble: str, name: str, turn: int) -> SessionKey | None:
    opening = "hello" if session % 100 < 100 * scene.greetings else f"{name}: begins"
    texts = [("system", preamble), ("user", opening)]
    for past in range(turn):
        texts += [("assistant", f"{name}: answer {past}"), ("user", f"goes on {past}")]
    match scene.keys:
        case Keys.OPENING:
            del texts[2:]
        case Keys.FIRST_MESSAGE:
            del texts[1:]
    body = {"messages": [{"role": role, "content": text} for role, text in texts]}
    return read_session(MODEL, json.dumps(body).encode(), name.encode() if scene.keys is Keys.NAME else None)


def simulate(scene: Scene, method: DispatchMethod, load_factor: float = LOAD_FACTOR) -> Outcome:
    """One run."""
    return Simulation(scene, method, load_factor).run()


_HEADER = [
    "of 100 workers with 4 slots",
    "prompt tokens from a cache",
    "busiest worker / mean",
    "at a moment",
    "first token p50, s",
    "p99, s",
    "to the model's queue",
]


def _row(name: str, outcome: Outcome) -> list[str]:
    first = outcome.first_tokens
    return [
        name,
        f"{outcome.hit_rate:.0%}",
        f"{outcome.hotspot:.2f}",
        f"{statistics.median(outcome.peaks):.1f}",
        f"{percentile(first, 50):.2f}",
        f"{percentile(first, 99):.2f}",
        f"{outcome.spilled / len(first):.0%}",
    ]


def _report(scene: Scene) -> str:
    methods = [DispatchMethod.QUEUE, DispatchMethod.SHORTEST_QUEUE, DispatchMethod.LOTTERY, DispatchMethod.AFFINITY]
    tables = []
    for utilisation in (0.3, 0.6, 0.85):
        loaded = structs.replace(scene, utilisation=utilisation)
        tables.append([_row(f"{utilisation:.0%} busy: {method}", simulate(loaded, method)) for method in methods])
    for utilisation in (0.3, 0.6):
        loaded = structs.replace(scene, utilisation=utilisation)
        tables.append(
            [
                _row(f"{utilisation:.0%} busy: affinity, k = {k:g}", simulate(loaded, DispatchMethod.AFFINITY, k))
                for k in (1.0, 1.25, 1.5, 2.0, 3.0, 100.0)
            ]
        )
    tables.append(
        [
            _row(f"known by {keys.value}", simulate(structs.replace(scene, keys=keys), DispatchMethod.AFFINITY))
            for keys in Keys
        ]
    )
    return "\n\n".join(table(_HEADER, rows) for rows in tables)


def main() -> int:
    """Prints the tables of docs/dispatch.md."""
    default = Scene()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.affinity_simulation", description=__doc__)
    parser.add_argument("--requests", type=int, default=default.requests, help=f"in each run ({default.requests})")
    parser.add_argument("--skew", type=float, default=default.skew, help=f"Zipf's exponent ({default.skew:g})")
    parser.add_argument("--seed", type=int, default=default.seed, help=f"of all that is drawn ({default.seed})")
    given = parser.parse_args()
    print(_report(Scene(requests=given.requests, skew=given.skew, seed=given.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
