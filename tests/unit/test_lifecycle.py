"""One request, one owner, one attempt that counts: each rule of the state machine by itself."""

from itertools import pairwise

import pytest

from broker_controller.assembler import MAX_REPEATED
from broker_controller.decisions import Action, Broadcast, GiveUp, Limits, Place, Publish, Stage, Tell
from broker_controller.errors import (
    DeadlineError,
    EngineError,
    EngineRefusedError,
    ModelNotFoundError,
    PoisonError,
    QueueFullError,
    WorkerLostError,
    WorkerNotFoundError,
)
from broker_controller.lifecycle import RequestLife
from broker_wire.messages import (
    Ask,
    Cancel,
    Failed,
    FailureKind,
    Go,
    Had,
    Piece,
    Resend,
    ResumeMode,
    Started,
    Stop,
    Texts,
)

NOW = 100.0


def new_life(place: Place = Place.MODEL, **limits: float) -> RequestLife:
    life = RequestLife(
        controller="c",
        stream=7,
        request_id="r-1",
        model="m",
        place=place,
        target="w1",
        deadline=NOW + 60,
        now=NOW,
        limits=Limits(**limits),  # type: ignore[arg-type]
    )
    assert life.begin() == [Publish(place, 1, ask_first=False)]
    return life


def running_life(place: Place = Place.MODEL, text: str = "", **limits: float) -> RequestLife:
    life = new_life(place, **limits)
    assert life.on_started(Started(7, 1, "w1", "i1"), NOW, NOW) == []
    for seq, character in enumerate(text):
        life.note_progress(NOW)
        life.answer.accept_texts(Texts(7, 1, seq, [character]))
    return life


def ask(instance: str, attempt: int = 1) -> Ask:
    return Ask(7, attempt, f"worker-{instance}", instance)


def error_of(actions: list[Action]) -> Exception:
    errors = [action.error for action in actions if isinstance(action, GiveUp)]
    assert len(errors) == 1
    return errors[0]


def the_go(actions: list[Action]) -> Go:
    told = [action.message for action in actions if isinstance(action, Tell) and isinstance(action.message, Go)]
    assert len(told) == 1
    return told[0]


# --- publishing


def test_an_unroutable_request_says_that_no_worker_serves_the_model() -> None:
    life = new_life()
    error = error_of(life.on_returned(1))
    assert isinstance(error, ModelNotFoundError)
    assert "'m'" in str(error)
    assert "r-1" in str(error)
    assert life.stage is Stage.OVER


def test_a_queue_that_is_not_there_although_the_model_is_served_is_tried_again_until_the_deadline() -> None:
    life = new_life(grace=5.0)
    assert life.on_returned(1, NOW, is_served=True) == []
    for after in (1, 7, 20, 50):
        at = NOW + after
        assert life.sweep(at, at, has_worker=True) == [Publish(Place.MODEL, 1, ask_first=False)]
        assert life.on_returned(1, at, is_served=True) == []
    assert isinstance(error_of(life.sweep(NOW + 61, NOW + 61, has_worker=True)), DeadlineError)


def test_a_queue_that_is_not_there_when_nobody_serves_the_model_any_more_is_not_waited_for() -> None:
    life = new_life()
    assert life.on_returned(1, NOW, is_served=True) == []
    life.sweep(NOW + 1, NOW + 1, has_worker=True)
    assert isinstance(error_of(life.on_returned(1, NOW + 1, is_served=False)), ModelNotFoundError)


def test_a_pinned_request_that_was_taken_after_a_return_is_not_blamed_for_that_later() -> None:
    life = new_life(Place.PINNED, grace=5.0)
    assert life.on_returned(1, NOW, is_served=True) == []
    life.on_confirmed(1)
    assert life.accepted
    life.on_reconnect(NOW + 60)
    assert life.on_returned(2, NOW + 60, is_served=True) == []


def test_a_moving_stream_that_nobody_can_take_ends_as_a_lost_worker() -> None:
    life = running_life(text="ab")
    life.on_gone(1, "i1")
    assert life.on_returned(2) == [Publish(Place.MODEL, 3, ask_first=True)]
    assert isinstance(error_of(life.on_returned(3)), WorkerLostError)


def test_a_chosen_workers_missing_queue_falls_back_to_the_models() -> None:
    assert new_life(Place.OWN).on_returned(1) == [Publish(Place.MODEL, 2, ask_first=False)]


