"""What the server behind `openai` says of itself: whether it is well, which models, how many requests it runs.

Used by `openai_watch` and before the start. Servers say these in different ways, and most do not say all of them.
"""

import logging
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from broker_wire.errors import NameRefusedError
from broker_wire.topology import check_model_name
from workers_shim.conversation import Conversation
from workers_shim.engines.http_client import BrokenOffError, HttpClient, HttpError, UnreachableError
from workers_shim.engines.openai_text import ask_conversation

_log = logging.getLogger(__name__)

QUESTION_TIMEOUT = 5.0
"""Seconds for a question that needs no generation."""
MAX_LIST = 8 * 1024 * 1024
"""Bytes of the list of models, or of what else a server says of itself."""
_LLAMACPP = "llamacpp"
_COUNT = frozenset({_LLAMACPP, "vllm"})
"""By whom models are owned that can be asked for tokens."""
_NOT_THERE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


class UpstreamModel(Struct, frozen=True):
    """A model as the server lists it.

    Attributes:
        context_length: in tokens; None where it does not say.
        counts: the server tells how many tokens a text has.
        conversation: how a chat is written, in FastChat's form; None where it does not say.
    """

    name: str
    context_length: int | None = None
    takes_images: bool = False
    counts: bool = False
    conversation: Conversation | None = None


class Survey(Struct, frozen=True):
    """What a server has. `slots` None: it does not say how many requests run at once."""

    models: tuple[UpstreamModel, ...] | None
    slots: int | None = None


class DownError(Exception):
    """The server cannot serve, as a sentence."""


class KeyRefusedError(DownError):
    """It does not take the API key, or wants one."""


class SlowError(Exception):
    """It did not answer in time: it may be very busy."""


class Surveyor:
    """Asks one server, over one client."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._root = client.address.path.removesuffix("/v1")
        self._has_health = True
        self._conversations: dict[str, Conversation | None] = {}
        """Of llama-server's models; asked for once, until the server has been away."""

    async def look(self) -> Survey:
        """Models None: the server has no list of them.

        Raises: DownError, SlowError.
        """
        try:
            return await self._look()
        except DownError:
            self._conversations.clear()
            raise

    async def _look(self) -> Survey:
        await self._check_health()
        path = f"{self._client.address.path}/models"
        status, body = await self._get(path)
        if status in _NOT_THERE:
            return Survey(None)
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise KeyRefusedError(f"{self._client.address.url} does not take the API key (HTTP {status})")
        if status != HTTPStatus.OK:
            raise DownError(f"{self._client.address.url} answers {path} with HTTP {status}")
        listed = _objects(_read(body, path), "data")
        properties = await self._properties() if _is_llamacpp(listed) else {}
        models = tuple(
            [
                msgspec.structs.replace(model, conversation=await self._conversation(each, model.name))
                for each in listed
                if (model := _model_of(each, properties)) is not None
            ]
        )
        slots = properties.get("total_slots")
        return Survey(models, slots if isinstance(slots, int) and slots > 0 else None)

    async def _check_health(self) -> None:
        """llama-server lists its model while it still loads it; vLLM says here that its engine has died."""
        if not self._has_health:
            return
        path = f"{self._root}/health"
        status, _ = await self._get(path)
        if status in _NOT_THERE:
            # Ollama and LM Studio.
            self._has_health = False
        elif status != HTTPStatus.OK:
            raise DownError(f"{self._client.address.url} answers {path} with HTTP {status}")

    async def _conversation(self, listed: dict[str, Any], name: str) -> Conversation | None:
        if listed.get("owned_by") != _LLAMACPP:
            return None
        if name not in self._conversations:
            try:
                self._conversations[name] = await ask_conversation(self._client, name)
            except (HttpError, TimeoutError) as error:
                # The model is served all the same, and the next look asks again.
                _log.debug("no conversation template model=%s reason=%s", name, error)
                return None
        return self._conversations[name]

    async def _properties(self) -> dict[str, Any]:
        path = f"{self._root}/props"
        status, body = await self._get(path)
        found = _read(body, path) if status == HTTPStatus.OK else {}
        return found if isinstance(found, dict) else {}

    async def _get(self, path: str) -> tuple[int, bytes]:
        url = self._client.address.url
        try:
            return await self._client.ask("GET", path, timeout=QUESTION_TIMEOUT, limit=MAX_LIST)
        except TimeoutError as error:
            raise SlowError(f"{url} did not answer {path} within {QUESTION_TIMEOUT:g} s") from error
        except UnreachableError as error:
            raise DownError(str(error)) from error
        except BrokenOffError as error:
            raise DownError(f"{url} did not answer {path}: {error}") from error
        except HttpError as error:
            raise DownError(f"{url} answers {path} with nonsense: {error}") from error


def _model_of(listed: dict[str, Any], properties: dict[str, Any]) -> UpstreamModel | None:
    name = listed.get("id")
    if not isinstance(name, str) or not _can_be_served(name):
        return None
    meta = _object(listed, "meta")
    # llama-server divides its context among the slots: what one request may have is in its properties.
    lengths = (
        _object(properties, "default_generation_settings").get("n_ctx"),
        listed.get("max_model_len"),
        meta.get("n_ctx"),
    )
    length = next((value for value in lengths if isinstance(value, int) and value > 0), None)
    inputs = _object(listed, "architecture").get("input_modalities")
    takes_images = _object(properties, "modalities").get("vision") is True
    takes_images = takes_images or (isinstance(inputs, list) and "image" in inputs)
    return UpstreamModel(name, length, takes_images, counts=listed.get("owned_by") in _COUNT)


def _can_be_served(name: str) -> bool:
    try:
        check_model_name(name)
    except NameRefusedError as error:
        # Said at every look: it is not for the log of a healthy worker.
        _log.debug("model of the server is left out: %s", error)
        return False
    return True


def _is_llamacpp(listed: list[dict[str, Any]]) -> bool:
    """Others would log a question that they do not know as an error, every few seconds."""
    return any(each.get("owned_by") == _LLAMACPP for each in listed)


def _read(body: bytes, path: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DownError(f"the server answers {path} with something that is no JSON") from error


def _object(holder: dict[str, Any], key: str) -> dict[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def _objects(holder: Any, key: str) -> list[dict[str, Any]]:
    value = holder.get(key) if isinstance(holder, dict) else None
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
