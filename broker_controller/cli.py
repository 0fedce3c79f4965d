"""The program `broker-controller`: from a command line to a controller that serves."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import FrameType
from typing import NoReturn

import uvloop
from fastapi import FastAPI

from broker_controller import log, open_files
from broker_controller.decisions import Limits
from broker_controller.docker_broker import DockerBrokerError
from broker_controller.http.app import create_app
from broker_controller.http.server import ListenError, Server, listen
from broker_controller.http.services import Services
from broker_controller.local_broker import NoBrokerError, RunningBroker, local_broker
from broker_controller.options import SettingError
from broker_controller.private_node import PrivateNodeError
from broker_controller.responses.config import KeepConfig
from broker_controller.service import ControllerService, ServiceConfig
from broker_controller.settings import Settings, parse
from broker_wire.amqp.addresses import TLSFiles
from broker_wire.topology import QueueBounds

_log = logging.getLogger(__name__)

GC_THRESHOLDS = (100_000, 50, 1_000)
"""Chunks are many, short-lived and free of cycles; the collector's pauses would be the slowest chunks' lateness."""
CANNOT_START = 2
"""Exit code for what cannot be started as it was asked for."""
FAILED = 1

QUEUES_HAVE_ACK_LIMITS = (3, 12)
"""From this version of RabbitMQ on, a queue says for itself how long a delivery may stay unacked."""
BROKER_ACK_LIMIT = 29 * 60.0
"""Seconds that a request may take before that: the broker's own default is 30 minutes, looked at once a minute."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the process's exit code."""
    try:
        settings = parse(arguments)
        signal.signal(signal.SIGTERM, _end)
        log.set_up(settings.log_level, settings.log_format)
        return _serve(settings)
    except (SettingError, ListenError, NoBrokerError, PrivateNodeError, DockerBrokerError, ValueError) as error:
        print(f"broker-controller: {error}", file=sys.stderr)  # noqa: T201 - for whoever typed the command
        return CANNOT_START
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """While nothing serves yet: end in order all the same, so that a broker that was started ends, too."""
    raise SystemExit(128 + signal.SIGTERM)


def _serve(settings: Settings) -> int:
    """Raises: ListenError, NoBrokerError, PrivateNodeError, ValueError."""
    sockets = listen(settings.host, settings.port)
    try:
        with local_broker(settings.broker_url) as broker:
            _log.info("broker chosen which=%s", broker.describe())
            # Not before: a node of our own would inherit it, and Erlang takes memory for every file that it may open.
            open_files.raise_limit()
            controller = _Controller(settings, broker)
            url = f"{'https' if settings.ssl_certfile else 'http'}://{settings.host}:{sockets[0].getsockname()[1]}"
            _log.info("serving url=%s dispatch=%s", url, settings.dispatch_method)
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(controller.server.serve(sockets))
            return controller.exit_code
    finally:
        for one in sockets:
            one.close()


class _Controller:
    """The broker's side and the HTTP side of one process."""

    def __init__(self, settings: Settings, broker: RunningBroker) -> None:
        """Raises: ValueError for a broker's address that cannot be used."""
        self.exit_code = 0
        self._settings = settings
        self._service = ControllerService(_service_config(settings, broker))
        self._service.links.on_both_up.append(self._check_ack_limit)
        self._app = create_app(_services(self._service, settings), self._lifespan)
        self.server = Server(
            self._app,
            self._service.gateway,
            drain_timeout=settings.drain_timeout,
            certificate=settings.ssl_certfile,
            key=settings.ssl_keyfile,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(self._service.run(), name="service")
        task.add_done_callback(self._on_service_end)
        try:
            yield
        finally:
            await self._service.keeper.leave(self.server.time_left())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _on_service_end(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        # A part of it has a bug: without it nothing can be answered, so whoever watches processes has to act.
        _log.critical("the broker's side has failed, leaving", exc_info=task.exception())
        self._leave_with(FAILED)

    def _check_ack_limit(self) -> None:
        version = self._service.links.server_version
        if version < QUEUES_HAVE_ACK_LIMITS and self._settings.request_timeout > BROKER_ACK_LIMIT:
            _log.critical(
                "leaving: RabbitMQ %s takes a request back that is not done after 30 minutes, and --request-timeout is "
                "%g s: set it to %g at most, or use RabbitMQ 3.12 or later",
                ".".join(map(str, version)),
                self._settings.request_timeout,
                BROKER_ACK_LIMIT,
            )
            self._leave_with(CANNOT_START)

    def _leave_with(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self.server.should_exit = True


def _service_config(settings: Settings, broker: RunningBroker) -> ServiceConfig:
    tls = None
    if settings.broker_ca or settings.broker_cert or settings.broker_key:
        tls = TLSFiles(settings.broker_ca, settings.broker_cert, settings.broker_key)
    return ServiceConfig(
        broker_url=broker.url,
        tls=tls,
        prefix=settings.prefix,
        bounds=QueueBounds(max_length=settings.queue_limit, type=settings.queue_type),
        dispatch_method=settings.dispatch_method,
        expiration=settings.heartbeat_expiration,
        check_interval=settings.check_interval,
        max_inflight_bytes=settings.max_inflight_bytes,
        limits=_limits(settings),
        http_workers=settings.allow_http_workers,
        http_worker_slots=settings.http_worker_slots,
        public_url=settings.public_url,
        parents=settings.parent,
        keep=KeepConfig(
            ttl=settings.response_ttl,
            max_bytes=settings.response_bytes,
            store_bytes=settings.response_store_bytes,
            within=settings.request_timeout,
        ),
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        first_token=settings.first_token_timeout.others,
        first_token_of=settings.first_token_timeout.of,
        between_tokens=settings.stall_timeout.others,
        between_tokens_of=settings.stall_timeout.of,
        worker_wait=settings.worker_wait,
        grace=settings.grace,
    )


def _services(service: ControllerService, settings: Settings) -> Services:
    return Services(
        controller=service.controller,
        gateway=service.gateway,
        fleet=service.fleet,
        links=service.links,
        queues=service.queues,
        garbage=service.garbage,
        settings=settings,
        bridges=service.bridges,
        keeper=service.keeper,
        questions=service.questions,
    )
