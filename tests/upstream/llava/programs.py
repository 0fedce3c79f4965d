"""LLaVA's own programs. Used through the fixture `llava`."""

import base64
import json
from typing import Any

from tests.processes import Process
from tests.upstream.programs import UpstreamPrograms, wait_until_it_answers

PIXEL = base64.b64decode(
    b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""An image of one pixel, as PNG."""
EXAMPLES = ("extreme_ironing.jpg", "waterview.jpg")
"""Images on its page, which are in LLaVA's repository and not in its package."""


class LLaVA(UpstreamPrograms):
    name = "llava"

    def run(self, module: str, *arguments: str, unstoppable: bool = False) -> Process:
        """Any of its programs: each imports PyTorch, and only the worker uses it."""
        return self.start("tests.upstream.without_torch", module, *arguments, unstoppable=unstoppable)

    def controller(self, method: str) -> str:
        """Its controller."""
        url, port = self.address()
        arguments = ("--host", "localhost", "--port", port, "--dispatch-method", method)
        process = self.run("llava.serve.controller", *arguments, unstoppable=True)
        wait_until_it_answers(process, f"{url}/docs")
        return url

    def worker(self, controller: str, *options: str, model: str = "m") -> tuple[str, Process]:
        """Its model worker without a model, which registers at a controller before it listens."""
        url, port = self.address()
        arguments = ("--port", port, "--controller-address", controller, "--model", model)
        process = self.run("tests.upstream.llava.model_worker", *arguments, *options, unstoppable=True)
        wait_until_it_answers(process, f"{url}/docs")
        return url, process

    def gradio(self, controller: str) -> str:
        """Its gradio server in front of a controller."""
        for package in self.environment.glob("lib/python*/site-packages/llava"):
            for name in EXAMPLES:
                example = package / "serve/examples" / name
                example.parent.mkdir(exist_ok=True)
                example.write_bytes(PIXEL)
        url, port = self.address()
        arguments = ("--host", "localhost", "--port", port, "--controller-url", controller)
        process = self.run("llava.serve.gradio_web_server", *arguments, "--model-list-mode", "reload")
        wait_until_it_answers(process, url)
        return url

    def chat(
        self, gradio: str, model: str, text: str, image: str = "", *, tokens: int = 8, temperature: float = 0.2
    ) -> list[Any]:
        """What its page shows while it answers: each state of the chat, a list of [question, answer].

        `image`: a file's path.
        """
        asked = ("--url", gradio, "--model", model, "--text", text, "--image", image)
        how = ("--tokens", str(tokens), "--temperature", str(temperature))
        process = self.start("tests.upstream.llava.page", *asked, *how)
        assert process.wait(within=90) == 0, process.output()
        shown: list[Any] = json.loads(process.output().splitlines()[-1])
        return shown
