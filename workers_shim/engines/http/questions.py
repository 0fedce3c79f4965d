"""What is asked about a model of an old HTTP worker: passed on to it, and its answer passed back, byte for byte.

FastChat's workers answer all of it, LLaVA's nothing, which is an answer, too. Used by the command `http` and by the
controller's bridges.
"""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from broker_wire.messages import HOPS_HEADER, Question, QuestionKind
from workers_shim import RequestError, Unavailable
from workers_shim.engines.http.old_worker import (
    NotThereError,
    OldWorker,
    OldWorkerError,
    RefusedError,
    UnreachableError,
)

PATHS = {
    QuestionKind.COUNT_TOKENS: "/count_token",
    QuestionKind.CONTEXT_LENGTH: "/model_details",
    QuestionKind.CONVERSATION: "/worker_get_conv_template",
}

_read = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


PassOn = Callable[[Question], Awaitable[bytes]]


def answers_of(worker: OldWorker, their_names: Mapping[str, str] | None = None) -> dict[str, PassOn]:
    """For each question the function that passes it on. `their_names`: what the worker calls models of other names."""
    return {kind: _passing_on(worker, path, their_names or {}) for kind, path in PATHS.items()}


def _passing_on(worker: OldWorker, path: str, their_names: Mapping[str, str]) -> PassOn:
    async def answer(question: Question) -> bytes:
        hops = {HOPS_HEADER: str(question.hops + 1)}
        try:
            return await worker.pass_on(path, _renamed(question.body, their_names), hops)
        except UnreachableError as error:
            raise Unavailable(str(error)) from error
        except (RefusedError, NotThereError) as error:
            raise RequestError(str(error)) from error
        except OldWorkerError as error:
            raise RuntimeError(str(error)) from error

    return answer


def _renamed(body: bytes, their_names: Mapping[str, str]) -> bytes:
    """Raises: RequestError."""
    if not their_names:
        return body
    try:
        fields = _read(body)
        theirs = their_names.get(msgspec.json.decode(fields["model"], type=str))
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
        raise RequestError("the body of the question names no model") from error
    return body if theirs is None else msgspec.json.encode(fields | {"model": theirs})