def test_a_pinned_request_without_its_worker_ends() -> None:
    assert isinstance(error_of(new_life(Place.PINNED).on_returned(1)), WorkerNotFoundError)


def test_a_queue_that_does_not_look_full_is_asked_once_more() -> None:
    life = new_life()
    assert life.on_nacked(1, may_be_full=False) == []
    assert life.sweep(NOW + 0.5, NOW + 0.5, has_worker=True) == [Publish(Place.MODEL, 1, ask_first=False)]
    assert isinstance(error_of(life.on_nacked(1, may_be_full=False)), QueueFullError)


def test_a_queue_whose_node_has_died_is_waited_for() -> None:
    life = new_life()
    life.on_nacked(1, may_be_full=False)
    life.sweep(NOW + 0.5, NOW + 0.5, has_worker=True)
    assert life.on_returned(1, NOW + 0.5, is_served=True) == []
    assert life.sweep(NOW + 1, NOW + 1, has_worker=True) == [Publish(Place.MODEL, 1, ask_first=False)]


def test_a_full_queue_refuses_a_new_request_but_never_one_that_was_accepted_before() -> None:
    assert isinstance(error_of(new_life().on_nacked(1, may_be_full=True)), QueueFullError)
    life = new_life()
    assert life.on_reconnect(NOW) == [Publish(Place.MODEL, 2, ask_first=False)]
    assert life.on_nacked(2) == []
    assert life.sweep(NOW + 1, NOW + 1, has_worker=True) == [Publish(Place.MODEL, 2, ask_first=False)]
    assert life.sweep(NOW + 2, NOW + 2, has_worker=True) == []


def test_news_of_an_older_publish_changes_nothing() -> None:
    life = new_life()
    life.on_reconnect(NOW)
    assert life.on_returned(1) == []
    assert life.stage is Stage.WAITING


# --- starting


def test_the_first_started_of_the_counting_attempt_runs_it() -> None:
    life = running_life()
    assert (life.stage, life.worker, life.instance) == (Stage.RUNNING, "w1", "i1")


def test_a_ghost_of_an_older_attempt_is_stopped() -> None:
    life = new_life()
    life.on_reconnect(NOW)
    assert life.on_started(Started(7, 1, "w1", "i1"), NOW, NOW) == [Tell("i1", Stop("c", 7, 1))]
    assert life.on_started(Started(7, 2, "w2", "i2"), NOW, NOW) == []
    assert life.instance == "i2"


def test_a_second_worker_with_the_same_attempt_is_stopped() -> None:
    life = running_life()
    assert life.on_started(Started(7, 1, "w2", "i2"), NOW, NOW) == [Tell("i2", Stop("c", 7, 1))]
    assert life.instance == "i1"


def test_a_cancelled_request_that_starts_is_stopped() -> None:
    life = new_life()
    actions = life.cancel()
    assert actions == [Broadcast(Cancel("c", 7, 60.0))]
    assert life.on_started(Started(7, 1, "w1", "i1"), NOW, NOW) == [Tell("i1", Stop("c", 7, 1))]
    assert life.on_ask(ask("i2"), NOW, NOW) == [Tell("i2", Stop("c", 7, 1))]


def test_a_running_request_is_cancelled_at_its_worker() -> None:
    assert running_life().cancel() == [Tell("i1", Stop("c", 7, 1))]


# --- redelivery


def test_a_redelivered_request_that_never_started_may_go_and_is_not_suspect() -> None:
    life = new_life()
    go = the_go(life.on_ask(ask("i2"), NOW, NOW))
    assert go == Go("c", 7, 2, 0, "", apart=0.0)
    assert life.instance == "i2"
    assert life.moves == 0


def test_a_redelivered_request_resumes_where_the_client_stopped_reading() -> None:
    life = running_life(text="abc")
    actions = life.on_ask(ask("i2"), NOW, NOW)
    assert the_go(actions) == Go("c", 7, 2, 3, "abc", apart=0.0)
    assert Tell("i1", Stop("c", 7, 1)) in actions
    assert life.stale(1)
    assert not life.stale(2)


def test_who_asks_twice_gets_the_same_answer_and_goes_on() -> None:
    life = running_life(text="abc")
    go = the_go(life.on_ask(ask("i2"), NOW, NOW))
    assert life.on_ask(ask("i2"), NOW, NOW) == [Tell("i2", go)]
    assert not life.stale(go.attempt)
    assert life.moves == 1


