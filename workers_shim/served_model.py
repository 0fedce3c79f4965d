"""One model that a worker serves: what it says of itself, and the user's function behind it.

Made by `worker`, used by `execution` and `run`.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from broker_wire.messages import Ability, ModelCard, Operation, QuestionKind, ResumeMode
from broker_wire.topology import check_model_name
from workers_shim import several_prompts
from workers_shim.conversation import Conversation, conversation_json
from workers_shim.embeddings import Embeddings, Encoder, as_chunks
from workers_shim.questions import AnswerFunction, CountFunction, counting
from workers_shim.request import Chunk, Request
from workers_shim.shapes import Yields, convert, convert_async, converter_of

Answer = str | Chunk | Embeddings
Chunks = Iterator[str | Chunk] | AsyncIterator[str | Chunk]

GenerateFunction = Callable[[Request], Iterable[Any] | AsyncIterator[Any] | Any | Coroutine[Any, Any, Any]]
"""What a user writes: a generator function, plain or asynchronous, of what its model `yields`; also one that returns
its answer, of a model that does not stream, and where the answer is `Embeddings`."""


ResumeWays = str | Sequence[str]
"""A way in which an answer goes on, or several: the first that can be done counts."""

ResumeChoice = ResumeWays | Callable[[Request], ResumeWays]
"""For all requests of a model, or a function that says it of each."""


BROKER: Final = "broker"
SharedLoop = bool | Literal["broker"]
"""Whether all streams of a model share one loop, and whether it is that of the worker's connection."""


class ServedModel(Struct, frozen=True):
    """A model of this worker. `answers`: the functions behind the questions that its card names."""

    card: ModelCard
    generate: GenerateFunction
    resume: ResumeChoice = ResumeMode.NEVER
    shared_loop: SharedLoop = False
    yields: Yields = Yields.DELTAS
    many_prompts: bool = False
    unchecked: bool = False
    answers: Mapping[str, AnswerFunction] = {}

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    def resume_modes(self, request: Request) -> tuple[ResumeMode, ...]:
        """How an answer to this request goes on. Raises: ValueError, if the user's function says what is no way."""
        return _read_ways(self.resume(request) if callable(self.resume) else self.resume)

    def chunks(self, request: Request) -> Chunks:
        """Call the function, for a completion of several prompts once for each if it does not take them all.

        Raises: TypeError, when it is no generator, and the model streams; RequestError; whatever it raises itself.
        """
        if request.operation is Operation.EMBEDDING and self.yields is not Yields.CHUNKS:
            encoder = Encoder(request)
            return as_chunks(self._call(request), encoder)
        if request.operation is not Operation.EMBEDDING and len(request.inputs) > 1 and not self.many_prompts:
            return several_prompts.in_turn(self._converted, request)
        return self._converted(request)

    def _converted(self, request: Request) -> Chunks:
        items = self._call(request)
        if self.yields is Yields.DELTAS:
            # What is no chunk is found out where the chunks are read.
            return items
        converter = converter_of(self.yields, request)
        return convert_async(items, converter) if isinstance(items, AsyncIterator) else convert(items, converter)

    def _call(self, request: Request) -> Iterator[Any] | AsyncIterator[Any]:
        items = self.generate(request)
        if isinstance(items, AsyncIterator):
            return items
        is_one_piece = not self.card.streams or request.operation is Operation.EMBEDDING
        if inspect.iscoroutine(items):
            if is_one_piece:
                return _once(items)
            items.close()
            raise self._has_to_yield()
        # An answer may be iterable itself: a dict is, and so are objects of `openai.types`.
        is_one = isinstance(items, str | bytes | Chunk | Embeddings | Mapping) or hasattr(items, "model_dump_json")
        if is_one and is_one_piece and not self.shared_loop:
            return iter([items])
        if is_one or not isinstance(items, Iterable):
            raise self._has_to_yield()
        if self.shared_loop:
            how = f"shared_loop={self.shared_loop!r}"
            raise TypeError(f"model {self.name!r} has {how}: its function has to be an async generator")
        return iter(items)

    def _has_to_yield(self) -> TypeError:
        if not self.card.streams:
            return TypeError(f"the function of model {self.name!r} has to return its answer, or to yield it")
        text = f"the function of model {self.name!r} has to yield its chunks, not to return them"
        return TypeError(f"{text}; one that returns its answer has streams=False")


async def _once(answer: Coroutine[Any, Any, Any]) -> AsyncIterator[Any]:
    yield await answer


def serve(
    name: str,
    generate: GenerateFunction,
    *,
    abilities: Sequence[str],
    context_length: int | None,
    resume: ResumeChoice,
    shared_loop: SharedLoop,
    streams: bool = True,
    yields: str = Yields.DELTAS,
    many_prompts: bool = False,
    unchecked: bool = False,
    count_tokens: CountFunction | None = None,
    conversation: Conversation | Mapping[str, Any] | None = None,
    answers: Mapping[str, AnswerFunction] | None = None,
) -> ServedModel:
    """Check what a user says of a model.

    Raises: ValueError, with a sentence.
    """
    check_model_name(name)
    known = {ability.value for ability in Ability}
    unknown = sorted(set(abilities) - known)
    if unknown or not abilities:
        raise ValueError(f"abilities of model {name!r} have to be some of {sorted(known)}, not {list(abilities)}")
    if not callable(resume):
        try:
            resume = _read_ways(resume)
        except ValueError as error:
            raise ValueError(f"resume of model {name!r} {error}") from None
    if yields not in tuple(Yields):
        shapes = ", ".join(repr(shape.value) for shape in Yields)
        raise ValueError(f"yields of model {name!r} has to be one of {shapes}, not {yields!r}")
    if context_length is not None and context_length < 1:
        raise ValueError(f"context_length of model {name!r} has to be at least 1, not {context_length}")
    if shared_loop not in (False, True, BROKER):
        raise ValueError(f"shared_loop of model {name!r} has to be True, False or {BROKER!r}, not {shared_loop!r}")
    if shared_loop and inspect.isgeneratorfunction(generate):
        raise ValueError(f"model {name!r} has shared_loop={shared_loop!r}: its function has to be an async generator")
    told = b""
    if conversation is not None:
        try:
            told = conversation_json(conversation)
        except ValueError as error:
            raise ValueError(f"conversation of model {name!r} {error}") from None
    functions = dict(answers or {})
    if count_tokens is not None:
        functions[QuestionKind.COUNT_TOKENS] = counting(count_tokens)
    card = ModelCard(
        name, tuple(Ability(ability) for ability in abilities), context_length, streams, told, tuple(functions)
    )
    return ServedModel(card, generate, resume, shared_loop, Yields(yields), many_prompts, unchecked, functions)


def _read_ways(ways: ResumeWays) -> tuple[ResumeMode, ...]:
    """Raises: ValueError."""
    listed = (ways,) if isinstance(ways, str) else tuple(ways)
    modes = [mode.value for mode in ResumeMode]
    if not listed or not set(listed) <= set(modes):
        raise ValueError(f"has to be one of {modes}, or several of them, not {ways!r}")
    return tuple(map(ResumeMode, listed))
