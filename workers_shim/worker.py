"""The public API: a `Worker`, its models, and the ways to run it.

What happens on the broker is `session`'s, what happens to a request `execution`'s, and what belongs to a process that
is a worker only is in `process`.
"""

import asyncio
import concurrent.futures
import contextlib
import math
import os
import re
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from broker_wire.amqp.addresses import TLSFiles
from broker_wire.messages import ModelCard
from broker_wire.topology import QueueBounds, Topology, check_worker_name
from workers_shim.broker_thread import BrokerThread
from workers_shim.config import GRACE
from workers_shim.conversation import Conversation
from workers_shim.execution import EngineExecutor
from workers_shim.process import drained_by_signals, end_process, tune_interpreter
from workers_shim.questions import AnswerFunction, CountFunction
from workers_shim.served_model import GenerateFunction, ResumeChoice, SharedLoop, serve
from workers_shim.session import LeaveReason, SessionConfig, WorkerSession

DEFAULT_BROKER_URL = "amqp://guest:guest@localhost:5672/"
TAKEN_OVER_EXIT_CODE = 78
"""EX_CONFIG of sysexits.h: two processes are configured with one name, and starting again would not help."""
CHANGE_TIMEOUT = 15.0
"""Seconds in which the broker has to take the change of a live worker's models."""
LAST_WORDS = 10.0
"""Seconds for a worker that is ended at once: a goodbye, and the close of two connections."""