def test_who_asks_for_a_newer_copy_in_the_place_of_an_older_one_gets_the_same_answer() -> None:
    life = new_life()
    life.on_reconnect(NOW)
    go = the_go(life.on_ask(ask("i1", attempt=1), NOW, NOW))
    assert life.on_ask(ask("i1", attempt=2), NOW, NOW) == [Tell("i1", go)]
    # The older one was acked: what comes back when that worker dies is the newer one.
    assert the_go(life.on_ask(ask("i2", attempt=2), NOW, NOW)).attempt == 4


def test_a_copy_of_another_publish_is_stopped_while_the_request_runs() -> None:
    life = new_life()
    life.on_reconnect(NOW)
    life.on_started(Started(7, 2, "w1", "i1"), NOW, NOW)
    assert life.on_ask(ask("i2", attempt=1), NOW, NOW) == [Tell("i2", Stop("c", 7, 1))]
    assert life.instance == "i1"


def test_after_our_own_reconnect_a_copy_waits_for_the_former_worker_which_goes_on() -> None:
    life = running_life(text="ab")
    assert life.on_reconnect(NOW) == [Tell("i1", Resend("c", ((7, 1, 2),)))]
    assert life.on_ask(ask("i2"), NOW + 0.1, NOW) == []
    actions = life.on_announce("i1", made_queue=False)
    assert Tell("i2", Stop("c", 7, 1)) in actions
    assert Tell("i1", Resend("c", ((7, 1, 2),))) in actions
    assert life.instance == "i1"
    assert life.attempt == 1


@pytest.mark.parametrize("lost", ["worker's connection", "worker's channel", "controller's connection"])
def test_a_worker_that_is_back_before_its_copy_was_taken_goes_on(lost: str) -> None:
    life = running_life(text="ab")
    if lost == "worker's connection":
        life.on_obituary("i1", NOW, in_order=False)
    elif lost == "controller's connection":
        life.on_reconnect(NOW)
    life.on_announce("i1", made_queue=False, requeued=lost == "worker's channel")
    # Every slot was taken until now.
    assert life.on_ask(ask("i2"), NOW + 9, NOW + 9) == [Tell("i2", Stop("c", 7, 1))]
    assert (life.instance, life.attempt) == ("i1", 1)


def test_a_worker_that_is_back_and_dies_is_lost() -> None:
    life = running_life(text="ab")
    life.on_obituary("i1", NOW, in_order=False)
    life.on_announce("i1", made_queue=False)
    life.on_obituary("i1", NOW + 1, in_order=False)
    assert the_go(life.on_ask(ask("i2"), NOW + 1, NOW + 1)).next_seq == 2


def test_an_answer_to_a_roll_call_is_no_return() -> None:
    life = running_life(text="ab")
    life.on_announce("i1", made_queue=False)
    assert the_go(life.on_ask(ask("i2"), NOW, NOW)).next_seq == 2


def test_what_is_in_its_models_queue_no_more_and_nobody_speaks_of_is_sent_again() -> None:
    life = new_life()

    def after(seconds: float, *, is_queue_empty: bool = True) -> list[Action]:
        at = NOW + seconds
        return life.sweep(at, at, has_worker=True, is_queue_empty=is_queue_empty)

    assert after(0) == after(4) == []
    # Somebody gave it back in the meantime.
    assert after(4.5, is_queue_empty=False) == after(5) == after(9.5) == []
    assert after(10) == [Publish(Place.MODEL, 2, ask_first=False)]
    assert after(11) == after(15.5) == []
    assert after(16) == [Publish(Place.MODEL, 3, ask_first=False)]
    assert life.on_started(Started(7, 3, "w1", "i1"), NOW + 17, NOW + 17) == []


def test_a_held_copy_goes_when_the_former_worker_does_not_come_back() -> None:
    life = running_life(text="ab", hold=2.0)
    life.on_reconnect(NOW)
    life.on_ask(ask("i2"), NOW + 0.1, NOW)
    assert life.sweep(NOW + 1.9, NOW + 1.9, has_worker=True) == []
    assert the_go(life.sweep(NOW + 2.1, NOW + 2.1, has_worker=True)).next_seq == 2
    assert life.instance == "i2"


