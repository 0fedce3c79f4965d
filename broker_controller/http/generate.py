"""LLaVA's and FastChat's generate calls: for whichever worker is free (`llava`), and for a certain one (`worker`)."""

from broker_controller.http.bodies import BodyReader, GenerateBody, check_model
from broker_controller.http.call import Call
from broker_controller.http.cumulative import CumulativeWriter
from broker_controller.http.services import Services
from broker_controller.http.streaming import start_headers, stream_answer, whole_answer
from broker_controller.streams import GenerationStream
from broker_wire.messages import Operation

_generate = BodyReader(GenerateBody)


async def generate_stream(services: Services, call: Call, worker: str | None = None) -> None:
    """Objects that each end with NUL, each with the whole text so far.

    Raises: ServiceError.
    """
    stream, writer = await _submit(services, call, worker)
    await stream_answer(call, stream, writer)


async def generate(services: Services, call: Call, worker: str | None = None) -> None:
    """FastChat's `/worker_generate`: the last of these objects alone, without NUL.

    Raises: ServiceError.
    """
    stream, writer = await _submit(services, call, worker)
    items = await whole_answer(call, stream)
    if items:
        await call.respond(200, writer.encode_object(items), headers=start_headers(stream))


async def _submit(services: Services, call: Call, worker: str | None) -> tuple[GenerationStream, CumulativeWriter]:
    body = await services.read_body(call)
    asked = _generate.read(body)
    stream = await services.submit(call, check_model(asked.model), Operation.LLAVA, body, worker)
    return stream, CumulativeWriter(asked.prompt if asked.echo else "")
