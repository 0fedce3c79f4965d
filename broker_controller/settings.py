"""The command line of `broker-controller`: what can be set, in words for `--help`, and by environment variables.

Used by `cli`; the result is read by whoever needs a value. It parses and checks, and starts nothing.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from broker_controller.address_guard import LOOPBACK, Network, parse_networks
from broker_controller.decisions import Limits
from broker_controller.dispatch import DispatchMethod
from broker_controller.image_urls import parse_hosts
from broker_controller.log import LEVELS
from broker_controller.options import ENVIRONMENT_PREFIX, Options, SettingError
from broker_controller.responses.config import KeepConfig
from broker_wire.log_lines import FORMATS
from broker_wire.topology import QueueBounds, QueueType, Topology, check_model_name

MAX_SECONDS = 366 * 24 * 3600.0

# RabbitMQ 4.0: max_message_size is 16 MiB; the rest is for what we put around a body.
MAX_BODY_BYTES = 16 * 1024 * 1024 - 64 * 1024

_EPILOG = f"""\
Every option has an environment variable: --broker-url is {ENVIRONMENT_PREFIX}BROKER_URL, and so on. An option wins
over its variable.

broker-controller status, workers, models and top show what a running controller sees: see the --help of each.

SIGTERM or Ctrl-C: nothing new is accepted, the answers that run are finished. A second one ends the process at once."""


_DISPATCH_HELP = """\
queue: whoever has a free slot; lottery: by lot, weighted by speed;
shortest_queue: the least load for its speed;
affinity: who served the session last, if not overloaded ({})"""

_FIRST_CHUNK_HELP = """\
a request whose worker gives no first token for so long moves ({0.others:g});
MODEL=S for one model, several comma-separated, as in 60,big=300:
a model whose name has a comma has the time of all others"""


class ModelSeconds(Struct, frozen=True):
    """Seconds for the models in `of`, and for all others."""

    others: float
    of: dict[str, float] = {}


class Settings(Struct, frozen=True):
    """Everything that can be set. Seconds and bytes; `--help` says what each is for."""

    host: str = "localhost"
    port: int = 21001
    public_url: str | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    drain_timeout: float = 30.0
    broker_url: str | None = None
    broker_ca: Path | None = None
    broker_cert: Path | None = None
    broker_key: Path | None = None
    prefix: str = "bc"
    dispatch_method: DispatchMethod = DispatchMethod.QUEUE
    heartbeat_expiration: float = 90.0
    check_interval: float = 30.0
    request_timeout: float = 600.0
    first_token_timeout: ModelSeconds = ModelSeconds(Limits().first_token)
    stall_timeout: ModelSeconds = ModelSeconds(Limits().between_tokens)
    worker_wait: float = Limits().worker_wait
    grace: float = Limits().grace
    queue_limit: int = QueueBounds().max_length
    queue_type: QueueType = QueueBounds().type
    max_body_bytes: int = MAX_BODY_BYTES
    max_inflight_bytes: int = 1024 * 1024 * 1024
    response_ttl: float = KeepConfig().ttl
    response_bytes: int = KeepConfig().max_bytes
    response_store_bytes: int = KeepConfig().store_bytes
    allow_http_workers: tuple[Network, ...] = LOOPBACK
    http_worker_slots: int = 5
    allow_image_url: tuple[str, ...] = ()
    parent: tuple[str, ...] = ()
    log_level: str = "info"
    log_format: str = "text"


def parse(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the command line (the process's own by default) and the environment.

    Raises: SettingError; SystemExit after `--help`.
    """
    options = Options(environment, epilog=_EPILOG)
    _declare(options)
    commanded = vars(options.parser.parse_args(arguments))
    if not commanded.get("broker_url"):
        # Empty, as a script's unset variable is: not given.
        commanded.pop("broker_url", None)
    given = options.from_environment | commanded
    if "broker_url" not in given and environment.get("AMQP_URL"):
        given["broker_url"] = environment["AMQP_URL"]
    if given.get("ssl_keyfile") and not given.get("ssl_certfile"):
        raise SettingError("--ssl-keyfile is given without --ssl-certfile: HTTPS needs the certificate, too")
    for name in ("allow_http_workers", "allow_image_url", "parent"):
        if name in given:
            given[name] = tuple(given[name])
    for name in ("first_token_timeout", "stall_timeout"):
        if name in given:
            given[name] = _merged(getattr(Settings(), name), given[name])
    settings = Settings(**given)
    _check_parents(settings)
    return settings


def _check_parents(settings: Settings) -> None:
    if settings.parent and settings.public_url is None:
        raise SettingError("--parent is given without --public-url: a parent sends its requests to that address")
    if settings.public_url in settings.parent:
        raise SettingError(f"--parent {settings.public_url} is this controller's own --public-url")


