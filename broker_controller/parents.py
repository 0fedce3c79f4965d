"""This fleet as one worker of other controllers: LLaVA's, FastChat's or ours.

To register and to say that one lives is all that their protocol asks for; the requests come to the address that
registered, which is this controller's own. It has no goodbye: who leaves is silent, and answers no more.
"""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import httpx

_log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 15.0
"""Seconds. LLaVA's workers have 15 and are dropped after 30, FastChat's have 45 and are dropped after 90."""
LOOK_INTERVAL = 1.0
"""Seconds between two looks at whether the models have changed."""
KEEP_MODEL = 30.0
"""Seconds for which a model whose workers have left is still said to be served: requests for it wait as long here."""
TIMEOUT = 5.0
"""Seconds to connect, and to answer. LLaVA and FastChat wait as long."""
FIRST_RETRY = 1.0
MAX_RETRY = 30.0
"""Seconds between two tries at a parent that does not answer, doubled up to this."""
MAX_COMPLAINT = 500
"""Characters of a refusal that are logged."""

Status = Callable[[], dict[str, Any]]
"""The fleet's `model_names`, `speed` and `queue_length`, as of now."""


class ParentError(Exception):
    """A parent did not do what it was asked. The text says why."""


class Parents:
    """All parents of one controller process."""

    def __init__(
        self,
        urls: Sequence[str],
        public_url: str,
        *,
        status: Status,
        takes_images: Callable[[], bool],
        is_leaving: Callable[[], bool],
    ) -> None:
        """`public_url` is where they reach this controller; `is_leaving`: it takes nothing new."""
        self._urls = urls
        self._public_url = public_url
        self._status = status
        self._takes_images = takes_images
        self._is_leaving = is_leaving

    async def run(self) -> None:
        """Be a worker of each, until cancelled or until this controller leaves."""
        if not self._urls:
            return
        # The addresses are the operator's own, and mostly near: no proxy of the environment is between.
        tls = ssl.create_default_context()
        async with (
            httpx.AsyncClient(timeout=TIMEOUT, verify=tls, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for url in self._urls:
                tasks.create_task(self._attend(Parent(url, self._public_url, client)), name=f"parent {url}")

    async def _attend(self, parent: "Parent") -> None:
        problem, wait = "", FIRST_RETRY
        while not self._is_leaving():
            try:
                await parent.tell(self._status(), self._takes_images(), time.monotonic())
            except ParentError as error:
                if str(error) != problem:
                    problem = str(error)
                    _log.warning("parent does not answer as a controller parent=%s reason=%s", parent.url, problem)
                await asyncio.sleep(wait * random.uniform(0.75, 1.25))
                wait = min(MAX_RETRY, wait * 2)
            else:
                problem, wait = "", FIRST_RETRY
                await asyncio.sleep(LOOK_INTERVAL)


class Parent:
    """One of them, and what it has been told."""

    def __init__(self, url: str, public_url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._public_url = public_url
        self._client = client
        self._last_seen: dict[str, float] = {}
        self._told: list[str] | None = None
        """The models that it knows of; None: it does not know us."""
        self._next_heartbeat = 0.0

    async def tell(self, status: dict[str, Any], takes_images: bool, now: float) -> None:
        """What is due, if anything; `now` in seconds.

        Raises: ParentError.
        """
        models = self._models(status["model_names"], now)
        if models != self._told:
            await self._register(status | {"model_names": models}, takes_images)
            self._told = models
        elif now < self._next_heartbeat:
            return
        elif not await self._heartbeat(status["queue_length"]):
            _log.info("parent does not know this fleet any more, it is registered again parent=%s", self.url)
            self._told = None
            return
        self._next_heartbeat = now + HEARTBEAT_INTERVAL

    def _models(self, served: Sequence[str], now: float) -> list[str]:
        self._last_seen |= dict.fromkeys(served, now)
        self._last_seen = {model: at for model, at in self._last_seen.items() if now - at < KEEP_MODEL}
        return sorted(self._last_seen)

    async def _register(self, status: dict[str, Any], takes_images: bool) -> None:
        self._told = None
        await self._post(
            "/register_worker",
            {
                "worker_name": self._public_url,
                "check_heart_beat": True,
                "worker_status": status,
                "multimodal": takes_images,
            },
        )
        _log.info("registered at a parent parent=%s models=%s", self.url, ",".join(status["model_names"]))

    async def _heartbeat(self, queue_length: int) -> bool:
        """Whether it knows us."""
        body = {"worker_name": self._public_url, "queue_length": queue_length}
        response = await self._post("/receive_heart_beat", body)
        try:
            return bool(response.json()["exist"])
        except (ValueError, TypeError, KeyError) as error:
            raise ParentError(f"its answer to a heartbeat is none: {response.text[:MAX_COMPLAINT]!r}") from error

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                response = await self._client.post(f"{self.url}{path}", json=body)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise ParentError(f"{path}: {str(error) or type(error).__name__}") from error
        if response.status_code != HTTPStatus.OK:
            raise ParentError(f"{path}: HTTP {response.status_code}: {response.text[:MAX_COMPLAINT]}")
        return response
