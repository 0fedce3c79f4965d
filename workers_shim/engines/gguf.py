"""Reads what a GGUF file says of its model before the model is loaded. Pure, but for reading the file's head.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"GGUF"
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING = 8
_ARRAY = 9
_MAX_TEXT = 16 * 1024 * 1024
"""Bytes. A longer key or value means that the file is broken."""


def read_number(path: Path, ending: str) -> int | None:
    """The value of the key with this ending, ".context_length" for one; None where the file does not say.

    A key begins with the architecture's name: llama.context_length.

    Raises: ValueError when this is no GGUF file; OSError.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise ValueError(f"{path} is not a GGUF file")
            _version, _tensors, entries = struct.unpack("<IQQ", file.read(20))
            for _ in range(entries):
                key = _read_text(file)
                value = _read_value(file)
                if key.endswith(ending.encode()) and isinstance(value, int):
                    return value
    except (struct.error, KeyError) as error:
        raise ValueError(f"{path} is not a complete GGUF file") from error
    return None


def _read_number(file: BinaryIO, form: str) -> int | float:
    number: int | float = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return number


def _read_text(file: BinaryIO) -> bytes:
    size = _read_number(file, "<Q")
    if size > _MAX_TEXT:
        raise KeyError("text size")
    return file.read(int(size))


def _read_value(file: BinaryIO, kind: int | None = None) -> int | float | None:
    """A number, or None for what is not needed here and was skipped."""
    if kind is None:
        kind = int(_read_number(file, "<I"))
    if kind == _STRING:
        _read_text(file)
        return None
    if kind == _ARRAY:
        _skip_array(file)
        return None
    return _read_number(file, _NUMBERS[kind])


def _skip_array(file: BinaryIO) -> None:
    kind = int(_read_number(file, "<I"))
    count = int(_read_number(file, "<Q"))
    if kind in _NUMBERS:
        file.seek(count * struct.calcsize(_NUMBERS[kind]), 1)
        return
    for _ in range(count):
        _read_value(file, kind)
