"""What an HTTP/1.1 server sends back to one request: bytes in, a head and pieces of the body out. Pure.

Used by `http_client`. Why it is ours: a worker needs pika and msgspec and nothing else, and that is to stay so; what
one client needs of RFC 9112 fits here. The tests hold it against h11, the parser that it would have been.
"""

import re
from enum import Enum, auto
from http import HTTPStatus

from msgspec import Struct

MAX_HEAD = 64 * 1024
"""Bytes of the status line and all fields, also of what follows the last chunk."""
MAX_CHUNK_HEAD = 1024
"""Bytes of the line before a chunk: its size, and extensions that nobody uses."""

# RFC 9110, 5.6.2: a token.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: .*)?")
_CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_PLAIN_CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
_FORBIDDEN_IN_FIELDS = re.compile(rb"[\x00\r]")


class MalformedError(Exception):
    """What came is no HTTP, or no end of it can be known. The text says what, for a log."""


class Head(Struct, frozen=True):
    """Status and fields of a final answer; names in lower case, the values of one name joined by commas."""

    status: int
    fields: dict[str, str]


class _State(Enum):
    HEAD = auto()
    CHUNK_HEAD = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILER = auto()
    COUNTED = auto()
    UNTIL_CLOSE = auto()
    COMPLETE = auto()


