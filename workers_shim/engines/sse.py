"""Server-sent events out of the pieces of a body: the data of each event, byte for byte. Pure; used by `openai`."""

MAX_EVENT = 8 * 1024 * 1024
"""Bytes of one event. No more can be carried as a chunk, see `workers_shim.run`."""


class EventTooLargeError(Exception):
    """An event does not end."""


class EventParser:
    """Splits a stream. What has no data, a comment or an event's name, is a sign of life and nothing more."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of every event that is complete now.

        Raises: EventTooLargeError.
        """
        if not (self._rest or self._data) and (plain := _plain_events(piece)):
            return plain
        *lines, rest = (self._rest + piece).split(b"\n")
        self._rest = rest
        self._size += len(piece)
        events: list[bytes] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        if events or not self._data:
            self._size = len(rest)
        if self._size > MAX_EVENT:
            raise EventTooLargeError(f"an event of the stream has more than {MAX_EVENT} bytes")
        return events


def _plain_events(piece: bytes) -> list[bytes]:
    """The usual case at once: whole events of one line each. [] for any other."""
    if not (piece.startswith(b"data: ") and piece.endswith(b"\n\n")) or b"\r" in piece or len(piece) > MAX_EVENT:
        return []
    events = piece[6:-2].split(b"\n\ndata: ")
    return events if piece.count(b"\n") == 2 * len(events) else []