def test_a_held_copy_is_stopped_when_the_former_worker_completes_the_answer() -> None:
    life = running_life(text="ab", hold=2.0)
    life.on_reconnect(NOW)
    life.on_ask(ask("i2"), NOW + 0.1, NOW)
    assert life.finish() == [Tell("i2", Stop("c", 7, 1))]


def test_what_the_client_has_besides_text_is_told_to_whoever_goes_on() -> None:
    life = running_life()
    life.answer.accept(Piece(7, 1, 0, "a", index=1))
    [go] = [action.message for action in life.on_ask(ask("i2"), NOW, NOW) if isinstance(action, Tell)][:1]
    assert isinstance(go, Go)
    assert (go.text, go.choices) == ("", (Had(1, "a"),))


def test_an_answer_too_large_to_repeat_ends_as_an_error_that_says_so() -> None:
    life = running_life()
    life.answer.accept(Piece(7, 1, 0, payload=bytes(MAX_REPEATED + 1)))
    error = error_of(life.on_ask(ask("i2"), NOW, NOW))
    assert isinstance(error, WorkerLostError)
    assert "too many to repeat" in str(error)


def test_a_client_that_wants_no_resume_gets_an_error_once_the_answer_has_begun() -> None:
    life = running_life(text="ab")
    life.resume = ResumeMode.NEVER
    error = error_of(life.on_ask(ask("i2"), NOW, NOW))
    assert isinstance(error, WorkerLostError)
    assert "X-Resume: never" in str(error)
    unbegun = running_life()
    unbegun.resume = ResumeMode.NEVER
    assert any(isinstance(action, Tell) for action in unbegun.on_ask(ask("i2"), NOW, NOW))
    assert unbegun.attempt == 2


# --- death


def test_a_lost_workers_stream_is_sent_anew_after_the_grace_time() -> None:
    life = running_life(text="ab", grace=5.0)
    life.on_obituary("i1", NOW, in_order=False)
    assert life.sweep(NOW + 4, NOW + 4, has_worker=True) == []
    actions = life.sweep(NOW + 6, NOW + 6, has_worker=True)
    assert actions == [Tell("i1", Stop("c", 7, 1)), Publish(Place.RESUME, 2, ask_first=True)]
    assert the_go(life.on_ask(ask("i2", attempt=2), NOW + 6, NOW + 6)) == Go("c", 7, 3, 2, "ab", apart=0.0)


def test_a_worker_that_comes_back_in_the_grace_time_goes_on() -> None:
    life = running_life(text="ab", grace=5.0)
    life.on_obituary("i1", NOW, in_order=False)
    assert life.on_announce("i1", made_queue=False) == [Tell("i1", Resend("c", ((7, 1, 2),)))]
    assert life.sweep(NOW + 6, NOW + 6, has_worker=True) == []
    assert life.stage is Stage.RUNNING


def test_the_clock_of_a_death_stands_still_with_the_watched_one() -> None:
    life = running_life(grace=5.0)
    life.on_obituary("i1", NOW, in_order=False)
    assert life.sweep(NOW + 50, NOW, has_worker=True) == []


def die_and_go_on(
    life: RequestLife, former: str, following: str, *, obituary_first: bool, begins: bool = True
) -> list[Action]:
    """A worker dies; its copy is redelivered to the next one, which begins with it. Either news may be the first."""
    actions = []
    if obituary_first:
        actions += life.on_obituary(former, NOW, in_order=False)
    actions += life.on_ask(ask(following), NOW, NOW)
    if not obituary_first:
        actions += life.on_obituary(former, NOW + 0.01, in_order=False)
    if begins and life.stage is Stage.RUNNING:
        assert life.on_started(Started(7, life.attempt, f"worker-{following}", following), NOW, NOW) == []
    return actions


@pytest.mark.parametrize("obituary_first", [True, False])
def test_who_waits_for_another_suspect_when_its_worker_dies_is_charged_with_nothing(obituary_first: bool) -> None:
    life = running_life(max_kills=1)
    die_and_go_on(life, "i1", "i2", obituary_first=obituary_first)
    for number in range(2, 20):
        actions = die_and_go_on(life, f"i{number}", f"i{number + 1}", obituary_first=obituary_first, begins=False)
        assert the_go(actions).apart == 2.0


