"""One generation of transformers': its thread, and its tokens one by one. Used by `transformers`."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import BaseStreamer

from workers_shim import Request
from workers_shim.engines.transformers_checkpoint import Checkpoint
from workers_shim.engines.transformers_prompt import Prompt

SIGN_OF_LIFE = 1.0
"""Seconds between two of them, while a long prompt is read."""


class _Stopped(Exception):  # noqa: N818 - nobody wants the rest
    """Ends `generate` from inside."""


class Generation(BaseStreamer):  # type: ignore[misc]  # the library is not there where types are checked
    """`generate` does not return before it is over: it has a thread of its own, and a queue is between.

    The thread is told to stop before each layer of the model, so in the middle of a long prompt, too.
    """

    def __init__(
        self, checkpoint: Checkpoint, request: Request, prompt: Prompt, settings: GenerationConfig, seed: int
    ) -> None:
        self._checkpoint = checkpoint
        self._request = request
        self._prompt = prompt
        self._settings = settings
        self._seed = seed
        self._stopped = False
        self._prompt_has_passed = False
        self._last_sign = time.monotonic()
        # As long as the context at most. None: it works, and has no token yet.
        self._queue: queue.SimpleQueue[int | BaseException | _End | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="transformers", daemon=True)
        self._thread.start()

    def tokens(self) -> Iterator[int | None]:
        """As they come, the one that ends the answer, too. None is a sign of life.

        Raises: Cancelled; RuntimeError, with a sentence, when the memory does not suffice; whatever else goes wrong.
        """
        while not isinstance(item := self._queue.get(), _End):
            if isinstance(item, BaseException):
                raise item
            yield item
        self._request.raise_if_cancelled()

    def stop(self) -> None:
        """Have it end at its next layer, and wait for that."""
        self._stopped = True
        self._thread.join()

    # --- what the library calls

    def put(self, value: Any) -> None:
        """The prompt, and then each token."""
        if not self._prompt_has_passed:
            self._prompt_has_passed = True
            return
        self._raise_if_stopped()
        for token in value.reshape(-1).tolist():
            self._queue.put(token)

    def end(self) -> None:
        """The thread's own end says it."""

    def _before_layer(self, *_: Any) -> None:
        self._raise_if_stopped()
        now = time.monotonic()
        if now - self._last_sign >= SIGN_OF_LIFE:
            self._last_sign = now
            self._queue.put(None)

    def _raise_if_stopped(self) -> None:
        if self._stopped or self._request.cancelled:
            raise _Stopped

    # --- the thread

    def _main(self) -> None:
        failure: BaseException | None = None
        try:
            self._generate()
        except _Stopped:
            pass
        except (torch.OutOfMemoryError, MemoryError):
            failure = RuntimeError(self._out_of_memory())
        except BaseException as error:  # noqa: BLE001 - it is raised again where the tokens are read
            failure = error
        if failure is not None:
            # Out of the handler: nothing holds the tensors of the frames that failed any more.
            self._queue.put(failure)
        self._queue.put(_End())

    def _generate(self) -> None:
        model = self._checkpoint.model
        hooks = [layer.register_forward_pre_hook(self._before_layer) for layer in _layers(model)]
        try:
            # The library draws by torch's own generator, there is no way to pass another one.
            torch.manual_seed(self._seed)
            model.generate(**self._prompt.inputs, generation_config=self._settings, streamer=self)
        finally:
            for hook in hooks:
                hook.remove()

    def _out_of_memory(self) -> str:
        device = self._checkpoint.device
        tokens = len(self._prompt.tokens)
        return f"out of memory on {device}, with {tokens} tokens in the prompt: send less, or fewer or smaller images"


class _End:
    """The thread has nothing more to say."""


def _layers(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Of every list of layers in the model: those of its language, and of its eyes."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList):
            yield from module
