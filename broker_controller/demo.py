"""`make demo`: a broker, the controller, two workers with a real model, and the same question through both protocols.

Which engine the workers have is `demo_engines`'s.

Everything runs in a temporary folder, on ports that are free, and ends with it. On a terminal it stays up until Ctrl-C.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx

from broker_controller.amqp_probe import free_port, something_listens
from broker_controller.demo_clients import AnswerError, Stopwatch, ask_llava, ask_openai
from broker_controller.demo_engines import MODEL, DemoEngine, choose_engine
from broker_controller.demo_programs import ProgramEndedError, Programs
from broker_controller.local_broker import NoBrokerError, private_broker
from broker_controller.private_node import PrivateNodeError

QUESTION = "What is the capital of France, and what is it known for?"
WORKERS = ("demo-1", "demo-2")
_USUAL_PORT = 21001  # LLaVA's controller listens there
_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_INDENT = "    "

Ask = Callable[[httpx.Client, str, str, Stopwatch], Iterator[str]]


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


class Demo:
    """One run. `say` writes a line with the seconds since the start."""

    def __init__(self, question: str, engine: DemoEngine) -> None:
        self._question = question
        self._engine = engine
        self._began = time.monotonic()

    def run(self) -> None:
        """Start everything, ask twice, and on a terminal stay; end everything.

        Raises:
            DemoError: and the other errors that main() knows.
        """
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="bc-demo-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            self.say("Starting RabbitMQ …")
            broker = stack.enter_context(private_broker())
            self.say(f"RabbitMQ is up: {broker.describe()}.")

            programs = Programs(folder)
            stack.callback(programs.stop)
            port = free_port() if something_listens("localhost", _USUAL_PORT) else _USUAL_PORT
            url = f"http://localhost:{port}"
            self.say(f"Starting the controller on {url}, and {self._engine.words} …")
            programs.start("controller", "broker-controller", "--port", str(port), "--broker-url", broker.url)
            if self._engine.server:
                programs.start("server", *self._engine.server)
            for name in WORKERS:
                options = ("--model", MODEL, "--name", name, "--broker-url", broker.url)
                programs.start(name, "workers-shim", *self._engine.worker, *options)

            # A proxy in the environment is not meant for this machine.
            http = stack.enter_context(httpx.Client(base_url=url, trust_env=False))
            self._wait_registered(http, programs)
            try:
                self._show("OpenAI's protocol, POST /v1/chat/completions", ask_openai, http)
                self._show("LLaVA's protocol, POST /worker_generate_stream", ask_llava, http)
            except (AnswerError, httpx.HTTPError) as error:
                programs.watch(within=1.0)
                raise DemoError(f"no answer: {error}\n{programs.log_tails()}") from error
            if sys.stdout.isatty():
                self._stay(url, programs)
            self.say("Ending everything.")
        self.say("Done.")

    def say(self, text: str) -> None:
        write(f"[{time.monotonic() - self._began:5.1f} s] {text}\n")

    def _wait_registered(self, http: httpx.Client, programs: Programs) -> None:
        deadline = time.monotonic() + _START_SECONDS
        registered: set[str] = set()
        while not registered.issuperset(WORKERS):
            if time.monotonic() > deadline:
                raise DemoError(f"not all workers have registered after {_START_SECONDS:.0f} s\n{programs.log_tails()}")
            programs.watch(_POLL_SECONDS)
            try:
                workers = http.get("/status").raise_for_status().json()["workers"]
            except httpx.HTTPError:
                continue  # it does not listen yet
            for worker in workers:
                if worker["name"] not in registered and worker["state"] == "ready":
                    registered.add(worker["name"])
                    models = ", ".join(model["name"] for model in worker["models"])
                    self.say(f"Worker {worker['name']} has registered: {models}, slots: {worker['slots']}.")

    def _show(self, title: str, ask: Ask, http: httpx.Client) -> None:
        self.say(f"{title}: {self._question}")
        watch = Stopwatch()
        write(_INDENT)
        for piece in ask(http, MODEL, self._question, watch):
            write(piece.replace("\n", f"\n{_INDENT}"))
        write("\n")
        self.say(watch.report())

    def _stay(self, url: str, programs: Programs) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a story."}], "stream": True}
        write(
            f"""
It stays up until Ctrl-C:
    {url}/docs     every endpoint, to try
    {url}/status   workers, models, streams
Ask it yourself, from another terminal:
    curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'
"""
        )
        try:
            while True:
                programs.watch(within=1.0)
        except KeyboardInterrupt:
            write("\n")


def write(text: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> int:
    """Run the demo; the exit code."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        engine = choose_engine(os.environ.get("ENGINE", ""))
    except ValueError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 2
    demo = Demo(os.environ.get("QUESTION") or QUESTION, engine)
    try:
        demo.run()
    except (DemoError, ProgramEndedError, NoBrokerError, PrivateNodeError) as error:
        demo.say(f"Failed: {error}")
        return 1
    except KeyboardInterrupt:
        demo.say("Interrupted.")
        return 128 + signal.SIGINT
    return 0


def _leave(signum: int, _frame: object) -> None:
    """So that SIGTERM, too, ends what was started."""
    sys.exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
