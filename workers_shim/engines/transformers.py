"""Runs a model by Hugging Face's transformers, inside this process (the extra `transformers`): language models, and
those that see images, LLaVA's among them.

A chat goes through the model's own template, a prompt is completed as it is. Text comes out token by token. One
request runs at a time: the library draws by torch's one source of random numbers, which two would share.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import partial

from workers_shim import Chunk, Request, Usage, Worker
from workers_shim.conversation import Conversation, derive_conversation
from workers_shim.engines.detokenizer import Detokenizer
from workers_shim.engines.stop_strings import StopStrings
from workers_shim.engines.transformers_checkpoint import Checkpoint, load_checkpoint, name_of
from workers_shim.engines.transformers_generation import Generation
from workers_shim.engines.transformers_prompt import chat_as_prompt, make_prompt
from workers_shim.engines.transformers_settings import check_parameters, make_settings, seed_of


class Transformers:
    """One loaded model.

    Attributes:
        default_name: the last part of the path, or of the name.
        context_length: tokens that one request may have, prompt and answer together.
        abilities: what the model can be asked for.
    """

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        self.default_name = name
        self.context_length = checkpoint.context_length
        chat = ["chat"] if checkpoint.templater.chat_template else []
        vision = ["vision"] if checkpoint.processor is not None else []
        self.abilities = [*chat, "completion", *vision]
        self._checkpoint = checkpoint
        # Those of the library are not to be used by two threads at once, and this one counts beside a generation.
        self._counter = copy.deepcopy(checkpoint.tokenizer)

    @classmethod
    def load(
        cls, source: str, *, device: str = "auto", dtype: str = "auto", context_length: int | None = None
    ) -> "Transformers":
        """Load a folder, or a model of the Hugging Face Hub by its name.

        Raises: ValueError, with a sentence.
        """
        checkpoint = load_checkpoint(source, device=device, dtype=dtype, context_length=context_length)
        return cls(name_of(source), checkpoint)

    def count_tokens(self, text: str) -> int:
        """How many tokens a prompt has."""
        return len(self._counter(text)["input_ids"])

    def conversation(self) -> Conversation | None:
        """The checkpoint's own template in FastChat's form; None where there is none that writes the same."""
        return derive_conversation(self.default_name, partial(chat_as_prompt, self._checkpoint))

    def generate(self, request: Request) -> Iterator[str | Chunk]:
        """One answer. Raises: RequestError; RuntimeError, when the memory does not suffice."""
        check_parameters(request)
        prompt = make_prompt(self._checkpoint, request)
        prompt_tokens = len(prompt.tokens) - prompt.had
        # Of the whole answer, with what the client has of it.
        limit = self.context_length - prompt_tokens
        if request.max_tokens is not None:
            limit = min(limit, request.max_tokens)
        if prompt.had >= limit:
            yield Chunk(finish_reason="length", usage=Usage(prompt_tokens, limit))
            return
        settings = make_settings(self._checkpoint, request, limit - prompt.had)
        answer = _Answer(self._checkpoint, request, prompt.tokens)
        generation = Generation(self._checkpoint, request, prompt, settings, seed_of(request, prompt.had))
        try:
            for token in generation.tokens():
                yield "" if token is None else answer.feed(token)
                if answer.finish_reason:
                    break
        finally:
            # The slot is free when the model has let go of it, not before.
            generation.stop()
        yield answer.rest()
        yield Chunk(
            finish_reason=answer.finish_reason or "length", usage=Usage(prompt_tokens, prompt.had + answer.tokens)
        )


class _Answer:
    """From tokens to text, up to the end.

    Attributes:
        tokens: so many have come.
        finish_reason: "" until the model, or a stop string, has ended it.
    """

    def __init__(self, checkpoint: Checkpoint, request: Request, prompt: Sequence[int]) -> None:
        def decode(tokens: Sequence[int]) -> str:
            text: str = checkpoint.tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            return text

        self._end_tokens = checkpoint.end_tokens
        self._text = Detokenizer(decode, prompt)
        self._stops = StopStrings(request.stop)
        self.tokens = 0
        self.finish_reason = ""

    def feed(self, token: int) -> str:
        """The text that can be shown now."""
        self.tokens += 1
        if token in self._end_tokens:
            self.finish_reason = "stop"
            return ""
        return self._check(self._stops.feed(self._text.feed(token)))

    def rest(self) -> str:
        """What was held back."""
        return self._check(self._stops.feed(self._text.rest())) + self._stops.rest()

    def _check(self, shown: str) -> str:
        if self._stops.found:
            self.finish_reason = "stop"
        return shown


def register(worker: Worker, model: str, engine: Transformers) -> None:
    """Serve a model by it; an answer that another worker began is gone on with.

    Raises: ValueError, with a sentence.
    """
    check_slots(worker)
    worker.add_model(
        model,
        engine.generate,
        abilities=engine.abilities,
        context_length=engine.context_length,
        resume=("prefix", "replay"),
        count_tokens=engine.count_tokens,
        conversation=engine.conversation(),
    )


def check_slots(worker: Worker) -> None:
    """Raises: ValueError, when the worker has more than one."""
    if worker.config.slots != 1:
        raise ValueError(
            f"the engine transformers runs one request at a time, and slots is {worker.config.slots}: "
            "start more workers to run more"
        )
