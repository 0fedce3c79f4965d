"""`broker-controller status`, `workers`, `models` and `top`: the command line. Called by `__main__`."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from broker_controller.http.answer_types import Status
from broker_controller.operator.asking import AskError, ask_status, read_status
from broker_controller.operator.tables import everything, models_table, workers_table

URL_VARIABLE = "BROKER_CONTROLLER_URL"
DEFAULT_URL = "http://localhost:21001"
COULD_NOT_ASK = 1

_SHOWN: dict[str, tuple[str, Callable[[Status], RenderableType]]] = {
    "status": ("the controller, the broker, its requests, models and workers", everything),
    "workers": ("every worker that it knows", lambda status: workers_table(status.workers)),
    "models": ("every model, who serves it, and how many wait", lambda status: models_table(status.models)),
}
COMMANDS = (*_SHOWN, "top")


def main(arguments: Sequence[str]) -> int:
    """Returns the process's exit code: 1 where the controller cannot be asked."""
    options = _parse(arguments)
    url = options.url.rstrip("/")
    try:
        if options.command == "top":
            _top(url, options.interval)
            return 0
        body = ask_status(url)
        if options.json:
            print(_part(options.command, json.loads(body)))  # noqa: T201 - what was asked for
        else:
            _, show = _SHOWN[options.command]
            # A terminal has its width; where it goes into a file or pipe nothing is to be cut off.
            Console(width=None if sys.stdout.isatty() else 1000).print(show(read_status(url, body)))
    except AskError as error:
        print(f"broker-controller: {error}", file=sys.stderr)  # noqa: T201 - for whoever typed the command
        return COULD_NOT_ASK
    except KeyboardInterrupt:
        return 0
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="broker-controller", description="What a running controller sees.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (text, _) in _SHOWN.items():
        command = _with_url(commands.add_parser(name, help=text, description=text))
        command.add_argument("--json", action="store_true", help="as /status has it")
    top = _with_url(commands.add_parser("top", help="all of it, again and again", description="Ends with Ctrl-C."))
    top.add_argument("--interval", type=_interval, default=1.0, metavar="S", help="between two looks (1)")
    return parser.parse_args(arguments)


def _with_url(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    url = os.environ.get(URL_VARIABLE) or DEFAULT_URL
    parser.add_argument("--url", default=url, help=f"of the controller ({DEFAULT_URL}, or ${URL_VARIABLE})")
    return parser


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("it has to be from 0.1 to 3600 seconds")
    return seconds


def _part(command: str, status: dict[str, Any]) -> str:
    return json.dumps(status if command == "status" else status[command], indent=2)


def _top(url: str, interval: float) -> None:
    """Raises: AskError at the first look; later ones it shows, and tries again."""
    console = Console()
    shown: RenderableType = everything(read_status(url, ask_status(url)), console.height)
    with Live(shown, console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.refresh()
            time.sleep(interval)
            try:
                live.update(everything(read_status(url, ask_status(url)), console.height))
            except AskError as error:
                live.update(Text(str(error), style="red"))
