"""A worker of FastChat's without a model: its own base class, routes, registration and heartbeats.

    .venv-fastchat/bin/python -m tests.upstream.fastchat.model_worker --port PORT \
        --controller-address URL [--model NAME]

It answers as the engine `echo` does: the prompt's words, again and again. It counts words. `!error` in the prompt is an
error of the model.
"""

import argparse
import base64
import json
import struct
from collections.abc import Iterator
from itertools import cycle, islice
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastchat.constants import SERVER_ERROR_MSG, ErrorCode
from fastchat.conversation import Conversation, get_conv_template
from fastchat.serve import base_model_worker
from fastchat.serve.base_model_worker import BaseModelWorker

from tests.upstream.fastchat.model_worker_facts import CONTEXT_LENGTH


def tokenizer(text: str) -> SimpleNamespace:
    """As those of transformers are called."""
    return SimpleNamespace(input_ids=text.split())


class EchoWorker(BaseModelWorker):  # type: ignore[misc]  # FastChat has no types
    def __init__(self, controller: str, address: str, model: str, template: str) -> None:
        self._template = template
        super().__init__(controller, address, "echo", model, [model], 5)
        self.tokenizer = tokenizer
        self.context_len = CONTEXT_LENGTH
        self.init_heart_beat()

    def make_conv_template(self, conv_template: str | None = None, model_path: str | None = None) -> Conversation:
        return get_conv_template(self._template)

    def generate_stream_gate(self, params: dict[str, Any]) -> Iterator[bytes]:
        prompt, limit = params["prompt"], int(params["max_new_tokens"])
        words = prompt.split()
        text = prompt if params.get("echo", True) else ""
        if "!error" in words:
            text = f"{SERVER_ERROR_MSG}\n\n(the tensor is too small)"
            yield encoded({"text": text, "error_code": ErrorCode.INTERNAL_ERROR})
            return
        usage = {"prompt_tokens": len(words), "completion_tokens": limit, "total_tokens": len(words) + limit}
        for number, word in enumerate(islice(cycle(words), limit)):
            text += f" {word}" if number else word
            yield encoded({"text": text, "error_code": 0, "usage": usage, "finish_reason": None})
        yield encoded({"text": text, "error_code": 0, "usage": usage, "finish_reason": "length"})

    def generate_gate(self, params: dict[str, Any]) -> Any:
        *_, last = self.generate_stream_gate(params)
        return json.loads(last[:-1])

    def get_embeddings(self, params: dict[str, Any]) -> dict[str, Any]:
        numbers = [[float(len(text)), 0.5] for text in params["input"]]
        tokens = sum(len(text.split()) for text in params["input"])
        if params.get("encoding_format") == "base64":
            packed = [base64.b64encode(struct.pack("<2f", *each)).decode() for each in numbers]
            return {"embedding": packed, "token_num": tokens}
        return {"embedding": numbers, "token_num": tokens}


def encoded(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\0"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--controller-address", required=True)
    parser.add_argument("--model", default="m")
    parser.add_argument("--conv-template", default="qwen-7b-chat")
    options = parser.parse_args()
    EchoWorker(options.controller_address, f"http://localhost:{options.port}", options.model, options.conv_template)
    uvicorn.run(base_model_worker.app, host="localhost", port=options.port)


if __name__ == "__main__":
    main()
