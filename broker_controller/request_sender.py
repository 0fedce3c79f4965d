"""Publishes requests: the message of a submission, to the queue that its life decided on. Used by `gateway`."""

import logging
import time
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from broker_controller.decisions import Place, Publish
from broker_controller.errors import RequestTooLargeError
from broker_controller.lifecycle import RequestLife
from broker_controller.links import Links
from broker_controller.registry import Registry
from broker_controller.session_key import SessionKey
from broker_controller.watched_clock import WatchedClock
from broker_wire.amqp.channel import Outcome
from broker_wire.errors import MessageTooLargeError, NotConnectedError
from broker_wire.messages import Generate, Operation, Piece, ResumeMode
from broker_wire.topology import Topology

_log = logging.getLogger(__name__)


class Submission(Struct, frozen=True):
    """What a client asks for. `timeout` is in seconds; `body` is its JSON, untouched.

    `session`: whose KV cache it can use, with the dispatch method that asks for it. `hops`: controllers that it came
    through before.
    """

    model: str
    operation: Operation
    body: bytes
    request_id: str
    timeout: float
    pinned_worker: str | None = None
    resume: ResumeMode | None = None
    session: SessionKey | None = None
    hops: int = 0
    had: tuple[str | Piece, ...] = ()
    """What another controller's client has of the answer already: a worker goes on after it."""


class RequestSender:
    """One a controller process."""

    def __init__(
        self,
        links: Links,
        registry: Registry,
        watched: WatchedClock,
        on_outcome: Callable[[int, int, Outcome], None],
    ) -> None:
        """`on_outcome` gets stream, attempt and what the broker says of the publish."""
        self._links = links
        self._registry = registry
        self._watched = watched
        self._on_outcome = on_outcome

    def send(self, life: RequestLife, submission: Submission, action: Publish) -> None:
        """Publish it once. Without a connection it waits: after the reconnect every waiting request is sent again.

        Raises: RequestTooLargeError.
        """
        request = Generate(
            controller=life.controller,
            stream=life.stream,
            attempt=action.attempt,
            request_id=life.request_id,
            model=life.model,
            operation=submission.operation,
            remaining=life.deadline - time.monotonic(),
            body=submission.body,
            pinned=action.place is Place.PINNED,
            ask_first=action.ask_first,
            resume=submission.resume,
            hops=submission.hops,
        )
        key = routing_key(self._links.topology, life, action.place)
        try:
            self._links.send_request(key, request, partial(self._on_outcome, life.stream, action.attempt))
        except NotConnectedError:
            _log.info("request waits for the connection to the broker request=%s", life.request_id)
        except MessageTooLargeError as error:
            raise RequestTooLargeError(str(error), subject=life.subject) from error
        else:
            if action.place is Place.OWN:
                self._registry.note_sent(life.target, (life.controller, life.stream), self._watched())


def routing_key(topology: Topology, life: RequestLife, place: Place) -> str:
    """Where a request goes on the exchange of requests."""
    match place:
        case Place.MODEL:
            return topology.model_key(life.model)
        case Place.RESUME:
            return topology.resume_queue(life.model).routing_key
        case Place.OWN:
            return topology.own_queue(life.target, life.model).routing_key
        case Place.PINNED:
            return topology.pinned_queue(life.target).routing_key
