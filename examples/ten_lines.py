"""A whole worker. Run it with `python examples/ten_lines.py`, or with `workers-shim run examples.ten_lines:worker`."""

from collections.abc import Iterator

from workers_shim import Request, Worker

worker = Worker(slots=4)


@worker.model("shout", abilities=["completion"])
def shout(request: Request) -> Iterator[str]:
    for word in (request.prompt or "").split():
        yield word.upper() + " "


if __name__ == "__main__":
    worker.run()
