"""Keeps a worker's models those of the server behind it: they come and go with it, and are withdrawn while it is away.

A thread of its own beside the worker. `openai` tells it of trouble that a request has met; it tells `openai` that the
server is well.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping

from msgspec import Struct

from workers_shim import Worker
from workers_shim.conversation import Conversation
from workers_shim.engines.http_client import HttpClient
from workers_shim.engines.openai import OpenAIServer
from workers_shim.engines.openai_models import DownError, SlowError, Survey, Surveyor, UpstreamModel

_log = logging.getLogger(__name__)

INTERVAL = 3.0
"""Seconds between two looks. A silent request is taken for stalled after 10 s at the earliest."""
SLOW_LOOKS = 3
"""Looks in a row without an answer in time, after which the server counts as away: a busy one is left alone."""


class Offer(Struct, frozen=True):
    """One model as the worker serves it."""

    abilities: tuple[str, ...]
    context_length: int | None
    counts: bool = False
    conversation: Conversation | None = None

    def register(self, worker: Worker, server: OpenAIServer, name: str) -> None:
        """Serve the model so. Raises: ValueError, TimeoutError, as `add_model`."""
        server.register(
            worker,
            name,
            abilities=self.abilities,
            context_length=self.context_length,
            counts=self.counts,
            conversation=self.conversation,
        )


class Wanted(Struct, frozen=True):
    """What to serve of what the server has.

    Attributes:
        names: the model's name here, and the server's name of it; None: all that the server lists, by its own names.
        abilities: of every model; "vision" is added where the server says so.
        abilities_are_final: the user said them, and nothing is added.
    """

    names: Mapping[str, str] | None
    abilities: tuple[str, ...]
    abilities_are_final: bool = False

    def offers(self, survey: Survey) -> dict[str, Offer]:
        """What the worker should serve now. A model that the user names is served though the server does not list it:
        some list theirs by a longer name."""
        listed = {model.name: model for model in survey.models or ()}
        names = dict(zip(listed, listed, strict=True)) if self.names is None else self.names
        return {name: self._offer(listed.get(upstream, UpstreamModel(upstream))) for name, upstream in names.items()}

    def _offer(self, model: UpstreamModel) -> Offer:
        adds_vision = model.takes_images and not self.abilities_are_final
        abilities = (*self.abilities, "vision") if adds_vision else self.abilities
        return Offer(abilities, model.context_length, model.counts, model.conversation)


class Watch:
    """Looks at the server every few seconds from the start of the worker to its end."""

    def __init__(self, worker: Worker, server: OpenAIServer, wanted: Wanted, served: Mapping[str, Offer]) -> None:
        """`served`: what the worker has been given already."""
        self._worker = worker
        self._server = server
        self._wanted = wanted
        self._served = dict(served)
        self._slow_looks = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="openai-watch", daemon=True)

    def start(self) -> None:
        """Begin. The thread does not keep the process alive."""
        self._server.on_trouble = self.look_now
        self._thread.start()

    def look_now(self, reason: str) -> None:
        """A request has met trouble. Called from any thread."""
        _log.warning("trouble with the server url=%s reason=%s", self._server.address.url, reason)
        loop = self._loop
        if loop is not None:
            # The loop may just have ended.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._news.set)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        client = HttpClient(self._server.address, secret=self._server.secret)
        surveyor = Surveyor(client)
        has_lived = False
        while self._worker.alive or not has_lived:
            if self._worker.alive:
                has_lived = True
                await self._look(surveyor)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._news.wait()
            self._news.clear()
        client.close()

    async def _look(self, surveyor: Surveyor) -> None:
        try:
            survey = await surveyor.look()
        except SlowError as error:
            self._slow_looks += 1
            if self._slow_looks >= SLOW_LOOKS:
                self._withdraw(str(error))
        except DownError as error:
            self._withdraw(str(error))
        else:
            self._slow_looks = 0
            self._server.note_alive()
            self._serve(self._wanted.offers(survey))

    def _withdraw(self, reason: str) -> None:
        if self._served:
            _log.warning("server is away, its models are withdrawn url=%s reason=%s", self._server.address.url, reason)
        self._serve({})

    def _serve(self, offers: dict[str, Offer]) -> None:
        """Add and remove what has changed."""
        try:
            for name in self._served.keys() - offers.keys():
                self._worker.remove_model(name)
                del self._served[name]
                _log.info("model withdrawn model=%s url=%s", name, self._server.address.url)
            for name, offer in offers.items():
                if self._served.get(name) != offer:
                    offer.register(self._worker, self._server, name)
                    self._served[name] = offer
                    _log.info("model served model=%s url=%s", name, self._server.address.url)
        except TimeoutError:
            _log.warning("the broker has not taken a change of the models, it is tried again in %g s", INTERVAL)