@pytest.mark.parametrize("obituary_first", [True, False])
def test_the_request_that_kills_its_workers_alone_ends_as_poison(obituary_first: bool) -> None:
    life = running_life(max_kills=3)
    times_apart = [
        the_go(die_and_go_on(life, f"i{number}", f"i{number + 1}", obituary_first=obituary_first)).apart
        for number in (1, 2, 3, 4)
    ]
    assert times_apart == [0.0, 2.0, 4.0, 8.0]
    error = error_of(die_and_go_on(life, "i5", "i6", obituary_first=obituary_first))
    assert isinstance(error, PoisonError)
    assert "request r-1 for model 'm', starting: workers worker-i3, worker-i4, worker-i5 died while they" in str(error)


def test_one_death_delays_nobody() -> None:
    life = running_life(text="ab")
    assert the_go(die_and_go_on(life, "i1", "i2", obituary_first=True)).apart == 0


def test_who_runs_beyond_its_time_apart_is_not_charged() -> None:
    life = running_life(max_kills=1, text="a")
    for number in (1, 2):
        die_and_go_on(life, f"i{number}", f"i{number + 1}", obituary_first=True)
    life.on_obituary("i3", NOW + 10, in_order=False)
    assert the_go(life.on_ask(ask("i4"), NOW + 10, NOW + 10)).apart == 4.0


def test_a_suspect_that_a_living_worker_gives_back_is_charged_with_nothing() -> None:
    life = running_life(max_kills=1)
    die_and_go_on(life, "i1", "i2", obituary_first=True)
    die_and_go_on(life, "i2", "i3", obituary_first=True, begins=False)
    for number in range(4, 20):
        assert life.on_given_back(life.attempt, life.instance) == []
        assert life.stage is Stage.WAITING
        assert the_go(life.on_ask(ask(f"i{number}"), NOW, NOW)).apart == 2.0


def test_a_request_that_is_redelivered_before_it_is_known_to_be_given_back_is_charged_with_nothing() -> None:
    life = running_life(max_kills=1)
    die_and_go_on(life, "i1", "i2", obituary_first=True)
    die_and_go_on(life, "i2", "i3", obituary_first=True, begins=False)
    attempt = life.attempt
    assert the_go(life.on_ask(ask("i4"), NOW, NOW)).apart == 2.0
    life.on_started(Started(7, life.attempt, "worker-i4", "i4"), NOW, NOW)
    life.on_given_back(attempt, "i3")
    assert life.instance == "i4"
    assert life.on_obituary("i3", NOW, in_order=False) == []
    assert the_go(life.on_ask(ask("i5"), NOW + 10, NOW + 10)).apart == 4.0


def test_without_an_obituary_there_was_no_death() -> None:
    life = running_life()
    for number in range(2, 9):
        assert the_go(life.on_ask(ask(f"i{number}"), NOW + 3 * number, NOW + 3 * number)).apart == 0


def test_a_worker_that_returns_takes_its_charge_back() -> None:
    life = running_life(max_kills=2)
    for number in (1, 2, 3):
        die_and_go_on(life, f"i{number}", f"i{number + 1}", obituary_first=True)
    life.on_announce("i3", made_queue=False)
    assert the_go(die_and_go_on(life, "i4", "i5", obituary_first=True)).apart > 0


def test_deaths_do_not_count_as_moves() -> None:
    life = running_life(text="a", max_moves=1, grace=1.0)
    now = NOW
    for number in range(1, 6):
        life.on_obituary(life.instance, now, in_order=False)
        now += 60
        actions = life.sweep(NOW + 1, now, has_worker=True)
        assert actions[-1] == Publish(Place.RESUME, life.attempt, ask_first=True)
        the_go(life.on_ask(ask(f"i{number + 1}", attempt=life.attempt), NOW, now))
        now += 60


def test_a_worker_that_said_goodbye_makes_nobody_suspect() -> None:
    life = running_life(text="a")
    for number in range(1, 5):
        life.on_obituary(f"i{number}", NOW, in_order=True)
        assert the_go(life.on_ask(ask(f"i{number + 1}"), NOW, NOW)).apart == 0


def test_a_copy_that_waits_for_the_former_worker_goes_when_that_one_has_lost_the_stream() -> None:
    life = running_life(text="ab")
    life.on_reconnect(NOW)
    assert life.on_ask(ask("i2"), NOW + 0.1, NOW) == []
    assert life.on_gone(1, "i1") == [Tell("i1", Stop("c", 7, 1))]
    assert life.stale(1)
    assert the_go(life.sweep(NOW + 0.5, NOW, has_worker=True)) == Go("c", 7, 3, 2, "ab", apart=0.0)
    assert life.sweep(NOW + 5, NOW + 5, has_worker=True) == []
    assert life.instance == "i2"


