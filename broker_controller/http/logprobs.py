"""Puts the logprobs of an answer's chunks together: lists grow, everything else is as the latest chunk says."""

from typing import Any

import msgspec

from broker_controller.errors import EngineError


def append_logprobs(whole: dict[str, Any], chunk: bytes) -> None:
    """Add one chunk's to what came before.

    Raises: EngineError, if the engine wrote no JSON object.
    """
    try:
        news = msgspec.json.decode(chunk, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise EngineError(f"the engine sent logprobs that cannot be read: {error}") from error
    for key, value in news.items():
        known = whole.get(key)
        if isinstance(known, list) and isinstance(value, list):
            known += value
        else:
            whole[key] = value
