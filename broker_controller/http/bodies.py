"""What the controller itself reads of a request's body; the worker gets the bytes untouched and reads the rest.

Used by every surface that takes a body.
"""

from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from broker_controller.errors import BadRequestError
from broker_wire.errors import NameRefusedError
from broker_wire.topology import check_model_name


class StreamOptions(Struct):
    """OpenAI's."""

    include_usage: bool | None = None


class Message(Struct):
    """One message of a chat; its content is for the worker."""

    role: str


class ChatBody(Struct):
    """`/v1/chat/completions`."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class CompletionBody(Struct):
    """`/v1/completions`. A prompt is a text, several texts, or tokens; some engines take it in another field."""

    model: str
    prompt: str | list[Any] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class EmbeddingBody(Struct):
    """`/v1/embeddings` and `/worker_get_embeddings`. The input is a text, several texts, or tokens; some engines take
    messages in its place.
    """

    model: str
    input: str | list[msgspec.Raw] | None = None


class GenerateBody(Struct):
    """LLaVA's and FastChat's `/worker_generate_stream`. Where `echo` is absent, LLaVA's clients cut the prompt off."""

    model: str
    prompt: str
    echo: bool | None = True


class ModelBody(Struct):
    """`/get_worker_address`."""

    model: str


class QuestionBody(Struct):
    """`/model_details` and `/worker_get_conv_template`."""

    model: str


class CountBody(Struct):
    """`/count_token`."""

    model: str
    prompt: str


class RegistrationBody(Struct):
    """`/register_worker`. Without a status the worker is asked for it."""

    worker_name: str
    check_heart_beat: bool
    worker_status: dict[str, Any] | None = None
    multimodal: bool | None = False


class HeartBeatBody(Struct):
    """`/receive_heart_beat`."""

    worker_name: str
    queue_length: float


BodyT = TypeVar("BodyT")


class BodyReader(Generic[BodyT]):
    """Reads one kind of body, or says in a sentence why it cannot."""

    def __init__(self, kind: type[BodyT]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, body: bytes) -> BodyT:
        """Raises: BadRequestError."""
        try:
            if not body.isascii():
                body.decode()
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise BadRequestError(f"the body of the request has not the right form: {_sentence(error)}") from error
        except msgspec.DecodeError as error:
            raise BadRequestError(f"the body of the request is not JSON: {_sentence(error)}") from error
        except UnicodeDecodeError as error:
            raise BadRequestError(f"the body of the request is not UTF-8: look at byte {error.start}") from error
        except RecursionError as error:
            raise BadRequestError("the body of the request is nested too deeply") from error


def check_model(model: str) -> str:
    """A model's name that can be carried.

    Raises: BadRequestError.
    """
    try:
        return check_model_name(model)
    except NameRefusedError as error:
        raise BadRequestError(str(error)) from error


def _sentence(error: msgspec.DecodeError) -> str:
    text = str(error).removeprefix("JSON is malformed: ").replace(" - at `$.", " at `").replace(" - at `$", " at `body")
    return text[:1].lower() + text[1:]
