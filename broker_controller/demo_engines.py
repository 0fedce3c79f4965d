"""The engines that the demo can show, each with the same model: `make demo ENGINE=…`. Used by demo.py alone."""

from collections.abc import Callable

from msgspec import Struct

from broker_controller.amqp_probe import free_port

MODEL = "smollm2-135m-instruct"


class DemoEngine(Struct, frozen=True):
    """What the demo starts beside the controller.

    Attributes:
        words: for people, behind "Starting the controller and".
        worker: arguments of `workers-shim`, for each of the two workers.
        server: a program and its arguments, for an engine that is one's own server.
    """

    words: str
    worker: tuple[str, ...]
    server: tuple[str, ...] = ()


def choose_engine(name: str) -> DemoEngine:
    """By its name on the command line of `workers-shim`; "" is the usual one. Raises: ValueError."""
    if not name:
        return _llamacpp()
    if name not in _ENGINES:
        raise ValueError(f"there is no ENGINE={name}: choose from {', '.join(sorted(_ENGINES))}")
    return _ENGINES[name]()


def _llamacpp() -> DemoEngine:
    return DemoEngine(f"two workers with the model {MODEL} on llama.cpp", worker=("llamacpp",))


def _openai() -> DemoEngine:
    port = str(free_port())
    return DemoEngine(
        f"two workers before llama.cpp's own HTTP server with the model {MODEL}",
        worker=("openai", "--url", f"http://localhost:{port}/v1", "--slots", "1"),
        server=("python", "-m", "workers_shim.engines.llamacpp_http", "--port", port, "--alias", MODEL),
    )


_ENGINES: dict[str, Callable[[], DemoEngine]] = {"llamacpp": _llamacpp, "openai": _openai}
