"""What some servers behind `openai` tell of texts beside OpenAI's protocol: how many tokens, and how a chat is written.

FastChat's clients ask a worker for both. llama-server (its tools/server/README.md) has `/tokenize` and
`/apply-template`; vLLM ("Tokenizer API" of its OpenAI-compatible server) has `/tokenize`. Both are at the root, not
below `/v1`.
"""

from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from broker_wire.messages import Question
from workers_shim import RequestError, Unavailable
from workers_shim.conversation import Conversation, Message, derive_by_asking
from workers_shim.engines.http_client import HttpClient, HttpError

TIMEOUT = 5.0
"""Seconds for one question."""
MAX_ANSWER = 8 * 1024 * 1024
"""Bytes: of a long text each token is a number."""


class _Tokens(Struct):
    tokens: list[Any]


class _Prompt(Struct):
    prompt: str


class _Asked(Struct):
    prompt: str


_tokens = msgspec.json.Decoder(_Tokens)
_prompt = msgspec.json.Decoder(_Prompt)
_asked = msgspec.json.Decoder(_Asked)


async def count_tokens(client: HttpClient, upstream: str, question: Question) -> bytes:
    """The answer to FastChat's `/count_token`, by the server's own count.

    Raises: RequestError; Unavailable, where the server does not count.
    """
    try:
        text = _asked.decode(question.body).prompt
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body of the question has not the right form: {error}") from error
    # vLLM knows the text as `prompt`, llama-server as `content`; neither minds the other's words.
    body = {"model": upstream, "prompt": text, "content": text, "add_special": True}
    try:
        status, answer = await _ask(client, "/tokenize", body)
        count = len(_tokens.decode(answer).tokens) if status == HTTPStatus.OK else None
    except (HttpError, TimeoutError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unavailable(f"the server does not count tokens: {str(error) or 'no answer in time'}") from error
    if count is None:
        raise Unavailable(f"the server does not count tokens: HTTP {status}")
    return msgspec.json.encode({"count": count, "error_code": 0})


async def ask_conversation(client: HttpClient, name: str) -> Conversation | None:
    """The template of llama-server's model in FastChat's form; None where it has none, or does not say.

    Raises: HttpError, TimeoutError.
    """

    async def render(messages: list[Message]) -> str | None:
        status, answer = await _ask(client, "/apply-template", {"messages": messages})
        try:
            return _prompt.decode(answer).prompt if status == HTTPStatus.OK else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    return await derive_by_asking(name, render)


async def _ask(client: HttpClient, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    root = client.address.path.removesuffix("/v1")
    return await client.ask("POST", root + path, msgspec.json.encode(body), timeout=TIMEOUT, limit=MAX_ANSWER)
