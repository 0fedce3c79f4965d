"""LLaVA's and FastChat's generate calls: for whichever worker is free (`llava`), and for a certain one (`worker`)."""

from broker_controller.http.bodies import BodyReader, GenerateBody
from broker_controller.http.call import Call
from broker_controller.http.cumulative import CumulativeWriter
from broker_controller.http.services import Services
from broker_controller.http.streaming import stream_answer, whole_answer
from broker_controller.streams import GenerationStream
from broker_wire.messages import Operation

_read = BodyReader(GenerateBody).read


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
    await whole_answer(call, stream, writer.encode_object)


async def _submit(services: Services, call: Call, worker: str | None) -> tuple[GenerationStream, CumulativeWriter]:
    asked, stream = await services.take(call, _read, Operation.LLAVA, worker)
    return stream, CumulativeWriter(asked.prompt if asked.echo else "")
