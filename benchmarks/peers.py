"""The other gateways, each in front of the same mock engine. What is not installed is named as absent, never guessed.

`make bench` looks for them in .venv-bench and .venv-fastchat and .venv-llava, where they have versions of their own.
"""

import http.client
import json
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.answers import LLAVA, OPENAI, Protocol
from benchmarks.load import Load, request_body
from benchmarks.mock_engine import register
from benchmarks.processes import Processes, StartError, last_words
from benchmarks.scenarios import FAST_MODEL, MOST_STREAMS, PACED_MODEL, Target
from benchmarks.stack import HOST
from broker_controller.amqp_probe import free_port, something_listens

ROOT = Path(__file__).parent.parent
BENCH, FASTCHAT, LLAVA_VENV = (ROOT / f".venv-{name}/bin" for name in ("bench", "fastchat", "llava"))
START_TIMEOUT = 120.0  # seconds; litellm imports for long
ASK_TIMEOUT = 10.0  # seconds
SLOW, SLOW_STREAMS = 0.05, 50
"""Share of the requests that those in Python are asked, and how many at once: more would take minutes."""
MODELS = (FAST_MODEL, PACED_MODEL)


class Absent(msgspec.Struct, frozen=True):
    """A peer that is not measured, and why."""

    name: str
    reason: str


Start = Callable[[Processes, Target], Target]


def start_peers(processes: Processes, engine: Target) -> tuple[list[Target], list[Absent]]:
    """All that are installed."""
    targets, absent = [], []
    for name, program, start in _PEERS:
        if not program.exists():
            absent.append(Absent(name, "not installed"))
            continue
        try:
            targets.append(start(processes, engine))
        except (StartError, OSError) as error:
            absent.append(Absent(name, last_words(error)))
    return targets, absent


def _vllm_router(processes: Processes, engine: Target) -> Target:
    more = ["--policy", "round_robin", "--prometheus-port", str(free_port()), "--log-level", "error"]
    command = [str(BENCH / "vllm-router"), "--worker-urls", engine.base, *more]
    return _gateway(processes, "vllm-router", command, engine)


def _smg(processes: Processes, engine: Target) -> Target:
    more = ["--policy", "round_robin", "--prometheus-port", str(free_port()), "--log-level", "error"]
    # It takes a server for one of the first model that it lists.
    urls = [f"{engine.base}/only/{model}" for model in MODELS]
    command = [str(BENCH / "smg"), "launch", "--worker-urls", *urls, *more]
    return _gateway(processes, "smg", command, engine)


def _litellm(processes: Processes, engine: Target) -> Target:
    settings = {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {"model": f"openai/{model}", "api_base": f"{engine.base}/v1", "api_key": "none"},
            }
            for model in MODELS
        ],
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    file = processes.folder / "litellm.json"  # YAML, too
    file.write_text(json.dumps(settings))
    return _gateway(processes, "litellm", [str(BENCH / "litellm"), "--config", str(file)], engine, share=SLOW)


def _gateway(processes: Processes, name: str, command: Sequence[str], engine: Target, *, share: float = 1.0) -> Target:
    port = free_port()
    base = f"http://{HOST}:{port}"
    pid = processes.start(
        name, [*command, "--host", HOST, "--port", str(port)], lambda: _answers(base, OPENAI), START_TIMEOUT
    )
    most = MOST_STREAMS if share == 1.0 else SLOW_STREAMS
    return Target(name, base, OPENAI, {"gateway": (pid,)} | engine.pids, share, most, is_peer=True)


def _llava(processes: Processes, engine: Target) -> Target:
    python, module = LLAVA_VENV / "python", "llava.serve.controller"
    base, pid = _controller(processes, [str(python), "-m", "tests.upstream.without_torch", module], engine)
    return Target("LLaVA's controller", base, LLAVA, {"gateway": (pid,)} | engine.pids, SLOW, is_peer=True)


def _fastchat(processes: Processes, engine: Target) -> Target:
    python = str(FASTCHAT / "python")
    controller, first = _controller(processes, [python, "-m", "fastchat.serve.controller"], engine)
    command = [python, "-m", "fastchat.serve.openai_api_server", "--controller-address", controller]
    target = _gateway(processes, "FastChat's openai_api_server", command, engine, share=SLOW)
    return msgspec.structs.replace(target, pids=target.pids | {"gateway": (first, *target.pids["gateway"])})


def _controller(processes: Processes, command: Sequence[str], engine: Target) -> tuple[str, int]:
    port = free_port()
    base = f"http://{HOST}:{port}"
    place = ["--host", HOST, "--port", str(port), "--dispatch-method", "shortest_queue"]
    pid = processes.start(command[-1], [*command, *place], lambda: something_listens(HOST, port), START_TIMEOUT)
    register(base, engine.base, list(MODELS))
    return base, pid


def _answers(base: str, protocol: Protocol) -> bool:
    """Does it answer a request?"""
    body = json.dumps(request_body(Load(model=FAST_MODEL, streams=1, tokens=1), protocol)).encode()
    request = urllib.request.Request(base + protocol.path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ASK_TIMEOUT) as response:
            return protocol.token.search(response.read()) is not None
    except (OSError, http.client.HTTPException):
        return False


_PEERS: tuple[tuple[str, Path, Start], ...] = (
    ("vllm-router", BENCH / "vllm-router", _vllm_router),
    ("smg", BENCH / "smg", _smg),
    ("litellm", BENCH / "litellm", _litellm),
    ("FastChat's openai_api_server", FASTCHAT / "python", _fastchat),
    ("LLaVA's controller", LLAVA_VENV / "python", _llava),
)
