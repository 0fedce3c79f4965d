"""What has been heard of the worker that runs a request."""

from broker_controller.contact import Contact, Presence

NOW = 100.0


def test_a_worker_that_has_just_started_is_there() -> None:
    contact = Contact(NOW)
    assert not contact.is_lost
    assert contact.presence is Presence.SURE
    assert contact.silent_for(NOW + 3) == 3.0


def test_a_second_obituary_does_not_prolong_the_time_of_grace() -> None:
    contact = Contact(NOW)
    contact.on_obituary(NOW, in_order=False)
    contact.on_obituary(NOW + 4, in_order=False)
    assert contact.lost_for(NOW + 5) == 5.0


def test_a_goodbye_is_no_loss_and_after_a_death_no_return() -> None:
    contact = Contact(NOW)
    contact.on_obituary(NOW, in_order=True)
    assert contact.left_in_order
    assert not contact.is_lost
    contact.on_obituary(NOW, in_order=False)
    contact.on_obituary(NOW + 1, in_order=True)
    assert contact.lost_for(NOW + 2) == 2.0


def test_who_speaks_after_a_loss_is_back_and_is_doubted_again_at_the_next_one() -> None:
    contact = Contact(NOW)
    contact.on_obituary(NOW, in_order=False)
    seen = [contact.presence]
    contact.on_announce()
    seen.append(contact.presence)
    assert not contact.is_lost
    contact.on_our_reconnect()
    seen.append(contact.presence)
    assert seen == [Presence.DOUBTED, Presence.BACK, Presence.DOUBTED]
    assert not contact.is_lost


def test_who_speaks_without_having_been_lost_has_no_copy_to_return_to() -> None:
    contact = Contact(NOW)
    contact.on_announce()
    assert contact.presence is Presence.SURE


def test_who_says_that_its_copies_are_in_the_queues_is_back_without_having_been_lost() -> None:
    contact = Contact(NOW)
    contact.on_announce(requeued=True)
    assert contact.presence is Presence.BACK