def _declare(options: Options) -> None:
    """All of them, in the order of `--help`; what is in brackets there is the default."""
    default = Settings()
    add = options.add

    options.begin("Serving")
    add("--host", str, "HOST", f"name or address to listen on ({default.host})")
    add("--port", _port, "PORT", f"TCP port; 0 takes a free one ({default.port})")
    add("--public-url", _url, "URL", "what clients reach us by (as each client calls us)")
    add("--ssl-certfile", _file, "PEM", "certificate: serve HTTPS")
    add("--ssl-keyfile", _file, "PEM", "its key, where it is not in the same file")
    add("--drain-timeout", _seconds, "S", f"seconds to finish answers in before leaving ({default.drain_timeout:g})")

    options.begin("Broker")
    add("--broker-url", str, "URL", "amqp:// or amqps://, several comma-separated (AMQP_URL, else one on this machine)")
    add("--broker-ca", _file, "PEM", "authority that amqps:// certificates are checked by")
    add("--broker-cert", _file, "PEM", "certificate to show the broker")
    add("--broker-key", _file, "PEM", "its key")
    add("--prefix", _prefix, "TEXT", f"of all names on the broker; one a fleet ({default.prefix})")
    add(
        "--queue-type",
        _queue_type,
        "TYPE",
        f"of models' queues: classic, or quorum in a cluster ({default.queue_type})",
    )

    options.begin("Dispatch")
    add("--dispatch-method", DispatchMethod.from_str, "METHOD", _DISPATCH_HELP.format(default.dispatch_method))
    add("--heartbeat-expiration", _seconds, "S", f"drop a worker silent for so long ({default.heartbeat_expiration:g})")
    add("--check-interval", _seconds, "S", f"between two looks at who is silent ({default.check_interval:g})")

    options.begin("Limits")
    add("--request-timeout", _seconds, "S", f"for a request, waiting included ({default.request_timeout:g})")
    add("--first-token-timeout", _model_seconds, "S", _FIRST_CHUNK_HELP.format(default.first_token_timeout), "extend")
    add(
        "--stall-timeout",
        _model_seconds,
        "S",
        f"the same between two tokens ({default.stall_timeout.others:g})",
        "extend",
    )
    add("--worker-wait", _seconds, "S", f"for a model whose workers have all left ({default.worker_wait:g})")
    add("--grace", _seconds, "S", f"for a lost worker, or its request's redelivery ({default.grace:g})")
    add("--queue-limit", _count, "N", f"requests that may wait for one model ({default.queue_limit})")
    add("--max-body-bytes", _count, "N", f"bytes of one request ({default.max_body_bytes})")
    add("--max-inflight-bytes", _count, "N", f"bytes of all requests and answers ({default.max_inflight_bytes})")
    add("--allow-image-url", parse_hosts, "HOSTS", "whose images may be named by URL, as h.org,*.net (none)", "extend")

    options.begin("Kept responses")
    add("--response-ttl", _seconds, "S", f"that one is kept after its end ({default.response_ttl:g})")
    add("--response-bytes", _count, "N", f"bytes of one: its conversation and its answer ({default.response_bytes})")
    add("--response-store-bytes", _count, "N", f"bytes of all ({default.response_store_bytes})")

    options.begin("Old HTTP workers")
    add("--allow-http-workers", _networks, "NETWORKS", "which may register, comma-separated (loopback)", "extend")
    add("--http-worker-slots", _count, "N", f"requests at once for each ({default.http_worker_slots})")

    options.begin("Nesting")
    add("--parent", _urls, "URL", "controllers to be a worker of, by --public-url; comma-separated", "extend")

    options.begin("Logging")
    add("--log-level", _level, "LEVEL", f"{', '.join(LEVELS)} ({default.log_level})")
    add("--log-format", _log_format, "FORMAT", f"{', '.join(FORMATS)} ({default.log_format})")


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{text} is not possible: it has to be more than 0")
    return number


def _seconds(text: str) -> float:
    seconds = _number(text)
    if seconds > MAX_SECONDS:
        raise ValueError(f"{text} is not possible: it is more than {MAX_SECONDS:.0f}, a year")
    return seconds


def _model_seconds(text: str) -> list[tuple[str, float]]:
    """Pairs of model and seconds; the name of all others is empty."""
    pairs = []
    for part in text.split(","):
        model, given, seconds = part.strip().rpartition("=")
        pairs.append((check_model_name(model) if given else "", _seconds(seconds)))
    return pairs


def _merged(default: ModelSeconds, pairs: list[tuple[str, float]]) -> ModelSeconds:
    """What is said last holds."""
    of = dict(pairs)
    return ModelSeconds(of.pop("", default.others), of)


def _count(text: str) -> int:
    number = _number(text)
    if not number.is_integer():
        raise ValueError(f"{text} is not possible: it has to be a whole number")
    return int(number)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is no TCP port: they go from 0 to 65535")
    return int(text)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no address as http://host:port or https://host/path")
    return text.rstrip("/")


def _urls(text: str) -> list[str]:
    return [_url(part.strip()) for part in text.split(",") if part.strip()]


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"there is no file {text}")
    return path


def _queue_type(text: str) -> QueueType:
    if text not in set(QueueType):
        raise ValueError(f"{text!r} is no type of queue: choose classic or quorum")
    return QueueType(text)


def _prefix(text: str) -> str:
    return Topology(text).prefix


def _networks(text: str) -> tuple[Network, ...]:
    return parse_networks([part for part in text.split(",") if part.strip()])


def _level(text: str) -> str:
    if text.lower() not in LEVELS:
        raise ValueError(f"there is no log level {text!r}; choose one of: {', '.join(LEVELS)}")
    return text.lower()


def _log_format(text: str) -> str:
    if text.lower() not in FORMATS:
        raise ValueError(f"there is no log format {text!r}; choose one of: {', '.join(FORMATS)}")
    return text.lower()
