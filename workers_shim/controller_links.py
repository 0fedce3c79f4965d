"""The controllers that this worker answers to: which of them have a reply queue, and the streams kept for each.

Pure; used by `outbox` and `custody` on the broker's loop. A controller whose queue is gone may be reconnecting: its
streams are held, engines waiting, until it gives a sign of life or the grace time is over.
"""

from collections.abc import Callable, Iterator

from workers_shim.outgoing import Outgoing
from workers_shim.tombstones import Key

WORKER_RETAINED_BYTES = 64 * 1024 * 1024
"""Sent frames kept for all streams together."""


class Link:
    """One controller process."""

    __slots__ = ("controller", "gone_since", "in_flight", "streams")

    def __init__(self, controller: str) -> None:
        self.controller = controller
        self.streams: dict[int, Outgoing] = {}
        self.in_flight = 0
        """Messages that are published and have no outcome yet."""
        self.gone_since: float | None = None

    @property
    def gone(self) -> bool:
        """Its queue was not there when something was last sent."""
        return self.gone_since is not None


class ControllerLinks:
    """By controller id. `watched` gives the seconds that count: none while the broker itself is in trouble."""

    def __init__(
        self,
        watched: Callable[[], float],
        *,
        grace: float,
        retained_bytes: int = WORKER_RETAINED_BYTES,
    ) -> None:
        self._watched = watched
        self._grace = grace
        self._bound = retained_bytes
        self._links: dict[str, Link] = {}
        self._kept_bytes: dict[Outgoing, int] = {}
        self._total = 0
        self._ended: dict[Outgoing, float] = {}

    def link(self, controller: str) -> Link:
        """The link of this controller; a new one when nothing was sent to it lately."""
        link = self._links.get(controller)
        if link is None:
            link = self._links[controller] = Link(controller)
        return link

    # --- streams

    def add(self, outgoing: Outgoing) -> None:
        """Keep this stream. An older attempt of the same request is dropped."""
        link = self.link(outgoing.controller)
        former = link.streams.get(outgoing.stream)
        if former is not None:
            self.drop(former)
            link = self.link(outgoing.controller)
        link.streams[outgoing.stream] = outgoing
        outgoing.hold(link.gone)

    def find(self, key: Key) -> Outgoing | None:
        """The stream that is kept of this request, whether its engine still runs or not."""
        link = self._links.get(key[0])
        return None if link is None else link.streams.get(key[1])

    def drop(self, outgoing: Outgoing) -> None:
        """Nobody wants any of it any more. Idempotent."""
        outgoing.drop()
        self._ended.pop(outgoing, None)
        self._total -= self._kept_bytes.pop(outgoing, 0)
        link = self._links.get(outgoing.controller)
        if link is not None and link.streams.get(outgoing.stream) is outgoing:
            del link.streams[outgoing.stream]
            self.forget_if_idle(link)

    def ended(self, outgoing: Outgoing) -> None:
        """All of it is in the controller's queue: keep it until `done`, or for the grace time."""
        self._ended.setdefault(outgoing, self._watched())

    def retained(self, outgoing: Outgoing) -> None:
        """It keeps more, or less, than before: hold the bound of the worker."""
        size = outgoing.retention.size
        self._total += size - self._kept_bytes.get(outgoing, 0)
        self._kept_bytes[outgoing] = size
        if self._total > self._bound:
            self._make_room()

    @property
    def kept(self) -> int:
        """How many streams are kept."""
        return sum(len(link.streams) for link in self._links.values())

    # --- controllers

    def lose(self, link: Link) -> None:
        """Its queue is gone. Engines wait from now on."""
        if link.gone_since is None:
            link.gone_since = self._watched()
            for outgoing in link.streams.values():
                outgoing.hold(True)

    def spoke(self, controller: str) -> None:
        """It gave a sign of life: what is kept and did not arrive is sent again."""
        link = self._links.get(controller)
        if link is None or link.gone_since is None:
            return
        link.gone_since = None
        for outgoing in link.streams.values():
            outgoing.hold(False)
            outgoing.wake()
        self.forget_if_idle(link)

    def sweep(self) -> list[Outgoing]:
        """Drop what was complete, or whose controller was gone, for the grace time. Returns: the latter."""
        before = self._watched() - self._grace
        for outgoing in [outgoing for outgoing, since in self._ended.items() if since <= before]:
            self.drop(outgoing)
        abandoned = list(self._abandoned(before))
        for outgoing in abandoned:
            self.drop(outgoing)
        return abandoned

    def forget_if_idle(self, link: Link) -> None:
        """Controllers come and go; only those with something under way are remembered."""
        if not link.streams and not link.in_flight and self._links.get(link.controller) is link:
            del self._links[link.controller]

    # --- inside

    def _abandoned(self, before: float) -> Iterator[Outgoing]:
        for link in list(self._links.values()):
            if link.gone_since is not None and link.gone_since <= before:
                yield from link.streams.values()

    def _make_room(self) -> None:
        """Complete streams go first, the oldest before the others; then the oldest frames of the largest one."""
        for outgoing in list(self._ended):
            if self._total <= self._bound:
                return
            self.drop(outgoing)
        for outgoing in sorted(self._kept_bytes, key=lambda kept: kept.retention.size, reverse=True):
            if self._total <= self._bound:
                return
            outgoing.retention.trim_to(max(0, outgoing.retention.size - (self._total - self._bound)))
            size = outgoing.retention.size
            self._total += size - self._kept_bytes[outgoing]
            self._kept_bytes[outgoing] = size
