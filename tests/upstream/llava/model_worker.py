"""LLaVA's model worker without a model: its own routes, semaphore, registration and heartbeats.

    .venv-llava/bin/python -m tests.upstream.without_torch tests.upstream.llava.model_worker --port PORT \
        --controller-address URL [--model NAME] [--no-register]

It answers as the engine `echo` does: the prompt's words, again and again, after the prompt, then with how many images
came. `!error` in the prompt is an error of the model.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import uvicorn
from llava.serve import model_worker


class EchoWorker(model_worker.ModelWorker):  # type: ignore[misc]  # LLaVA has no types
    def generate_stream(self, params: dict[str, Any]) -> Iterator[bytes]:
        prompt = params["prompt"]
        words = prompt.split()
        if "!error" in words:
            raise ValueError("the tensor is too small")
        answer = [*islice(cycle(words), int(params["max_new_tokens"])), *(["+image"] * len(params.get("images") or []))]
        for count in range(1, len(answer) + 1):
            text = prompt + " ".join(answer[:count])
            yield json.dumps({"text": text, "error_code": 0}).encode() + b"\0"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--controller-address", required=True)
    parser.add_argument("--model", default="m")
    parser.add_argument("--no-register", action="store_true")
    parser.add_argument("--limit-model-concurrency", type=int, default=5)
    options = parser.parse_args()
    # What the program's own main sets, and what it loads a model by.
    model_worker.args = options
    model_worker.load_pretrained_model = lambda *_args, **_options: (None, None, None, 2048)
    model_worker.torch.cuda.CudaError = RuntimeError
    model_worker.worker = EchoWorker(
        options.controller_address,
        f"http://localhost:{options.port}",
        model_worker.worker_id,
        no_register=options.no_register,
        model_path=options.model,
        model_base=None,
        model_name=options.model,
        load_8bit=False,
        load_4bit=False,
        device="cpu",
    )
    uvicorn.run(model_worker.app, host="localhost", port=options.port)


if __name__ == "__main__":
    main()
