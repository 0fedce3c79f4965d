"""FastChat's calls that are no generation: what a model is like, how long a text is for it, and embeddings.

For any worker of the model (`llava`), and for a certain one (`worker`).
"""

from msgspec import Struct

from broker_controller.errors import Subject
from broker_controller.http.bodies import BodyReader, CountBody, EmbeddingBody, QuestionBody, check_model
from broker_controller.http.call import Call
from broker_controller.http.services import HOPS, Services
from broker_controller.http.streaming import whole_answer
from broker_controller.http.worker_embeddings import encode_embeddings
from broker_controller.nesting import read_hops
from broker_wire.messages import Operation, QuestionKind

_read_embeddings = BodyReader(EmbeddingBody).read


class Asking(Struct, frozen=True):
    """One of the questions. Called as an endpoint, for one worker if it is named."""

    kind: QuestionKind
    reader: BodyReader[CountBody] | BodyReader[QuestionBody]

    async def __call__(self, services: Services, call: Call, worker: str | None = None) -> None:
        """Raises: ServiceError."""
        call.subject = Subject(call.request_id)
        hops = read_hops(call.header(HOPS))
        body = await services.read_body(call)
        model = check_model(self.reader.read(body).model)
        call.subject = Subject(call.request_id, model)
        await call.respond(200, await services.questions.ask(self.kind, model, body, worker, hops))


count_token = Asking(QuestionKind.COUNT_TOKENS, BodyReader(CountBody))
model_details = Asking(QuestionKind.CONTEXT_LENGTH, BodyReader(QuestionBody))
get_conv_template = Asking(QuestionKind.CONVERSATION, BodyReader(QuestionBody))


async def get_embeddings(services: Services, call: Call, worker: str | None = None) -> None:
    """FastChat's `/worker_get_embeddings`: a request as any other, in a slot.

    Raises: ServiceError.
    """
    _, stream = await services.take(call, _read_embeddings, Operation.EMBEDDING, worker)
    await whole_answer(call, stream, encode_embeddings)
