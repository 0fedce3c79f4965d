"""What an engine does not do is refused by name: not to do what was asked for, and not to say so, would be a lie.

Used by engines that read a request themselves; one that passes it on leaves that to the server behind.
"""

from collections.abc import Collection
from typing import Any

from workers_shim import Request, RequestError

_ASK_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
}
"""OpenAI's parameters that change an answer, each with its values that ask for nothing."""


def check_offered(request: Request, offered: Collection[str] = ()) -> None:
    """Raises: RequestError, for a parameter that asks for something and is none of those that are offered."""
    for name, nothing in _ASK_FOR_NOTHING.items():
        value = request.parameters.get(name)
        if value is not None and value not in nothing and name not in offered:
            raise RequestError(f"model {request.model!r} does not offer {name!r}")
