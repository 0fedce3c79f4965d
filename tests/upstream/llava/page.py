"""Writes and sends a message on the page of LLaVA's gradio server, by gradio's own client, and prints what it shows.

.venv-llava/bin/python -m tests.upstream.llava.page --url URL --model NAME --text TEXT [--image FILE] [--tokens N] \
    [--temperature T]
"""

import argparse
import json

from gradio_client import Client


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--image", default="")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.2)
    options = parser.parse_args()
    client = Client(options.url, verbose=False)
    client.predict(api_name="/load_demo_refresh_model_list")
    client.predict(options.text, options.image or None, "Default", api_name="/add_text")
    answer = client.submit(options.model, options.temperature, 0.7, options.tokens, api_name="/http_bot")
    answer.result(timeout=60)
    print(json.dumps(answer.outputs()))


if __name__ == "__main__":
    main()