def test_of_two_copies_that_wait_for_the_former_worker_the_earlier_is_stopped() -> None:
    life = running_life(text="ab")
    life.on_reconnect(NOW)
    assert life.on_ask(ask("i2"), NOW + 0.1, NOW) == []
    assert life.on_ask(ask("i2"), NOW + 0.2, NOW) == []
    assert life.on_ask(ask("i3"), NOW + 0.3, NOW) == [Tell("i2", Stop("c", 7, 1))]


def test_a_copy_that_waits_for_the_former_worker_does_not_outwait_the_deadline() -> None:
    life = running_life(text="ab", hold=100.0)
    life.on_reconnect(NOW)
    life.on_ask(ask("i2"), NOW, NOW)
    assert Tell("i2", Stop("c", 7, 1)) in life.sweep(NOW + 61, NOW, has_worker=True)


def test_who_asks_for_a_request_that_ends_by_that_is_stopped_at_once() -> None:
    life = running_life()
    life.answer.accept(Piece(7, 1, 0, payload=bytes(MAX_REPEATED + 1)))
    assert Tell("i2", Stop("c", 7, 1)) in life.on_ask(ask("i2"), NOW, NOW)
    poison = running_life(max_kills=1)
    for number in (1, 2):
        die_and_go_on(poison, f"i{number}", f"i{number + 1}", obituary_first=True)
    actions = die_and_go_on(poison, "i3", "i4", obituary_first=True)
    assert isinstance(error_of(actions), PoisonError)
    assert Tell("i4", Stop("c", 7, 1)) in actions


def test_a_request_that_a_workers_own_queue_does_not_deliver_is_sent_to_the_models() -> None:
    life = new_life(Place.OWN)
    assert life.sweep(NOW + 1, NOW + 1, has_worker=True) == []
    assert life.sweep(NOW + 5, NOW + 5, has_worker=True) == []
    assert life.sweep(NOW + 6, NOW + 6, has_worker=True) == [Publish(Place.MODEL, 2, ask_first=False)]
    assert life.sweep(NOW + 30, NOW + 30, has_worker=True) == []


def test_a_pinned_request_does_not_outwait_its_workers_absence() -> None:
    life = new_life(Place.PINNED, grace=5.0)
    assert life.sweep(NOW + 1, NOW + 1, has_worker=False) == []
    error = error_of(life.sweep(NOW + 6, NOW + 6, has_worker=False))
    assert isinstance(error, WorkerNotFoundError)
    assert "'w1' has left" in str(error)


def test_a_worker_that_gave_its_name_up_finishes_what_it_has() -> None:
    life = running_life(text="a", grace=5.0)
    life.on_obituary("i1", NOW, in_order=True)
    assert life.sweep(NOW + 6, NOW + 6, has_worker=True) == []
    assert (life.stage, life.instance) == (Stage.RUNNING, "i1")


# --- progress


def test_a_stream_without_progress_moves() -> None:
    life = running_life(text="a", between_tokens=10.0)
    assert life.sweep(NOW + 9, NOW + 9, has_worker=True) == []
    assert life.sweep(NOW + 11, NOW + 11, has_worker=True) == [
        Tell("i1", Stop("c", 7, 1)),
        Publish(Place.RESUME, 2, ask_first=True),
    ]


def test_a_stall_is_no_death() -> None:
    life = running_life(text="ab")
    for number in range(1, 5):
        now = NOW + 11 * number
        life.sweep(now, now, has_worker=True)
        assert life.stage is Stage.WAITING
        assert the_go(life.on_ask(ask(f"i{number + 1}", life.attempt), now, now)).apart == 0


def test_a_stream_that_nobody_takes_up_is_sent_again_less_and_less_often() -> None:
    life = running_life(text="a", between_tokens=10.0)
    life.sweep(NOW + 11, NOW + 11, has_worker=True)
    sent = []
    for tenths in range(110, 310):
        now = NOW + tenths / 10
        if life.sweep(now, now, has_worker=True):
            sent.append(tenths)
    assert [round((later - earlier) / 10) for earlier, later in pairwise([110, *sent])] == [2, 4, 8]
    # Whichever copy asks first goes on, and the others stop.
    assert the_go(life.on_ask(ask("i2", attempt=3), NOW + 31, NOW + 31)).text == "a"
    assert life.on_ask(ask("i3", attempt=2), NOW + 31, NOW + 31) == [Tell("i3", Stop("c", 7, 2))]