class ResponseParser:
    """The answer to one request that was no HEAD and no CONNECT.

    Attributes:
        head: None until it is there. Interim answers (100 Continue) are not shown.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self._buffer = bytearray()
        self._state = _State.HEAD
        self._left = 0
        """Bytes of the present chunk, or of a body whose length was said."""
        self._head_size = 0
        self._persists = False

    @property
    def complete(self) -> bool:
        """All of the answer is here."""
        return self._state is _State.COMPLETE

    @property
    def reusable(self) -> bool:
        """The connection can take the next request."""
        return self.complete and self._persists and not self._buffer

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the body in what has come.

        Raises: MalformedError.
        """
        pieces: list[bytes] = []
        if self._state is _State.CHUNK_HEAD:
            data = self._take_whole_chunks(bytes(self._buffer) + data if self._buffer else data, pieces)
            self._buffer.clear()
        self._buffer += data
        while self._buffer and self._step(pieces):
            pass
        return pieces

    def feed_end(self) -> None:
        """The server has closed the connection.

        Raises: MalformedError, if the answer is not complete.
        """
        if self._state is _State.UNTIL_CLOSE:
            self._state = _State.COMPLETE
        elif not self.complete:
            at = "before the answer began" if self.head is None else "in the middle of the answer"
            raise MalformedError(f"the connection was closed {at}")

    def _step(self, pieces: list[bytes]) -> bool:
        """False: nothing can be done before more has come."""
        match self._state:
            case _State.HEAD:
                return self._read_head()
            case _State.COUNTED | _State.CHUNK:
                return self._read_counted(pieces)
            case _State.UNTIL_CLOSE:
                return self._read_until_close(pieces)
            case _State.CHUNK_HEAD:
                return self._read_chunk_head()
            case _State.CHUNK_END:
                return self._read_chunk_end()
            case _State.TRAILER:
                return self._read_trailer()
            case _State.COMPLETE:
                return False

    # --- the head

    def _read_head(self) -> bool:
        lines = self._take_head()
        if lines is None:
            return False
        found = _STATUS_LINE.fullmatch(lines[0])
        if found is None:
            raise MalformedError(f"the answer begins with {bytes(lines[0][:60])!r}, which is no HTTP/1.1")
        minor, status = int(found[1]), int(found[2])
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise MalformedError("the server changes to another protocol, which nobody asked for")
        if status < HTTPStatus.OK:
            # An interim answer: the real one follows.
            return True
        self.head = Head(status, _fields_of(lines[1:]))
        self._begin_body(self.head, minor)
        return True

    def _take_head(self) -> list[bytes] | None:
        """The lines up to the empty one."""
        end = re.search(rb"\r?\n\r?\n", self._buffer)
        size = len(self._buffer) if end is None else end.end()
        if size > MAX_HEAD:
            raise MalformedError(f"the head of the answer has more than {MAX_HEAD} bytes")
        if end is None:
            return None
        lines = [line.removesuffix(b"\r") for line in bytes(self._buffer[: end.start()]).split(b"\n")]
        del self._buffer[: end.end()]
        return lines

    def _begin_body(self, head: Head, minor: int) -> None:
        options = {option.strip().lower() for option in head.fields.get("connection", "").split(",")}
        self._persists = "close" not in options and (minor > 0 or "keep-alive" in options)
        coding = head.fields.get("transfer-encoding")
        length = head.fields.get("content-length")
        if head.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self._state = _State.COMPLETE
        elif coding is not None:
            if coding.strip().lower() != "chunked":
                raise MalformedError(f"the answer's transfer-encoding is {coding[:60]!r}, not chunked")
            # Both at once is how answers are smuggled: RFC 9112, 6.3, has such a connection closed.
            self._persists = self._persists and length is None
            self._state = _State.CHUNK_HEAD
        elif length is not None:
            self._left = _length_of(length)
            self._state = _State.COUNTED if self._left else _State.COMPLETE
        else:
            self._persists = False
            self._state = _State.UNTIL_CLOSE

    # --- the body

    def _read_counted(self, pieces: list[bytes]) -> bool:
        if not self._buffer:
            return False
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        pieces.append(piece)
        self._left -= len(piece)
        if not self._left:
            self._state = _State.CHUNK_END if self._state is _State.CHUNK else _State.COMPLETE
        return True

    def _read_until_close(self, pieces: list[bytes]) -> bool:
        if self._buffer:
            pieces.append(bytes(self._buffer))
            self._buffer.clear()
        return False

    def _take_whole_chunks(self, data: bytes, pieces: list[bytes]) -> bytes:
        """The usual case at once: plain chunks that are here to their ends. Returns what is for `_step`."""
        at = 0
        while found := _PLAIN_CHUNK_HEAD.match(data, at):
            begin = found.end()
            end = begin + int(found[1], 16)
            if end == begin or data[end : end + 2] != b"\r\n":
                break
            pieces.append(data[begin:end])
            at = end + 2
        return data[at:]

    def _read_chunk_head(self) -> bool:
        line = self._take_line(MAX_CHUNK_HEAD)
        if line is None:
            return False
        found = _CHUNK_HEAD.fullmatch(line)
        if found is None:
            raise MalformedError(f"a chunk begins with {line[:60]!r} instead of its size")
        self._left = int(found[1], 16)
        self._state = _State.CHUNK if self._left else _State.TRAILER
        return True

    def _read_chunk_end(self) -> bool:
        line = self._take_line(MAX_CHUNK_HEAD)
        if line is None:
            return False
        if line:
            raise MalformedError("a chunk is longer than it says")
        self._state = _State.CHUNK_HEAD
        return True

    def _read_trailer(self) -> bool:
        line = self._take_line(MAX_HEAD)
        if line is None:
            return False
        self._head_size += len(line)
        if self._head_size > MAX_HEAD:
            raise MalformedError(f"what follows the last chunk has more than {MAX_HEAD} bytes")
        if not line:
            self._state = _State.COMPLETE
        return True

    def _take_line(self, limit: int) -> bytes | None:
        end = self._buffer.find(b"\n", 0, limit)
        if end < 0:
            if len(self._buffer) >= limit:
                raise MalformedError(f"a line of the answer has more than {limit} bytes")
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line


def _fields_of(lines: list[bytes]) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if _FORBIDDEN_IN_FIELDS.search(line):
            raise MalformedError("a field of the answer has a control character")
        if line[:1] in (b" ", b"\t"):
            # RFC 9112, 5.2: a value that is folded onto the next line.
            if not name:
                raise MalformedError("the answer's first field has no name")
            fields[name] += " " + line.strip().decode("latin-1")
            continue
        raw_name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(raw_name):
            raise MalformedError(f"the answer has a field {line[:60]!r}")
        name, text = raw_name.decode().lower(), value.strip().decode("latin-1")
        fields[name] = f"{fields[name]}, {text}" if name in fields else text
    return fields


def _length_of(value: str) -> int:
    """A length that is said twice, the same, is one: RFC 9110, 8.6."""
    lengths = {part.strip() for part in value.split(",")}
    if len(lengths) != 1 or not _LENGTH.fullmatch(value := lengths.pop()):
        raise MalformedError(f"the answer's content-length is {value[:60]!r}")
    return int(value)
