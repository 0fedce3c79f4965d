"""The parts of one controller that the HTTP surfaces use."""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from broker_controller import session_key
from broker_controller.bridge import Bridges
from broker_controller.controller import Controller
from broker_controller.dispatch import DispatchMethod
from broker_controller.errors import NOT_QUEUED, BadRequestError, Subject
from broker_controller.fleet import Fleet
from broker_controller.fleet_status import fleet_status
from broker_controller.gateway import Gateway
from broker_controller.http.bodies import ChatBody, CompletionBody, EmbeddingBody, GenerateBody, check_model
from broker_controller.http.call import Call
from broker_controller.image_urls import check_urls
from broker_controller.links import Links
from broker_controller.nesting import read_hops
from broker_controller.questions import Questions
from broker_controller.queue_watch import QueueWatch
from broker_controller.request_sender import Submission
from broker_controller.responses.keeper import Keeper
from broker_controller.session_key import SessionKey, read_session
from broker_controller.settings import Settings
from broker_controller.streams import GenerationStream
from broker_wire.garbage import GarbageBin
from broker_wire.messages import HOPS_HEADER, Operation, ResumeMode

GeneratingBodyT = TypeVar("GeneratingBodyT", bound=ChatBody | CompletionBody | EmbeddingBody | GenerateBody)


HOPS = HOPS_HEADER.lower().encode()


class Services(Struct, frozen=True):
    """What a surface may ask and tell."""

    controller: Controller
    gateway: Gateway
    fleet: Fleet
    links: Links
    queues: QueueWatch
    garbage: GarbageBin
    bridges: Bridges
    questions: Questions
    settings: Settings
    keeper: Keeper

    def fleet_status(self) -> dict[str, Any]:
        """The fleet as if it were one worker."""
        return fleet_status(self.controller, self.queues, self.gateway.controller_id)

    async def read_body(self, call: Call) -> bytes:
        """Raises: RequestTooLargeError, BadRequestError, OverloadedError, ClientLeftError."""
        with self.gateway.inflight.receiving() as count:
            return await call.read_body(self.settings.max_body_bytes, count)

    async def take(
        self, call: Call, read: Callable[[bytes], GeneratingBodyT], operation: Operation, worker: str | None = None
    ) -> tuple[GeneratingBodyT, GenerationStream]:
        """Take a request for a model and send it on its way, to `worker` alone if one is named.

        `read` makes of the body what the controller needs to know of it.

        Raises: ServiceError, ClientLeftError.
        """
        call.subject = Subject(call.request_id, stage=NOT_QUEUED)
        body = await self.read_body(call)
        asked = read(body)
        model = check_model(asked.model)
        call.subject = Subject(call.request_id, model, NOT_QUEUED)
        return asked, await self.submit(call, model, operation, body, worker)

    async def submit(
        self, call: Call, model: str, operation: Operation, body: bytes, worker: str | None = None
    ) -> GenerationStream:
        """Send a body on its way. Raises: ServiceError."""
        check_urls(body, self.settings.allow_image_url)
        submission = Submission(
            model=model,
            operation=operation,
            body=body,
            request_id=call.request_id,
            timeout=self.settings.request_timeout,
            pinned_worker=worker,
            resume=_wished_resume(call),
            session=self._session(call, model, body),
            hops=read_hops(call.header(HOPS)),
        )
        return await self.gateway.submit(submission)

    def _session(self, call: Call, model: str, body: bytes) -> SessionKey | None:
        """Read for the one dispatch method that asks for it: the body is gone through once more."""
        if self.controller.dispatch_method is not DispatchMethod.AFFINITY:
            return None
        return read_session(model, body, call.header(session_key.HEADER))


def _wished_resume(call: Call) -> ResumeMode | None:
    """What the client says in `X-Resume`. Raises: BadRequestError."""
    value = call.header(b"x-resume")
    if value is None:
        return None
    try:
        return ResumeMode(value.decode("latin-1").strip().lower())
    except ValueError:
        modes = ", ".join(sorted(ResumeMode))
        raise BadRequestError(f"the header X-Resume has to be one of {modes}") from None