def test_progress_without_a_chunk_keeps_a_stream_where_it_is() -> None:
    life = running_life(first_token=20.0)
    life.note_progress(NOW + 15)
    assert life.sweep(NOW + 30, NOW + 30, has_worker=True) == []


def test_a_stream_moves_a_bounded_number_of_times() -> None:
    life = running_life(text="a", between_tokens=1.0, max_moves=2)
    now = NOW
    for move in (1, 2):
        now += 2
        assert life.sweep(now, now, has_worker=True)[-1] == Publish(Place.RESUME, 2 * move, ask_first=True)
        life.on_ask(ask(f"i{move}", attempt=2 * move), now, now)
    assert isinstance(error_of(life.sweep(now + 2, now + 2, has_worker=True)), WorkerLostError)


def test_a_worker_that_no_longer_has_the_stream_loses_it() -> None:
    life = running_life(text="a")
    assert life.on_gone(1, "i9") == []
    assert life.on_gone(1, "i1")[-1] == Publish(Place.RESUME, 2, ask_first=True)


def test_a_pinned_stream_goes_back_to_its_worker_where_that_lives_and_never_to_another_one() -> None:
    life = running_life(Place.PINNED, text="a")
    assert life.on_gone(1, "i1") == [Tell("i1", Stop("c", 7, 1)), Publish(Place.PINNED, 2, ask_first=True)]
    assert the_go(life.on_ask(ask("i1", attempt=2), NOW, NOW)).next_seq == 1
    life.on_obituary("i1", NOW, in_order=False)
    assert isinstance(error_of(life.sweep(NOW + 10, NOW + 10, has_worker=True)), WorkerLostError)


# --- time


@pytest.mark.parametrize("begun", [False, True])
def test_a_deadline_tells_where_the_request_was_and_stops_it(begun: bool) -> None:
    life = running_life(text="ab") if begun else new_life()
    life.accepted = True
    actions = life.sweep(NOW + 61, NOW, has_worker=True)
    error = error_of(actions)
    assert isinstance(error, DeadlineError)
    assert ("after 2 chunks" in str(error)) is begun
    assert ("in the queue" in str(error)) is not begun
    assert actions[0] == (Tell("i1", Stop("c", 7, 1)) if begun else Broadcast(Cancel("c", 7, 60.0)))


def test_what_the_broker_never_took_was_not_in_the_queue() -> None:
    full, late = new_life(), new_life()
    for error in (error_of(full.on_nacked(1)), error_of(late.sweep(NOW + 61, NOW, has_worker=True))):
        assert "before it was queued" in str(error)
    assert "its time of 60 s was up" in str(error)


def test_who_waits_for_a_worker_in_vain_is_told_which_one_was_the_last() -> None:
    for text, where in (
        ("", "in the queue again, the last worker was 'w1'"),
        ("ab", "after 2 chunks, the last was 'w1'"),
    ):
        life = running_life(text=text, worker_wait=1.0)
        life.on_gone(1, "i1")
        assert life.is_without_worker
        life.sweep(NOW, NOW, has_worker=False)
        error = error_of(life.sweep(NOW + 2, NOW + 2, has_worker=False))
        assert where in str(error)


def test_a_request_that_goes_on_has_a_worker_again() -> None:
    life = running_life(text="a")
    assert not life.is_without_worker
    life.on_obituary("i1", NOW, in_order=False)
    assert life.is_without_worker
    life.on_ask(ask("i2"), NOW, NOW)
    assert not life.is_without_worker
    assert life.subject.stage == "on worker 'worker-i2' after 1 chunk"


def test_a_model_without_workers_is_waited_for_and_then_given_up() -> None:
    life = new_life(worker_wait=30.0)
    assert life.sweep(NOW + 1, NOW + 1, has_worker=False) == []
    assert life.sweep(NOW + 20, NOW + 20, has_worker=True) == []
    assert life.sweep(NOW + 25, NOW + 25, has_worker=False) == []
    assert life.sweep(NOW + 54, NOW + 54, has_worker=False) == []
    assert isinstance(error_of(life.sweep(NOW + 56, NOW + 56, has_worker=False)), ModelNotFoundError)


