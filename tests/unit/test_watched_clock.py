"""The clock of stalls and expiry stands still while nobody can be heard, and for one heartbeat after."""

from broker_controller.watched_clock import SETTLE, WatchedClock


class Base:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_runs_with_its_base() -> None:
    base = Base()
    clock = WatchedClock(base)
    base.now += 7
    assert clock() == 107.0


def test_an_alarm_and_the_heartbeat_after_it_do_not_count() -> None:
    base = Base()
    clock = WatchedClock(base)
    clock.stop()
    base.now += 1_000
    assert clock() == 100.0
    clock.run()
    base.now += SETTLE - 1
    assert clock() == 100.0
    base.now += 3
    assert clock() == 102.0


def test_a_second_alarm_before_it_runs_again_prolongs_the_first() -> None:
    base = Base()
    clock = WatchedClock(base)
    clock.stop()
    base.now += 10
    clock.run()
    base.now += 1
    clock.stop()
    base.now += 100
    assert clock() == 100.0
    clock.run()
    base.now += SETTLE + 2
    assert clock() == 102.0


def test_run_without_a_stop_changes_nothing() -> None:
    base = Base()
    clock = WatchedClock(base)
    clock.run()
    base.now += 50
    assert clock() == 150.0
