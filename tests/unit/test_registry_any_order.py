"""The registry, told things in any order: whatever comes, what it answers stays true."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker_controller.registration import WorkerStatus
from broker_controller.registry import REVIVAL_DELAY, Change, Registry
from broker_controller.worker_record import ADDRESS_COUNTS, SENT_COUNTS, RecordState, WorkerRecord
from broker_wire.codec import Stranger
from broker_wire.messages import Announce, Goodbye, Heartbeat, Load, ModelCard, Obituary, WorkerState

EXPIRATION = 30.0
URL = "http://h:1"
NAMES = st.sampled_from(["v", "w", URL])
INSTANCES = st.sampled_from(["i1", "i2", "i3"])
MODELS = st.lists(st.sampled_from(["m", "n", "o"]), max_size=3).map(tuple)
STATES = st.sampled_from(list(WorkerState))
LOADS = st.builds(Load, st.integers(-1, 3), st.integers(-1, 3), st.integers(0, 3))
KEYS = st.integers(1, 4)


class Told:
    """What the last messages that counted said of one name, kept apart from the registry."""

    def __init__(self, instance: str, now: float) -> None:
        self.instance = instance
        self.models: tuple[str, ...] = ()
        self.draining = False
        self.lost_at: float | None = None
        self.incompatible = False
        self.heard = now
        self.http: tuple[bool, float] | None = None

    def silent(self, now: float) -> bool:
        if self.http is None:
            return now - self.heard > EXPIRATION
        check_heart_beat, heard = self.http
        return check_heart_beat and now - heard > EXPIRATION

    @property
    def live(self) -> bool:
        return self.lost_at is None and not self.incompatible

    def unbridge(self) -> None:
        self.instance, self.draining, self.lost_at = "", False, None


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(EXPIRATION)
        self.now = 0.0
        self.told: dict[str, Told] = {}

    def accepts(self, name: str, instance: str) -> bool:
        """Whether a claim of this name by this instance has to be heard."""
        told = self.told.get(name)
        if told is None or told.instance in ("", instance) or told.lost_at is not None:
            return True
        return instance > told.instance

    def claim(self, name: str, instance: str) -> Told:
        told = self.told.get(name)
        if told is None:
            told = self.told[name] = Told(instance, self.now)
        told.instance, told.heard, told.lost_at, told.incompatible = instance, self.now, None, False
        return told

    def of_instance(self, name: str, instance: str) -> Told | None:
        told = self.told.get(name)
        return told if told is not None and told.instance == instance else None

    def record(self, name: str) -> WorkerRecord | None:
        return self.registry.get(name)

    def shown(self, name: str) -> Any:
        record = self.record(name)
        return None if record is None else record.view(self.now)

    # --- what happens

    @rule(name=NAMES, instance=INSTANCES, models=MODELS, state=STATES, load=LOADS, first=st.booleans())
    def announce(
        self, name: str, instance: str, models: tuple[str, ...], state: WorkerState, load: Load, first: bool
    ) -> None:
        cards = tuple(map(ModelCard, models))
        before = self.shown(name)
        message = Announce(name, instance, first=first, models=cards, state=state, load=load, bridged=name == URL)
        change = self.registry.apply_announce(message, self.now)
        if not self.accepts(name, instance):
            assert change is Change.IGNORED
            assert self.shown(name) == before
            return
        assert change is not Change.IGNORED
        told = self.claim(name, instance)
        told.models, told.draining = models, state is WorkerState.DRAINING

    @rule(name=NAMES, instance=INSTANCES)
    def stranger(self, name: str, instance: str) -> None:
        before = self.shown(name)
        change = self.registry.apply_stranger(Stranger(name, instance, "2.0"), self.now)
        told = self.told.get(name)
        if not self.accepts(name, instance) or (told is not None and told.http is not None):
            assert change is Change.IGNORED
            assert self.shown(name) == before
            return
        self.claim(name, instance).incompatible = True

    @rule(name=NAMES, instance=INSTANCES, state=STATES, load=LOADS)
    def heartbeat(self, name: str, instance: str, state: WorkerState, load: Load) -> None:
        before = self.shown(name)
        known = self.registry.apply_heartbeat(Heartbeat(name, instance, load, state), self.now)
        told = self.of_instance(name, instance)
        if told is None or told.incompatible:
            assert not known
            assert self.shown(name) == before
            return
        assert known
        told.heard = self.now
        if told.lost_at is None or self.now - told.lost_at >= REVIVAL_DELAY:
            told.lost_at, told.draining = None, state is WorkerState.DRAINING

    @rule(name=NAMES, instance=INSTANCES)
    def goodbye(self, name: str, instance: str) -> None:
        self.registry.apply_goodbye(Goodbye(name, instance))
        told = self.of_instance(name, instance)
        if told is not None and told.http is not None:
            told.unbridge()
        elif told is not None:
            del self.told[name]

    @rule(name=NAMES, instance=INSTANCES)
    def obituary(self, name: str, instance: str) -> None:
        self.registry.apply_obituary(Obituary(name, instance), self.now)
        told = self.of_instance(name, instance)
        if told is not None and told.http is not None:
            told.unbridge()
        elif told is not None and told.live:
            told.lost_at = self.now

    @rule(models=MODELS, check=st.booleans(), queue_length=st.integers(0, 5))
    def register_http(self, models: tuple[str, ...], check: bool, queue_length: int) -> None:
        status = WorkerStatus(models, 1.0, queue_length)
        change = self.registry.register_http(URL, check, status, multimodal=False, now=self.now)
        told = self.told.get(URL)
        if told is not None and told.http is None and told.incompatible:
            assert change is Change.IGNORED
            return
        if told is None:
            told = self.told[URL] = Told("", self.now)
        elif told.lost_at is not None:
            told.unbridge()
        told.models, told.http = models, (check, self.now)

    @rule(queue_length=st.integers(-1, 5))
    def receive_heart_beat(self, queue_length: int) -> None:
        known = self.registry.receive_heart_beat(URL, queue_length, self.now)
        told = self.told.get(URL)
        assert known == (told is not None and told.http is not None)
        if told is not None and told.http is not None:
            told.http = (told.http[0], self.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 10.0, EXPIRATION]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        removed = {record.name for record in self.registry.expire(self.now)}
        assert removed == {name for name, told in self.told.items() if told.silent(self.now)}
        for name in removed:
            del self.told[name]
        for told in self.told.values():
            if told.http is not None and told.instance and self.now - told.heard > EXPIRATION:
                told.unbridge()

    @rule(name=NAMES, key=KEYS)
    def sent(self, name: str, key: int) -> None:
        self.registry.note_sent(name, key, self.now)

    @rule(name=NAMES, key=KEYS)
    def started(self, name: str, key: int) -> None:
        self.registry.note_started(name, key)

    @rule(key=KEYS)
    def finished(self, key: int) -> None:
        self.registry.note_finished(key)

    @rule(name=NAMES)
    def address(self, name: str) -> None:
        self.registry.note_address(name, self.now)

    @rule(name=NAMES)
    def address_used(self, name: str) -> None:
        self.registry.note_address_used(name, self.now)

    # --- what stays true

    @invariant()
    def exactly_those_are_known_who_should_be(self) -> None:
        assert {record.name: record.instance for record in self.registry.workers()} == {
            name: told.instance for name, told in self.told.items()
        }

    @invariant()
    def the_models_are_those_of_the_live_workers(self) -> None:
        assert self.registry.models() == {model for told in self.told.values() if told.live for model in told.models}

    @invariant()
    def a_candidate_is_ready_and_everybody_ready_is_a_candidate(self) -> None:
        for model in ("m", "n", "o"):
            found = {record.name for record in self.registry.workers_for(model, self.now)}
            assert found == {
                name
                for name, told in self.told.items()
                if told.live and not told.draining and not told.silent(self.now) and model in told.models
            }

    @invariant()
    def the_state_that_is_shown_is_the_one_that_was_told(self) -> None:
        for record in self.registry.workers():
            told = self.told[record.name]
            assert (record.state is RecordState.LOST) == (told.lost_at is not None) == (record.lost_at is not None)
            assert (record.state is RecordState.INCOMPATIBLE) == told.incompatible

    @invariant()
    def no_load_is_negative_and_no_request_counts_twice(self) -> None:
        counted = [key for record in self.registry.workers() for key in record.counted()]
        assert len(counted) == len(set(counted))
        assert all(record.load(self.now) >= 0 for record in self.registry.workers())

    def teardown(self) -> None:
        """Nothing that was on its way counts for ever."""
        later = self.now + max(SENT_COUNTS, ADDRESS_COUNTS)
        for record in self.registry.workers():
            if not record.instance or not self.registry.apply_heartbeat(Heartbeat(record.name, record.instance), later):
                continue
            self.registry.receive_heart_beat(record.name, 0, later)
            assert record.load(later) == 0


AnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