def test_a_queue_made_anew_has_lost_what_waited_in_it() -> None:
    life = new_life()
    assert life.on_announce("i1", made_queue=False) == []
    assert life.on_announce("i1", made_queue=True) == [Publish(Place.MODEL, 2, ask_first=False)]


# --- failures


@pytest.mark.parametrize(
    ("kind", "error_type"),
    [
        (FailureKind.REQUEST, EngineRefusedError),
        (FailureKind.ENGINE, EngineError),
        (FailureKind.DIVERGED, WorkerLostError),
        (FailureKind.NOT_RESUMABLE, WorkerLostError),
        (FailureKind.DEADLINE, DeadlineError),
    ],
)
def test_an_engines_failure_reaches_the_client_with_its_text(kind: FailureKind, error_type: type) -> None:
    life = running_life(text="a")
    frame = Failed(7, 1, 1, kind, "CUDA out of memory")
    assert life.answer.accept(frame)
    error = error_of(life.on_failed(frame))
    assert type(error) is error_type
    for part in ("CUDA out of memory", "on worker 'w1' after 1 chunk:", "r-1"):
        assert part in str(error)


def test_an_engines_error_before_the_first_chunk_is_tried_again_once() -> None:
    life = running_life()
    frame = Failed(7, 1, 0, FailureKind.ENGINE, "CUDA out of memory")
    assert life.answer.accept(frame)
    assert life.on_failed(frame) == [Tell("i1", Stop("c", 7, 1)), Publish(Place.RESUME, 2, ask_first=True)]
    go = the_go(life.on_ask(ask("i2", attempt=2), NOW, NOW))
    again = Failed(7, go.attempt, 0, FailureKind.ENGINE, "CUDA out of memory")
    assert life.answer.accept(again)
    error = error_of(life.on_failed(again))
    assert isinstance(error, EngineError)
    for part in ("CUDA out of memory", "r-1", "'m'", "starting on worker 'worker-i2'"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("place", "kind", "retries", "error_type"),
    [
        (Place.MODEL, FailureKind.REQUEST, 1, EngineRefusedError),
        (Place.PINNED, FailureKind.ENGINE, 1, EngineError),
        (Place.MODEL, FailureKind.ENGINE, 0, EngineError),
    ],
)
def test_what_another_worker_would_not_do_better_is_not_tried_again(
    place: Place, kind: FailureKind, retries: int, error_type: type
) -> None:
    life = running_life(place, max_engine_retries=retries)
    frame = Failed(7, 1, 0, kind, "no")
    assert life.answer.accept(frame)
    assert type(error_of(life.on_failed(frame))) is error_type


def test_a_full_queue_says_when_there_may_be_a_place() -> None:
    error = error_of(new_life().on_nacked(1, 17.5))
    assert isinstance(error, QueueFullError)
    assert error.retry_after == 17.5


def test_a_worker_that_just_stopped_serving_the_model_hands_the_request_on() -> None:
    life = running_life()
    frame = Failed(7, 1, 0, FailureKind.NOT_SERVED, "removed")
    assert life.answer.accept(frame)
    assert life.on_failed(frame)[-1] == Publish(Place.RESUME, 2, ask_first=True)
    assert life.answer.next_seq == 0


def upstream_dies(life: RequestLife) -> list[Action]:
    frame = Failed(7, life.attempt, life.answer.next_seq, FailureKind.LOST, "it broke off")
    assert life.answer.accept(frame)
    return life.on_failed(frame)


def test_the_request_under_which_what_workers_have_behind_them_dies_is_given_to_a_bounded_number_of_them() -> None:
    life = running_life(text="ab", max_kills=3, max_moves=0)
    for number in (2, 3):
        assert upstream_dies(life)[-1] == Publish(Place.RESUME, life.attempt, ask_first=True)
        the_go(life.on_ask(ask(f"i{number}", life.attempt), NOW, NOW))
    error = error_of(upstream_dies(life))
    assert isinstance(error, WorkerLostError)
    assert "'worker-i3' says: it broke off; what ran this answer has died 3 times" in str(error)


def test_nothing_happens_to_a_request_that_is_over() -> None:
    life = running_life()
    life.finish()
    assert life.cancel() == []
    assert life.sweep(NOW + 1000, NOW + 1000, has_worker=False) == []
    assert life.on_announce("i1", made_queue=True) == []
    assert life.on_reconnect(NOW) == []
    assert life.on_gone(1, "i1") == []
