"""`workers-shim check`: one request straight through an engine, without a broker, and in words what came of it.

So that trouble of the engine can be told from trouble of the fleet. The request takes the same way through the shim as
one of the fleet; `cli` makes the worker, and calls this instead of running it.
"""

import argparse
import asyncio
import time

import msgspec

from broker_wire.messages import Ability, FailureKind, Generate, ModelCard, Operation
from workers_shim.check_printer import Printer
from workers_shim.options import SettingError
from workers_shim.stream import Assignment
from workers_shim.worker import Worker

PROMPT = "Say hello in one short sentence."
MAX_TOKENS = 64
DEADLINE = 600.0
"""Seconds, as the controller's requests have by default."""
FAREWELL = 5.0
"""Seconds for an engine that was told to stop."""

_BY_ABILITY = {
    Ability.CHAT: Operation.CHAT,
    Ability.COMPLETION: Operation.COMPLETION,
    Ability.EMBEDDING: Operation.EMBEDDING,
    Ability.VISION: Operation.CHAT,
}
"""What is asked for by default: the first that the model can do."""
_WORDS = {
    FailureKind.REQUEST: "the engine refuses the request; a client would get 400",
    FailureKind.NOT_SERVED: "the engine cannot take it at present; in a fleet another worker would be tried",
    FailureKind.LOST: "what runs the model died in the middle of the answer; in a fleet another worker would be tried",
    FailureKind.ENGINE: "the engine failed; in a fleet a request of which nothing came yet would be tried once more",
    FailureKind.DEADLINE: f"the answer was not complete after {DEADLINE:g} s",
}


def check(worker: Worker, options: argparse.Namespace) -> int:
    """Ask once, and print. Returns the exit code: 0 for a complete answer, else 1.

    Raises: SettingError, when there is no such model.
    """
    card = _choose(worker.models, options.ask)
    operation = _operation(card, options.operation)
    streams = not options.whole and operation is not Operation.EMBEDDING
    body = make_body(card.name, operation, options.prompt, options.max_tokens, streams=streams)
    printer = Printer()
    others = len(worker.models) - 1
    printer.line("model", f"{_describe(card)}{f' (and {others} more: --ask chooses)' if others else ''}")
    printer.line("request", f"{operation.value}, {'streamed' if streams else 'in one piece'}: {options.prompt}")
    printer.blank()
    generate = Generate("check", 1, 1, "check", card.name, operation, DEADLINE, body)
    worker.engines.start(Assignment(generate, 1, 0, "", False, time.monotonic() + DEADLINE), printer)
    code = _wait(printer)
    asyncio.run(worker.engines.aclose(FAREWELL))
    return code


def make_body(model: str, operation: Operation, prompt: str, max_tokens: int, *, streams: bool) -> bytes:
    """What a client of that protocol would send."""
    body: dict[str, object] = {"model": model}
    match operation:
        case Operation.CHAT:
            body |= {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
        case Operation.COMPLETION:
            body |= {"prompt": prompt, "max_tokens": max_tokens}
        case Operation.EMBEDDING:
            body |= {"input": prompt}
        case Operation.LLAVA:
            body |= {"prompt": prompt, "max_new_tokens": max_tokens}
    if operation in (Operation.CHAT, Operation.COMPLETION):
        body |= {"stream": True, "stream_options": {"include_usage": True}} if streams else {"stream": False}
    return msgspec.json.encode(body)


def _choose(cards: list[ModelCard], wanted: str | None) -> ModelCard:
    found = next((card for card in cards if wanted in (None, card.name)), None)
    if found is not None:
        return found
    served = ", ".join(card.name for card in cards) or "none"
    raise SettingError(f"there is no model {wanted!r}; served: {served}" if wanted else "there is no model to ask")


def _operation(card: ModelCard, wanted: str | None) -> Operation:
    if wanted is not None:
        return Operation(wanted)
    return next((operation for ability, operation in _BY_ABILITY.items() if ability in card.abilities), Operation.CHAT)


def _describe(card: ModelCard) -> str:
    context = f", context of {card.context_length} tokens" if card.context_length else ""
    return f"{card.name}: {', '.join(card.abilities)}{context}"


def _wait(printer: Printer) -> int:
    try:
        if not printer.released_within(DEADLINE + FAREWELL):
            printer.line("failed", "the engine has not come back, though its time was up")
            return 1
    except KeyboardInterrupt:
        printer.cancel()
        printer.released_within(FAREWELL)
        printer.blank()
        printer.line("interrupted", "the engine was told to stop")
        return 1
    printer.blank()
    if printer.failure is not None:
        kind, message = printer.failure
        printer.line("failed", message)
        printer.line("meaning", _WORDS.get(kind, kind.value))
        return 1
    for name, text in printer.report():
        printer.line(name, text)
    return 0
