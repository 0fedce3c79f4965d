"""What the answers of FastChat's calls hold that are no generation: a part of `answer_types`."""

from typing import Any

from msgspec import Struct


class TokenCount(Struct, frozen=True):
    """How many tokens a text has."""

    count: int
    error_code: int


class ModelDetails(Struct, frozen=True):
    """In tokens; null where the worker does not say."""

    context_length: int | None


class ConversationTemplate(Struct, frozen=True):
    """How a chat is written as one prompt: the fields of FastChat's `Conversation`."""

    conv: dict[str, Any]


class Embeddings(Struct, frozen=True):
    """For each input the numbers, or their base64, as the worker gives them; and the tokens of all inputs."""

    embedding: list[list[float] | str]
    token_num: int
