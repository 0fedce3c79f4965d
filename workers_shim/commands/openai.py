"""`workers-shim openai`."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from broker_wire.messages import Ability
from broker_wire.topology import check_model_name
from workers_shim.commands.command import EngineCommand, ModelNames
from workers_shim.options import Options, SettingError, variable_of
from workers_shim.worker import Worker

if TYPE_CHECKING:
    from workers_shim.engines.http_client import Address

DEFAULT_SLOTS = 16
"""For servers that do not say how many requests they run at once; those that batch run many more."""
_KEY_VARIABLE = variable_of("--api-key")
_ABILITIES = (Ability.CHAT, Ability.COMPLETION, Ability.EMBEDDING)


def _abilities(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known = [ability.value for ability in Ability]
    if not names or not set(names) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r} has to be some of {', '.join(known)}, separated by commas")
    return names


def _add_options(options: Options) -> None:
    options.add("--url", metavar="URL", help="of the server, up to /v1: http://localhost:8000/v1 (required)")
    options.add(
        "--api-key-file",
        type=Path,
        metavar="PATH",
        help=f"has the key that the server wants (default: {_KEY_VARIABLE}, else none)",
    )
    options.add(
        "--abilities",
        type=_abilities,
        metavar="LIST",
        help="some of chat, completion, embedding, vision, with commas (default: the first three; the server refuses"
        " what it cannot do; vision where it says so)",
    )
    options.add(
        "--resume",
        choices=("never", "replay"),
        help="how an answer goes on whose server or worker died: with an error, or repeated and compared, for servers"
        " that give the same chunks for the same seed (default: never)",
    )


def _address(options: argparse.Namespace) -> "Address":
    from workers_shim.engines.http_client import parse_url

    if not options.url:
        raise SettingError("say where the server is: --url http://localhost:8000/v1")
    return parse_url(options.url)


def _secret(options: argparse.Namespace) -> str | None:
    """The API key. Raises: SettingError, which does not repeat it."""
    path: Path | None = options.api_key_file
    try:
        secret = os.environ.get(_KEY_VARIABLE, "") if path is None else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the API key cannot be read: {error}") from error
    secret = secret.strip()
    if not (secret.isascii() and secret.isprintable()):
        raise SettingError(f"the API key in {path or _KEY_VARIABLE} has to be one line of ASCII")
    return secret or None


def _upstream_names(models: list[str] | None) -> dict[str, str] | None:
    """From `NAME` and `NAME=UPSTREAM`. Raises: ValueError."""
    if models is None:
        return None
    names = {}
    for text in models:
        name, _, upstream = text.partition("=")
        names[check_model_name(name)] = upstream or name
    return names


def _await_server(options: argparse.Namespace) -> None:
    from workers_shim.engines.openai_models import KeyRefusedError
    from workers_shim.engines.openai_start import wait_for_server

    try:
        wait_for_server(_address(options), _secret(options))
    except KeyRefusedError as error:
        raise SettingError(str(error)) from error


def _register(worker: Worker, options: argparse.Namespace) -> None:
    from workers_shim.engines.openai import OpenAIServer
    from workers_shim.engines.openai_models import DownError, SlowError
    from workers_shim.engines.openai_start import look_once
    from workers_shim.engines.openai_watch import Wanted, Watch

    address, secret, names = _address(options), _secret(options), _upstream_names(options.models)
    try:
        survey = look_once(address, secret)
    except (DownError, SlowError) as error:
        raise SettingError(str(error)) from error
    if names is None and not survey.models:
        hint = "" if address.path.endswith("/v1") else "the URL of most servers ends with /v1; else "
        raise SettingError(f"{address.url} lists no model: {hint}say which to serve with --model NAME")
    if options.slots is None:
        worker.configure(slots=survey.slots or DEFAULT_SLOTS)
    server = OpenAIServer(
        address,
        secret=secret,
        keep=worker.config.slots,
        upstream_names=names,
        resume=options.resume or "never",
    )
    wanted = Wanted(names, options.abilities or _ABILITIES, abilities_are_final=options.abilities is not None)
    offers = wanted.offers(survey)
    for model, offer in offers.items():
        offer.register(worker, server, model)
    Watch(worker, server, wanted, offers).start()


OPENAI = EngineCommand(
    name="openai",
    summary="serve the models of an OpenAI-compatible server: vLLM, SGLang, llama-server, Ollama, TGI, LM Studio",
    model_names=ModelNames.OPTIONAL,
    default_model="all that the server has; NAME=OTHER serves its model OTHER as NAME",
    default_slots=f"what the server says, else {DEFAULT_SLOTS}",
    add_options=_add_options,
    register=_register,
    await_server=_await_server,
)
