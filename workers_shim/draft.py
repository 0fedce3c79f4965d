"""One message of `outbox` in the making; then in flight, and remembered for what becomes of it."""

from collections.abc import Iterator

from broker_wire.messages import Frame
from workers_shim.controller_links import Link
from workers_shim.outbox_listener import Note
from workers_shim.outgoing import Outgoing
from workers_shim.retention import Sent


class Draft:
    """For one controller. Notes go out before everything else."""

    __slots__ = ("entries", "frames", "link", "notes", "size")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.frames: list[Frame] = []
        self.notes: list[Note] = []
        self.entries: list[tuple[Outgoing, Sent]] = []
        self.size = 0
        """Of the answers in it, as `outgoing` counts."""

    def singles(self) -> "Iterator[Draft]":
        """The same, a draft for each frame."""
        for note in self.notes:
            single = Draft(self.link)
            single.frames = [note]
            single.notes = [note]
            yield single
        for entry in self.entries:
            single = Draft(self.link)
            single.frames = [entry[1].frame]
            single.entries = [entry]
            yield single
