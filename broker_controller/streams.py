"""One request as whoever waits for its answer sees it: chunks to take, an end or an error, and a way to leave.

Made by `gateway`, read by the HTTP surfaces. The gateway feeds it from the reply queue, and whoever reads takes all
that has come since in one go: one write a stream and tick.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from broker_controller.decisions import Stage
from broker_controller.distribution import Distribution
from broker_controller.errors import ServiceError, code_of
from broker_controller.forecast import Outlook
from broker_controller.lifecycle import RequestLife
from broker_wire.messages import End, Payloads, Piece, Usage

HIGH_WATER = 256 * 1024
"""Characters a client may leave unread before its engine is held. One slow reader must not slow the reply queue."""


Item = str | Payloads | Piece | End
"""A part of an answer as it comes: many of an engine's own chunks travel as one."""


def one_by_one(items: Iterable[Item]) -> list[str | Piece | End]:
    """The same with each chunk for itself, for whoever does more with them than to pass them on."""
    found: list[str | Piece | End] = []
    for item in items:
        if isinstance(item, Payloads):
            found += item.pieces()
        else:
            found.append(item)
    return found


class StartInfo(Struct, frozen=True):
    """Who runs it, or ran it last; the attempts (1 for the first); how long it waited for a slot, in seconds."""

    worker: str
    attempts: int
    queue_seconds: float


class GenerationStream:
    """The answer to one request. Not thread-safe: it belongs to the gateway's loop."""

    __slots__ = (
        "_ended",
        "_ended_at",
        "_error",
        "_items",
        "_on_cancel",
        "_on_flow",
        "_own_times",
        "_paused",
        "_sent_at",
        "_unread",
        "_waiter",
        "_waits_until",
        "first_at",
        "gap_since",
        "kept_bytes",
        "life",
        "outlook",
        "usage",
        "was_paused",
    )

    def __init__(
        self,
        life: RequestLife,
        *,
        on_cancel: Callable[["GenerationStream"], None],
        on_flow: Callable[["GenerationStream", bool], None],
        own_times: Distribution | None = None,
    ) -> None:
        self.life = life
        self.kept_bytes = 0
        """What this request makes the controller hold, for the bound over all requests."""
        self.gap_since: float | None = None
        self.first_at: float | None = None
        """When its first chunk came (seconds, monotonic)."""
        self.outlook: Outlook | None = None
        """Its place in the model's queue, while it waits there; as of the gateway's last look."""
        self._on_cancel = on_cancel
        self._on_flow = on_flow
        self._items: list[Item] = []
        self._unread = 0
        self._paused = False
        self.was_paused = False
        """Whether its engine was ever held."""
        self._error: ServiceError | None = None
        self._ended = False
        self._ended_at = 0.0
        self.usage: Usage | None = None
        """What the engine counted, once it has ended."""
        self._sent_at = life.submitted_at
        self._own_times = own_times
        self._waiter: asyncio.Future[bool] | None = None
        self._waits_until: float | None = None

    # --- for whoever waits for the answer

    @property
    def request_id(self) -> str:
        """The client's `X-Request-Id`, or ours."""
        return self.life.request_id

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.life.model

    @property
    def start(self) -> StartInfo | None:
        """Who runs it, once somebody does."""
        life = self.life
        if life.started_at is None:
            return None
        return StartInfo(life.worker, life.moves + 1, life.started_at - life.submitted_at)

    @property
    def outcome(self) -> str:
        """`complete`, the code of the error that it ended as, or `left`, when whoever read it stops before."""
        if self._error is not None:
            return code_of(self._error)
        return "complete" if self._ended else "left"

    @property
    def tokens(self) -> int:
        """Of the answer so far: by the engine's usage, and without it by its chunks."""
        if self.usage is not None:
            return self.usage.completion_tokens
        # The last frame is no chunk.
        return self.life.answer.next_seq - self._ended

    @property
    def first_token_seconds(self) -> float | None:
        """From the request to its first chunk; None before that."""
        return None if self.first_at is None else self.first_at - self.life.submitted_at

    @property
    def finished(self) -> bool:
        """Nothing more will come: all of it was taken, or it failed."""
        return (self._ended or self._error is not None) and not self._items

    def own_time(self, received_at: float, *, whole: bool) -> float:
        """What the controller itself took for it, in seconds: from the request's arrival at `received_at` to the
        broker, and from its first chunk, or the end of a `whole` answer, until now. Called once."""
        came_at = self._ended_at if whole or self.first_at is None else self.first_at
        seconds = self._sent_at - received_at + time.monotonic() - came_at
        if self._own_times is not None:
            self._own_times.add(seconds)
        return seconds

    def take(self) -> list[Item]:
        """All that has come since the last time, in order. After `End` nothing comes."""
        items = self._items
        if items:
            self._items = []
            self._unread = 0
            if self._paused:
                self._paused = False
                self._on_flow(self, True)
        return items

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to take; True at once when it has ended.

        False after `timeout` seconds, as precisely as `look` is called, or before, when there is news of its worker and
        nothing to take.

        Raises: ServiceError when it failed, after all that came before was taken.
        """
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._ended:
                return True
            if not await self._news(timeout):
                return False
        return True

    def cancel(self) -> None:
        """The client left, or has all it wants: free its slot, if it is not over already."""
        self._items = []
        self._unread = 0
        if not self._ended and self._error is None:
            self._on_cancel(self)

    # --- for the gateway

    def sent(self) -> None:
        """It is on its way to the broker."""
        self._sent_at = time.monotonic()

    def feed(self, items: Sequence[str | Piece | Payloads], size: int) -> None:
        """Chunks came, `size` characters and bytes of them."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        self._items += items
        self.kept_bytes += size
        self._unread += size
        if self._unread > HIGH_WATER and not self._paused:
            self._paused = self.was_paused = True
            self._on_flow(self, False)
        self.wake()

    def end(self, frame: End) -> None:
        """The last frame came."""
        self._items.append(frame)
        self._ended = True
        self._ended_at = time.monotonic()
        self.usage = frame.usage
        self.wake()

    def fail(self, error: ServiceError) -> None:
        """It ends as an error."""
        if not self._ended and self._error is None:
            self._error = error
            self.wake()

    def wake(self) -> None:
        """Whoever waits looks again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def notice(self) -> None:
        """There is news of its worker: whoever waits for chunks comes back without one."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(False)

    @property
    def unread(self) -> int:
        """Characters and bytes that have come and were not taken."""
        return self._unread

    @property
    def paused(self) -> bool:
        """Whether the engine is held because this client reads too slowly."""
        return self._paused

    @property
    def over(self) -> bool:
        """The gateway has nothing more to do with it."""
        return self.life.stage is Stage.OVER

    def look(self, now: float) -> None:
        """Let whoever has waited long enough by now (seconds, monotonic) come back: a timer a wait would cost more than
        the rest of it."""
        if self._waits_until is not None and now >= self._waits_until:
            self.notice()

    def _news(self, timeout: float | None) -> "asyncio.Future[bool]":
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        self._waits_until = None if timeout is None else time.monotonic() + timeout
        return waiter
