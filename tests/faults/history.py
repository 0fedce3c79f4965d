"""What one client sent and got, and the one thing that came of it. Pure: times are monotonic seconds, passed in.

Written by `load`, judged at the end of every fault test.
"""

import re
from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct, field

from broker_controller.errors import MEANINGS, REMEDIES
from tests.faults.engine import expected

SLACK = 5.0
"""Seconds after its deadline in which a request has to have ended, on a machine that is busy."""


STAGES = re.compile(r"before it was queued|in the queue|starting|after \d+ chunks?|at the end of the answer of worker")
"""One of these is in every error of a request for a model."""


class Verdict(StrEnum):
    """What came of a request."""

    COMPLETE = "complete"
    ERROR = "error"
    LOST = "lost"
    DUPLICATED = "duplicated"
    HUNG = "hung"


class Exchange(Struct, kw_only=True):
    """One request and its answer.

    Attributes:
        group: the state that it was brought into before the fault: "queued", "starting" or "mid-stream".
        deadline: when the request has to have ended, on the same clock as `sent_at` and the chunks' times.
        status: of HTTP; 0 before it is known.
        errors: the error objects, of the body or in the stream.
        keepalives: when something came that clients skip: a comment, a bare NUL.
        finished: the protocol's end was seen.
        broken: why the connection ended before the answer did.
        left: the client closed it itself.
        starts: when which worker's engine began with it, as the engines say: known after the end.
    """

    id: str
    group: str
    prompt: str
    tokens: int
    sent_at: float
    deadline: float
    status: int = 0
    headers: dict[str, str] = {}
    chunks: list[tuple[float, str]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    keepalives: list[float] = field(default_factory=list)
    errors: list[dict[str, object]] = field(default_factory=list)
    finished: bool = False
    broken: str = ""
    left: bool = False
    starts: list[tuple[float, str]] = field(default_factory=list)
    ended_at: float | None = None

    @property
    def text(self) -> str:
        """All that the client has."""
        return "".join(text for _, text in self.chunks)

    @property
    def error(self) -> dict[str, object]:
        """The error that it ended with; {} when there is none."""
        return self.errors[0] if self.errors else {}

    @property
    def retry_after(self) -> int:
        """Seconds that its error says, in the header too where that was not sent before; 0 for none."""
        in_text = re.search(r"[Tt]ry again in (\d+) s\b", str(self.error.get("message")))
        told = int(in_text[1]) if in_text else 0
        return told if int(self.headers.get("retry-after", told)) == told else 0

    @property
    def workers(self) -> list[str]:
        """Whose engines began with it, in order."""
        return [worker for _, worker in self.starts]

    def pause_after(self, fault_at: float) -> float | None:
        """Seconds from the fault to the first token that is due to the next worker; None when there was none.

        A token that was under way when the fault came would count otherwise.
        """
        again = next((at for at, _ in self.starts[1:] if at > fault_at), None)
        return None if again is None else next((at - fault_at for at, _ in self.chunks if at > again), None)


def judge(exchange: Exchange) -> Verdict:
    """The one verdict."""
    if exchange.ended_at is None or exchange.ended_at > exchange.deadline + SLACK:
        return Verdict.HUNG
    whole, text = expected(exchange.prompt, exchange.tokens), exchange.text
    if len(text) > len(whole) or len(exchange.errors) > 1:
        return Verdict.DUPLICATED
    if not whole.startswith(text):
        return Verdict.DUPLICATED if _repeats(text, whole) else Verdict.LOST
    if exchange.errors:
        return Verdict.ERROR if text != whole and _is_clear(exchange) else Verdict.LOST
    return Verdict.COMPLETE if text == whole and exchange.finished else Verdict.LOST


def all_complete(exchanges: Iterable[Exchange]) -> bool:
    """Whether every one of them is; there is at least one."""
    verdicts = {judge(exchange) for exchange in exchanges}
    return verdicts == {Verdict.COMPLETE}


def of_group(exchanges: Iterable[Exchange], *groups: str) -> list[Exchange]:
    """Those that were in one of these states."""
    return [exchange for exchange in exchanges if exchange.group in groups]


def _repeats(text: str, whole: str) -> bool:
    """Whether what follows the right part is something that was sent before."""
    right = next(index for index, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b)
    wrong = text[right:].split()[:3]
    return bool(wrong) and " ".join(wrong) in text[:right]


def _is_clear(exchange: Exchange) -> bool:
    """Whether the error says which request, for which model, where it was, and what to do."""
    code, message = exchange.error.get("code"), str(exchange.error.get("message", ""))
    remedies = [
        REMEDIES[kind] for kind, meaning in MEANINGS.items() if code in (meaning.openai_code, meaning.llava_code)
    ]
    return (
        f"request {exchange.id} for model " in message
        and STAGES.search(message) is not None
        and any(message.endswith(remedy) for remedy in remedies)
    )