class Worker:
    """Serves models by functions of yours.

    Args:
        name: 1 to 128 of A-Z a-z 0-9 . _ - ; unique in the fleet. Default: host, process id and some random letters.
        slots: requests that run at once.
        speed: how fast it is, relative to the other workers; dispatch methods that choose weigh by it.
        broker_url: comma-separated amqp:// or amqps:// addresses. Default: AMQP_URL, else RabbitMQ on this machine.
        prefix: of all names on the broker; controllers and workers of one fleet have the same.
        tls: PEM files for amqps://.
        bounds: of the model queues; the same as the controllers'.
        heartbeat_interval: seconds between two signs of life.
        drain_timeout: seconds that running requests have to finish in when the worker is asked to leave.
        grace: seconds that running requests go on for a controller that is away.
        bridged: it stands for an HTTP worker, whose URL is its name.
        idle_exit: it leaves after so many seconds without a request, for machines that cost money; None: it stays.

    Raises: ValueError, with a sentence.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        slots: int = 1,
        speed: float = 1.0,
        broker_url: str | None = None,
        prefix: str = "bc",
        tls: TLSFiles | None = None,
        bounds: QueueBounds | None = None,
        heartbeat_interval: float = 5.0,
        drain_timeout: float = 600.0,
        grace: float = GRACE,
        bridged: bool = False,
        idle_exit: float | None = None,
    ) -> None:
        self.config = SessionConfig(
            name=name or _default_name(),
            slots=slots,
            speed=speed,
            broker_url=broker_url or os.environ.get("AMQP_URL") or DEFAULT_BROKER_URL,
            tls=tls,
            prefix=prefix,
            bounds=bounds or QueueBounds(),
            heartbeat_interval=heartbeat_interval,
            drain_timeout=drain_timeout,
            grace=grace,
            bridged=bridged,
            idle_exit=idle_exit,
        )
        _check(self.config)
        self._executor = EngineExecutor()
        self._life: BrokerThread | None = None

    def configure(self, **settings: Any) -> None:
        """Change settings, by the names of the constructor, before the start.

        Raises: ValueError, with a sentence.
        """
        config = msgspec.structs.replace(self.config, **settings)
        _check(config)
        self.config = config

    # --- models

    def model(
        self,
        name: str,
        *,
        abilities: Sequence[str] = ("chat", "completion"),
        context_length: int | None = None,
        resume: ResumeChoice = "never",
        shared_loop: SharedLoop = False,
        streams: bool = True,
        yields: str = "deltas",
        many_prompts: bool = False,
        unchecked: bool = False,
        count_tokens: CountFunction | None = None,
        conversation: Conversation | Mapping[str, Any] | None = None,
    ) -> Callable[[GenerateFunction], GenerateFunction]:
        """Decorate the generator function that serves a model; the arguments are `add_model`'s."""

        def register(generate: GenerateFunction) -> GenerateFunction:
            self.add_model(
                name,
                generate,
                abilities=abilities,
                context_length=context_length,
                resume=resume,
                shared_loop=shared_loop,
                streams=streams,
                yields=yields,
                many_prompts=many_prompts,
                unchecked=unchecked,
                count_tokens=count_tokens,
                conversation=conversation,
            )
            return generate

        return register

    def add_model(
        self,
        name: str,
        generate: GenerateFunction,
        *,
        abilities: Sequence[str] = ("chat", "completion"),
        context_length: int | None = None,
        resume: ResumeChoice = "never",
        shared_loop: SharedLoop = False,
        streams: bool = True,
        yields: str = "deltas",
        many_prompts: bool = False,
        unchecked: bool = False,
        count_tokens: CountFunction | None = None,
        conversation: Conversation | Mapping[str, Any] | None = None,
        answers: Mapping[str, AnswerFunction] | None = None,
    ) -> None:
        """Serve a model, from now on if the worker is live. Called from any thread.

        Args:
            name: what clients ask for; any text of 1 to 200 bytes.
            generate: a generator function, plain or asynchronous, of a `Request`; for embeddings it gives `Embeddings`.
            abilities: some of "chat", "completion", "embedding", "vision".
            context_length: in tokens.
            resume: how an answer goes on that another worker began. "never": with an error. "replay": `generate` is
                called as for a new request and what the client has is skipped, if it is the same text. "prefix":
                `generate` yields what follows `Request.resume_text`, which is plain text. ("prefix", "replay"): where
                the client has more than that, it is repeated. Or a function that says any of these of a request.
            shared_loop: one event loop for all streams, of an async generator that never blocks; else a thread each.
                "broker": the loop of the worker's own connection. It costs least, and heartbeats and all other streams
                wait for whatever takes long on it: for functions that do little but wait for a server.
            streams: False for a function whose answer comes in one piece, after however long: it is no stall.
            yields: what `generate` yields: "deltas", each a `str` or a `Chunk`; "chunks", OpenAI's as dicts, JSON or
                objects of `openai.types`; "cumulative", the whole text so far or LLaVA's JSON of it;
                "cumulative-after-prompt", the same with `Request.prompt` in front.
            many_prompts: True for a function that takes a list of prompts itself; others are called for each of them.
            unchecked: True for a function that passes `Request.raw` on to a server: that has the last word on what is
                right, so what the shim cannot read of a body of OpenAI's is as if it were absent.
            count_tokens: how many tokens a text has. It is called beside generations, one call at a time: be quick.
            conversation: how a chat is written as a prompt: ours, or a mapping of the fields of FastChat's.
            answers: of whoever stands for another worker: coroutines that pass questions on, by `QuestionKind`.

        Raises: ValueError with a sentence; TimeoutError when the broker does not take it.
        """
        served = serve(
            name,
            generate,
            abilities=abilities,
            context_length=context_length,
            resume=resume,
            shared_loop=shared_loop,
            streams=streams,
            yields=yields,
            many_prompts=many_prompts,
            unchecked=unchecked,
            count_tokens=count_tokens,
            conversation=conversation,
            answers=answers,
        )
        self._executor.add(served)
        self._change(lambda session: session.add_model(served.card))

    def remove_model(self, name: str) -> None:
        """Stop serving a model; its running requests end as they would. Called from any thread.

        Raises: TimeoutError when the broker does not take it.
        """
        self._change(lambda session: session.remove_model(name))
        self._executor.remove(name)

    @property
    def models(self) -> list[ModelCard]:
        """What it serves, as it tells the fleet."""
        return self._executor.cards

    @property
    def engines(self) -> EngineExecutor:
        """What runs its requests, for whoever has one from elsewhere than the broker."""
        return self._executor

    # --- life

    @property
    def alive(self) -> bool:
        """It has been started and has not left; it need not be connected."""
        return self._life is not None and not self._life.finished.done()

    def run(self) -> None:
        """Serve until the worker is told to leave: SIGTERM or SIGINT drains it, a second one ends it at once.

        Raises: SystemExit, with code 78 when another instance took the name over.
        """
        # This process is a worker's, and nothing else's: in `serve` it is not for us to say.
        tune_interpreter()
        life = self._begin()
        with drained_by_signals(life, self.config.drain_timeout):
            life.join()
        if life.engines_hang:
            end_process(TAKEN_OVER_EXIT_CODE if _taken_over(life) else 0)
        if _taken_over(life):
            raise SystemExit(TAKEN_OVER_EXIT_CODE)

    async def serve(self) -> LeaveReason:
        """The same as part of another asynchronous program, without signals; a cancel drains the worker first."""
        life = self._begin()
        finished = asyncio.wrap_future(life.finished)
        try:
            return await asyncio.shield(finished)
        except asyncio.CancelledError:
            self.drain()
            done, _ = await asyncio.wait([finished], timeout=self.config.drain_timeout)
            if not done:
                life.call(lambda session: session.end_now())
                await asyncio.wait([finished], timeout=LAST_WORDS)
            raise

    def report_elsewhere(self, requests: int) -> None:
        """Say how many requests what is behind this worker has from others, so that dispatch counts them, too.

        Of use while it lives only. Called from any thread.
        """
        if self._life is not None:
            self._life.call(lambda session: session.set_elsewhere(requests))

    def drain(self) -> None:
        """Take no new request, finish what runs, leave. Called from any thread."""
        if self._life is not None:
            self._life.call(lambda session: session.drain())

    def _change(self, action: Callable[[WorkerSession], Coroutine[Any, Any, None]]) -> None:
        """Have it done by a live worker. Raises: TimeoutError."""
        change = None if self._life is None else self._life.run(action)
        if change is not None:
            # Cancelled: the worker has left meanwhile.
            with contextlib.suppress(concurrent.futures.CancelledError):
                change.result(CHANGE_TIMEOUT)

    def _begin(self) -> BrokerThread:
        if self._life is not None:
            raise RuntimeError(f"worker {self.config.name} has been started already")
        if not self._executor.cards:
            raise ValueError(f"worker {self.config.name} has no model: register one with @worker.model(...)")
        self._life = BrokerThread(self.config, self._executor)
        self._life.start()
        return self._life


def _taken_over(life: BrokerThread) -> bool:
    """Raises: whatever broke the worker."""
    return life.finished.result() is LeaveReason.TAKEN_OVER


def _default_name() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:80] or "worker"
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


def _check(config: SessionConfig) -> None:
    """Raises: ValueError, with a sentence."""
    check_worker_name(config.name)
    Topology(config.prefix)
    if config.slots < 1:
        raise ValueError(f"slots has to be at least 1, not {config.slots}")
    if config.bounds.max_length < 1:
        raise ValueError(f"the limit of a queue has to be at least 1, not {config.bounds.max_length}")
    if not (math.isfinite(config.speed) and config.speed >= 0):
        raise ValueError(f"speed has to be 0 or more, not {config.speed}")
    for name in ("heartbeat_interval", "drain_timeout", "grace", "idle_exit"):
        seconds = getattr(config, name)
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{name} has to be more than 0 seconds, not {seconds}")
