"""Affinity under a skewed load, with the controller's own classes: warm caches, and no hotspot."""

import math
import statistics

import pytest

from benchmarks.affinity_simulation import Keys, Outcome, Scene, simulate
from broker_controller.affinity import LOAD_FACTOR
from broker_controller.dispatch import DispatchMethod

SCENE = Scene(requests=3_000, skew=1.1)
HEARTBEATS_TO_SETTLE = 5


@pytest.fixture(scope="module")
def affinity() -> Outcome:
    return simulate(SCENE, DispatchMethod.AFFINITY)


def test_no_worker_of_a_hundred_gets_much_more_than_its_share(affinity: Outcome) -> None:
    assert affinity.hotspot < LOAD_FACTOR
    # Whole requests: the bound of a moment is rounded up, and the other controller's last second is not known.
    mean = SCENE.slots * SCENE.utilisation
    assert statistics.median(affinity.peaks[HEARTBEATS_TO_SETTLE:]) <= math.ceil(LOAD_FACTOR * mean) / mean


def test_more_is_read_from_caches_than_by_the_queue(affinity: Outcome) -> None:
    by_queue = simulate(SCENE, DispatchMethod.QUEUE)
    assert affinity.hit_rate > 1.5 * by_queue.hit_rate


def test_one_name_for_all_of_a_service_is_no_hotspot() -> None:
    """Every request of every client has the same first message, and is known by that."""
    shared = simulate(Scene(requests=3_000, keys=Keys.FIRST_MESSAGE, preambles=1), DispatchMethod.AFFINITY)
    assert shared.hotspot < LOAD_FACTOR


@pytest.mark.parametrize("method", [DispatchMethod.AFFINITY, DispatchMethod.LOTTERY])
def test_the_same_seed_has_the_same_outcome(method: DispatchMethod) -> None:
    small = Scene(workers=10, requests=300)
    assert simulate(small, method) == simulate(small, method)
