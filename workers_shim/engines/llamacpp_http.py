"""A GGUF model behind llama.cpp's own HTTP server: `python -m workers_shim.engines.llamacpp_http`.

What the engine `openai` is shown and tested with, where no llama-server is installed: it is the same server, out of the
package xllamacpp. It is no worker, and knows nothing of the broker.
"""

import argparse
import signal
import sys
from pathlib import Path

from workers_shim.engines.llamacpp_server import default_threads, find_default_model
from workers_shim.engines.llamacpp_text import LlamaCppText


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="llamacpp_http", description="Serves a GGUF model over HTTP, by llama.cpp.")
    parser.add_argument("--gguf", type=Path, metavar="PATH", help="the model's file (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--port", type=int, default=8080, metavar="N", help="on the loopback (default: 8080)")
    parser.add_argument("--alias", default="", metavar="NAME", help="the model's name (default: the file's)")
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="requests that run at once (default: 2)")
    parser.add_argument(
        "--context-length", type=int, default=2048, metavar="N", help="tokens a request (default: 2048)"
    )
    parser.add_argument("--embeddings", action="store_true", help="give embeddings, too")
    options = parser.parse_args()
    # Python sees a signal only between two of its own instructions, and the server's threads are not Python's.
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = serve(options)
    signal.sigwait(signals)
    del server
    return 0


def serve(options: argparse.Namespace) -> object:
    """Returns the server, which runs as long as somebody has it. Raises: RuntimeError, OSError, when it cannot be."""
    import xllamacpp

    path = options.gguf or find_default_model()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {options.alias or path.stem}
    parameters.port = options.port
    parameters.n_parallel = options.slots
    # llama.cpp divides it among the slots.
    parameters.n_ctx = options.context_length * options.slots
    parameters.n_batch = 128
    parameters.cpuparams.n_threads = default_threads()
    parameters.cpuparams_batch.n_threads = default_threads()
    parameters.cache_ram_mib = 0
    parameters.warmup = False
    parameters.embedding = options.embeddings
    if options.embeddings:
        # One vector a text, which OpenAI's protocol has, and not one a token.
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(parameters)
    LlamaCppText(server.listening_address).wait_for_loop()
    return server


if __name__ == "__main__":
    sys.exit(main())
