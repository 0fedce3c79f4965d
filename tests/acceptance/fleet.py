"""A whole fleet of real processes for the acceptance tests: controllers and workers on a prefix of their own."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from tests.processes import Process, Processes
from tests.waiting import eventually_sync


class Fleet:
    """Starts controllers and workers, and asks the controllers."""

    def __init__(
        self, processes: Processes, broker_url: str, prefix: str, free_port: Callable[[], int], client: httpx.Client
    ) -> None:
        self._processes = processes
        self._common = ("--broker-url", broker_url, "--prefix", prefix)
        self._free_port = free_port
        self._client = client

    def controller(
        self, *options: str, env: dict[str, str] | None = None, port: int | None = None
    ) -> "RunningController":
        """Start one, at a free port if none is given, and wait until it is ready."""
        port = port or self._free_port()
        process = self._processes.start("broker-controller", "--port", str(port), *self._common, *options, env=env)
        controller = RunningController(process, f"http://localhost:{port}", self._client)
        eventually_sync(controller.ready)
        return controller

    def worker(self, name: str, *options: str, model: str = "m") -> Process:
        """Start an `echo` worker."""
        return self._processes.start("workers-shim", "echo", "--model", model, "--name", name, *self._common, *options)

    def llamacpp_worker(self, model: str, *options: str) -> Process:
        """Start a `llamacpp` worker with the small model."""
        return self._processes.start("workers-shim", "llamacpp", "--model", model, *self._common, *options)

    def http_worker(self, url: str, name: str, *options: str) -> Process:
        """Start the program that dials out for an HTTP worker of the old kind, or for a controller."""
        return self._processes.start("workers-shim", "http", "--url", url, "--name", name, *self._common, *options)

    def openai_engine_worker(self, url: str, *options: str) -> Process:
        """Start an `openai` worker beside a server."""
        return self._processes.start("workers-shim", "openai", "--url", url, *self._common, *options)

    def any_answer_worker(self, name: str, *options: str) -> Process:
        """Start a worker of `any_answer`."""
        program = ("-m", "tests.acceptance.any_answer", "--name", name)
        return self._processes.start("python", *program, *self._common, *options)

    def openai_worker(self, name: str, *options: str) -> Process:
        """Start a worker of `openai_engine`."""
        program = ("-m", "tests.acceptance.openai_engine", "--name", name)
        return self._processes.start("python", *program, *self._common, *options)


class RunningController:
    """One controller's process and address."""

    def __init__(self, process: Process, url: str, client: httpx.Client) -> None:
        self.process = process
        self.url = url
        self._client = client

    def ready(self) -> bool:
        """Whether it takes requests."""
        try:
            return self._client.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            assert self.process.returncode is None, self.process.output()
            return False

    def get(self, path: str) -> Any:
        """The JSON of a GET."""
        return self._client.get(f"{self.url}{path}").json()

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON of a POST."""
        return self._client.post(f"{self.url}{path}", json=body).json()

    def workers(self) -> dict[str, str]:
        """Every worker that it knows, and its state."""
        return {worker["name"]: worker["state"] for worker in self.get("/status")["workers"]}

    def wait_for_workers(self, *names: str) -> None:
        """Until these, and no others, are ready."""
        wanted = dict.fromkeys(names, "ready")
        eventually_sync(lambda: self.workers() == wanted)

    def generate(self, prompt: str, tokens: int, path: str = "", model: str = "m") -> dict[str, Any]:
        """The last object of LLaVA's stream."""
        *_, last = self.stream(prompt, tokens, path, model)
        return last

    def stream(self, prompt: str, tokens: int, path: str = "", model: str = "m") -> Iterator[dict[str, Any]]:
        """LLaVA's stream, an object at a time, as they come."""
        body = {"model": model, "prompt": prompt, "max_new_tokens": tokens, "echo": False}
        with self._client.stream("POST", f"{self.url}{path}/worker_generate_stream", json=body) as response:
            assert response.status_code == 200
            rest = b""
            for data in response.iter_raw():
                *objects, rest = (rest + data).split(b"\0")
                for each in objects:
                    if each:
                        yield json.loads(each)
            assert rest == b""

    def chat(self, text: str, tokens: int, model: str = "m", **fields: Any) -> httpx.Response:
        """An answer by OpenAI's API that does not stream."""
        body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": text}]}
        return self._client.post(f"{self.url}/v1/chat/completions", json=body | fields)


def echo_text(prompt: str, tokens: int) -> str:
    """What the `echo` engine answers."""
    words = prompt.split()
    return " ".join(words[index % len(words)] for index in range(tokens))
